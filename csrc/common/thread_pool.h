// A small pool of blocking worker threads for row-parallel loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace edgedet {

// The calling thread takes part, so a pool of n threads starts n - 1 workers, and a pool of one starts none.
// Idle workers sleep. One loop runs at a time: a caller that finds the pool busy does its whole loop itself,
// so that calls from several threads, or nested ones, can never wait for each other.
class ThreadPool {
 public:
  // threads: at least 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const noexcept { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, slot) for every index in [0, count), in any order; slot in [0, threads()) is not shared by two
  // calls that run at the same time. Returns when all have returned; rethrows the first exception, after which
  // indices not yet begun are skipped. Does not allocate.
  template <typename Body>
  void for_each(int count, Body& body) {
    run(count, [](void* context, int index, int slot) { (*static_cast<Body*>(context))(index, slot); }, &body);
  }

 private:
  using Call = void (*)(void* context, int index, int slot);

  void run(int count, Call call, void* context);
  void work(int slot);
  void drain(int slot) noexcept;

  std::vector<std::thread> workers_;
  std::mutex busy_;  // held by the caller whose loop runs

  std::mutex mutex_;  // guards everything below, next_ excepted
  std::condition_variable wake_;
  std::condition_variable done_;
  unsigned long generation_ = 0;  // of the loop that runs or ran last
  bool open_ = false;             // workers may still join the loop
  bool stop_ = false;
  int active_ = 0;  // workers inside the loop
  Call call_ = nullptr;
  void* context_ = nullptr;
  int count_ = 0;
  std::exception_ptr failure_;
  std::atomic<int> next_{0};
};

}  // namespace edgedet
