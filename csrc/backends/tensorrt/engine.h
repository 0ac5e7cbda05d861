// An engine: a network as TensorRT built it for this device.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/tensorrt/memory_budget.h"
#include "backends/tensorrt/nv.h"
#include "backends/tensorrt/ports.h"
#include "edgedet/inspect.h"

namespace edgedet::tensorrt {

// Thread-safe, for any number of contexts.
class Engine {
 public:
  // Plans above this are refused unread.
  static constexpr std::size_t kMaxPlanBytes = std::size_t{4} << 30U;

  // From a plan, which is not needed afterwards. `source` is named in messages. Throws Error(kBackend) on a plan of
  // another version or GPU, or a damaged one, or if it takes more than `memory_limit` bytes (0: no limit). TensorRT
  // runs what a plan says: it must come from a trusted place.
  Engine(const void* plan, std::size_t bytes, int device, const std::string& source, std::size_t memory_limit);

  const std::vector<Port>& ports() const noexcept { return ports_; }
  int device() const noexcept { return device_; }

  // Device memory that a context works in.
  std::size_t context_bytes() const noexcept { return context_bytes_; }

  // A context without that memory.
  std::unique_ptr<nvinfer1::IExecutionContext> make_context() const;

  std::vector<ExecutionNode> layers() const;

  // What the engine, its contexts and what works with them may take.
  MemoryBudget& memory() const noexcept { return memory_; }

 private:
  int device_;
  mutable MemoryBudget memory_;
  mutable std::mutex mutex_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;  // before its runtime goes
  std::vector<Port> ports_;
  std::size_t context_bytes_ = 0;
};

}  // namespace edgedet::tensorrt
