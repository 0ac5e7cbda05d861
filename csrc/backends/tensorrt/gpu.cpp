#include "backends/tensorrt/gpu.h"

#include "common/cuda_raii.h"
#include "frame/device.h"

namespace edgedet::tensorrt {

Gpu describe_gpu(int device) {
  cudaDeviceProp properties{};
  cuda::check_cuda(cudaGetDeviceProperties(&properties, device), "ask for a device's properties");
  return {properties.name, properties.major, properties.minor, frame::driver_version() / 1000};
}

}  // namespace edgedet::tensorrt
