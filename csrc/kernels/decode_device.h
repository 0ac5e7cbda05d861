// The kernel of decode_cuda.cu: top-k, threshold, sigmoid and boxes of a batch in one launch.
//
// A block holds the values of a chunk of an image in registers, read once. The keep-th largest of its threads' maxima
// is a bound that at least `keep` values reach and few others do; those that do go to shared memory and are sorted.
// Where so many reach it that they do not fit (ties, or values that lie badly), the keep-th candidate itself is found
// by bisection. Of several blocks an image the last one to finish merges what they kept.
#pragma once

#include <cstdint>

#include "kernels/cuda_kernel.h"
#include "kernels/decode.h"
#include "kernels/ops.h"

namespace edgedet::kernel {

constexpr int kDecodeThreads = 512;
constexpr int kValuesPerThread = 48;  // 300 queries of 80 classes are one chunk
constexpr std::int32_t kChunk = kDecodeThreads * kValuesPerThread;
constexpr std::int32_t kCapacity = 2048;  // candidates that are sorted; a power of two

// What the blocks of an image tell each other; in device memory, zero between launches. Candidates of each block follow
// the headers of all images.
struct DecodeScratch {
  std::int32_t finished;
  std::int32_t nan_values;
};

struct DecodeShared {
  std::uint64_t kept[kCapacity];
  std::int32_t size;
  std::int32_t sum;
  std::int32_t first_low;
  std::int32_t is_last;
  std::int32_t non_finite_boxes;
  std::int32_t wrong_labels;
};

EDGEDET_HD inline std::uint32_t candidate_key(std::uint64_t candidate) {
  return static_cast<std::uint32_t>(candidate >> 32);
}

__device__ inline DecodeShared& decode_shared() { return *reinterpret_cast<DecodeShared*>(cuda::shared_memory()); }

// Element types of a head.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(std::uint16_t half) { return from_half(half); }

// Sum over the threads of the block.
__device__ inline std::int32_t block_sum(std::int32_t mine) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  for (int distance = 16; distance > 0; distance /= 2) {
    mine += __shfl_xor_sync(kAll, mine, distance);
  }
  DecodeShared& shared = decode_shared();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.sum = 0;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0 && mine != 0) {
    atomicAdd(&shared.sum, mine);
  }
  __syncthreads();
  return shared.sum;
}

// Puts the best `keep` candidates of the block (and maybe others; all of them if there are fewer) into shared.kept, in
// any order, and their number into shared.size. Candidates are distinct and not zero. `source` has those of this
// thread: highest() is the largest key, reaching(least) the number of candidates from `least` on, and collect(least,
// push) calls push with each of these.
template <typename Source>
__device__ void select(std::int32_t keep, const Source& source) {
  DecodeShared& shared = decode_shared();
  // The highest bits of the bound are enough: what they leave open costs a few candidates more.
  constexpr int kBoundBits = 20;
  const std::uint32_t highest = source.highest();
  std::uint32_t bound = 0;
  EDGEDET_NO_UNROLL
  for (int bit = 31; bit > 31 - kBoundBits; --bit) {
    const std::uint32_t higher = bound | (std::uint32_t{1} << bit);
    if (__syncthreads_count(static_cast<int>(highest >= higher)) >= keep) {
      bound = higher;
    }
  }
  std::uint64_t least = bound == 0 ? 1 : static_cast<std::uint64_t>(bound) << 32;
  EDGEDET_NO_UNROLL
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (threadIdx.x == 0) {
      shared.size = 0;
    }
    __syncthreads();
    source.collect(least, [&shared](std::uint64_t candidate) {
      const std::int32_t at = atomicAdd(&shared.size, 1);
      if (at < kCapacity) {
        shared.kept[at] = candidate;
      }
    });
    __syncthreads();
    if (shared.size <= kCapacity) {
      return;
    }
    // Exactly `keep` candidates reach the keep-th one.
    least = 0;
    EDGEDET_NO_UNROLL
    for (int bit = 63; bit >= 0; --bit) {
      const std::uint64_t higher = least | (std::uint64_t{1} << bit);
      if (block_sum(source.reaching(higher)) >= keep) {
        least = higher;
      }
    }
    __syncthreads();
  }
}

// Sorts shared.kept, best first.
__device__ inline void sort_kept() {
  DecodeShared& shared = decode_shared();
  const auto thread = static_cast<std::int32_t>(threadIdx.x);
  const std::int32_t size = shared.size;
  std::int32_t padded = 2;
  while (padded < size) {
    padded *= 2;
  }
  for (std::int32_t i = size + thread; i < padded; i += kDecodeThreads) {
    shared.kept[i] = 0;
  }
  __syncthreads();
  for (std::int32_t run = 2; run <= padded; run *= 2) {
    for (std::int32_t distance = run / 2; distance > 0; distance /= 2) {
      // Bitonic: pair p is elements i and i + distance; runs alternate between descending and ascending.
      for (std::int32_t pair = thread; pair < padded / 2; pair += kDecodeThreads) {
        const std::int32_t i = 2 * pair - (pair & (distance - 1));
        const std::uint64_t first = shared.kept[i];
        const std::uint64_t second = shared.kept[i + distance];
        if (((i & run) == 0) == (first < second)) {
          shared.kept[i] = second;
          shared.kept[i + distance] = first;
        }
      }
      __syncthreads();
    }
  }
}

// Raw head: logits (images, queries, classes), boxes (images, queries, 4) cxcywh in [0, 1].
template <typename T>
struct LogitHead {
  const T* logits;
  const T* boxes;
  std::int32_t queries;
  std::int32_t classes;

  static constexpr bool kSigmoid = true;
  __device__ const T* values() const { return logits; }
  __device__ Detection detection(std::int32_t image, std::int32_t index, float score, const Geometry& geometry) const {
    const T* from = boxes + 4 * (static_cast<std::int64_t>(image) * queries + index / classes);
    const float box[4] = {to_float(from[0]), to_float(from[1]), to_float(from[2]), to_float(from[3])};
    DecodeShared& shared = decode_shared();
    if (!is_finite_box(box)) {
      atomicExch(&shared.non_finite_boxes, 1);
    }
    return centre_detection(box, score, index % classes, geometry);
  }
};

// Post-processed head: labels (images, rows), boxes (images, rows, 4) xyxy in pixels of the network input, scores
// (images, rows).
template <typename T>
struct ScoredHead {
  const void* labels;  // int64 if wide_labels, else int32
  const T* boxes;
  const T* scores;
  std::int32_t rows;
  std::int32_t classes;
  bool wide_labels;

  static constexpr bool kSigmoid = false;
  __device__ const T* values() const { return scores; }
  __device__ Detection detection(std::int32_t image, std::int32_t index, float score, const Geometry& geometry) const {
    const std::int64_t row = static_cast<std::int64_t>(image) * rows + index;
    const T* from = boxes + 4 * row;
    const float box[4] = {to_float(from[0]), to_float(from[1]), to_float(from[2]), to_float(from[3])};
    DecodeShared& shared = decode_shared();
    if (!is_finite_box(box)) {
      atomicExch(&shared.non_finite_boxes, 1);
    }
    const std::int64_t label =
        wide_labels ? static_cast<const std::int64_t*>(labels)[row] : static_cast<const std::int32_t*>(labels)[row];
    if (label < 0 || label >= classes) {
      atomicExch(&shared.wrong_labels, 1);
    }
    return corner_detection(box, score, static_cast<std::int32_t>(label), geometry);
  }
};

// Values of 16 bytes, read as one.
template <typename T>
struct alignas(16) Pack {
  T values[16 / sizeof(T)];
};

// kPacked: values are 16-byte aligned and their number a multiple of a Pack.
template <typename T, typename Head, bool kPacked>
struct DecodeKernel {
  static constexpr int kThreads = kDecodeThreads;
  static constexpr int kMinBlocks = 1;

  Head head;
  std::int32_t count;  // values of an image
  std::int32_t keep;   // rows of an image, at most `count` and kCapacity
  std::int32_t top_k;  // rows that a result has room for
  float threshold;
  float surely_low;        // a value below it has a score below the threshold; spares the sigmoid, slow where double is
  unsigned char* results;  // see result_bytes
  DecodeScratch* scratch;  // null if there is one block an image
  Geometry geometries[cuda::kMaxBatch];

  __device__ std::uint64_t* lists() const { return reinterpret_cast<std::uint64_t*>(scratch + cuda::kMaxBatch); }
  // A block's list: its size, then its candidates.
  __device__ std::uint64_t* list(std::int32_t image, std::int32_t block) const {
    return lists() + (static_cast<std::int64_t>(image) * gridDim.x + block) * (kCapacity + 1);
  }

  // The flat index of value `i` of this thread is first_index() + offset_of(i).
  static constexpr int kPack = kPacked ? static_cast<int>(16 / sizeof(T)) : 1;
  __device__ static std::int32_t first_index() {
    return static_cast<std::int32_t>(blockIdx.x) * kChunk + static_cast<std::int32_t>(threadIdx.x) * kPack;
  }
  __device__ static std::int32_t offset_of(int i) { return i / kPack * kThreads * kPack + i % kPack; }

  // The values of this thread, whose keys are in registers.
  struct Chunk {
    const std::uint32_t (&keys)[kValuesPerThread];
    const T* values;

    __device__ std::uint32_t highest() const {
      std::uint32_t found = 0;
      EDGEDET_UNROLL
      for (const std::uint32_t key : keys) {
        found = found < key ? key : found;
      }
      return found;
    }
    __device__ std::int32_t reaching(std::uint64_t least) const {
      // Offsets, unlike candidates, are constants and take no registers.
      const std::uint32_t key = candidate_key(least);
      const std::int64_t last = key == 0 ? -1 : static_cast<std::int64_t>(candidate_index(least)) - first_index();
      std::int32_t count = 0;
      EDGEDET_UNROLL
      for (int i = 0; i < kValuesPerThread; ++i) {
        count += keys[i] > key || (keys[i] == key && offset_of(i) <= last) ? 1 : 0;
      }
      return count;
    }
    template <typename Push>
    __device__ void collect(std::uint64_t least, const Push& push) const {
      // Registers have no index: those that may reach are noted as bits, and the few of them read again.
      static_assert(kValuesPerThread <= 64);
      const std::uint32_t key = candidate_key(least);
      std::uint64_t reach = 0;
      EDGEDET_UNROLL
      for (int i = 0; i < kValuesPerThread; ++i) {
        const bool reaches = keys[i] >= key && keys[i] != 0;
        reach |= static_cast<std::uint64_t>(reaches) << i;
      }
      while (reach != 0) {
        const std::int32_t index = first_index() + offset_of(__ffsll(static_cast<long long>(reach)) - 1);
        const std::uint64_t candidate = make_candidate(to_float(values[index]), static_cast<std::uint32_t>(index));
        if (candidate >= least) {
          push(candidate);
        }
        reach &= reach - 1;
      }
    }
  };

  // What the blocks of an image kept, in device memory.
  struct Lists {
    const DecodeKernel& kernel;
    std::int32_t image;

    template <typename Use>
    __device__ void visit(const Use& use) const {
      for (std::int32_t block = 0; block < static_cast<std::int32_t>(gridDim.x); ++block) {
        const std::uint64_t* list = kernel.list(image, block);
        const auto kept = static_cast<std::int32_t>(__ldcg(list));
        for (auto i = static_cast<std::int32_t>(threadIdx.x); i < kept; i += kThreads) {
          use(__ldcg(list + 1 + i));
        }
      }
    }
    __device__ std::uint32_t highest() const {
      std::uint32_t found = 0;
      visit([&](std::uint64_t candidate) {
        found = found < candidate_key(candidate) ? candidate_key(candidate) : found;
      });
      return found;
    }
    __device__ std::int32_t reaching(std::uint64_t least) const {
      std::int32_t count = 0;
      visit([&](std::uint64_t candidate) { count += candidate >= least ? 1 : 0; });
      return count;
    }
    template <typename Push>
    __device__ void collect(std::uint64_t least, const Push& push) const {
      visit([&](std::uint64_t candidate) {
        if (candidate >= least) {
          push(candidate);
        }
      });
    }
  };

  // Fills `keys` with the chunk's values as integers in their order, zero where there is none. Returns whether one is
  // NaN.
  __device__ bool load(const T* values, std::uint32_t (&keys)[kValuesPerThread]) const {
    bool nan = false;
    EDGEDET_UNROLL
    for (int i = 0; i < kValuesPerThread; i += kPack) {
      const std::int32_t index = first_index() + offset_of(i);
      if (index >= count) {
        EDGEDET_UNROLL
        for (int part = 0; part < kPack; ++part) {
          keys[i + part] = 0;
        }
        continue;
      }
      T read[kPack];
      if constexpr (kPacked) {
        const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(values + index);
        EDGEDET_UNROLL
        for (int part = 0; part < kPack; ++part) {
          read[part] = pack.values[part];
        }
      } else {
        read[0] = values[index];
      }
      EDGEDET_UNROLL
      for (int part = 0; part < kPack; ++part) {
        const float value = to_float(read[part]);
        nan = nan || value != value;
        keys[i + part] = candidate_key(make_candidate(value, 0));
      }
    }
    return nan;
  }

  __device__ void operator()() const {
    const auto image = static_cast<std::int32_t>(blockIdx.y);
    const T* values = head.values() + static_cast<std::int64_t>(image) * count;
    bool nan = false;
    {
      std::uint32_t keys[kValuesPerThread];
      nan = __syncthreads_or(static_cast<int>(load(values, keys))) != 0;
      select(keep, Chunk{keys, values});
    }
    if (gridDim.x > 1 && !merge(image, nan)) {
      return;
    }
    sort_kept();
    write(image, values, nan);
  }

  // Hands over what this block kept. False for all blocks of an image but the last one, which then has what all of them
  // kept in shared.kept.
  __device__ bool merge(std::int32_t image, bool& nan) const {
    DecodeShared& shared = decode_shared();
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    const auto blocks = static_cast<std::int32_t>(gridDim.x);
    std::uint64_t* const own = list(image, static_cast<std::int32_t>(blockIdx.x));
    const std::int32_t size = shared.size;
    for (std::int32_t i = thread; i < size; i += kThreads) {
      own[1 + i] = shared.kept[i];
    }
    if (thread == 0) {
      own[0] = static_cast<std::uint64_t>(size);
      if (nan) {
        atomicExch(&scratch[image].nan_values, 1);
      }
    }
    __threadfence();
    __syncthreads();
    if (thread == 0) {
      shared.is_last = atomicAdd(&scratch[image].finished, 1) == blocks - 1 ? 1 : 0;
    }
    __syncthreads();
    if (shared.is_last == 0) {
      return false;
    }
    __threadfence();
    select(keep, Lists{*this, image});
    nan = atomicAdd(&scratch[image].nan_values, 0) != 0;
    __syncthreads();
    if (thread == 0) {
      scratch[image] = DecodeScratch{0, 0};
    }
    return true;
  }

  __device__ void write(std::int32_t image, const T* values, bool nan) const {
    DecodeShared& shared = decode_shared();
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    auto* const status =
        reinterpret_cast<ops::DecodeStatus*>(results + static_cast<std::int64_t>(image) * ops::result_bytes(top_k));
    auto* const rows = reinterpret_cast<Detection*>(status + 1);
    if (thread == 0) {
      shared.first_low = keep;
      shared.non_finite_boxes = 0;
      shared.wrong_labels = 0;
    }
    __syncthreads();
    for (std::int32_t i = thread; i < keep; i += kThreads) {
      const auto index = static_cast<std::int32_t>(candidate_index(shared.kept[i]));
      if (nan || index >= count) {
        continue;  // the result is an error
      }
      const float value = to_float(values[index]);
      const float score = value < surely_low ? -1.F : (Head::kSigmoid ? sigmoid(value) : value);
      if (score < threshold) {
        atomicMin(&shared.first_low, i);
      } else {
        rows[i] = head.detection(image, index, score, geometries[image]);
      }
    }
    __syncthreads();
    if (thread == 0) {
      *status = {shared.first_low, nan ? 1 : 0, shared.non_finite_boxes, shared.wrong_labels};
    }
  }
};

}  // namespace edgedet::kernel
