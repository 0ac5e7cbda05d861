// The network alone, from host to host.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backends/tensorrt/context.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/ports.h"
#include "common/cuda_raii.h"
#include "edgedet/inspect.h"

namespace edgedet::tensorrt {

// Not thread-safe. Has a context and buffers of its own.
class RawOutputs {
 public:
  RawOutputs(const std::shared_ptr<const Engine>& engine, const NetworkPorts& ports);

  // Device memory that one allocates.
  static std::size_t device_bytes(const Engine& engine, const NetworkPorts& ports);

  // `input` is (batch, 3, height, width); outputs in the order of the form. Throws Error(kBackend).
  std::vector<Tensor> run(const float* input, std::size_t batch);

 private:
  // An output on its way to the host.
  struct Output {
    std::string name;
    std::vector<std::int64_t> shape;  // of one image
    PortType type = PortType::kFloat32;
    std::size_t values = 0;  // of one image
    cuda::DeviceBuffer device;
  };

  Output make_output(const std::string& name, PortType type, std::vector<std::int64_t> shape) const;
  void upload(const float* input, std::size_t images);
  void append(const Output& output, std::size_t images, std::vector<float>& values);

  int device_;
  NetworkPorts ports_;
  std::size_t pixels_;  // of one image, all planes
  cuda::DeviceBuffer input_;
  std::vector<Output> outputs_;
  std::vector<std::uint16_t> halves_;
  std::vector<unsigned char> bytes_;
  frame::NetworkBuffers buffers_;
  Context context_;
  cuda::Stream stream_;
};

}  // namespace edgedet::tensorrt
