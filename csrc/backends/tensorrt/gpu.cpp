#include "backends/tensorrt/gpu.h"

#include <cstdio>

#include "common/cuda_raii.h"
#include "frame/device.h"

namespace edgedet::tensorrt {

Gpu describe_gpu(int device) {
  std::string reason;
  const int count = frame::device_count(&reason);
  if (device < 0 || device >= count) {
    throw Error(ErrorKind::kBackend,
                count == 0 ? "expected a CUDA device, got none: " + reason
                           : "device: expected 0 to " + std::to_string(count - 1) + ", got " + std::to_string(device));
  }
  cudaDeviceProp properties{};
  cuda::check_cuda(cudaGetDeviceProperties(&properties, device), "ask for a device's properties");
  char pci[32];
  std::snprintf(pci, sizeof(pci), "%08x:%02x:%02x.0", static_cast<unsigned>(properties.pciDomainID),
                static_cast<unsigned>(properties.pciBusID), static_cast<unsigned>(properties.pciDeviceID));
  return {properties.name, properties.major, properties.minor, frame::driver_version() / 1000, pci};
}

}  // namespace edgedet::tensorrt
