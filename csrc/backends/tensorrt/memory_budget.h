// A limit on the device memory of one build or one detector.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <string>

#include "backends/tensorrt/nv.h"

namespace edgedet::tensorrt {

// Counts what TensorRT allocates and refuses what would exceed the limit: a builder then leaves a kernel out, and a
// runtime fails. The CUDA context and the code of kernels are the driver's, and are not counted. Thread-safe.
class MemoryBudget final : private nv::MemorySource {
 public:
  // For the device that is current when TensorRT allocates. 0: no limit.
  explicit MemoryBudget(std::size_t limit) : limit_(limit), allocator_(*this) {}

  // For a builder or runtime, which must go before this does. Null without a limit: TensorRT's own is used.
  nvinfer1::IGpuAllocator* allocator() noexcept { return limit_ == 0 ? nullptr : &allocator_; }

  // Sets aside what is allocated outside of TensorRT; `what` is named in the message. Replaces what was set aside
  // before. Throws Error(kBackend) with the figures if that exceeds the limit.
  void set_aside(std::size_t bytes, const std::string& what);

  // " (...)" with the figures of the last refusal, or nothing.
  std::string refusal() const;

 private:
  void* allocate(std::size_t bytes) noexcept override;
  void free(void* memory) noexcept override;

  const std::size_t limit_;
  mutable std::mutex mutex_;
  std::map<void*, std::size_t> blocks_;
  std::size_t used_ = 0;  // by TensorRT
  std::size_t aside_ = 0;
  std::size_t refused_ = 0;  // the last that was
  nv::Allocator allocator_;
};

}  // namespace edgedet::tensorrt
