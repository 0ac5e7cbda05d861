// The launch of a kernel as a value: for a stream, or for a node of a graph.
#pragma once

#include <cstddef>
#include <cstring>

#include <cuda_runtime_api.h>

#include "common/cuda_raii.h"

namespace edgedet::cuda {

// Images of a batch at the most: what is known of each is a kernel argument.
constexpr std::size_t kMaxBatch = 32;

class KernelCall {
 public:
  // On every architecture and with every toolkit.
  static constexpr std::size_t kMaxArguments = 4096;

  // Copies the one argument of the kernel.
  KernelCall(const void* kernel, dim3 grid, unsigned threads, std::size_t shared_bytes, const void* argument,
             std::size_t bytes)
      : kernel_(kernel), grid_(grid), threads_(threads), shared_bytes_(static_cast<unsigned>(shared_bytes)) {
    memcpy(argument_, argument, bytes);
  }

  // `what` completes "CUDA failed to" in the error.
  void launch(cudaStream_t stream, const char* what) const {
    void* arguments[] = {const_cast<unsigned char*>(argument_)};
    check_cuda(cudaLaunchKernel(kernel_, grid_, dim3(threads_), arguments, shared_bytes_, stream), what);
  }

  // Adds a node after `*after`, or the first one.
  cudaGraphNode_t add_to(cudaGraph_t graph, const cudaGraphNode_t* after, const char* what) const {
    void* arguments[] = {const_cast<unsigned char*>(argument_)};
    const cudaKernelNodeParams params = node_params(arguments);
    cudaGraphNode_t node = nullptr;
    check_cuda(cudaGraphAddKernelNode(&node, graph, after, after == nullptr ? 0 : 1, &params), what);
    return node;
  }

  void update(cudaGraphExec_t exec, cudaGraphNode_t node, const char* what) const {
    void* arguments[] = {const_cast<unsigned char*>(argument_)};
    const cudaKernelNodeParams params = node_params(arguments);
    check_cuda(cudaGraphExecKernelNodeSetParams(exec, node, &params), what);
  }

 private:
  cudaKernelNodeParams node_params(void** arguments) const {
    cudaKernelNodeParams params{};
    params.func = const_cast<void*>(kernel_);
    params.gridDim = grid_;
    params.blockDim = dim3(threads_);
    params.sharedMemBytes = shared_bytes_;
    params.kernelParams = arguments;
    return params;
  }

  const void* kernel_;
  dim3 grid_;
  unsigned threads_;
  unsigned shared_bytes_;
  alignas(16) unsigned char argument_[kMaxArguments];
};

}  // namespace edgedet::cuda
