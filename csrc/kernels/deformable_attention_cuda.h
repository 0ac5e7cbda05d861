// Deformable attention on a CUDA device: plans the launch of everything behind its linear layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "edgedet/types.h"
#include "kernels/kernel_call.h"

namespace edgedet::cuda {

// A map that is sampled.
struct DeformableLevel {
  std::int32_t height = 1;
  std::int32_t width = 1;
  std::int32_t points = 1;  // sampling points of a head in it
};

// What is fixed about an attention. A ray is one sampling point of one head: point 0 to P - 1 of head 0, then of
// head 1.
struct DeformableSpec {
  std::int32_t heads = 1;
  std::int32_t channels = 1;  // of a head
  std::int32_t layers = 1;    // attentions whose values stand side by side in the table
  std::int32_t layer = 0;     // which of them this is
  std::vector<DeformableLevel> levels;

  std::int32_t points() const;  // of a head, P
  std::int32_t rays() const { return heads * points(); }
  std::int32_t dim() const { return heads * channels; }
  std::int32_t rows() const;  // of the table, an image: cells * layers * heads
};

// Limits of a DeformableSpec; its table has less than 2^31 values an image.
constexpr std::int32_t kMaxDeformableRays = 1024;
constexpr std::int32_t kMaxDeformableLevels = 8;
constexpr std::int32_t kMaxDeformableSide = 8192;
constexpr std::int32_t kMaxDeformableChannels = 4096;
constexpr std::int32_t kMaxDeformableLayers = 64;

// Throws Error(kInvalidInput) unless `spec` is within the limits.
void check_spec(const DeformableSpec& spec);

// Device memory, one image after the other; all of one type but the boxes, float32 or float16.
struct DeformableTensors {
  const void* projection;  // (images, queries, 3 * rays): x offsets, y offsets, logits of the weights
  const float* boxes;      // (images, queries, 4) cxcywh in [0, 1]
  const void* values;  // (images, rows, channels): the cells of all levels; in a cell the layers, in those the heads
  void* out;           // (images, queries, heads * channels)
};

// The launch that writes, for each query and head,
//   sum over points of softmax(logits)[point] * map of its level(location),
// location = centre * side + offset * box side, 0.5 at the centre of the first cell; bilinear, zero outside. Offsets
// are in cells of the level, times 1 / box side. Sums are float32. What is outside is not read. A NaN, an infinite
// location or logits that are all infinite make the results of their query and head NaN. Any address will do; 16-byte
// aligned ones are read in as wide words as the number of channels allows. Throws Error(kInvalidInput).
KernelCall plan_deformable(const DeformableSpec& spec, const DeformableTensors& tensors, std::size_t images,
                           std::size_t queries, DType dtype);

}  // namespace edgedet::cuda
