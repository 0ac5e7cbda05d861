// What every entry point asks of an image and of a preprocessing spec.
#pragma once

#include <cstdint>

#include "edgedet/types.h"

namespace edgedet {

// Longest side of an image or of a network input, in pixels.
constexpr std::int32_t kMaxImageSide = 32768;

// Throws Error(kInvalidInput) on a null pointer, a size outside [1, kMaxImageSide], a stride shorter than a row,
// an odd NV12 size, a non-finite mean, a std or an int8 scale that is not positive and finite.
void validate(const ImageView& image);
void validate(const PreprocessSpec& spec);
void validate(const TensorType& type);

}  // namespace edgedet
