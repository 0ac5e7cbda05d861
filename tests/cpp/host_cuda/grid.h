// Runs the blocks of one launch; inside host_cuda only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>

namespace host_cuda {

inline constexpr unsigned char kGarbage = 0xA5;
inline constexpr std::size_t kMaxShared = 227 * 1024;

// Splitmix64.
class Random {
 public:
  void seed(std::uint64_t seed) { state_ = seed; }

  // In [0, count).
  std::size_t below(std::size_t count) {
    std::uint64_t bits = (state_ += 0x9e3779b97f4a7c15U);
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
    return static_cast<std::size_t>(bits ^ (bits >> 31)) % count;
  }

  template <typename T>
  T take(std::vector<T>& from) {
    std::swap(from[below(from.size())], from.back());
    T taken = std::move(from.back());
    from.pop_back();
    return taken;
  }

 private:
  std::uint64_t state_ = 1;
};

struct Fault {
  cudaError_t code = cudaSuccess;
  std::string message;
};

// Not to be called by two threads at once.
Fault run_grid(void (*kernel)(const void*), const void* body, dim3 grid, dim3 block, std::size_t shared_bytes,
               Random& random);

}  // namespace host_cuda
