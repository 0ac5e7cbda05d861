// The GPU that engines are built for and run on.
#pragma once

#include <cstdint>
#include <string>

namespace edgedet::tensorrt {

struct Gpu {
  std::string name;
  std::int32_t major = 0;  // compute capability
  std::int32_t minor = 0;
  int driver_major = 0;  // of the CUDA version that the driver knows
  std::string pci;       // address, "00000000:3b:00.0"
};

// Throws Error(kBackend) if there is no such device.
Gpu describe_gpu(int device);

}  // namespace edgedet::tensorrt
