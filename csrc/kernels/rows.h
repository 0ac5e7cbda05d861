// Row loops of CPU preprocessing in portable form. Every variant, here and in rows_x86.h, evaluates the expressions of
// preprocess.h in the same order and so gives the same bits.
//
// A horizontal pass ("across") reads interleaved pixels and writes the three planes (or the one) of a row buffer,
// planes padded to a multiple of kRowPadding values; a vertical pass ("down") combines rows value by value.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/preprocess.h"

#define EDGEDET_INLINE inline __attribute__((always_inline))

namespace edgedet::kernel {

constexpr int kRowPadding = 64;
// Passes may read so many bytes beyond the pixels of a source row; those bytes do not affect the result.
constexpr int kSourcePadding = kRowPadding;

constexpr int kTapPadding = 8;
constexpr int kHalfBits = 11;

// One entry per output column, padded like row buffers.
struct LinearColumns {
  const std::int32_t* offset;    // of the first tap, in bytes
  const std::uint32_t* weights;  // of the first tap | of the second << 16
  std::int32_t count;            // padded
};

struct TriangleColumns {
  const std::int32_t* offset;   // of the first tap, in bytes
  const std::int32_t* weights;  // (count, taps), fixed point; zero beyond a window
  const std::int16_t* halves;   // the same, split: for eight taps each, eight times weight >> 11, then weight & 2047
  std::int32_t count;           // padded
  std::int32_t longest;         // taps of the longest window
  std::int32_t taps;            // the same, padded to a multiple of kTapPadding
};

// kStep: bytes from pixel to pixel (1 grey, 3 RGB, 4 RGB and a spare byte); kPlanes: how many of them are channels.
template <int kStep, int kPlanes>
EDGEDET_INLINE void linear_across(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {
  for (std::int32_t x = 0; x < columns.count; ++x) {
    const std::uint8_t* first = row + columns.offset[x];
    const auto first_weight = static_cast<std::int32_t>(columns.weights[x] & 0xFFFFU);
    const auto second_weight = static_cast<std::int32_t>(columns.weights[x] >> 16);
    for (int plane = 0; plane < kPlanes; ++plane) {
      out[plane * columns.count + x] = across_level(first[plane], first[plane + kStep], first_weight, second_weight);
    }
  }
}

template <int kStep, int kPlanes>
EDGEDET_INLINE void triangle_across(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out) {
  for (std::int32_t x = 0; x < columns.count; ++x) {
    const std::uint8_t* first = row + columns.offset[x];
    const std::int32_t* weights = columns.weights + static_cast<std::ptrdiff_t>(x) * columns.taps;
    std::int32_t sums[kPlanes] = {};
    for (std::int32_t tap = 0; tap < columns.longest; ++tap) {
      for (int plane = 0; plane < kPlanes; ++plane) {
        sums[plane] += first[tap * kStep + plane] * weights[tap];
      }
    }
    for (int plane = 0; plane < kPlanes; ++plane) {
      out[plane * columns.count + x] = rounded_byte(sums[plane]);
    }
  }
}

EDGEDET_INLINE void linear_down(const std::int16_t* __restrict top, const std::int16_t* __restrict bottom,
                                std::int32_t top_weight, std::int32_t bottom_weight, std::int32_t count,
                                std::uint8_t* __restrict out) {
  for (std::int32_t x = 0; x < count; ++x) {
    out[x] = down_level(top[x], bottom[x], top_weight, bottom_weight);
  }
}

// `count` weighted sums over `taps` rows of bytes. Reads and writes up to a multiple of kRowPadding.
EDGEDET_INLINE void triangle_down(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps,
                                  std::int32_t count, std::uint8_t* out) {
  constexpr int kBlock = 32;  // sums that stay in registers
  static_assert(kRowPadding % kBlock == 0);
  for (std::int32_t begin = 0; begin < count; begin += kBlock) {
    std::int32_t sums[kBlock] = {};
    for (std::int32_t tap = 0; tap < taps; ++tap) {
      const std::uint8_t* row = rows[tap] + begin;
      const std::int32_t weight = weights[tap];
      for (int i = 0; i < kBlock; ++i) {
        sums[i] += row[i] * weight;
      }
    }
    for (int i = 0; i < kBlock; ++i) {
      out[begin + i] = rounded_byte(sums[i]);
    }
  }
}

template <typename Out>
EDGEDET_INLINE void normalise(const std::uint8_t* __restrict levels, std::int32_t count, float scale, float bias,
                              Out* __restrict out) {
  for (std::int32_t x = 0; x < count; ++x) {
    put(normalised(levels[x], scale, bias), 1.F, out + x);
  }
}

// One row of NV12 to interleaved RGB with a spare byte. `width` is even.
EDGEDET_INLINE void nv12_row(const std::uint8_t* __restrict y, const std::uint8_t* __restrict uv, std::int32_t width,
                             std::uint32_t* __restrict out) {
  for (std::int32_t pair = 0; pair < width / 2; ++pair) {
    const std::int32_t u = uv[2 * pair];
    const std::int32_t v = uv[2 * pair + 1];
    out[2 * pair] = yuv_to_rgb(y[2 * pair], u, v);
    out[2 * pair + 1] = yuv_to_rgb(y[2 * pair + 1], u, v);
  }
}

}  // namespace edgedet::kernel
