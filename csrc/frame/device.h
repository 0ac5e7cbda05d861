// CUDA devices and memory, without CUDA's headers. In a build without CUDA every function that needs it throws
// Error(kBackend) with the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edgedet::frame {

struct DeviceInfo {
  int index = 0;
  std::string name;
  std::int32_t major = 0;  // compute capability
  std::int32_t minor = 0;
  std::int32_t multiprocessors = 0;
  bool integrated = false;  // shares its memory with the host, as on Jetson
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
};

// 0 if there is no device or no driver; `reason` (may be null) then says why. Takes no memory on a device.
int device_count(std::string* reason);

// Empty if there is no device or no driver; `reason` (may be null) then says why.
std::vector<DeviceInfo> devices(std::string* reason);

// Throws Error(kInvalidInput) unless `device` can read `pointer`: memory of that device, managed memory or pinned host
// memory. `what` names it in the message.
void check_readable(const void* pointer, int device, const char* what);

// A stream (a cudaStream_t) of its own on `device`.
std::shared_ptr<void> make_stream(int device);

// Versions as CUDA counts them, 12040 for 12.4; 0 if there is none.
int driver_version();
int runtime_version();

}  // namespace edgedet::frame
