// Entry points of the kernels on the CPU, and what every device shares. Nothing here allocates once its workspace has
// seen the largest shapes. On CUDA devices: preprocess_cuda.h, decode_cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/host_device.h"
#include "common/validate.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"

namespace edgedet {
class ThreadPool;  // common/thread_pool.h

namespace ops {

// Resize tables and row buffers of one stream of frames. Grows to the largest frame seen, then stays.
class PreprocessWorkspace {
 public:
  PreprocessWorkspace();
  ~PreprocessWorkspace();
  PreprocessWorkspace(PreprocessWorkspace&&) noexcept;
  PreprocessWorkspace& operator=(PreprocessWorkspace&&) noexcept;

  struct Impl;
  Impl& impl() noexcept { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Writes (3, spec.height, spec.width) of `type` at `out` after `validate` of image, spec and type. `pool` may be null
// (one thread). Returns the geometry that decode needs to go back to source pixels.
Geometry preprocess_cpu(const ImageView& image, const PreprocessSpec& spec, TensorType type, void* out,
                        PreprocessWorkspace& workspace, ThreadPool* pool);

struct DecodeOptions {
  std::int32_t top_k = 300;     // rows kept at the most
  float score_threshold = 0.F;  // in [0, 1]
};

// Selection buffers of one stream of frames. Grow with the largest top_k seen, then stay.
struct DecodeWorkspace {
  std::vector<float> maxima;
  std::vector<std::uint64_t> candidates;
};

// Raw head: logits (queries, classes), boxes (queries, 4) cxcywh in [0, 1] of the network input.
// Keeps the top_k (query, class) pairs by (logit descending, then flat index ascending), sigmoid on winners only,
// rows with a score below the threshold left out, boxes mapped to source pixels and clipped. Infinite logits are
// ordinary. Throws Error(kModel) on a NaN logit or a non-finite winning box.
void decode_logits_cpu(const float* logits, const float* boxes, std::int32_t queries, std::int32_t classes,
                       const Geometry& geometry, const DecodeOptions& options, DecodeWorkspace& workspace,
                       std::vector<Detection>& out);

// Post-processed head: labels (rows), boxes (rows, 4) xyxy in pixels of the network input, scores (rows) in [0, 1].
// Same order, threshold, mapping, clipping and errors; a winning label outside [0, classes) is an Error(kModel) too.
void decode_scored_cpu(const std::int64_t* labels, const float* boxes, const float* scores, std::int32_t rows,
                       std::int32_t classes, const Geometry& geometry, const DecodeOptions& options,
                       DecodeWorkspace& workspace, std::vector<Detection>& out);

// What a decode on a device leaves for the host, one an image: a DecodeStatus, then room for top_k rows of Detection.

// Rows a CUDA decode can keep.
constexpr std::int32_t kMaxCudaTopK = 2048;

struct DecodeStatus {
  std::int32_t count = 0;             // rows written
  std::int32_t nan_values = 0;        // not 0: a logit or score was NaN
  std::int32_t non_finite_boxes = 0;  // not 0: a winning box was not finite
  std::int32_t wrong_labels = 0;      // not 0: a winning label was outside [0, classes)
};

EDGEDET_HD inline std::int64_t result_bytes(std::int32_t top_k) {
  return static_cast<std::int64_t>((sizeof(DecodeStatus) + static_cast<std::size_t>(top_k) * sizeof(Detection) + 15) /
                                   16 * 16);
}

// Reads the rows of one result. Throws the Error(kModel) that the CPU functions would have thrown.
void read_result(const void* result, std::vector<Detection>& out);

}  // namespace ops
}  // namespace edgedet
