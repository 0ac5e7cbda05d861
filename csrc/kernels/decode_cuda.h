// Decoding on a CUDA device: plans the launch of a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/cuda_raii.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"
#include "kernels/kernel_call.h"
#include "kernels/ops.h"

namespace edgedet::cuda {

// The outputs of a network, in device memory, one image after the other. float32 or float16.
struct LogitsOutput {
  const void* logits;  // (images, queries, classes)
  const void* boxes;   // (images, queries, 4) cxcywh in [0, 1] of the network input
  std::int32_t queries;
  std::int32_t classes;
};
struct ScoredOutput {
  const void* labels;  // (images, rows) int32 or int64
  const void* boxes;   // (images, rows, 4) xyxy in pixels of the network input
  const void* scores;  // (images, rows) in [0, 1]
  std::int32_t rows;
  std::int32_t classes;
  bool wide_labels;  // int64
};

// For one stream of frames on the current device; not thread-safe.
class Decoder {
 public:
  // max_values: largest queries * classes, or rows. Throws Error(kInvalidInput).
  Decoder(const ops::DecodeOptions& options, std::size_t max_images, std::int64_t max_values);

  // The launch that writes ops::result_bytes(top_k) an image at `results`. Same order, threshold and boxes as
  // ops::decode_logits_cpu and ops::decode_scored_cpu. Allocates nothing.
  KernelCall plan(const LogitsOutput& output, DType dtype, const Geometry* geometries, std::size_t count,
                  void* results) const;
  KernelCall plan(const ScoredOutput& output, DType dtype, const Geometry* geometries, std::size_t count,
                  void* results) const;

  std::size_t device_bytes() const noexcept { return scratch_.bytes(); }
  static std::size_t device_bytes(std::size_t max_images, std::int64_t max_values);

 private:
  template <typename T, typename Head>
  KernelCall plan_head(const Head& head, std::int64_t values, const Geometry* geometries, std::size_t count,
                       void* results) const;

  ops::DecodeOptions options_;
  float surely_low_;  // see kernel::DecodeKernel
  std::size_t max_images_;
  std::int64_t max_values_;
  DeviceBuffer scratch_;
};

}  // namespace edgedet::cuda
