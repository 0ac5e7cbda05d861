#include "backends/tensorrt/memory_budget.h"

#include <exception>

#include "common/cuda_raii.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

std::string mib(std::size_t bytes) { return std::to_string((bytes + (std::size_t{1} << 20U) - 1) >> 20U) + " MiB"; }

}  // namespace

void MemoryBudget::set_aside(std::size_t bytes, const std::string& what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (limit_ != 0 && used_ + bytes > limit_) {
    throw Error(ErrorKind::kBackend, "memory_limit_mb: expected at most " + mib(limit_) + " of device memory, got " +
                                         mib(used_) + " for the engine and " + mib(bytes) + " for " + what +
                                         "; raise the limit, or lower requests, the batch or the size of images");
  }
  aside_ = bytes;
}

std::string MemoryBudget::refusal() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return refused_ == 0 ? ""
                       : " (memory_limit_mb is " + mib(limit_) + ": " + mib(used_ + aside_) +
                             " were taken and TensorRT asked for " + mib(refused_) + " more)";
}

void* MemoryBudget::allocate(std::size_t bytes) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (bytes == 0) {
    return nullptr;
  }
  if (bytes > limit_ || used_ + aside_ > limit_ - bytes) {
    refused_ = bytes;
    return nullptr;
  }
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // TensorRT is told by the null
    return nullptr;
  }
  try {
    blocks_.emplace(memory, bytes);
  } catch (const std::exception&) {
    static_cast<void>(cudaFree(memory));
    return nullptr;
  }
  used_ += bytes;
  return memory;
}

void MemoryBudget::free(void* memory) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto block = blocks_.find(memory);
  if (block != blocks_.end()) {
    used_ -= block->second;
    blocks_.erase(block);
    static_cast<void>(cudaFree(memory));
  }
}

}  // namespace edgedet::tensorrt
