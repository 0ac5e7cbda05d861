// What the parts of the module share: Python values to ours and back.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "edgedet/error.h"
#include "edgedet/types.h"
#include "kernels/ops.h"

namespace edgedet {

[[noreturn]] void refuse(const std::string& message);

template <typename T, std::size_t N>
T choose(const char* what, const std::string& text, const std::pair<const char*, T> (&choices)[N]) {
  std::string expected;
  for (const auto& [name, value] : choices) {
    if (text == name) {
      return value;
    }
    expected += (expected.empty() ? "" : ", ") + std::string(name);
  }
  refuse(std::string(what) + ": expected one of " + expected + ", got \"" + text + "\"");
}

PixelFormat pixel_format(const std::string& text);
ResizeMode resize_mode(const std::string& text);
TensorType tensor_type(const std::string& dtype, float scale);
PreprocessSpec preprocess_spec(std::int32_t width, std::int32_t height, const std::string& resize,
                               const std::string& filter, const std::string& channels, const std::array<float, 3>& mean,
                               const std::array<float, 3>& std, int pad_value);
Geometry geometry_of(std::int32_t width, std::int32_t height, std::int32_t image_width, std::int32_t image_height,
                     const std::string& resize);
ops::DecodeOptions decode_options(std::int32_t top_k, float score_threshold);

// An array of any library, on any device.
struct ArrayInfo {
  const void* data = nullptr;
  bool bytes = false;  // elements are uint8
  std::string dtype;   // for messages
  std::vector<pybind11::ssize_t> shape;
  std::vector<pybind11::ssize_t> strides;  // in bytes
};

// A view of an array's own memory, which must outlive it. Throws Error(kInvalidInput) on another layout than that of
// `format`.
ImageView image_view(const ArrayInfo& array, PixelFormat format);
ImageView image_view(const pybind11::handle& object, PixelFormat format);  // of a NumPy array, or NV12's two planes

// (boxes (N, 4), scores (N,), labels (N,))
pybind11::tuple to_arrays(const std::vector<Detection>& detections);

}  // namespace edgedet
