#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <string>
#include <utility>

#include "edgedet/error.h"
#include "frame/frame_path.h"

namespace edgedet::frame {

struct PoolState {
  std::vector<FramePath> paths;
  std::vector<FramePath*> free;  // has room for all
  std::mutex mutex;
  std::condition_variable freed;

  // Null if there is none for `timeout` seconds.
  FramePath* take(double timeout) {
    // Longer than this is as good as for ever, and fits the clock.
    constexpr double kForEver = 1e9;
    std::unique_lock<std::mutex> lock(mutex);
    const std::chrono::duration<double> longest(std::min(std::max(timeout, 0.0), kForEver));
    if (!freed.wait_for(lock, longest, [this] { return !free.empty(); })) {
      return nullptr;
    }
    FramePath* path = free.back();
    free.pop_back();
    return path;
  }

  void give_back(FramePath* path) noexcept {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      free.push_back(path);
    }
    freed.notify_one();
  }
};

namespace {

struct GiveBack {
  PoolState& pool;
  FramePath* path;
  ~GiveBack() { pool.give_back(path); }
};

}  // namespace

FramePool::FramePool(const NetworkSpec& spec, const std::function<EnqueueNetwork()>& make_network,
                     const FrameOptions& options, std::size_t paths)
    : state_(std::make_shared<PoolState>()) {
  constexpr std::size_t kMaxPaths = 64;
  if (paths < 1 || paths > kMaxPaths) {
    throw Error(ErrorKind::kInvalidInput,
                "paths: expected 1 to " + std::to_string(kMaxPaths) + ", got " + std::to_string(paths));
  }
  FrameOptions each = options;
  each.memory_limit = options.memory_limit / paths;
  state_->paths.reserve(paths);
  state_->free.reserve(paths);
  for (std::size_t i = 0; i < paths; ++i) {
    state_->paths.emplace_back(spec, make_network ? make_network() : EnqueueNetwork(), each);
  }
  for (FramePath& path : state_->paths) {
    state_->free.push_back(&path);
  }
}

FramePool::Ticket FramePool::submit(const ImageView* images, std::size_t count, const Source& source, double timeout) {
  FramePath* const path = state_->take(timeout);
  if (path == nullptr) {
    throw Error(ErrorKind::kBackend, "expected a free frame path, got " + std::to_string(paths()) +
                                         " in flight; wait for a frame before the next, or make more paths");
  }
  return {state_, path, images, count, source};
}

std::optional<FramePool::Ticket> FramePool::try_submit(const ImageView* images, std::size_t count,
                                                       const Source& source) {
  FramePath* const path = state_->take(0.0);
  return path == nullptr ? std::nullopt : std::optional(Ticket(state_, path, images, count, source));
}

PartTimes FramePool::time_parts(const ImageView* images, std::size_t count, int calls) {
  FramePath* const path = state_->take(std::numeric_limits<double>::infinity());
  const GiveBack give_back{*state_, path};
  return path->time_parts(images, count, calls);
}

FrameMemory FramePool::memory() const noexcept {
  FrameMemory total;
  for (const FramePath& path : state_->paths) {
    total.device += path.memory().device;
    total.pinned += path.memory().pinned;
  }
  return total;
}

std::size_t FramePool::paths() const noexcept { return state_->paths.size(); }

// Starts a frame on a path that was taken, which is given back if that fails.
FramePool::Ticket::Ticket(std::shared_ptr<PoolState> pool, FramePath* path, const ImageView* images, std::size_t count,
                          const Source& source)
    : pool_(std::move(pool)), images_(count) {
  try {
    path->submit(images, count, source);
  } catch (...) {
    pool_->give_back(path);
    throw;
  }
  path_ = path;
}

FramePool::Ticket::Ticket(Ticket&& other) noexcept
    : pool_(std::move(other.pool_)), path_(std::exchange(other.path_, nullptr)), images_(other.images_) {}

FramePool::Ticket& FramePool::Ticket::operator=(Ticket&& other) noexcept {
  if (this != &other) {
    release();
    pool_ = std::move(other.pool_);
    path_ = std::exchange(other.path_, nullptr);
    images_ = other.images_;
  }
  return *this;
}

FramePool::Ticket::~Ticket() { release(); }

bool FramePool::Ticket::done() const { return path_ == nullptr || path_->done(); }

void FramePool::Ticket::wait(std::vector<Detection>* out) {
  if (path_ == nullptr) {
    throw Error(ErrorKind::kInvalidInput, "expected a frame in flight, got one that was waited for already");
  }
  FramePath* const path = std::exchange(path_, nullptr);
  const std::shared_ptr<PoolState> pool = std::move(pool_);
  const GiveBack give_back{*pool, path};
  path->wait(out);
}

void FramePool::Ticket::release() noexcept {
  if (path_ == nullptr) {
    return;
  }
  try {
    path_->discard();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
    // Nobody asked for this frame; the next one on the path meets the same failure.
  }
  pool_->give_back(std::exchange(path_, nullptr));
  pool_.reset();
}

}  // namespace edgedet::frame
