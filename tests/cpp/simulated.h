// Lets tests of CUDA code run both on host_cuda and, compiled by nvcc, on a device.
#pragma once

#if defined(__CUDACC__)

#include <cstddef>
#include <cstdint>

constexpr bool kSimulated = false;

namespace host_cuda {

struct Counters {
  std::size_t device_allocations = 0;
  std::size_t device_bytes = 0;
  std::size_t device_allocation_calls = 0;
  std::size_t pinned_allocations = 0;
  std::size_t pinned_bytes = 0;
  std::size_t pinned_allocation_calls = 0;
  std::size_t streams = 0;
  std::size_t events = 0;
  std::size_t graphs = 0;
  std::size_t graph_execs = 0;
  std::size_t graph_instantiations = 0;
  std::size_t kernel_launches = 0;
};

inline Counters counters() { return {}; }  // a device counts nothing
inline void set_seed(std::uint64_t /*seed*/) {}

}  // namespace host_cuda

#else

#include "host_cuda/runtime.h"

constexpr bool kSimulated = true;

#endif
