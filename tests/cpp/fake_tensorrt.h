// What fake_tensorrt.cpp, fake_builder.cpp, fake_parser.cpp and their tests share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <cuda_runtime_api.h>

namespace edgedet::test::fake {

constexpr std::int32_t kWidth = 24;
constexpr std::int32_t kHeight = 16;
constexpr std::size_t kPixels = 3 * 24 * 16;
constexpr std::int32_t kRows = 20;
constexpr std::int32_t kClasses = 5;
constexpr std::int64_t kMaxBatch = 3;
constexpr std::int64_t kContextBytes = 4096;

// What a build was given, and what it found.
struct Build {
  bool strongly_typed = false;
  std::uint32_t flags = 0;          // of the configuration, as bits
  std::size_t workspace = 0;        // bytes
  std::vector<std::int64_t> batch;  // min, opt, max of the profile
  std::vector<std::string> outputs;
  int dla_core = -1;  // -1: the GPU
  std::uint32_t tactic_sources = 0;
  std::string timing;         // of the cache that was given
  std::string calibrator;     // "entropy" or "minmax"
  std::string calibration;    // ranges that were given
  int calibration_batch = 0;  // images
  std::vector<std::vector<float>> images;
};

// CUDA as the test has it, and what the test may look at.
struct Calls {
  cudaError_t (*copy)(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                      cudaStream_t stream) = nullptr;
  cudaError_t (*fill)(void* at, int value, std::size_t bytes, cudaStream_t stream) = nullptr;
  int contexts = 0;                 // alive
  std::size_t weights = 1U << 20U;  // bytes that builder and runtime ask their allocator for
  int builds = 0;
  Build last;
};

// edgedet_fake_calls of the library.
using GetCalls = Calls*();

Calls& calls();  // inside of the library

}  // namespace edgedet::test::fake
