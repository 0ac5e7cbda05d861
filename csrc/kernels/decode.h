// The definition of decoding, one candidate at a time: order, score, box. See preprocess.h for why the order of
// operations matters.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"

namespace edgedet::kernel {

// Candidates compare as integers: a larger candidate has a higher value, or the same value (-0 and +0 are the same)
// and a smaller flat index. `value` is not NaN; infinities are ordinary.
EDGEDET_HD inline std::uint64_t make_candidate(float value, std::uint32_t index) {
  const float positive_zero = value + 0.F;
  std::uint32_t bits = 0;
  memcpy(&bits, &positive_zero, sizeof(bits));
  const std::uint32_t key = bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFU : 0x80000000U);
  return (static_cast<std::uint64_t>(key) << 32) | (0xFFFFFFFFU - index);
}

EDGEDET_HD inline std::uint32_t candidate_index(std::uint64_t candidate) {
  return 0xFFFFFFFFU - static_cast<std::uint32_t>(candidate & 0xFFFFFFFFU);
}

// In double, so that platforms whose exp differ in the last bit still round to the same float.
EDGEDET_HD inline float sigmoid(float logit) {
  return static_cast<float>(1.0 / (1.0 + exp(-static_cast<double>(logit))));
}

// The value of IEEE 754 binary16 bits, exactly.
EDGEDET_HD inline float from_half(std::uint16_t half) {
#if defined(__CUDA_ARCH__)
  float value = 0.F;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
#else
  const std::uint32_t magnitude = half & 0x7FFFU;
  float value = 0.F;
  if (magnitude >= 0x0400U) {  // normal, infinite or NaN: rebias the exponent
    const std::uint32_t bits = (magnitude << 13) + (magnitude >= 0x7C00U ? (255U - 31U) << 23 : (127U - 15U) << 23);
    memcpy(&value, &bits, sizeof(value));
  } else {
    value = static_cast<float>(magnitude) * 0x1p-24F;
  }
  return (half & 0x8000U) != 0 ? -value : value;
#endif
}

EDGEDET_HD inline bool is_finite(float value) { return value - value == 0.F; }

EDGEDET_HD inline bool is_finite_box(const float* box) {
  return is_finite(box[0]) && is_finite(box[1]) && is_finite(box[2]) && is_finite(box[3]);
}

// box: xyxy in pixels of the network input.
EDGEDET_HD inline Detection corner_detection(const float* box, float score, std::int32_t label,
                                             const Geometry& geometry) {
  Detection detection;
  detection.x0 = source_x(geometry, box[0]);
  detection.y0 = source_y(geometry, box[1]);
  detection.x1 = source_x(geometry, box[2]);
  detection.y1 = source_y(geometry, box[3]);
  detection.score = score;
  detection.label = label;
  return detection;
}

// box: cxcywh in [0, 1] of the network input.
EDGEDET_HD inline Detection centre_detection(const float* box, float score, std::int32_t label,
                                             const Geometry& geometry) {
  const auto width = static_cast<float>(geometry.network_width);
  const auto height = static_cast<float>(geometry.network_height);
  const float corners[4] = {(box[0] - 0.5F * box[2]) * width, (box[1] - 0.5F * box[3]) * height,
                            (box[0] + 0.5F * box[2]) * width, (box[1] + 0.5F * box[3]) * height};
  return corner_detection(corners, score, label, geometry);
}

}  // namespace edgedet::kernel
