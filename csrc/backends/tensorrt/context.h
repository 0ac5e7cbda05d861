// What runs an engine for one frame path.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/ports.h"
#include "common/cuda_raii.h"
#include "frame/frame_path.h"

namespace edgedet::tensorrt {

// One batch in flight at a time. Not thread-safe; contexts of one engine run beside each other.
//
// Each batch size has an execution context of its own: a captured graph holds on to the state of the one that it was
// captured from. They work in the same device memory, which is allocated here.
class Context {
 public:
  Context(std::shared_ptr<const Engine> engine, const NetworkPorts& ports);

  // A frame::EnqueueNetwork. The first call of a batch size, or with other buffers, sets shapes and addresses; calls
  // after it allocate nothing, do not wait and can be captured. Throws Error(kBackend).
  void enqueue(const frame::NetworkBuffers& buffers, std::size_t batch, void* stream);

  // Device memory that a context of `engine` allocates, before there is one.
  static std::size_t device_bytes(const Engine& engine, const NetworkPorts& ports);

 private:
  // Bound to buffers and ready to be queued.
  struct Ready {
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    frame::NetworkBuffers buffers;
  };

  void prepare(Ready& ready, const frame::NetworkBuffers& buffers, std::size_t batch);

  std::shared_ptr<const Engine> engine_;
  NetworkPorts ports_;
  cuda::DeviceBuffer memory_;
  cuda::DeviceBuffer sizes_;  // (max_batch, 2): width and height of the network input
  std::vector<Ready> ready_;  // by batch size; last: works in the memory above
};

}  // namespace edgedet::tensorrt
