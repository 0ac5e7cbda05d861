#include <string>

#include "common/cuda_raii.h"
#include "edgedet/error.h"
#include "frame/device.h"

namespace edgedet::frame {

namespace {

std::int32_t attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  cuda::check_cuda(cudaDeviceGetAttribute(&value, which, device), "ask for a device's properties");
  return value;
}

}  // namespace

int device_count(std::string* reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());  // it is told here
    if (reason != nullptr) {
      *reason = status != cudaSuccess ? cudaGetErrorString(status) : "the driver sees no device";
    }
    return 0;
  }
  return count;
}

std::vector<DeviceInfo> devices(std::string* reason) {
  const int count = device_count(reason);
  std::vector<DeviceInfo> found;
  for (int index = 0; index < count; ++index) {
    const cuda::DeviceScope scope(index);
    DeviceInfo info;
    info.index = index;
    cudaDeviceProp properties{};
    cuda::check_cuda(cudaGetDeviceProperties(&properties, index), "ask for a device's properties");
    info.name = static_cast<const char*>(properties.name);
    info.major = attribute(cudaDevAttrComputeCapabilityMajor, index);
    info.minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
    info.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, index);
    info.integrated = attribute(cudaDevAttrIntegrated, index) != 0;
    cuda::check_cuda(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "ask for free memory");
    found.push_back(info);
  }
  return found;
}

void check_readable(const void* pointer, int device, const char* what) {
  cudaPointerAttributes attributes{};
  const cudaError_t status = cudaPointerGetAttributes(&attributes, pointer);
  static_cast<void>(cudaGetLastError());
  if (status != cudaSuccess || attributes.type == cudaMemoryTypeUnregistered) {
    throw Error(ErrorKind::kInvalidInput, std::string(what) +
                                              ": expected memory that the device can read, got ordinary host memory; "
                                              "pass the array itself, or pin it");
  }
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != device) {
    throw Error(ErrorKind::kInvalidInput, std::string(what) + ": expected memory of device " + std::to_string(device) +
                                              ", got memory of device " + std::to_string(attributes.device) +
                                              "; copy it, or make the pipeline on that device");
  }
}

std::shared_ptr<void> make_stream(int device) {
  const cuda::DeviceScope scope(device);
  auto stream = std::make_shared<cuda::Stream>(cuda::make_stream());
  return {stream, stream->get()};
}

int driver_version() {
  int version = 0;
  static_cast<void>(cudaDriverGetVersion(&version));
  return version;
}

int runtime_version() {
  int version = 0;
  static_cast<void>(cudaRuntimeGetVersion(&version));
  return version;
}

}  // namespace edgedet::frame
