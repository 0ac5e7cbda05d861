// The definition of image preprocessing, one value at a time: colour, resize filters, normalisation.
//
// The loops of preprocess_cpu.cpp and the kernel of preprocess_cuda.cu compute these expressions in this order with
// floating-point contraction off, so that every device yields the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"

namespace edgedet::kernel {

// Bilinear: two taps an axis, half-pixel centres, borders repeated, in the fixed point of OpenCV's INTER_LINEAR.
//
// Published figures of many detectors come from OpenCV's 8-bit resize, whose rounding is biased downwards by a tenth of
// a grey level. Exact interpolation is not what those networks are evaluated with: it moves AP by 0.002.
constexpr int kLinearBits = 11;
constexpr std::int32_t kLinearOne = 1 << kLinearBits;

struct LinearTap {
  std::int32_t first = 0;   // source indices of the two taps
  std::int32_t second = 0;  // first + 1, or first at a border
  std::int32_t first_weight = kLinearOne;
  std::int32_t second_weight = 0;
};

EDGEDET_HD inline LinearTap linear_tap(std::int32_t index, std::int32_t in, std::int32_t out) {
  const double scale = 1.0 / (static_cast<double>(out) / in);
  const auto centre = static_cast<float>((index + 0.5) * scale - 0.5);
  const float whole = floorf(centre);
  const float fraction = centre - whole;
  const auto first = static_cast<std::int32_t>(whole);
  LinearTap tap;
  tap.first = first < 0 ? 0 : (first > in - 1 ? in - 1 : first);
  tap.second = first + 1 > in - 1 ? in - 1 : first + 1;
  tap.first_weight = static_cast<std::int32_t>(rintf((1.F - fraction) * kLinearOne));  // ties to even
  tap.second_weight = static_cast<std::int32_t>(rintf(fraction * kLinearOne));
  return tap;
}

// Columns have one tap at a border; rows keep both weights, on the same row, which rounds differently.
EDGEDET_HD inline LinearTap linear_column_tap(std::int32_t index, std::int32_t in, std::int32_t out) {
  LinearTap tap = linear_tap(index, in, out);
  if (tap.first == tap.second) {
    tap.first_weight = kLinearOne;
    tap.second_weight = 0;
  }
  return tap;
}

// Horizontal pass: a level with 7 fractional bits.
EDGEDET_HD inline std::int16_t across_level(std::int32_t first, std::int32_t second, std::int32_t first_weight,
                                            std::int32_t second_weight) {
  return static_cast<std::int16_t>((first * first_weight + second * second_weight) >> 4);
}

// Vertical pass: a level.
EDGEDET_HD inline std::uint8_t down_level(std::int32_t top, std::int32_t bottom, std::int32_t top_weight,
                                          std::int32_t bottom_weight) {
  return static_cast<std::uint8_t>((((top * top_weight) >> 16) + ((bottom * bottom_weight) >> 16) + 2) >> 2);
}

// Antialias: a triangle filter as wide as the scale, in the fixed point of Pillow's BILINEAR resize.
//
// Both passes round to 8 bits as Pillow and torch's uint8 path do: levels equal the bytes of Pillow, which is what
// networks see in training. (An unrounded sum would differ from them in one pixel of six.)
constexpr int kWeightBits = 22;
constexpr std::int32_t kWeightOne = 1 << kWeightBits;

struct TriangleWindow {
  std::int32_t first = 0;  // source index of the first tap
  std::int32_t count = 1;
  double centre = 0.0;   // in source pixels, edges at integers
  double inverse = 1.0;  // 1 / half-width of the triangle
};

EDGEDET_HD inline TriangleWindow triangle_window(std::int32_t index, std::int32_t in, std::int32_t out) {
  const double scale = static_cast<double>(in) / out;
  const double support = scale < 1.0 ? 1.0 : scale;
  TriangleWindow window;
  window.centre = (index + 0.5) * scale;
  window.inverse = 1.0 / support;
  window.first = static_cast<std::int32_t>(window.centre - support + 0.5);
  if (window.first < 0) {
    window.first = 0;
  }
  auto last = static_cast<std::int32_t>(window.centre + support + 0.5);
  if (last > in) {
    last = in;
  }
  window.count = last - window.first;
  return window;
}

// Which pass comes first shows in the last bit. Horizontal, except where the height shrinks by more than twice as many
// pixels as the width does (Pillow 13; older Pillows and torch never change the order).
EDGEDET_HD inline bool triangle_down_first(const Geometry& geometry) {
  const std::int32_t shrinks_down = geometry.source_height - geometry.content_height;
  const std::int32_t shrinks_across = geometry.source_width - geometry.content_width;
  return shrinks_down > 0 && shrinks_down > 2 * shrinks_across;
}

EDGEDET_HD inline double triangle_weight(const TriangleWindow& window, std::int32_t tap) {
  const double x = (tap + window.first - window.centre + 0.5) * window.inverse;
  const double distance = x < 0.0 ? -x : x;
  return distance < 1.0 ? 1.0 - distance : 0.0;
}

EDGEDET_HD inline double triangle_total(const TriangleWindow& window) {
  double total = 0.0;
  for (std::int32_t tap = 0; tap < window.count; ++tap) {
    total += triangle_weight(window, tap);
  }
  return total;
}

EDGEDET_HD inline std::int32_t fixed_weight(double weight, double total) {
  return static_cast<std::int32_t>(0.5 + weight * (1.0 / total) * kWeightOne);
}

EDGEDET_HD inline std::uint8_t rounded_byte(std::int32_t sum) {
  const std::int32_t value = (sum + (kWeightOne >> 1)) >> kWeightBits;
  return static_cast<std::uint8_t>(value > 255 ? 255 : value);
}

EDGEDET_HD inline std::int32_t saturated(std::int32_t value) { return value < 0 ? 0 : (value > 255 ? 255 : value); }

// BT.601, limited range, in the 20-bit fixed point of OpenCV's cvtColor. u and v as stored (128 = no colour).
// Returns red | green << 8 | blue << 16.
EDGEDET_HD inline std::uint32_t yuv_to_rgb(std::int32_t y, std::int32_t u, std::int32_t v) {
  constexpr int kShift = 20;
  const std::int32_t luma = (y > 16 ? y - 16 : 0) * 1220542 + (1 << (kShift - 1));
  const std::int32_t du = u - 128;
  const std::int32_t dv = v - 128;
  const std::int32_t red = saturated((luma + 1673527 * dv) >> kShift);
  const std::int32_t green = saturated((luma - 852492 * dv - 409993 * du) >> kShift);
  const std::int32_t blue = saturated((luma + 2116026 * du) >> kShift);
  return static_cast<std::uint32_t>(red | (green << 8) | (blue << 16));
}

// Channel (0 red, 1 green, 2 blue) of a source pixel.
EDGEDET_HD inline std::uint8_t source_level(const ImageView& image, std::int32_t x, std::int32_t y, int channel) {
  const std::uint8_t* row = image.data + y * image.stride;
  switch (image.format) {
    case PixelFormat::kGray:
      return row[x];
    case PixelFormat::kNv12: {
      const std::uint8_t* uv = image.uv + (y / 2) * image.uv_stride + (x / 2) * 2;
      return static_cast<std::uint8_t>((yuv_to_rgb(row[x], uv[0], uv[1]) >> (8 * channel)) & 255U);
    }
    case PixelFormat::kBgr:
      return row[3 * x + 2 - channel];
    case PixelFormat::kRgb:
      break;
  }
  return row[3 * x + channel];
}

// (level / 255 - mean) / std as one multiplication and one addition.
struct Normalisation {
  float scale[3];
  float bias[3];
};

inline Normalisation make_normalisation(const PreprocessSpec& spec) {
  Normalisation normalisation{};
  for (std::size_t c = 0; c < 3; ++c) {
    const double deviation = spec.std[c];
    normalisation.scale[c] = static_cast<float>(1.0 / (255.0 * deviation));
    normalisation.bias[c] = static_cast<float>(-spec.mean[c] / deviation);
  }
  return normalisation;
}

EDGEDET_HD inline float normalised(float level, float scale, float bias) { return level * scale + bias; }

// IEEE 754 binary16 bits, rounded to nearest even; too large becomes infinity. `value` is not NaN.
EDGEDET_HD inline std::uint16_t to_half(float value) {
#if defined(__CUDA_ARCH__)
  std::uint16_t rounded = 0;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
  return rounded;
#else
  std::uint32_t bits = 0;
  memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  // Normal halves: rebias the exponent by 127 - 15 and round the 13 bits that fall off, ties to even.
  const std::uint32_t normal = (magnitude - (112U << 23) + 0xFFFU + ((magnitude >> 13) & 1U)) >> 13;
  // Subnormal halves: adding 0.5 leaves the float adder to round at the weight of a half's last bit, 2^-24.
  float shifted = 0.F;
  memcpy(&shifted, &magnitude, sizeof(shifted));
  shifted += 0.5F;
  std::uint32_t subnormal = 0;
  memcpy(&subnormal, &shifted, sizeof(subnormal));
  subnormal -= 126U << 23;
  std::uint32_t half = magnitude < (113U << 23) ? subnormal : normal;
  half = magnitude >= 0x477FF000U ? 0x7C00U : half;  // from 65520 on
  return static_cast<std::uint16_t>(sign | half);
#endif
}

// Rounded to the nearest multiple of `scale` (ties to even) and saturated, as ONNX QuantizeLinear does without a zero
// point. `value` is not NaN, `scale` is positive.
EDGEDET_HD inline std::int8_t to_int8(float value, float scale) {
  return static_cast<std::int8_t>(clamped(rintf(value / scale), -128.F, 127.F));
}

// Writes one value of the network input; `scale` is of int8.
EDGEDET_HD inline void put(float value, float /*scale*/, float* out) { *out = value; }
EDGEDET_HD inline void put(float value, float /*scale*/, std::uint16_t* out) { *out = to_half(value); }
EDGEDET_HD inline void put(float value, float scale, std::int8_t* out) { *out = to_int8(value, scale); }

// What follows computes one output value: for the device, and as the twin that faster loops are tested against.

EDGEDET_HD inline std::uint8_t bilinear_level(const ImageView& image, const Geometry& geometry, std::int32_t x,
                                              std::int32_t y, int channel) {
  const LinearTap across = linear_column_tap(x, image.width, geometry.content_width);
  const LinearTap down = linear_tap(y, image.height, geometry.content_height);
  std::int32_t rows[2] = {down.first, down.second};
  for (std::int32_t& row : rows) {
    row = across_level(source_level(image, across.first, row, channel),
                       source_level(image, across.second, row, channel), across.first_weight, across.second_weight);
  }
  return down_level(rows[0], rows[1], down.first_weight, down.second_weight);
}

EDGEDET_HD inline std::uint8_t antialias_level(const ImageView& image, const Geometry& geometry, std::int32_t x,
                                               std::int32_t y, int channel) {
  const TriangleWindow across = triangle_window(x, image.width, geometry.content_width);
  const TriangleWindow down = triangle_window(y, image.height, geometry.content_height);
  const bool down_first = triangle_down_first(geometry);
  const TriangleWindow& first = down_first ? down : across;
  const TriangleWindow& second = down_first ? across : down;
  const double first_total = triangle_total(first);
  const double second_total = triangle_total(second);
  std::int32_t sum = 0;
  for (std::int32_t j = 0; j < second.count; ++j) {
    std::int32_t inner = 0;
    for (std::int32_t i = 0; i < first.count; ++i) {
      const std::int32_t column = across.first + (down_first ? j : i);
      const std::int32_t line = down.first + (down_first ? i : j);
      inner += source_level(image, column, line, channel) * fixed_weight(triangle_weight(first, i), first_total);
    }
    sum += rounded_byte(inner) * fixed_weight(triangle_weight(second, j), second_total);
  }
  return rounded_byte(sum);
}

// Value of plane `plane` at (x, y) of the network input.
EDGEDET_HD inline float network_value(const ImageView& image, const Geometry& geometry, Filter filter,
                                      ChannelOrder channels, float pad_level, float scale, float bias, std::int32_t x,
                                      std::int32_t y, int plane) {
  const std::int32_t content_x = x - geometry.content_x;
  const std::int32_t content_y = y - geometry.content_y;
  float level = pad_level;
  if (content_x >= 0 && content_x < geometry.content_width && content_y >= 0 && content_y < geometry.content_height) {
    const int channel = channels == ChannelOrder::kRgb ? plane : 2 - plane;
    level = filter == Filter::kBilinear ? bilinear_level(image, geometry, content_x, content_y, channel)
                                        : antialias_level(image, geometry, content_x, content_y, channel);
  }
  return normalised(level, scale, bias);
}

}  // namespace edgedet::kernel
