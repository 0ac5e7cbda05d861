// How kernels are written here: as a plain struct with its arguments as members, kThreads, kMinBlocks (that a
// multiprocessor should hold) and operator(), which is one thread of one block.
//
// Without nvcc the same sources compile as C++ against tests/cpp/host_cuda, which runs them on the CPU.
#pragma once

#include <cstddef>
#include <type_traits>

#include <cuda_runtime_api.h>

#include "common/host_device.h"
#include "kernels/kernel_call.h"

namespace edgedet::cuda {

#if defined(__CUDACC__)

#define EDGEDET_UNROLL _Pragma("unroll")
#define EDGEDET_UNROLL_TWICE _Pragma("unroll 2")
#define EDGEDET_NO_UNROLL _Pragma("unroll 1")

#if __CUDACC_VER_MAJOR__ >= 12
#define EDGEDET_GRID_CONSTANT __grid_constant__
#else
#define EDGEDET_GRID_CONSTANT
#endif

template <typename Body>
__global__ void __launch_bounds__(Body::kThreads, Body::kMinBlocks) run_body(const EDGEDET_GRID_CONSTANT Body body) {
  body();
}

template <typename Body>
const void* kernel_address() {
  return reinterpret_cast<const void*>(&run_body<Body>);
}

// The dynamic shared memory of the block, 16-byte aligned.
__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char edgedet_shared[];
  return edgedet_shared;
}

#else

#define EDGEDET_UNROLL
#define EDGEDET_UNROLL_TWICE
#define EDGEDET_NO_UNROLL

template <typename Body>
void run_body(const void* body) {
  (*static_cast<const Body*>(body))();
}

template <typename Body>
const void* kernel_address() {
  const auto address = reinterpret_cast<const void*>(&run_body<Body>);
  host_cuda::register_kernel(address, sizeof(Body));
  return address;
}

inline unsigned char* shared_memory() { return host_cuda::shared_memory(); }

#endif

// The launch of `body` by blocks of Body::kThreads threads.
template <typename Body>
KernelCall make_call(const Body& body, dim3 grid, std::size_t shared_bytes) {
  static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= KernelCall::kMaxArguments && alignof(Body) <= 16);
  return {kernel_address<Body>(), grid, static_cast<unsigned>(Body::kThreads), shared_bytes, &body, sizeof(Body)};
}

}  // namespace edgedet::cuda
