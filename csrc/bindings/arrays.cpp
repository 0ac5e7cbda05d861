#include "bindings/arrays.h"

#include <pybind11/stl.h>

#include "common/validate.h"

namespace py = pybind11;

namespace edgedet {

namespace {

const char* const kLayouts =
    "expected a uint8 array, (H, W, 3) for rgb and bgr, (H, W) for gray, (H * 3 / 2, W) or a tuple of planes (H, W) "
    "and "
    "(H / 2, W) for nv12, rows contiguous";

std::int32_t side(py::ssize_t size) {
  return size > kMaxImageSide ? kMaxImageSide + 1 : static_cast<std::int32_t>(size);  // validate() refuses the rest
}

std::string join(const std::vector<py::ssize_t>& values) {
  std::string text;
  for (const py::ssize_t value : values) {
    text += (text.empty() ? "" : ", ") + std::to_string(value);
  }
  return "(" + text + (values.size() == 1 ? ",)" : ")");
}

}  // namespace

void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

PixelFormat pixel_format(const std::string& text) {
  return choose<PixelFormat>("format", text,
                             {{"rgb", PixelFormat::kRgb},
                              {"bgr", PixelFormat::kBgr},
                              {"gray", PixelFormat::kGray},
                              {"nv12", PixelFormat::kNv12}});
}

ResizeMode resize_mode(const std::string& text) {
  return choose<ResizeMode>("resize", text, {{"stretch", ResizeMode::kStretch}, {"letterbox", ResizeMode::kLetterbox}});
}

TensorType tensor_type(const std::string& dtype, float scale) {
  const TensorType type{
      choose<DType>("dtype", dtype,
                    {{"float32", DType::kFloat32}, {"float16", DType::kFloat16}, {"int8", DType::kInt8}}),
      scale};
  validate(type);
  return type;
}

PreprocessSpec preprocess_spec(std::int32_t width, std::int32_t height, const std::string& resize,
                               const std::string& filter, const std::string& channels, const std::array<float, 3>& mean,
                               const std::array<float, 3>& std, int pad_value) {
  if (pad_value < 0 || pad_value > 255) {
    refuse("pad_value: expected 0 to 255, got " + std::to_string(pad_value));
  }
  PreprocessSpec spec;
  spec.width = width;
  spec.height = height;
  spec.resize = resize_mode(resize);
  spec.filter = choose<Filter>("filter", filter, {{"bilinear", Filter::kBilinear}, {"antialias", Filter::kAntialias}});
  spec.channels =
      choose<ChannelOrder>("channels", channels, {{"rgb", ChannelOrder::kRgb}, {"bgr", ChannelOrder::kBgr}});
  spec.mean = mean;
  spec.std = std;
  spec.pad_value = static_cast<std::uint8_t>(pad_value);
  validate(spec);
  return spec;
}

Geometry geometry_of(std::int32_t width, std::int32_t height, std::int32_t image_width, std::int32_t image_height,
                     const std::string& resize) {
  for (const std::int32_t size : {width, height, image_width, image_height}) {
    if (size < 1 || size > kMaxImageSide) {
      refuse("width, height, image_width, image_height: expected 1 to " + std::to_string(kMaxImageSide) + ", got " +
             std::to_string(size));
    }
  }
  return make_geometry(image_width, image_height, width, height, resize_mode(resize));
}

ops::DecodeOptions decode_options(std::int32_t top_k, float score_threshold) {
  if (top_k < 1) {
    refuse("top_k: expected 1 or more, got " + std::to_string(top_k));
  }
  if (!(score_threshold >= 0.F && score_threshold <= 1.F)) {
    refuse("score_threshold: expected a number in [0, 1], got " + std::to_string(score_threshold));
  }
  ops::DecodeOptions options;
  options.top_k = top_k;
  options.score_threshold = score_threshold;
  return options;
}

ImageView image_view(const ArrayInfo& array, PixelFormat format) {
  const bool colour = format == PixelFormat::kRgb || format == PixelFormat::kBgr;
  const std::vector<py::ssize_t>& shape = array.shape;
  const std::vector<py::ssize_t>& strides = array.strides;
  if (!array.bytes || shape.size() != (colour ? 3 : 2) || (colour && shape[2] != 3)) {
    refuse(std::string("image: ") + kLayouts + ", got " + array.dtype + " of shape " + join(shape));
  }
  const py::ssize_t pixel = colour ? 3 : 1;
  const bool one_row = shape[0] == 1;
  const bool contiguous = (!colour || strides[2] == 1) && (shape[1] == 1 || strides[1] == pixel) &&
                          (one_row || strides[0] >= shape[1] * pixel);
  if (!contiguous) {
    refuse(std::string("image: ") + kLayouts + ", got strides " + join(strides) +
           "; make it contiguous (numpy.ascontiguousarray(image), tensor.contiguous())");
  }
  ImageView view;
  view.data = static_cast<const std::uint8_t*>(array.data);
  view.width = side(shape[1]);
  view.height = side(shape[0]);
  view.stride = one_row ? shape[1] * pixel : strides[0];
  view.format = format;
  if (format == PixelFormat::kNv12) {
    if (shape[0] % 3 != 0) {
      refuse("image: expected H * 3 / 2 rows for nv12 (Y, then UV), got " + std::to_string(shape[0]));
    }
    view.height = side(shape[0] / 3 * 2);
    view.uv = view.data + view.stride * (shape[0] / 3 * 2);
    view.uv_stride = view.stride;
  }
  return view;
}

namespace {

ArrayInfo array_info(const py::handle& object) {
  if (!py::isinstance<py::array>(object)) {
    refuse(std::string("image: ") + kLayouts + ", got " + std::string(py::str(py::type::of(object))));
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  ArrayInfo info;
  info.data = array.data();
  info.bytes = array.dtype().kind() == 'u' && array.itemsize() == 1;
  info.dtype = std::string(py::str(array.dtype()));
  info.shape.assign(array.shape(), array.shape() + array.ndim());
  info.strides.assign(array.strides(), array.strides() + array.ndim());
  return info;
}

// Planes that lie anywhere, as video decoders and cameras leave them.
ImageView planes_view(const py::tuple& planes) {
  const ImageView luma = image_view(array_info(planes[0]), PixelFormat::kGray);
  const ImageView chroma = image_view(array_info(planes[1]), PixelFormat::kGray);
  if (luma.width != chroma.width || luma.height != 2 * chroma.height) {
    refuse(std::string("image: ") + kLayouts + ", got planes (" + std::to_string(luma.height) + ", " +
           std::to_string(luma.width) + ") and (" + std::to_string(chroma.height) + ", " +
           std::to_string(chroma.width) + ")");
  }
  ImageView view = luma;
  view.format = PixelFormat::kNv12;
  view.uv = chroma.data;
  view.uv_stride = chroma.stride;
  return view;
}

}  // namespace

ImageView image_view(const py::handle& object, PixelFormat format) {
  if (format == PixelFormat::kNv12 && py::isinstance<py::tuple>(object) && py::len(object) == 2) {
    return planes_view(py::reinterpret_borrow<py::tuple>(object));
  }
  return image_view(array_info(object), format);
}

py::tuple to_arrays(const std::vector<Detection>& detections) {
  const auto count = static_cast<py::ssize_t>(detections.size());
  py::array_t<float> boxes({count, py::ssize_t{4}});
  py::array_t<float> scores(count);
  py::array_t<std::int32_t> labels(count);
  float* box = boxes.mutable_data();
  float* score = scores.mutable_data();
  std::int32_t* label = labels.mutable_data();
  for (const Detection& detection : detections) {
    *box++ = detection.x0;
    *box++ = detection.y0;
    *box++ = detection.x1;
    *box++ = detection.y1;
    *score++ = detection.score;
    *label++ = detection.label;
  }
  return py::make_tuple(boxes, scores, labels);
}

}  // namespace edgedet
