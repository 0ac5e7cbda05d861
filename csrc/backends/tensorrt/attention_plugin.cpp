#include "backends/tensorrt/attention_plugin.h"

#include <cstring>
#include <string>
#include <utility>

#include "backends/tensorrt/plugin_state.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

constexpr std::int32_t kMaxNumbers = 64;  // of an attribute; more than levels, so that the message names those

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kModel, std::string(AttentionPlugin::kName) + ": " + message +
                                     "; write the file again with \"python -m calibration fuse\"");
}

// The numbers of an attribute.
std::vector<std::int32_t> numbers(const nvinfer1::PluginFieldCollection& fields, const char* name) {
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const nvinfer1::PluginField& field = fields.fields[i];
    if (field.name == nullptr || std::strcmp(field.name, name) != 0) {
      continue;
    }
    if (field.type != nvinfer1::PluginFieldType::kINT32 || field.data == nullptr || field.length < 1 ||
        field.length > kMaxNumbers) {
      refuse("expected 1 to " + std::to_string(kMaxNumbers) + " int32 as the attribute " + name + ", got " +
             std::to_string(field.length) + " of another type or none");
    }
    std::vector<std::int32_t> values(static_cast<std::size_t>(field.length));
    std::memcpy(values.data(), field.data, values.size() * sizeof(std::int32_t));
    return values;
  }
  refuse(std::string("expected the attribute ") + name + ", got none");
}

std::int32_t number(const nvinfer1::PluginFieldCollection& fields, const char* name) {
  return numbers(fields, name).front();
}

std::string text(const nvinfer1::Dims& dims) {
  std::string sides;
  for (std::int32_t i = 0; i < dims.nbDims; ++i) {
    sides += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
  }
  return "(" + sides + ")";
}

}  // namespace

AttentionPlugin::AttentionPlugin(cuda::DeformableSpec spec) : spec_(std::move(spec)), state_(write_state(spec_)) {}

AttentionPlugin AttentionPlugin::from_attributes(const nvinfer1::PluginFieldCollection& fields) {
  cuda::DeformableSpec spec;
  spec.heads = number(fields, "heads");
  spec.channels = number(fields, "channels");
  spec.layers = number(fields, "layers");
  spec.layer = number(fields, "layer");
  const std::vector<std::int32_t> heights = numbers(fields, "heights");
  const std::vector<std::int32_t> widths = numbers(fields, "widths");
  const std::vector<std::int32_t> points = numbers(fields, "points");
  if (heights.size() != widths.size() || heights.size() != points.size()) {
    refuse("expected as many heights, widths and points, got " + std::to_string(heights.size()) + ", " +
           std::to_string(widths.size()) + " and " + std::to_string(points.size()));
  }
  for (std::size_t i = 0; i < heights.size(); ++i) {
    spec.levels.push_back({heights[i], widths[i], points[i]});
  }
  cuda::check_spec(spec);
  return AttentionPlugin(std::move(spec));
}

AttentionPlugin AttentionPlugin::from_state(const void* data, std::size_t bytes) {
  return AttentionPlugin(read_state(data, bytes));
}

bool AttentionPlugin::accepts(std::int32_t position, const nvinfer1::PluginTensorDesc& tensor,
                              const nvinfer1::PluginTensorDesc& first) {
  if (position < 0 || position > kInputs || tensor.format != nvinfer1::TensorFormat::kLINEAR) {
    return false;
  }
  if (position == 1) {
    return tensor.type == nvinfer1::DataType::kFLOAT;
  }
  return (first.type == nvinfer1::DataType::kFLOAT || first.type == nvinfer1::DataType::kHALF) &&
         tensor.type == first.type;
}

nvinfer1::DimsExprs AttentionPlugin::shape(const nvinfer1::DimsExprs* inputs, std::int32_t count,
                                           nvinfer1::IExprBuilder& builder) const {
  if (count != kInputs || inputs[0].nbDims != 3 || inputs[1].nbDims != 3 || inputs[2].nbDims != 3) {
    refuse("expected three inputs of three sides each, got others");
  }
  nvinfer1::DimsExprs out = inputs[0];
  out.d[2] = builder.constant(spec_.dim());
  return out;
}

void AttentionPlugin::check(const nvinfer1::PluginTensorDesc* inputs, std::int32_t count) const {
  const auto matches = [](nvinfer1::Dims dims, std::int64_t batch, std::int64_t rows, std::int64_t columns) {
    const auto same = [](std::int64_t side, std::int64_t wanted) { return side < 0 || wanted < 0 || side == wanted; };
    return dims.nbDims == 3 && same(dims.d[0], batch) && same(dims.d[1], rows) && same(dims.d[2], columns);
  };
  if (count != kInputs) {
    refuse("expected three inputs, got " + std::to_string(count));
  }
  const nvinfer1::Dims& projection = inputs[0].dims;
  const std::int64_t batch = projection.d[0];
  if (!matches(projection, batch, -1, std::int64_t{3} * spec_.rays()) ||
      !matches(inputs[1].dims, batch, projection.d[1], 4) ||
      !matches(inputs[2].dims, batch, spec_.rows(), spec_.channels)) {
    refuse("expected inputs (B, Q, " + std::to_string(3 * spec_.rays()) + "), (B, Q, 4) and (B, " +
           std::to_string(spec_.rows()) + ", " + std::to_string(spec_.channels) + "), got " + text(projection) + ", " +
           text(inputs[1].dims) + " and " + text(inputs[2].dims));
  }
}

void AttentionPlugin::enqueue(const nvinfer1::PluginTensorDesc* tensors, const void* const* inputs,
                              void* const* outputs, cudaStream_t stream) const {
  check(tensors, kInputs);
  const nvinfer1::Dims& dims = tensors[0].dims;
  if (dims.d[0] < 1 || dims.d[1] < 1) {
    refuse("expected at least one image and one query, got " + text(dims));
  }
  const DType dtype = tensors[0].type == nvinfer1::DataType::kHALF ? DType::kFloat16 : DType::kFloat32;
  const cuda::DeformableTensors memory{inputs[0], static_cast<const float*>(inputs[1]), inputs[2], outputs[0]};
  cuda::plan_deformable(spec_, memory, static_cast<std::size_t>(dims.d[0]), static_cast<std::size_t>(dims.d[1]), dtype)
      .launch(stream, "launch deformable attention");
}

}  // namespace edgedet::tensorrt
