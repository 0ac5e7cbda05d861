// Arrays of other libraries in the memory of a device: DLPack and __cuda_array_interface__.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>

#include "bindings/arrays.h"

namespace edgedet {

// An address or a stream as Python has it, as an integer. NOLINTNEXTLINE(performance-no-int-to-ptr)
inline void* to_pointer(std::uintptr_t address) { return reinterpret_cast<void*>(address); }

// An array that lies where the device can read it, kept alive.
struct DeviceArray {
  ArrayInfo info;
  pybind11::object owner;
  bool has_producer = false;    // work on `producer` writes it
  std::uintptr_t producer = 0;  // a cudaStream_t
};

// Whether the object says that it is in device memory.
bool is_device_array(const pybind11::handle& object);

// Asks the object for its memory. With DLPack the owner makes `stream` (a cudaStream_t) wait for its own; with
// __cuda_array_interface__ it names the stream to wait for. Throws Error(kInvalidInput) on what is neither, on another
// device than `device`, on an interface that breaks its own rules.
DeviceArray device_array(const pybind11::handle& object, int device, std::uintptr_t stream);

// Images of one call: views, and what keeps them alive.
struct Images {
  std::vector<ImageView> views;
  std::vector<pybind11::object> owners;
  ImageSource source;
};

// All images are NumPy arrays, or all are in memory that the device can read. `stream` gives the stream (a
// cudaStream_t) on which the latter are awaited; it is asked once there are any.
Images read_images(const pybind11::sequence& images, const std::string& format, int device,
                   const std::function<void*()>& stream);

}  // namespace edgedet
