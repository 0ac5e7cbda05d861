// Where the source image lies in the network input, and the way back for boxes.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "edgedet/types.h"

namespace edgedet {

// The source image fills the content rectangle of the network input; outside of it lies padding (letterbox only).
// All in pixels.
struct Geometry {
  std::int32_t source_width = 1;
  std::int32_t source_height = 1;
  std::int32_t network_width = 1;
  std::int32_t network_height = 1;
  std::int32_t content_x = 0;
  std::int32_t content_y = 0;
  std::int32_t content_width = 1;
  std::int32_t content_height = 1;
};

// value * numerator / denominator, rounded half up, at least 1. All positive.
EDGEDET_HD inline std::int32_t scaled_side(std::int32_t value, std::int32_t numerator, std::int32_t denominator) {
  const std::int64_t twice = 2 * static_cast<std::int64_t>(value) * numerator;
  const auto rounded = static_cast<std::int32_t>((twice + denominator) / (2 * static_cast<std::int64_t>(denominator)));
  return rounded < 1 ? 1 : rounded;
}

// Letterbox: the side that limits the scale fills the network input, the other is scaled by the same ratio and rounded
// half up (at least one pixel); what is left is split into two borders, the smaller one first (left, top).
EDGEDET_HD inline Geometry make_geometry(std::int32_t source_width, std::int32_t source_height,
                                         std::int32_t network_width, std::int32_t network_height, ResizeMode resize) {
  Geometry geometry;
  geometry.source_width = source_width;
  geometry.source_height = source_height;
  geometry.network_width = network_width;
  geometry.network_height = network_height;
  geometry.content_width = network_width;
  geometry.content_height = network_height;
  if (resize == ResizeMode::kLetterbox) {
    const std::int64_t by_width = static_cast<std::int64_t>(network_width) * source_height;
    const std::int64_t by_height = static_cast<std::int64_t>(network_height) * source_width;
    if (by_width <= by_height) {
      geometry.content_height = scaled_side(source_height, network_width, source_width);
    } else {
      geometry.content_width = scaled_side(source_width, network_height, source_height);
    }
    geometry.content_x = (network_width - geometry.content_width) / 2;
    geometry.content_y = (network_height - geometry.content_height) / 2;
  }
  return geometry;
}

EDGEDET_HD inline float clamped(float value, float low, float high) {
  return value < low ? low : (value > high ? high : value);
}

// From pixels of the network input to pixels of the source image, clipped to it. Coordinates are of edges, not of
// pixel centres, so there is no half-pixel shift. The ratio is that of the rounded content, which is what was drawn.
EDGEDET_HD inline float source_x(const Geometry& geometry, float network_x) {
  const float ratio = static_cast<float>(geometry.source_width) / static_cast<float>(geometry.content_width);
  const float x = (network_x - static_cast<float>(geometry.content_x)) * ratio;
  return clamped(x, 0.F, static_cast<float>(geometry.source_width));
}

EDGEDET_HD inline float source_y(const Geometry& geometry, float network_y) {
  const float ratio = static_cast<float>(geometry.source_height) / static_cast<float>(geometry.content_height);
  const float y = (network_y - static_cast<float>(geometry.content_y)) * ratio;
  return clamped(y, 0.F, static_cast<float>(geometry.source_height));
}

}  // namespace edgedet
