// What fake_tensorrt.cpp and its tests share.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace edgedet::test::fake {

constexpr std::int32_t kWidth = 24;
constexpr std::int32_t kHeight = 16;
constexpr std::size_t kPixels = 3 * 24 * 16;
constexpr std::int32_t kRows = 20;
constexpr std::int32_t kClasses = 5;
constexpr std::int64_t kMaxBatch = 3;
constexpr std::int64_t kContextBytes = 4096;

// CUDA as the test has it, and what the test may look at.
struct Calls {
  cudaError_t (*copy)(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
  cudaError_t (*fill)(void* at, int value, std::size_t bytes, cudaStream_t stream);
  int contexts;  // alive
};

// edgedet_fake_calls of the library.
using GetCalls = Calls*();

}  // namespace edgedet::test::fake
