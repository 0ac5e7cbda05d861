// Deformable attention by its definition, in double precision, and inputs for it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "check.h"
#include "kernels/decode.h"
#include "kernels/deformable_attention_cuda.h"
#include "kernels/preprocess.h"

namespace edgedet::test {

using cuda::DeformableSpec;
using kernel::from_half;
using kernel::to_half;

struct Inputs {
  std::size_t images = 1;
  std::size_t queries = 1;
  std::vector<float> projection;
  std::vector<float> boxes;
  std::vector<float> values;
};

inline DeformableSpec make_spec(std::int32_t heads, std::int32_t channels, std::vector<cuda::DeformableLevel> levels,
                                std::int32_t layers = 1, std::int32_t layer = 0) {
  DeformableSpec spec;
  spec.heads = heads;
  spec.channels = channels;
  spec.layers = layers;
  spec.layer = layer;
  spec.levels = std::move(levels);
  return spec;
}

inline std::size_t size_of(std::int32_t value) { return static_cast<std::size_t>(value); }

// Zeros of the right sizes: every location is half a cell above and left of the first cell, all weights are equal.
inline Inputs blank(const DeformableSpec& spec, std::size_t images, std::size_t queries) {
  Inputs inputs;
  inputs.images = images;
  inputs.queries = queries;
  inputs.projection.resize(images * queries * 3 * size_of(spec.rays()));
  inputs.boxes.resize(images * queries * 4);
  inputs.values.resize(images * size_of(spec.rows()) * size_of(spec.channels));
  return inputs;
}

// Numbers that half precision holds exactly. Boxes reach beyond the image, offsets beyond the box.
inline Inputs random_inputs(const DeformableSpec& spec, std::size_t images, std::size_t queries, unsigned seed) {
  Inputs inputs = blank(spec, images, queries);
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  const std::size_t rays = size_of(spec.rays());
  for (std::size_t i = 0; i < inputs.projection.size(); ++i) {
    const bool is_offset = i % (3 * rays) < 2 * rays;
    inputs.projection[i] = from_half(to_half(normal(engine) * (is_offset ? 12.F : 2.F)));
  }
  for (std::size_t i = 0; i < inputs.boxes.size(); ++i) {
    inputs.boxes[i] = i % 4 < 2 ? uniform(engine) * 1.2F - 0.1F : uniform(engine);
  }
  for (float& value : inputs.values) {
    value = from_half(to_half(normal(engine)));
  }
  return inputs;
}

template <typename T>
std::vector<T> as(const std::vector<float>& values) {
  std::vector<T> converted;
  for (const float value : values) {
    if constexpr (sizeof(T) == sizeof(float)) {
      converted.push_back(value);
    } else {
      converted.push_back(value == value ? to_half(value) : std::uint16_t{0x7E00});
    }
  }
  return converted;
}

// The value of cell (x, y), 0 outside.
inline double cell(const DeformableSpec& spec, const Inputs& inputs, std::size_t image, std::size_t level, double x,
                   double y, std::int32_t head, std::int32_t channel) {
  const cuda::DeformableLevel& map = spec.levels[level];
  if (x < 0 || y < 0 || x >= map.width || y >= map.height) {
    return 0.0;
  }
  std::int64_t before = 0;
  for (std::size_t i = 0; i < level; ++i) {
    before += std::int64_t{spec.levels[i].height} * spec.levels[i].width;
  }
  const std::int64_t at = before + static_cast<std::int64_t>(y) * map.width + static_cast<std::int64_t>(x);
  const std::int64_t row = (at * spec.layers + spec.layer) * spec.heads + head;
  const std::size_t first = image * size_of(spec.rows()) * size_of(spec.channels);
  return inputs.values[first + static_cast<std::size_t>(row * spec.channels + channel)];
}

inline std::vector<double> definition(const DeformableSpec& spec, const Inputs& inputs) {
  std::vector<double> out;
  const std::size_t rays = size_of(spec.rays());
  const std::size_t points = size_of(spec.points());
  for (std::size_t query = 0; query < inputs.images * inputs.queries; ++query) {
    const float* const given = inputs.projection.data() + query * 3 * rays;
    const float* const box = inputs.boxes.data() + query * 4;
    for (std::int32_t head = 0; head < spec.heads; ++head) {
      const std::size_t first = size_of(head) * points;
      double highest = -std::numeric_limits<double>::infinity();
      double total = 0.0;
      for (std::size_t point = 0; point < points; ++point) {
        highest = std::max(highest, double{given[2 * rays + first + point]});
      }
      for (std::size_t point = 0; point < points; ++point) {
        total += std::exp(double{given[2 * rays + first + point]} - highest);
      }
      for (std::int32_t channel = 0; channel < spec.channels; ++channel) {
        double sum = 0.0;
        std::size_t point = 0;
        for (std::size_t level = 0; level < spec.levels.size(); ++level) {
          const cuda::DeformableLevel& map = spec.levels[level];
          for (std::int32_t k = 0; k < map.points; ++k, ++point) {
            const double x = double{box[0]} * map.width - 0.5 + double{given[first + point]} * box[2];
            const double y = double{box[1]} * map.height - 0.5 + double{given[rays + first + point]} * box[3];
            const double left = std::floor(x);
            const double top = std::floor(y);
            const auto at = [&](double cell_x, double cell_y) {
              return cell(spec, inputs, query / inputs.queries, level, cell_x, cell_y, head, channel);
            };
            const double above = at(left, top) * (1 - (x - left)) + at(left + 1, top) * (x - left);
            const double below = at(left, top + 1) * (1 - (x - left)) + at(left + 1, top + 1) * (x - left);
            sum += std::exp(double{given[2 * rays + first + point]} - highest) / total *
                   (above * (1 - (y - top)) + below * (y - top));
          }
        }
        out.push_back(sum);
      }
    }
  }
  return out;
}

inline std::string describe(const DeformableSpec& spec) {
  return std::to_string(spec.heads) + " heads of " + std::to_string(spec.channels) + ", " +
         std::to_string(spec.levels.size()) + " levels, layer " + std::to_string(spec.layer);
}

// Positions are float32, good to 2^-23 of the largest one, and values are normal, so their differences below 10. Half
// precision adds one rounding of the result.
inline void check_close(const std::vector<float>& got, const std::vector<double>& wanted, const DeformableSpec& spec,
                        double half_rounding) {
  double side = 1.0;
  for (const cuda::DeformableLevel& level : spec.levels) {
    side = std::max({side, double(level.width), double(level.height)});
  }
  const double bound = (side + 50.0) * 0x1p-23 * 2 * 10.0 * 2 + 1e-6;
  bool close = got.size() == wanted.size();
  for (std::size_t i = 0; close && i < got.size(); ++i) {
    close = std::abs(double{got[i]} - wanted[i]) <= bound + half_rounding * std::abs(wanted[i]) + half_rounding * 1e-4;
  }
  check(close, "the device's results are the definition's", __FILE__, __LINE__, describe(spec));
}

}  // namespace edgedet::test
