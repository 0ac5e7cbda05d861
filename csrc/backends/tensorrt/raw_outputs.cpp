#include "backends/tensorrt/raw_outputs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/decode.h"
#include "kernels/preprocess.h"

namespace edgedet::tensorrt {
namespace {

std::size_t bytes_of(PortType type) {
  switch (type) {
    case PortType::kFloat16:
      return 2;
    case PortType::kInt64:
      return 8;
    case PortType::kFloat32:
    case PortType::kInt32:
    case PortType::kOther:
      break;
  }
  return 4;
}

PortType type_of(DType dtype) { return dtype == DType::kFloat16 ? PortType::kFloat16 : PortType::kFloat32; }

// `count` values of T in `bytes`, converted and appended.
template <typename T, typename Convert>
void convert(const std::vector<unsigned char>& bytes, std::size_t count, std::vector<float>& values,
             Convert&& to_float) {
  for (std::size_t i = 0; i < count; ++i) {
    T value{};
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values.push_back(to_float(value));
  }
}

}  // namespace

RawOutputs::RawOutputs(const std::shared_ptr<const Engine>& engine, const NetworkPorts& ports)
    : device_(engine->device()),
      ports_(ports),
      pixels_(std::size_t{3} * static_cast<std::size_t>(ports.network.preprocess.width) *
              static_cast<std::size_t>(ports.network.preprocess.height)),
      context_(engine, ports) {
  const cuda::DeviceScope scope(device_);
  const frame::NetworkSpec& network = ports_.network;
  const PortType floats = type_of(network.output);
  input_ = cuda::make_device_buffer(ports_.max_batch * pixels_ * bytes_of(type_of(network.input.dtype)));
  buffers_.input = input_.data();
  const auto add = [&](const std::string& name, PortType type, std::vector<std::int64_t> shape) {
    outputs_.push_back(make_output(name, type, std::move(shape)));
    return static_cast<void*>(outputs_.back().device.data());
  };
  if (network.form == frame::HeadForm::kLogits) {
    buffers_.logits = add(ports_.logits, floats, {network.rows, network.classes});
    buffers_.boxes = add(ports_.boxes, floats, {network.rows, 4});
  } else {
    buffers_.labels = add(ports_.labels, network.wide_labels ? PortType::kInt64 : PortType::kInt32, {network.rows});
    buffers_.boxes = add(ports_.boxes, floats, {network.rows, 4});
    buffers_.scores = add(ports_.scores, floats, {network.rows});
  }
  stream_ = cuda::make_stream();
}

std::size_t RawOutputs::device_bytes(const Engine& engine, const NetworkPorts& ports) {
  const frame::NetworkSpec& network = ports.network;
  const auto pixels =
      static_cast<std::size_t>(network.preprocess.width) * static_cast<std::size_t>(network.preprocess.height);
  const std::size_t floats = bytes_of(type_of(network.output));
  const std::size_t row = network.form == frame::HeadForm::kLogits
                              ? floats * (static_cast<std::size_t>(network.classes) + 4)
                              : floats * 5 + bytes_of(network.wide_labels ? PortType::kInt64 : PortType::kInt32);
  const std::size_t image =
      3 * pixels * bytes_of(type_of(network.input.dtype)) + static_cast<std::size_t>(network.rows) * row;
  return Context::device_bytes(engine, ports) + ports.max_batch * image;
}

RawOutputs::Output RawOutputs::make_output(const std::string& name, PortType type,
                                           std::vector<std::int64_t> shape) const {
  Output output;
  output.name = name;
  output.type = type;
  output.values = 1;
  for (const std::int64_t side : shape) {
    output.values *= static_cast<std::size_t>(side);
  }
  output.shape = std::move(shape);
  output.device = cuda::make_device_buffer(ports_.max_batch * output.values * bytes_of(type));
  return output;
}

void RawOutputs::upload(const float* input, std::size_t images) {
  const std::size_t count = images * pixels_;
  const void* from = input;
  std::size_t bytes = count * sizeof(float);
  if (ports_.network.input.dtype == DType::kFloat16) {
    halves_.resize(count);
    std::transform(input, input + count, halves_.begin(), [](float value) { return kernel::to_half(value); });
    from = halves_.data();
    bytes = count * sizeof(std::uint16_t);
  }
  cuda::check_cuda(cudaMemcpyAsync(input_.data(), from, bytes, cudaMemcpyHostToDevice, stream_.get()),
                   "upload the network's input");
}

void RawOutputs::append(const Output& output, std::size_t images, std::vector<float>& values) {
  const std::size_t count = images * output.values;
  bytes_.resize(count * bytes_of(output.type));
  cuda::check_cuda(
      cudaMemcpyAsync(bytes_.data(), output.device.data(), bytes_.size(), cudaMemcpyDeviceToHost, stream_.get()),
      "download the network's output");
  cuda::check_cuda(cudaStreamSynchronize(stream_.get()), "run the network");
  switch (output.type) {
    case PortType::kFloat16:
      convert<std::uint16_t>(bytes_, count, values, [](std::uint16_t half) { return kernel::from_half(half); });
      return;
    case PortType::kInt32:
      convert<std::int32_t>(bytes_, count, values, [](std::int32_t value) { return static_cast<float>(value); });
      return;
    case PortType::kInt64:
      convert<std::int64_t>(bytes_, count, values, [](std::int64_t value) { return static_cast<float>(value); });
      return;
    case PortType::kFloat32:
    case PortType::kOther:
      convert<float>(bytes_, count, values, [](float value) { return value; });
      return;
  }
}

std::vector<Tensor> RawOutputs::run(const float* input, std::size_t batch) {
  const cuda::DeviceScope scope(device_);
  std::vector<Tensor> tensors;
  for (const Output& output : outputs_) {
    Tensor tensor;
    tensor.name = output.name;
    tensor.shape = {static_cast<std::int64_t>(batch)};
    tensor.shape.insert(tensor.shape.end(), output.shape.begin(), output.shape.end());
    tensor.values.reserve(batch * output.values);
    tensors.push_back(std::move(tensor));
  }
  for (std::size_t done = 0; done < batch;) {
    const std::size_t images = std::min(batch - done, ports_.max_batch);
    upload(input + done * pixels_, images);
    context_.enqueue(buffers_, images, stream_.get());
    for (std::size_t o = 0; o < outputs_.size(); ++o) {
      append(outputs_[o], images, tensors[o].values);
    }
    done += images;
  }
  return tensors;
}

}  // namespace edgedet::tensorrt
