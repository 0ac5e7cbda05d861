#include "bindings/device_array.h"

#include <limits>
#include <string>

namespace py = pybind11;

namespace edgedet {

namespace {

// The binary layout of DLPack, version 0; see https://dmlc.github.io/dlpack.
struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: row by row without gaps
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};
constexpr std::int32_t kDLCuda = 2;
constexpr std::int32_t kDLCudaHost = 3;
constexpr std::int32_t kDLCudaManaged = 13;
constexpr std::uint8_t kDLUInt = 1;

const char* const kExpected = "image: expected an array with __cuda_array_interface__ or DLPack in CUDA memory, got ";

void add_contiguous_strides(ArrayInfo& info, py::ssize_t element) {
  info.strides.resize(info.shape.size());
  for (std::size_t i = info.shape.size(); i-- > 0;) {
    info.strides[i] = element;
    element *= info.shape[i];
  }
}

// The tensor in a capsule that __dlpack__ gave, which is then ours to delete.
DeviceArray from_dlpack(const py::handle& object, int device, std::uintptr_t stream) {
  const auto where = py::cast<std::pair<std::int32_t, std::int32_t>>(object.attr("__dlpack_device__")());
  if (where.first != kDLCuda && where.first != kDLCudaHost && where.first != kDLCudaManaged) {
    refuse(std::string(kExpected) + "DLPack device type " + std::to_string(where.first) +
           "; move the array to the GPU, or pass it as a NumPy array");
  }
  if (where.first == kDLCuda && where.second != device) {
    refuse("image: expected memory of device " + std::to_string(device) + ", got memory of device " +
           std::to_string(where.second) + "; copy it, or make the pipeline on that device");
  }
  // 1 is the legacy default stream there, and the stream of pinned memory is of no use.
  const py::object given = where.first == kDLCudaHost
                               ? object.attr("__dlpack__")()
                               : object.attr("__dlpack__")(py::arg("stream") = stream == 0 ? 1 : stream);
  auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(given.ptr(), "dltensor"));
  if (managed == nullptr) {
    PyErr_Clear();
    refuse(std::string(kExpected) + "another capsule from __dlpack__ than \"dltensor\"");
  }
  PyCapsule_SetName(given.ptr(), "used_dltensor");
  DeviceArray array;
  array.has_producer = where.first != kDLCudaHost;
  array.producer = stream;  // which waits for the owner's from here on
  array.owner = py::capsule(managed, [](void* pointer) {
    auto* const tensor = static_cast<DLManagedTensor*>(pointer);
    if (tensor->deleter != nullptr) {
      tensor->deleter(tensor);
    }
  });
  const DLTensor& tensor = managed->tensor;
  if (tensor.ndim < 0 || tensor.ndim > 32 || (tensor.ndim > 0 && tensor.shape == nullptr)) {
    refuse(std::string(kExpected) + std::to_string(tensor.ndim) + " dimensions");
  }
  array.info.data = static_cast<const unsigned char*>(tensor.data) + tensor.byte_offset;
  array.info.bytes = tensor.dtype.code == kDLUInt && tensor.dtype.bits == 8 && tensor.dtype.lanes == 1;
  array.info.dtype =
      "DLPack type " + std::to_string(tensor.dtype.code) + " of " + std::to_string(tensor.dtype.bits) + " bits";
  array.info.shape.assign(tensor.shape, tensor.shape + tensor.ndim);
  const py::ssize_t element = (tensor.dtype.bits * tensor.dtype.lanes + 7) / 8;
  if (tensor.strides == nullptr) {
    add_contiguous_strides(array.info, element);
  } else {
    for (std::int32_t i = 0; i < tensor.ndim; ++i) {
      array.info.strides.push_back(tensor.strides[i] * element);
    }
  }
  return array;
}

DeviceArray from_interface(const py::handle& object) {
  DeviceArray array;
  array.owner = py::reinterpret_borrow<py::object>(object);
  const py::object found = object.attr("__cuda_array_interface__");
  try {
    const auto interface = py::cast<py::dict>(found);
    array.info.data = to_pointer(py::cast<std::uintptr_t>(py::cast<py::tuple>(interface["data"])[0]));
    array.info.dtype = py::cast<std::string>(interface["typestr"]);
    array.info.bytes = array.info.dtype == "|u1";
    for (const py::handle size : py::cast<py::tuple>(interface["shape"])) {
      array.info.shape.push_back(py::cast<py::ssize_t>(size));
    }
    const py::ssize_t element = std::stol(array.info.dtype.substr(2));
    if (!interface.contains("strides") || interface["strides"].is_none()) {
      add_contiguous_strides(array.info, element);
    } else {
      for (const py::handle stride : py::cast<py::tuple>(interface["strides"])) {
        array.info.strides.push_back(py::cast<py::ssize_t>(stride));
      }
    }
    if (interface.contains("mask") && !interface["mask"].is_none()) {
      refuse("image: expected an array without a mask, got a masked one");
    }
    if (interface.contains("stream") && !interface["stream"].is_none()) {
      array.producer = py::cast<std::uintptr_t>(interface["stream"]);
      array.has_producer = true;
      if (array.producer == 0) {
        refuse("image: expected stream 1 (legacy), 2 (per thread) or a pointer in __cuda_array_interface__, got 0");
      }
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // a key that is missing, another type
    refuse("image: expected a __cuda_array_interface__ with data, typestr and shape, got " +
           std::string(py::repr(found)) + " (" + error.what() + ")");
  }
  if (array.info.strides.size() != array.info.shape.size()) {
    refuse("image: expected as many strides as sides in __cuda_array_interface__, got " + std::string(py::repr(found)));
  }
  return array;
}

}  // namespace

bool is_device_array(const py::handle& object) {
  if (py::isinstance<py::array>(object)) {
    return false;
  }
  if (py::hasattr(object, "__dlpack_device__")) {
    return py::cast<std::pair<std::int32_t, std::int32_t>>(object.attr("__dlpack_device__")()).first != 1;
  }
  return py::hasattr(object, "__cuda_array_interface__");
}

DeviceArray device_array(const py::handle& object, int device, std::uintptr_t stream) {
  if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__")) {
    return from_dlpack(object, device, stream);
  }
  if (py::hasattr(object, "__cuda_array_interface__")) {
    return from_interface(object);
  }
  refuse(kExpected + std::string(py::str(py::type::of(object))));
}

Images read_images(const py::sequence& images, const std::string& format, int device,
                   const std::function<void*()>& stream) {
  const PixelFormat pixels = pixel_format(format);
  Images read;
  for (const py::handle image : images) {
    const bool on_device = is_device_array(image);
    if (!read.views.empty() && on_device != (read.source.memory == ImageSource::Memory::kReadable)) {
      refuse("images: expected all in host memory or all in device memory, got both");
    }
    if (!on_device) {
      read.views.push_back(image_view(image, pixels));
      read.owners.push_back(py::reinterpret_borrow<py::object>(image));
      continue;
    }
    read.source.memory = ImageSource::Memory::kReadable;
    DeviceArray array = device_array(image, device, reinterpret_cast<std::uintptr_t>(stream()));
    if (array.has_producer) {
      if (read.source.has_producer && read.source.producer != to_pointer(array.producer)) {
        refuse("images: expected one stream that writes them all, got several; synchronise them first");
      }
      read.source.has_producer = true;
      read.source.producer = to_pointer(array.producer);
    }
    read.views.push_back(image_view(array.info, pixels));
    read.owners.push_back(std::move(array.owner));
  }
  return read;
}

}  // namespace edgedet
