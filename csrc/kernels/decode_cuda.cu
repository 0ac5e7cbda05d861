#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "edgedet/error.h"
#include "kernels/decode_cuda.h"
#include "kernels/decode_device.h"
#include "kernels/preprocess_cuda.h"

namespace edgedet::cuda {

namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// Far enough below the logit of the threshold that no rounding of the sigmoid reaches it: there the sigmoid still rises
// by 1e-5.
float surely_low(float threshold) {
  if (threshold <= 0.F) {
    return -std::numeric_limits<float>::infinity();
  }
  const double logit = std::log(static_cast<double>(threshold)) - std::log1p(-static_cast<double>(threshold));
  return static_cast<float>(std::min(logit, 7.0) - 0.01 * std::max(1.0, std::abs(std::min(logit, 7.0))));
}

std::int64_t blocks_for(std::int64_t values) { return (values + kernel::kChunk - 1) / kernel::kChunk; }

}  // namespace

std::size_t Decoder::device_bytes(std::size_t max_images, std::int64_t max_values) {
  const std::int64_t blocks = blocks_for(max_values);
  if (blocks <= 1) {
    return 0;
  }
  const std::size_t list = (kernel::kCapacity + 1) * sizeof(std::uint64_t);
  return kMaxBatch * sizeof(kernel::DecodeScratch) + max_images * static_cast<std::size_t>(blocks) * list;
}

Decoder::Decoder(const ops::DecodeOptions& options, std::size_t max_images, std::int64_t max_values)
    : options_(options),
      surely_low_(surely_low(options.score_threshold)),
      max_images_(max_images),
      max_values_(max_values) {
  if (options.top_k < 1 || options.top_k > ops::kMaxCudaTopK) {
    refuse("top_k: expected 1 to " + std::to_string(ops::kMaxCudaTopK) + ", got " + std::to_string(options.top_k) +
           "; keep fewer rows");
  }
  if (!(options.score_threshold >= 0.F && options.score_threshold <= 1.F)) {
    refuse("score_threshold: expected a number in [0, 1], got " + std::to_string(options.score_threshold));
  }
  check_max_batch(max_images);
  if (max_values < 1 || max_values > std::numeric_limits<std::int32_t>::max()) {
    refuse("expected 1 to 2^31 - 1 values to decode, got " + std::to_string(max_values));
  }
  scratch_ = make_device_buffer(device_bytes(max_images, max_values));
  if (scratch_.bytes() > 0) {
    check_cuda(cudaMemset(scratch_.data(), 0, kMaxBatch * sizeof(kernel::DecodeScratch)),
               "clear the scratch memory of decoding");
    check_cuda(cudaStreamSynchronize(nullptr), "clear the scratch memory of decoding");
  }
}

template <typename T, typename Head>
KernelCall Decoder::plan_head(const Head& head, std::int64_t values, const Geometry* geometries, std::size_t count,
                              void* results) const {
  if (count < 1 || count > max_images_ || values < 1 || values > max_values_) {
    refuse("expected 1 to " + std::to_string(max_images_) + " images of 1 to " + std::to_string(max_values_) +
           " values, got " + std::to_string(count) + " of " + std::to_string(values));
  }
  const auto fill = [&](auto body) {
    body.head = head;
    body.count = static_cast<std::int32_t>(values);
    body.keep = static_cast<std::int32_t>(std::min<std::int64_t>(values, options_.top_k));
    body.top_k = options_.top_k;
    body.threshold = options_.score_threshold;
    body.surely_low = Head::kSigmoid ? surely_low_ : options_.score_threshold;
    body.results = static_cast<unsigned char*>(results);
    body.scratch = scratch_.as<kernel::DecodeScratch>();
    std::copy(geometries, geometries + count, body.geometries);
    const dim3 grid(static_cast<unsigned>(blocks_for(values)), static_cast<unsigned>(count));
    return make_call(body, grid, sizeof(kernel::DecodeShared));
  };
  if constexpr (Head::kSigmoid) {  // scores are few
    const bool aligned = reinterpret_cast<std::uintptr_t>(head.values()) % sizeof(kernel::Pack<T>) == 0;
    if (aligned && values % static_cast<std::int64_t>(sizeof(kernel::Pack<T>) / sizeof(T)) == 0) {
      return fill(kernel::DecodeKernel<T, Head, true>{});
    }
  }
  return fill(kernel::DecodeKernel<T, Head, false>{});
}

KernelCall Decoder::plan(const LogitsOutput& output, DType dtype, const Geometry* geometries, std::size_t count,
                         void* results) const {
  const std::int64_t values = static_cast<std::int64_t>(output.queries) * output.classes;
  const auto as = [&](auto zero) {
    using T = decltype(zero);
    const kernel::LogitHead<T> head{static_cast<const T*>(output.logits), static_cast<const T*>(output.boxes),
                                    output.queries, output.classes};
    return plan_head<T>(head, values, geometries, count, results);
  };
  return dtype == DType::kFloat16 ? as(std::uint16_t{}) : as(float{});
}

KernelCall Decoder::plan(const ScoredOutput& output, DType dtype, const Geometry* geometries, std::size_t count,
                         void* results) const {
  const auto as = [&](auto zero) {
    using T = decltype(zero);
    const kernel::ScoredHead<T> head{output.labels,
                                     static_cast<const T*>(output.boxes),
                                     static_cast<const T*>(output.scores),
                                     output.rows,
                                     output.classes,
                                     output.wide_labels};
    return plan_head<T>(head, output.rows, geometries, count, results);
  };
  return dtype == DType::kFloat16 ? as(std::uint16_t{}) : as(float{});
}

}  // namespace edgedet::cuda
