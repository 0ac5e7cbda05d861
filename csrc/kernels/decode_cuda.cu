// Decoding on a CUDA device by one block: a radix select finds the worst candidate that is kept, the kept ones are
// sorted in shared memory, then each thread writes its rows.
#include <cstdint>
#include <limits>
#include <string>

#include "kernels/cuda_check.h"
#include "kernels/decode.h"
#include "kernels/ops.h"

namespace edgedet::ops {

namespace {

constexpr int kThreads = 1024;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

// Shared memory of the block.
struct Selection {
  std::uint64_t kept[kMaxCudaTopK];
  std::int32_t histogram[kDigits];
  std::uint64_t prefix;    // digits of the worst kept candidate that are known, the others zero
  std::int32_t remaining;  // rank of it among the candidates that share them, from 1
  std::int32_t size;       // of kept
  std::int32_t first_low;  // first row with a score below the threshold
};

__device__ void mark(std::int32_t* flag) { atomicExch(flag, 1); }

// Leaves the `keep` best of `count` values in selection.kept, best first. Candidates are distinct, so exactly `keep`
// of them reach the one of rank `keep`.
__device__ void select(const float* values, std::int32_t count, std::int32_t keep, Selection& selection,
                       DecodeStatus* status) {
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (thread == 0) {
    selection.prefix = 0;
    selection.remaining = keep;
    selection.size = 0;
  }
  for (std::int32_t i = thread; i < count; i += kThreads) {
    if (values[i] != values[i]) {
      mark(&status->nan_values);
    }
  }
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (std::int32_t digit = thread; digit < kDigits; digit += kThreads) {
      selection.histogram[digit] = 0;
    }
    __syncthreads();
    const std::uint64_t known = shift == 64 - kDigitBits ? 0 : ~std::uint64_t{0} << (shift + kDigitBits);
    for (std::int32_t i = thread; i < count; i += kThreads) {
      const std::uint64_t candidate = kernel::make_candidate(values[i], static_cast<std::uint32_t>(i));
      if ((candidate & known) == selection.prefix) {
        atomicAdd(&selection.histogram[(candidate >> shift) & (kDigits - 1)], 1);
      }
    }
    __syncthreads();
    if (thread == 0) {
      std::int32_t digit = kDigits - 1;
      while (digit > 0 && selection.remaining > selection.histogram[digit]) {
        selection.remaining -= selection.histogram[digit];
        --digit;
      }
      selection.prefix |= static_cast<std::uint64_t>(digit) << shift;
    }
    __syncthreads();
  }
  for (std::int32_t i = thread; i < count; i += kThreads) {
    const std::uint64_t candidate = kernel::make_candidate(values[i], static_cast<std::uint32_t>(i));
    if (candidate >= selection.prefix) {
      const std::int32_t at = atomicAdd(&selection.size, 1);
      if (at < keep) {
        selection.kept[at] = candidate;
      }
    }
  }
  // Bitonic sort, descending; what lies beyond `keep` is padded with the least candidate.
  std::int32_t padded = 1;
  while (padded < keep) {
    padded *= 2;
  }
  for (std::int32_t i = keep + thread; i < padded; i += kThreads) {
    selection.kept[i] = 0;
  }
  __syncthreads();
  for (std::int32_t size = 2; size <= padded; size *= 2) {
    for (std::int32_t distance = size / 2; distance > 0; distance /= 2) {
      for (std::int32_t i = thread; i < padded; i += kThreads) {
        const std::int32_t other = i ^ distance;
        if (other > i) {
          const std::uint64_t first = selection.kept[i];
          const std::uint64_t second = selection.kept[other];
          const bool descending = (i & size) == 0;
          if (descending == (first < second)) {
            selection.kept[i] = second;
            selection.kept[other] = first;
          }
        }
      }
      __syncthreads();
    }
  }
}

struct LogitRows {
  const float* values;
  const float* boxes;
  std::int32_t classes;
  Geometry geometry;

  __device__ float score(std::int32_t index) const { return kernel::sigmoid(values[index]); }
  __device__ Detection row(std::int32_t index, float score, DecodeStatus* status) const {
    const float* box = boxes + 4 * static_cast<std::int64_t>(index / classes);
    if (!kernel::is_finite_box(box)) {
      mark(&status->non_finite_boxes);
    }
    return kernel::centre_detection(box, score, index % classes, geometry);
  }
};

struct ScoredRows {
  const float* values;
  const float* boxes;
  const std::int64_t* labels;
  std::int32_t classes;
  Geometry geometry;

  __device__ float score(std::int32_t index) const { return values[index]; }
  __device__ Detection row(std::int32_t index, float score, DecodeStatus* status) const {
    const float* box = boxes + 4 * static_cast<std::int64_t>(index);
    if (!kernel::is_finite_box(box)) {
      mark(&status->non_finite_boxes);
    }
    const std::int64_t label = labels[index];
    if (label < 0 || label >= classes) {
      mark(&status->wrong_labels);
    }
    return kernel::corner_detection(box, score, static_cast<std::int32_t>(label), geometry);
  }
};

template <typename Rows>
__global__ void __launch_bounds__(kThreads) decode_kernel(const Rows rows, std::int32_t count, std::int32_t keep,
                                                          float threshold, Detection* out, DecodeStatus* status) {
  __shared__ Selection selection;
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  if (thread == 0) {
    *status = DecodeStatus{};
    selection.first_low = keep;
  }
  __syncthreads();
  select(rows.values, count, keep, selection, status);
  for (std::int32_t i = thread; i < keep; i += kThreads) {
    const auto index = static_cast<std::int32_t>(kernel::candidate_index(selection.kept[i]));
    const float score = rows.score(index);
    if (score < threshold) {
      atomicMin(&selection.first_low, i);
    } else {
      out[i] = rows.row(index, score, status);
    }
  }
  __syncthreads();
  if (thread == 0) {
    status->count = selection.first_low;
  }
}

template <typename Rows>
void launch(const Rows& rows, std::int64_t count, const DecodeOptions& options, Detection* out, DecodeStatus* status,
            void* stream) {
  if (options.top_k < 1 || options.top_k > kMaxCudaTopK) {
    throw Error(ErrorKind::kInvalidInput, "expected top_k from 1 to " + std::to_string(kMaxCudaTopK) + ", got " +
                                              std::to_string(options.top_k) + "; keep fewer rows");
  }
  if (!(options.score_threshold >= 0.F && options.score_threshold <= 1.F)) {
    throw Error(ErrorKind::kInvalidInput,
                "expected a score threshold in [0, 1], got " + std::to_string(options.score_threshold));
  }
  if (count < 1 || count > std::numeric_limits<std::int32_t>::max()) {
    throw Error(ErrorKind::kInvalidInput, "expected 1 to 2^31 - 1 values to decode, got " + std::to_string(count));
  }
  const auto keep = static_cast<std::int32_t>(count < options.top_k ? count : options.top_k);
  decode_kernel<<<1, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(rows, static_cast<std::int32_t>(count), keep,
                                                                       options.score_threshold, out, status);
  check_cuda(cudaGetLastError(), "launch decoding");
}

}  // namespace

void check(const DecodeStatus& status) {
  const char* problem = nullptr;
  if (status.nan_values != 0) {
    problem = "expected numbers as logits or scores, got NaN";
  } else if (status.non_finite_boxes != 0) {
    problem = "expected finite boxes, got a non-finite coordinate";
  } else if (status.wrong_labels != 0) {
    problem = "expected labels below the number of classes, got another one";
  }
  if (problem != nullptr) {
    throw Error(ErrorKind::kModel,
                std::string(problem) + "; the weights or the precision of this model are broken: run another one");
  }
}

void decode_logits_cuda(const float* logits, const float* boxes, std::int32_t queries, std::int32_t classes,
                        const Geometry& geometry, const DecodeOptions& options, Detection* out, DecodeStatus* status,
                        void* stream) {
  launch(LogitRows{logits, boxes, classes, geometry}, static_cast<std::int64_t>(queries) * classes, options, out,
         status, stream);
}

void decode_scored_cuda(const std::int64_t* labels, const float* boxes, const float* scores, std::int32_t rows,
                        std::int32_t classes, const Geometry& geometry, const DecodeOptions& options, Detection* out,
                        DecodeStatus* status, void* stream) {
  launch(ScoredRows{scores, boxes, labels, classes, geometry}, rows, options, out, status, stream);
}

}  // namespace edgedet::ops
