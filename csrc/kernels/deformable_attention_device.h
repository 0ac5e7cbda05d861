// The kernel of deformable_attention_cuda.cu: softmax, locations, bilinear gather and weighted sum in one launch.
//
// A ray is one sampling point of one head. A block takes a few queries: first a thread a ray finds the four cells
// around its location and their shares, into shared memory; then a group of kSplit threads takes a few channels of a
// head, each of them every kSplit-th point, and adds up what they read. Softmax is divided out at the end, by the sum
// of what the group used, so one barrier suffices.
#pragma once

#include <cstdint>

#include "kernels/cuda_kernel.h"
#include "kernels/decode.h"
#include "kernels/preprocess.h"

namespace edgedet::kernel {

constexpr std::int32_t kMaxLevels = 8;

// A map in the table of values.
struct LevelPlan {
  std::int32_t width;
  std::int32_t height;
  std::int32_t first_cell;
  std::int32_t end_point;  // of a head's points, those of this level end here
};

// The four cells around a location: upper left, upper right, lower left, lower right. Those outside of the map have the
// share 0 and the place of one inside.
struct alignas(16) Cells {
  std::int32_t at[4];
};
struct alignas(16) Shares {
  float of[4];
};

// x, y: in cells, whole numbers at cell centres, as large as they like. NaN and infinity give shares that are NaN.
EDGEDET_HD inline void bilinear_cells(float x, float y, std::int32_t width, std::int32_t height, float weight,
                                      Cells& cells, Shares& shares) {
  const float left = floorf(x);
  const float top = floorf(y);
  const float right_share = x - left;
  const float bottom_share = y - top;
  // What is farther out than this has no cell inside either.
  const auto column = static_cast<std::int32_t>(fminf(fmaxf(left, -2.F), static_cast<float>(width)));
  const auto row = static_cast<std::int32_t>(fminf(fmaxf(top, -2.F), static_cast<float>(height)));
  // 0 unless a coordinate is not finite.
  const float scale = weight + ((x - x) + (y - y));
  EDGEDET_UNROLL
  for (int corner = 0; corner < 4; ++corner) {
    const std::int32_t at_x = column + corner % 2;
    const std::int32_t at_y = row + corner / 2;
    const bool inside = at_x >= 0 && at_x < width && at_y >= 0 && at_y < height;
    const float share_x = corner % 2 == 0 ? 1.F - right_share : right_share;
    const float share_y = corner / 2 == 0 ? 1.F - bottom_share : bottom_share;
    cells.at[corner] = inside ? at_y * width + at_x : 0;
    shares.of[corner] = scale * (inside ? share_x * share_y : 0.F);
  }
}

__device__ inline float widened(float value) { return value; }
__device__ inline float widened(std::uint16_t half) { return from_half(half); }
__device__ inline void narrow(float value, float& out) { out = value; }
__device__ inline void narrow(float value, std::uint16_t& out) {
  out = value == value ? to_half(value) : static_cast<std::uint16_t>(0x7FFF);
}

// kWidth values that are read and written as one; kWidth * sizeof(T) divides their address.
template <typename T, int kWidth>
struct alignas(kWidth * sizeof(T)) Values {
  T of[kWidth];
};

template <typename T, int kWidth>
struct DeformableKernel {
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 8;
  static constexpr int kSplit = 4;

  const T* projection;  // (images, queries, 3 * rays): x offsets, y offsets, logits of the weights
  const float* boxes;   // (images, queries, 4) cxcywh
  const T* values;      // (images, cells, layers, heads, channels)
  T* out;               // (images, queries, heads, channels)
  LevelPlan levels[kMaxLevels];
  std::int32_t queries;
  std::int32_t heads;
  std::int32_t points;  // of a head
  std::int32_t channels;
  std::int32_t layers;
  std::int32_t layer;
  std::int32_t image_values;  // of the table, an image
  std::int32_t tile;          // queries of a block

  static constexpr std::size_t shared_bytes(std::int32_t rays) {
    return static_cast<std::size_t>(rays) * (sizeof(Cells) + sizeof(Shares) + sizeof(float));
  }

  __device__ void operator()() const {
    const std::int32_t first = static_cast<std::int32_t>(blockIdx.x) * tile;
    const std::int32_t held = queries - first < tile ? queries - first : tile;
    const auto image = static_cast<std::size_t>(blockIdx.y);
    const std::size_t query = image * static_cast<std::size_t>(queries) + static_cast<std::size_t>(first);
    place(projection + query * static_cast<std::size_t>(3 * heads * points), boxes + query * 4, held);
    __syncthreads();
    mix(values + image * static_cast<std::size_t>(image_values),
        out + query * static_cast<std::size_t>(heads * channels), held);
  }

 private:
  __device__ Shares* shares() const { return reinterpret_cast<Shares*>(cuda::shared_memory()); }
  __device__ Cells* cells() const { return reinterpret_cast<Cells*>(shares() + tile * heads * points); }
  __device__ float* weights() const { return reinterpret_cast<float*>(cells() + tile * heads * points); }

  // Shares, offsets of cells in the table and weights of the rays of `held` queries.
  __device__ void place(const T* given, const float* box, std::int32_t held) const {
    const std::int32_t rays = heads * points;
    for (std::int32_t i = static_cast<std::int32_t>(threadIdx.x); i < held * rays; i += kThreads) {
      const std::int32_t query = i / rays;
      const std::int32_t ray = i - query * rays;
      const std::int32_t head = ray / points;
      const std::int32_t point = ray - head * points;
      const T* const row = given + static_cast<std::ptrdiff_t>(query) * 3 * rays;
      const T* const logits = row + 2 * rays + head * points;
      float highest = widened(logits[0]);
      for (std::int32_t other = 1; other < points; ++other) {
        highest = fmaxf(highest, widened(logits[other]));
      }
      const float weight = expf(widened(logits[point]) - highest);

      std::int32_t at = 0;
      while (point >= levels[at].end_point) {
        ++at;
      }
      const LevelPlan level = levels[at];
      const float* const own = box + 4 * query;
      const float x = widened(row[ray]) * own[2] + (own[0] * static_cast<float>(level.width) - 0.5F);
      const float y = widened(row[rays + ray]) * own[3] + (own[1] * static_cast<float>(level.height) - 0.5F);
      Cells place;
      Shares share;
      bilinear_cells(x, y, level.width, level.height, weight, place, share);
      EDGEDET_UNROLL
      for (int corner = 0; corner < 4; ++corner) {
        place.at[corner] = (((level.first_cell + place.at[corner]) * layers + layer) * heads + head) * channels;
      }
      cells()[i] = place;
      shares()[i] = share;
      weights()[i] = weight;
    }
  }

  __device__ void mix(const T* table, T* result, std::int32_t held) const {
    constexpr unsigned kAll = 0xFFFFFFFFU;
    const std::int32_t head_parts = channels / kWidth;
    const std::int32_t parts = heads * head_parts;  // of a query
    const std::int32_t total = held * parts * kSplit;
    for (std::int32_t base = 0; base < total; base += kThreads) {
      const std::int32_t i = base + static_cast<std::int32_t>(threadIdx.x);
      const std::int32_t part = i / kSplit;
      float sum[kWidth] = {};
      float weight = 0.F;
      if (i < total) {
        const std::int32_t query = part / parts;
        const std::int32_t head = (part - query * parts) / head_parts;
        const T* const from = table + (part - query * parts - head * head_parts) * kWidth;
        const std::int32_t first_ray = (query * heads + head) * points;
        EDGEDET_UNROLL_TWICE
        for (std::int32_t point = i % kSplit; point < points; point += kSplit) {
          const Cells place = cells()[first_ray + point];
          const Shares share = shares()[first_ray + point];
          Values<T, kWidth> read[4] = {};
          EDGEDET_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            if (share.of[corner] != 0.F) {  // what is outside is not read
              read[corner] = *reinterpret_cast<const Values<T, kWidth>*>(from + place.at[corner]);
            }
          }
          EDGEDET_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            EDGEDET_UNROLL
            for (int k = 0; k < kWidth; ++k) {
              sum[k] = fmaf(share.of[corner], widened(read[corner].of[k]), sum[k]);
            }
          }
          weight += weights()[first_ray + point];
        }
      }
      EDGEDET_UNROLL
      for (int distance = 1; distance < kSplit; distance *= 2) {
        weight += __shfl_xor_sync(kAll, weight, distance);
        EDGEDET_UNROLL
        for (int k = 0; k < kWidth; ++k) {
          sum[k] += __shfl_xor_sync(kAll, sum[k], distance);
        }
      }
      if (i < total && i % kSplit == 0) {
        const float normal = 1.F / weight;
        Values<T, kWidth> mixed;
        EDGEDET_UNROLL
        for (int k = 0; k < kWidth; ++k) {
          narrow(sum[k] * normal, mixed.of[k]);
        }
        *reinterpret_cast<Values<T, kWidth>*>(result + static_cast<std::ptrdiff_t>(part) * kWidth) = mixed;
      }
    }
  }
};

}  // namespace edgedet::kernel
