#include "backends/tensorrt/context.h"

#include <cstdint>
#include <string>
#include <utility>

#include "backends/tensorrt/logger.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

std::size_t size_bytes(const NetworkPorts& ports) {
  return ports.size.empty() ? 0 : ports.max_batch * 2 * (ports.wide_size ? sizeof(std::int64_t) : sizeof(std::int32_t));
}

template <typename Integer>
cuda::DeviceBuffer upload_sizes(const NetworkPorts& ports) {
  std::vector<Integer> sizes;
  for (std::size_t i = 0; i < ports.max_batch; ++i) {
    sizes.push_back(ports.network.preprocess.width);
    sizes.push_back(ports.network.preprocess.height);
  }
  cuda::DeviceBuffer buffer = cuda::make_device_buffer(sizes.size() * sizeof(Integer));
  cuda::check_cuda(cudaMemcpy(buffer.data(), sizes.data(), buffer.bytes(), cudaMemcpyHostToDevice),
                   "upload the size of the network input");
  // From pageable memory the copy may return before it has reached the device, and other streams do not wait for it.
  cuda::check_cuda(cudaDeviceSynchronize(), "upload the size of the network input");
  return buffer;
}

bool same(const frame::NetworkBuffers& a, const frame::NetworkBuffers& b) {
  return a.input == b.input && a.logits == b.logits && a.boxes == b.boxes && a.labels == b.labels &&
         a.scores == b.scores;
}

[[noreturn]] void refuse(const std::string& message, std::uint64_t mark) {
  throw Error(ErrorKind::kBackend, message + said_since(mark));
}

}  // namespace

Context::Context(std::shared_ptr<const Engine> engine, const NetworkPorts& ports)
    : engine_(std::move(engine)), ports_(ports), ready_(ports.max_batch) {
  const cuda::DeviceScope scope(engine_->device());
  memory_ = cuda::make_device_buffer(engine_->context_bytes());
  if (!ports_.size.empty()) {
    sizes_ = ports_.wide_size ? upload_sizes<std::int64_t>(ports_) : upload_sizes<std::int32_t>(ports_);
  }
}

std::size_t Context::device_bytes(const Engine& engine, const NetworkPorts& ports) {
  return engine.context_bytes() + size_bytes(ports);
}

void Context::prepare(Ready& ready, const frame::NetworkBuffers& buffers, std::size_t batch) {
  const std::uint64_t mark = logger().mark();
  if (!ready.context) {
    ready.context = engine_->make_context();
    nv::set_memory(*ready.context, memory_.data(), memory_.bytes());
  }
  ready.buffers = {};  // bound to none until all is well
  const auto images = static_cast<nv::Extent>(batch);
  const PreprocessSpec& spec = ports_.network.preprocess;
  const nvinfer1::Dims4 shape{images, 3, spec.height, spec.width};
  bool set = ready.context->setInputShape(ports_.input.c_str(), shape);
  if (!ports_.size.empty()) {
    set = set && ready.context->setInputShape(ports_.size.c_str(), nvinfer1::Dims2{images, 2});
  }
  if (!set) {
    refuse("expected an engine that runs a batch of " + std::to_string(batch) + ", got a refusal; build it again",
           mark);
  }
  const std::pair<const std::string*, void*> bound[] = {
      {&ports_.input, buffers.input}, {&ports_.size, sizes_.data()},    {&ports_.logits, buffers.logits},
      {&ports_.boxes, buffers.boxes}, {&ports_.labels, buffers.labels}, {&ports_.scores, buffers.scores}};
  for (const auto& [name, address] : bound) {
    if (!name->empty() && !ready.context->setTensorAddress(name->c_str(), address)) {
      refuse("expected an engine that takes a buffer for \"" + *name + "\", got a refusal; build it again", mark);
    }
  }
  ready.buffers = buffers;
}

void Context::enqueue(const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
  if (batch < 1 || batch > ready_.size()) {
    throw Error(ErrorKind::kInvalidInput, "expected a batch of 1 to " + std::to_string(ready_.size()) + ", got " +
                                              std::to_string(batch) + "; split it or build for larger ones");
  }
  Ready& ready = ready_[batch - 1];
  if (!ready.context || !same(ready.buffers, buffers)) {
    prepare(ready, buffers, batch);
  }
  const std::uint64_t mark = logger().mark();
  if (!ready.context->enqueueV3(static_cast<cudaStream_t>(stream))) {
    refuse("expected TensorRT to queue the network, got a failure; check the driver and the free device memory", mark);
  }
}

}  // namespace edgedet::tensorrt
