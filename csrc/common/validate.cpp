#include "common/validate.h"

#include <cmath>
#include <cstddef>
#include <string>

#include "edgedet/error.h"

namespace edgedet {

namespace {

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

}  // namespace

void validate(const ImageView& image) {
  if (image.data == nullptr) {
    invalid("expected image data, got a null pointer; pass a non-empty image");
  }
  if (image.width < 1 || image.height < 1 || image.width > kMaxImageSide || image.height > kMaxImageSide) {
    invalid("expected image sides from 1 to " + std::to_string(kMaxImageSide) + " pixels, got " +
            std::to_string(image.width) + "x" + std::to_string(image.height) + "; crop or shrink the image first");
  }
  const bool packed = image.format == PixelFormat::kRgb || image.format == PixelFormat::kBgr;
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(image.width) * (packed ? 3 : 1);
  if (image.stride < row) {
    invalid("expected a stride of at least one row (" + std::to_string(row) + " bytes), got " +
            std::to_string(image.stride) + "; pass the distance in bytes from row to row");
  }
  if (image.format == PixelFormat::kNv12) {
    if (image.width % 2 != 0 || image.height % 2 != 0) {
      invalid("expected even NV12 sides, got " + std::to_string(image.width) + "x" + std::to_string(image.height) +
              "; crop the last column or row");
    }
    if (image.uv == nullptr) {
      invalid("expected a UV plane with an NV12 image, got a null pointer; set ImageView::uv");
    }
    if (image.uv_stride < image.width) {
      invalid("expected a UV stride of at least one row (" + std::to_string(image.width) + " bytes), got " +
              std::to_string(image.uv_stride) + "; pass the distance in bytes from row to row");
    }
  }
}

void validate(const PreprocessSpec& spec) {
  if (spec.width < 1 || spec.height < 1 || spec.width > kMaxImageSide || spec.height > kMaxImageSide) {
    invalid("expected network input sides from 1 to " + std::to_string(kMaxImageSide) + " pixels, got " +
            std::to_string(spec.width) + "x" + std::to_string(spec.height) +
            "; give the size the network was built for");
  }
  for (std::size_t c = 0; c < 3; ++c) {
    if (!std::isfinite(spec.mean[c])) {
      invalid("expected a finite mean, got " + std::to_string(spec.mean[c]) + " for channel " + std::to_string(c) +
              "; give means of pixels in [0, 1]");
    }
    if (!std::isfinite(spec.std[c]) || spec.std[c] <= 0.F) {
      invalid("expected a positive, finite std, got " + std::to_string(spec.std[c]) + " for channel " +
              std::to_string(c) + "; give deviations of pixels in [0, 1]");
    }
  }
}

void validate(const TensorType& type) {
  if (type.dtype == DType::kInt8 && !(std::isfinite(type.scale) && type.scale > 0.F)) {
    invalid("expected a positive, finite scale of an int8 input, got " + std::to_string(type.scale) +
            "; give the scale of the engine's quantised input");
  }
}

}  // namespace edgedet
