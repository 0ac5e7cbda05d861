#include "common/thread_pool.h"

namespace edgedet {

ThreadPool::ThreadPool(int threads) {
  const int workers = threads > 1 ? threads - 1 : 0;
  workers_.reserve(static_cast<std::size_t>(workers));
  for (int slot = 1; slot <= workers; ++slot) {
    workers_.emplace_back([this, slot] { work(slot); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::run(int count, Call call, void* context) {
  const std::unique_lock<std::mutex> busy(busy_, std::try_to_lock);
  if (!busy.owns_lock() || workers_.empty() || count <= 1) {
    for (int index = 0; index < count; ++index) {
      call(context, index, 0);
    }
    return;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    call_ = call;
    context_ = context;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    ++generation_;
    open_ = true;
  }
  wake_.notify_all();
  drain(0);
  std::exception_ptr failure;
  {
    // A worker that has not woken by now finds the loop closed: the caller never waits for one that has no work.
    std::unique_lock<std::mutex> lock(mutex_);
    open_ = false;
    done_.wait(lock, [this] { return active_ == 0; });
    std::swap(failure, failure_);
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

void ThreadPool::work(int slot) {
  unsigned long seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || (open_ && generation_ != seen); });
    if (stop_) {
      return;
    }
    seen = generation_;
    ++active_;
    lock.unlock();
    drain(slot);
    lock.lock();
    if (--active_ == 0) {
      done_.notify_one();
    }
  }
}

void ThreadPool::drain(int slot) noexcept {
  while (true) {
    const int index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count_) {
      return;
    }
    try {
      call_(context_, index, slot);
    } catch (...) {
      next_.store(count_, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) {
        failure_ = std::current_exception();
      }
    }
  }
}

}  // namespace edgedet
