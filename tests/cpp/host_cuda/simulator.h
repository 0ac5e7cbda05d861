// The state of the fake runtime and what runs its queues; inside host_cuda only.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

#include "host_cuda/grid.h"
#include "host_cuda/runtime.h"

namespace host_cuda {

using Lock = std::unique_lock<std::mutex>;
using Id = std::uintptr_t;  // a handle; never used twice

constexpr int kNoDevice = -1;
constexpr int kEveryDevice = -2;
constexpr std::size_t kMaxQuarantine = 4096;

// The end of an operation, to wait for.
struct Done {
  bool done = false;
  Id stream = 0;
  std::chrono::steady_clock::time_point when;
};
using DonePtr = std::shared_ptr<Done>;

struct Work {
  enum class Kind { kNothing, kKernel, kCopy, kFill, kHost, kChild };

  Kind kind = Kind::kNothing;
  int device = 0;
  cudaKernelNodeParams kernel{};
  std::vector<unsigned char> bytes;  // the body of a kernel; of a copy, the staged source if there is one
  // Copy.
  void* to = nullptr;
  const void* from = nullptr;
  std::size_t count = 0;
  cudaMemcpyKind direction = cudaMemcpyDefault;
  int from_device = kNoDevice;
  int to_device = kNoDevice;
  cudaMemsetParams fill{};
  cudaHostFn_t function = nullptr;
  void* user_data = nullptr;
};

struct Operation {
  Work work;
  std::vector<DonePtr> after;
  DonePtr done = std::make_shared<Done>();
};

struct Node {
  Id id = 0;
  Work work;
  std::vector<std::size_t> after;
  std::vector<Node> child;
};
using Nodes = std::vector<Node>;

struct Capture {
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  Nodes nodes;
  bool invalid = false;
};

struct Stream {
  Id id = 0;
  int device = 0;
  bool blocking = true;  // with respect to the legacy stream
  bool destroyed = false;
  bool busy = false;  // with a host function
  std::deque<Operation> queue;
  DonePtr last;
  std::optional<Capture> capture;
};

struct Event {
  int device = 0;
  bool timed = true;
  DonePtr latest;
  Id captured_in = 0;  // the stream, if it was last recorded in a capture
};

struct Exec {
  Nodes nodes;
  DonePtr last;
};

struct Kernel {
  std::size_t body_bytes = 0;
  std::map<int, std::size_t> max_shared;  // dynamic shared memory by device, where it was set
};

// A mapping with an allocation in it: guard page, a gap, the allocation, up to 15 bytes, guard page.
struct Region {
  Id start = 0;  // of the allocation
  std::size_t bytes = 0;
  std::size_t mapped = 0;
  int device = 0;
  bool pinned = false;
  bool freed = false;
};

// Where memory is that a call names; kNowhere unless all of it lies in one live allocation, or in none.
struct Place {
  enum Kind { kNowhere, kPageable, kPinned, kDevice } kind;
  int device;
};

struct Failure {
  std::string function;
  int calls = 0;
  cudaError_t code = cudaSuccess;
};

// What reset() renews.
struct State {
  std::map<Id, Stream> streams;
  std::map<Id, Event> events;
  std::map<Id, Nodes> graphs;
  std::map<Id, Exec> execs;
  std::map<Id, Region> regions;  // by the start of the mapping
  std::deque<Id> quarantine;
  std::vector<Failure> failures;
  std::map<cudaDeviceAttr, int> attributes{{cudaDevAttrMultiProcessorCount, 4},
                                           {cudaDevAttrComputeCapabilityMajor, 9},
                                           {cudaDevAttrComputeCapabilityMinor, 0},
                                           {cudaDevAttrWarpSize, 32},
                                           {cudaDevAttrMaxThreadsPerBlock, 1024},
                                           {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
                                           {cudaDevAttrMaxBlockDimX, 1024},
                                           {cudaDevAttrMaxBlockDimY, 1024},
                                           {cudaDevAttrMaxBlockDimZ, 64},
                                           {cudaDevAttrMaxGridDimX, 0x7fffffff},
                                           {cudaDevAttrMaxGridDimY, 65535},
                                           {cudaDevAttrMaxGridDimZ, 65535},
                                           {cudaDevAttrMaxSharedMemoryPerBlock, 48 * 1024},
                                           {cudaDevAttrMaxSharedMemoryPerBlockOptin, kMaxShared},
                                           {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 * 1024},
                                           {cudaDevAttrMaxRegistersPerBlock, 65536},
                                           {cudaDevAttrUnifiedAddressing, 1},
                                           {cudaDevAttrCanMapHostMemory, 1},
                                           {cudaDevAttrCanUseHostPointerForRegisteredMem, 1},
                                           {cudaDevAttrConcurrentKernels, 1},
                                           {cudaDevAttrAsyncEngineCount, 2}};
  Counters counted;
  Policy policy = kLazy;
  int devices = 1;
  std::size_t memory = std::size_t{8} << 30;
  Fault sticky;
};

struct ThreadState {
  std::uint64_t epoch = 0;
  int device = 0;
  cudaError_t last_error = cudaSuccess;
};

class Runtime {
 public:
  std::mutex mutex;
  std::condition_variable progress;
  State state;
  std::map<const void*, Kernel> kernels;
  Random random;
  std::uint64_t epoch = 1;

  Id new_id() { return next_id_ += 16; }

  ThreadState& thread() {
    thread_local ThreadState thread;
    if (thread.epoch != epoch) {
      thread = {epoch, 0, cudaSuccess};
    }
    return thread;
  }

  int device() { return thread().device; }

  cudaError_t injected(const char* function) {
    cudaError_t code = cudaSuccess;
    for (Failure& failure : state.failures) {
      if (failure.function == function && --failure.calls == 0) {
        code = failure.code;
      }
    }
    return code;
  }

  // Memory.

  cudaError_t allocate(void** out, std::size_t bytes, bool pinned) {
    if (out == nullptr) {
      return cudaErrorInvalidValue;
    }
    *out = nullptr;
    ++(pinned ? state.counted.pinned_allocation_calls : state.counted.device_allocation_calls);
    if (bytes == 0) {
      return cudaSuccess;
    }
    if (!pinned && bytes > state.memory - std::min(state.memory, used(device()))) {
      return cudaErrorMemoryAllocation;
    }
    const std::size_t alignment = bytes % 256 == 0 ? 256 : 16;
    const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
    const std::size_t inner = (padded + page_ - 1) / page_ * page_;
    void* const map = mmap(nullptr, inner + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
      return cudaErrorMemoryAllocation;
    }
    const Id base = reinterpret_cast<Id>(map);
    Region& region = state.regions[base];
    region = {base + page_ + inner - padded, bytes, inner + 2 * page_, device(), pinned, false};
    protect(base, region, true);
    std::memset(pointer(base + page_), kGarbage, inner);
    if (!pinned) {
      protect(base, region, open_ == kEveryDevice || open_ == region.device);
    }
    *out = pointer(region.start);
    return cudaSuccess;
  }

  cudaError_t free(Lock& lock, void* at, bool pinned) {
    if (at == nullptr) {
      return cudaSuccess;
    }
    const auto found = find_region(at);
    if (found == state.regions.end() || found->second.freed || found->second.pinned != pinned ||
        found->second.start != reinterpret_cast<Id>(at)) {
      return cudaErrorInvalidValue;
    }
    wait(lock, all_of_device(pinned ? kEveryDevice : found->second.device));
    const auto& [base, region] = *found;
    protect(base, found->second, true);
    check_gap(base + page_, region.start);
    check_gap(region.start + region.bytes, base + region.mapped - page_);
    found->second.freed = true;
    // A new mapping over it gives the pages back.
    if (mmap(pointer(base), region.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED) {
      return cudaErrorUnknown;
    }
    state.quarantine.push_back(base);
    if (state.quarantine.size() > kMaxQuarantine) {
      const auto oldest = state.regions.find(state.quarantine.front());
      munmap(pointer(oldest->first), oldest->second.mapped);
      state.regions.erase(oldest);
      state.quarantine.pop_front();
    }
    return cudaSuccess;
  }

  std::size_t used(int of_device) const {
    std::size_t bytes = 0;
    for (const auto& [base, region] : state.regions) {
      bytes += !region.freed && !region.pinned && region.device == of_device ? region.bytes : 0;
    }
    return bytes;
  }

  // The region whose mapping holds `at`.
  std::map<Id, Region>::iterator find_region(const void* at) {
    auto found = state.regions.upper_bound(reinterpret_cast<Id>(at));
    if (found == state.regions.begin()) {
      return state.regions.end();
    }
    --found;
    return reinterpret_cast<Id>(at) - found->first < found->second.mapped ? found : state.regions.end();
  }

  Place place(const void* at, std::size_t bytes) {
    const auto found = find_region(at);
    if (found == state.regions.end()) {
      return {at == nullptr ? Place::kNowhere : Place::kPageable, kNoDevice};
    }
    const Region& region = found->second;
    const Id offset = reinterpret_cast<Id>(at) - region.start;  // wraps before the start
    if (region.freed || offset >= region.bytes || bytes > region.bytes - offset) {
      return {Place::kNowhere, kNoDevice};
    }
    return {region.pinned ? Place::kPinned : Place::kDevice, region.device};
  }

  // Makes the memory of `device` accessible, and no other.
  void open(int which) {
    if (which != open_) {
      for (const auto& [base, region] : state.regions) {
        if (!region.freed && !region.pinned) {
          protect(base, region, which == kEveryDevice || which == region.device);
        }
      }
      open_ = which;
    }
  }

  // Work.

  Stream* find_stream(cudaStream_t handle) {
    if (handle == nullptr || handle == cudaStreamLegacy) {
      return &legacy(device());
    }
    const auto found = state.streams.find(reinterpret_cast<Id>(handle));
    return found == state.streams.end() || found->second.destroyed ? nullptr : &found->second;
  }

  bool is_legacy(const Stream& stream) const { return stream.id <= kMaxLegacy; }

  std::vector<DonePtr> all_of_device(int device) {
    std::vector<DonePtr> all;
    for (auto& [id, stream] : state.streams) {
      if (stream.last != nullptr && (device == kEveryDevice || stream.device == device)) {
        all.push_back(stream.last);
      }
    }
    return all;
  }

  // Queues work that waits for `after`, or records it in a capture. `done` is set before anything runs.
  cudaError_t submit(Lock& lock, Stream& stream, Work work, DonePtr* done = nullptr, const DonePtr& after = nullptr) {
    if (stream.capture) {
      return record(*stream.capture, std::move(work));
    }
    if (const cudaError_t code = legacy_conflict(stream)) {
      return code;
    }
    const DonePtr last = enqueue(stream, std::move(work), after);
    if (done != nullptr) {
      *done = last;
    }
    after_call(lock);
    return cudaSuccess;
  }

  cudaError_t record(Capture& capture, Work work, const Nodes& child = {}) {
    if (capture.invalid) {
      return cudaErrorStreamCaptureInvalidated;
    }
    Node node;
    node.id = new_id();
    node.work = std::move(work);
    node.child = child;
    if (!capture.nodes.empty()) {
      node.after.push_back(capture.nodes.size() - 1);
    }
    capture.nodes.push_back(std::move(node));
    return cudaSuccess;
  }

  // The legacy stream would wait for the streams that are being captured.
  cudaError_t legacy_conflict(const Stream& stream) {
    cudaError_t code = cudaSuccess;
    for (auto& [id, other] : state.streams) {
      if (is_legacy(stream) && other.capture && other.blocking && other.device == stream.device) {
        other.capture->invalid = true;
        code = cudaErrorStreamCaptureImplicit;
      }
    }
    return code;
  }

  DonePtr enqueue(Stream& stream, Work work, const DonePtr& after = nullptr) {
    stream.queue.emplace_back();
    Operation& operation = stream.queue.back();
    operation.work = std::move(work);
    if (after != nullptr) {
      operation.after.push_back(after);
    }
    for (auto& [id, other] : state.streams) {
      const bool ordered =
          other.blocking && stream.blocking && other.device == stream.device && is_legacy(other) != is_legacy(stream);
      if (ordered && other.last != nullptr) {
        operation.after.push_back(other.last);
      }
    }
    operation.done->stream = stream.id;
    stream.last = operation.done;
    progress.notify_all();
    return stream.last;
  }

  // Appends the nodes in a random order that their edges allow.
  void expand(const Nodes& nodes, std::vector<Work>& out) {
    std::vector<bool> placed(nodes.size());
    for (std::size_t count = 0; count < nodes.size(); ++count) {
      std::vector<std::size_t> free;
      for (std::size_t i = 0; i < nodes.size(); ++i) {
        if (!placed[i] &&
            std::all_of(nodes[i].after.begin(), nodes[i].after.end(), [&](std::size_t j) { return placed[j]; })) {
          free.push_back(i);
        }
      }
      const std::size_t next = random.take(free);
      placed[next] = true;
      if (nodes[next].work.kind == Work::Kind::kChild) {
        expand(nodes[next].child, out);
      } else {
        out.push_back(nodes[next].work);
      }
    }
  }

  // Runs until all targets are done.
  void wait(Lock& lock, const std::vector<DonePtr>& targets) {
    const bool only_needed = random.below(2) == 0;
    while (true) {
      const auto open_target =
          std::find_if(targets.begin(), targets.end(), [](const DonePtr& target) { return !target->done; });
      if (open_target == targets.end()) {
        return;
      }
      Stream* const stream = only_needed ? needed(**open_target) : any_ready();
      if (stream != nullptr) {
        execute(lock, *stream);
        let_others(lock);
      } else {
        progress.wait(lock);  // for the host function of another thread
      }
    }
  }

  void after_call(Lock& lock) {
    if (state.policy == kEager) {
      wait(lock, all_of_device(kEveryDevice));
    } else if (state.policy == kRandom) {
      run_some(lock);
    }
  }

  void run_some(Lock& lock) {
    constexpr std::size_t kFew = 4;
    for (std::size_t left = random.below(kFew); left > 0; --left) {
      if (Stream* const stream = any_ready()) {
        execute(lock, *stream);
      }
    }
  }

  void set_sticky(cudaError_t code, std::string message) {
    if (state.sticky.code == cudaSuccess) {
      state.sticky = {code, std::move(message)};
    }
  }

  // Captures that forbid the current thread to wait, query, allocate or free are invalid after it tried.
  bool forbidden() {
    bool any = false;
    for (auto& [id, stream] : state.streams) {
      if (stream.capture && (stream.capture->mode == cudaStreamCaptureModeGlobal ||
                             (stream.capture->mode == cudaStreamCaptureModeThreadLocal &&
                              stream.capture->thread == std::this_thread::get_id()))) {
        stream.capture->invalid = true;
        any = true;
      }
    }
    return any;
  }

  Counters count() const {
    Counters result = state.counted;
    for (const auto& [base, region] : state.regions) {
      if (!region.freed) {
        ++(region.pinned ? result.pinned_allocations : result.device_allocations);
        (region.pinned ? result.pinned_bytes : result.device_bytes) += region.bytes;
      }
    }
    for (const auto& [id, stream] : state.streams) {
      result.streams += !is_legacy(stream) && !stream.destroyed ? 1 : 0;
      result.queued += stream.queue.size();
    }
    result.events = state.events.size();
    result.graphs = state.graphs.size();
    result.graph_execs = state.execs.size();
    return result;
  }

  void clear() {
    for (const auto& [base, region] : state.regions) {
      munmap(pointer(base), region.mapped);
    }
    state = {};
    open_ = kNoDevice;
    ++epoch;
  }

  // Of the current thread.
  static bool& in_host_function() {
    thread_local bool inside = false;
    return inside;
  }

 private:
  static constexpr Id kMaxLegacy = 64;

  static void* pointer(Id at) { return reinterpret_cast<void*>(at); }  // NOLINT(performance-no-int-to-ptr)

  Stream& legacy(int device) {
    const Id id = static_cast<Id>(device) + 3;  // 1 and 2 are special handles
    Stream& stream = state.streams[id];
    stream.id = id;
    stream.device = device;
    return stream;
  }

  void protect(Id base, const Region& region, bool accessible) const {
    mprotect(pointer(base + page_), region.mapped - 2 * page_, accessible ? PROT_READ | PROT_WRITE : PROT_NONE);
  }

  void check_gap(Id begin, Id end) {
    const auto* const bytes = static_cast<const unsigned char*>(pointer(begin));
    if (!std::all_of(bytes, bytes + (end - begin), [](unsigned char byte) { return byte == kGarbage; })) {
      set_sticky(cudaErrorIllegalAddress, "something wrote next to an allocation that is now freed");
    }
  }

  bool ready(const Stream& stream) const {
    return !stream.busy && !stream.queue.empty() &&
           std::all_of(stream.queue.front().after.begin(), stream.queue.front().after.end(),
                       [](const DonePtr& before) { return before->done; });
  }

  Stream* any_ready() {
    std::vector<Stream*> streams;
    for (auto& [id, stream] : state.streams) {
      if (ready(stream)) {
        streams.push_back(&stream);
      }
    }
    return streams.empty() ? nullptr : random.take(streams);
  }

  // The stream whose next operation `target` cannot be done without, or null while it is busy.
  Stream* needed(const Done& target) {
    Stream& stream = state.streams.at(target.stream);
    if (stream.busy || ready(stream)) {
      return stream.busy ? nullptr : &stream;
    }
    const auto& after = stream.queue.front().after;
    return needed(**std::find_if(after.begin(), after.end(), [](const DonePtr& before) { return !before->done; }));
  }

  void execute(Lock& lock, Stream& stream) {
    Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    stream.busy = true;
    if (state.sticky.code == cudaSuccess && operation.work.kind != Work::Kind::kNothing) {
      if (const cudaError_t code = injected("execution")) {
        set_sticky(code, "injected");
      } else if (operation.work.kind == Work::Kind::kHost) {
        open(kNoDevice);
        lock.unlock();
        in_host_function() = true;
        operation.work.function(operation.work.user_data);
        in_host_function() = false;
        lock.lock();
      } else {
        run(operation.work);
      }
    }
    stream.busy = false;
    operation.done->when = std::chrono::steady_clock::now();
    operation.done->done = true;
    if (stream.destroyed && stream.queue.empty()) {
      state.streams.erase(stream.id);
    }
    progress.notify_all();
  }

  void run(const Work& work) {
    if (work.kind == Work::Kind::kKernel) {
      open(work.device);
      ++state.counted.kernels_run;
      const Fault fault = run_grid(reinterpret_cast<void (*)(const void*)>(work.kernel.func), work.bytes.data(),
                                   work.kernel.gridDim, work.kernel.blockDim, work.kernel.sharedMemBytes, random);
      if (fault.code != cudaSuccess) {
        set_sticky(fault.code, fault.message);
      }
    } else if (work.kind == Work::Kind::kCopy) {
      run_copy(work);
    } else if (work.kind == Work::Kind::kFill) {
      open(work.device);
      const cudaMemsetParams& fill = work.fill;
      for (std::size_t row = 0; row < fill.height; ++row) {
        auto* const begin = static_cast<unsigned char*>(fill.dst) + row * fill.pitch;
        if (fill.elementSize == 1) {
          std::memset(begin, static_cast<int>(fill.value), fill.width);
          continue;
        }
        for (std::size_t i = 0; i < fill.width; ++i) {
          std::memcpy(begin + i * fill.elementSize, &fill.value, fill.elementSize);  // little endian
        }
      }
    }
  }

  void run_copy(const Work& work) {
    const bool peers = std::min(work.to_device, work.from_device) != kNoDevice && work.to_device != work.from_device;
    open(peers ? kEveryDevice : std::max(work.to_device, work.from_device));
    std::memmove(work.to, work.bytes.empty() ? work.from : work.bytes.data(), work.count);
    Counters& counted = state.counted;
    Traffic& traffic = work.direction == cudaMemcpyHostToDevice   ? counted.host_to_device
                       : work.direction == cudaMemcpyDeviceToHost ? counted.device_to_host
                       : work.direction == cudaMemcpyHostToHost   ? counted.host_to_host
                                                                  : counted.device_to_device;
    ++traffic.copies;
    traffic.bytes += work.count;
  }

  void let_others(Lock& lock) {
    if (random.below(4) == 0) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    }
  }

  const std::size_t page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  Id next_id_ = 0x1000;
  int open_ = kNoDevice;
};

inline Runtime& runtime() {
  static Runtime& runtime = *new Runtime;  // never destroyed: handles may have static storage
  return runtime;
}

}  // namespace host_cuda
