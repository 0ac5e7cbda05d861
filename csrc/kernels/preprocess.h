// The definition of image preprocessing, one value at a time: colour, resize filters, normalisation.
//
// The loops of preprocess_cpu.cpp and the kernel of preprocess_cuda.cu compute these expressions in this order with
// floating-point contraction off, so that every device yields the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"

namespace edgedet::kernel {

// ---- bilinear: two taps an axis, half-pixel centres, borders repeated (OpenCV INTER_LINEAR, but in float) ----

struct LinearTap {
  std::int32_t first = 0;  // source index of the first tap; the second is the next one
  float fraction = 0.F;    // weight of the second tap, in [0, 1); 0 where there is no next one
};

// The centre of output `index` is (index + 0.5) * in / out - 0.5, here as an exact ratio of integers.
EDGEDET_HD inline LinearTap linear_tap(std::int32_t index, std::int32_t in, std::int32_t out) {
  const std::int64_t denominator = 2 * static_cast<std::int64_t>(out);
  const std::int64_t numerator = (2 * static_cast<std::int64_t>(index) + 1) * in - out;
  LinearTap tap;
  if (numerator <= 0) {
    return tap;
  }
  tap.first = static_cast<std::int32_t>(numerator / denominator);
  if (tap.first >= in - 1) {
    tap.first = in - 1;
    return tap;
  }
  tap.fraction = static_cast<float>(numerator % denominator) / static_cast<float>(denominator);
  return tap;
}

EDGEDET_HD inline float lerp(float first, float second, float fraction) { return first + (second - first) * fraction; }

// ---- antialias: triangle filter as wide as the scale, in the fixed point of Pillow's BILINEAR resize ----

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

// ---- colour ----

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

// ---- normalisation and output types ----

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
}

// ---- one output value, for the device and as the twin that the CPU loops are tested against ----

EDGEDET_HD inline float bilinear_level(const ImageView& image, const Geometry& geometry, std::int32_t x, std::int32_t y,
                                       int channel) {
  const LinearTap across = linear_tap(x, image.width, geometry.content_width);
  const LinearTap down = linear_tap(y, image.height, geometry.content_height);
  const std::int32_t right = across.first + (across.first + 1 < image.width ? 1 : 0);
  const std::int32_t below = down.first + (down.first + 1 < image.height ? 1 : 0);
  const float top = lerp(static_cast<float>(source_level(image, across.first, down.first, channel)),
                         static_cast<float>(source_level(image, right, down.first, channel)), across.fraction);
  const float bottom = lerp(static_cast<float>(source_level(image, across.first, below, channel)),
                            static_cast<float>(source_level(image, right, below, channel)), across.fraction);
  return lerp(top, bottom, down.fraction);
}

EDGEDET_HD inline float antialias_level(const ImageView& image, const Geometry& geometry, std::int32_t x,
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
