// Deformable attention as an operator of TensorRT, behind whichever plugin interface a version has (plugin_nv.h).
//
// Inputs: projection (B, Q, 3 * rays), boxes (B, Q, 4), values (B, rows, channels); output (B, Q, heads * channels),
// see kernels/deformable_attention_cuda.h. Boxes are float32; the rest is of one type, float32 or float16.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "backends/tensorrt/nv.h"
#include "kernels/deformable_attention_cuda.h"

namespace edgedet::tensorrt {

class AttentionPlugin {
 public:
  static constexpr const char* kName = "EdgedetDeformableAttention";  // the ONNX node's operator
  static constexpr const char* kVersion = "1";
  static constexpr std::int32_t kInputs = 3;

  // Attributes of the node: int32, with heights, widths and points one number a level.
  static constexpr std::array<const char*, 7> kAttributes = {"heads",   "channels", "layers", "layer",
                                                             "heights", "widths",   "points"};

  // From those, or from what `state` gave. Both throw Error.
  static AttentionPlugin from_attributes(const nvinfer1::PluginFieldCollection& fields);
  static AttentionPlugin from_state(const void* data, std::size_t bytes);

  // What a plan keeps.
  const std::vector<std::int32_t>& state() const noexcept { return state_; }

  // Whether a tensor may have this type and format; `first` is the projection. Position kInputs is the output.
  static bool accepts(std::int32_t position, const nvinfer1::PluginTensorDesc& tensor,
                      const nvinfer1::PluginTensorDesc& first);

  // The output's shape. Throws Error(kModel) if the inputs' ranks are not right.
  nvinfer1::DimsExprs shape(const nvinfer1::DimsExprs* inputs, std::int32_t count,
                            nvinfer1::IExprBuilder& builder) const;

  // Throws Error(kModel) unless the inputs have the shapes that belong to the attributes. Sides below 0 are free.
  void check(const nvinfer1::PluginTensorDesc* inputs, std::int32_t count) const;

  // Only launches, so that it can be captured. Throws Error.
  void enqueue(const nvinfer1::PluginTensorDesc* tensors, const void* const* inputs, void* const* outputs,
               cudaStream_t stream) const;

 private:
  explicit AttentionPlugin(cuda::DeformableSpec spec);

  cuda::DeformableSpec spec_;
  std::vector<std::int32_t> state_;
};

}  // namespace edgedet::tensorrt
