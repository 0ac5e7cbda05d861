// Owners of CUDA handles and memory, and the check of CUDA's return codes. For CUDA sources only.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include <cuda_runtime_api.h>

#include "edgedet/error.h"

namespace edgedet::cuda {

inline void check_cuda(cudaError_t code, const char* what) {
  if (code != cudaSuccess) {
    throw Error(ErrorKind::kBackend, std::string("CUDA failed to ") + what + ": " + cudaGetErrorString(code) +
                                         "; check the driver and the free memory with nvidia-smi");
  }
}

// Makes `device` current in this thread and the one before current again at the end.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check_cuda(cudaGetDevice(&before_), "ask for the current device");
    if (before_ == device) {
      before_ = kUnchanged;
    } else {
      check_cuda(cudaSetDevice(device), "choose a device");
    }
  }
  ~DeviceScope() {
    if (before_ != kUnchanged) {
      static_cast<void>(cudaSetDevice(before_));
    }
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  static constexpr int kUnchanged = -1;
  int before_ = kUnchanged;
};

// A handle with one owner, destroyed by kDestroy.
template <typename Handle, cudaError_t (*kDestroy)(Handle)>
class Owner {
 public:
  Owner() = default;
  explicit Owner(Handle handle) : handle_(handle) {}
  ~Owner() { reset(); }
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    if (this != &other) {
      reset();
      handle_ = std::exchange(other.handle_, nullptr);
    }
    return *this;
  }

  Handle get() const noexcept { return handle_; }

 private:
  void reset() noexcept {
    if (handle_ != nullptr) {
      static_cast<void>(kDestroy(std::exchange(handle_, nullptr)));
    }
  }

  Handle handle_ = nullptr;
};

using Stream = Owner<cudaStream_t, cudaStreamDestroy>;
using Event = Owner<cudaEvent_t, cudaEventDestroy>;
using Graph = Owner<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owner<cudaGraphExec_t, cudaGraphExecDestroy>;

// Not tied to the legacy default stream.
inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
  return Stream(stream);
}

// A host thread that waits for it sleeps instead of spinning.
inline Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync), "create an event");
  return Event(event);
}

// One that keeps the time at which the device reaches it.
inline Event make_timer() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventBlockingSync), "create an event");
  return Event(event);
}

// Memory with one owner, freed by kFree.
template <cudaError_t (*kFree)(void*)>
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes) : data_(data), bytes_(bytes) {}

  std::size_t bytes() const noexcept { return bytes_; }
  unsigned char* data() const noexcept { return static_cast<unsigned char*>(data_.get()); }
  template <typename T>
  T* as() const noexcept {
    return static_cast<T*>(data_.get());
  }

 private:
  Owner<void*, kFree> data_;
  std::size_t bytes_ = 0;
};

using DeviceBuffer = Buffer<cudaFree>;
using PinnedBuffer = Buffer<cudaFreeHost>;  // on the host, at the same address for the device

inline DeviceBuffer make_device_buffer(std::size_t bytes) {
  void* data = nullptr;
  if (bytes > 0) {
    check_cuda(cudaMalloc(&data, bytes), "allocate device memory");
  }
  return {data, bytes};
}

inline PinnedBuffer make_pinned_buffer(std::size_t bytes) {
  void* data = nullptr;
  if (bytes > 0) {
    check_cuda(cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable), "allocate pinned memory");
  }
  return {data, bytes};
}

}  // namespace edgedet::cuda
