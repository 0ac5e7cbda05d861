// Turns CUDA return codes into Error(kBackend). For .cu files.
#pragma once

#include <string>

#include <cuda_runtime_api.h>

#include "edgedet/error.h"

namespace edgedet {

inline void check_cuda(cudaError_t code, const char* what) {
  if (code != cudaSuccess) {
    throw Error(ErrorKind::kBackend, std::string("CUDA failed to ") + what + ": " + cudaGetErrorString(code) +
                                         "; check the driver and the free memory with nvidia-smi");
  }
}

}  // namespace edgedet
