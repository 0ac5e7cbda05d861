// Images for tests, in device memory.
#pragma once

#include <vector>

#include "common/cuda_raii.h"
#include "frames.h"

namespace edgedet::test {

template <typename T>
cuda::DeviceBuffer upload(const std::vector<T>& values) {
  cuda::DeviceBuffer buffer = cuda::make_device_buffer(values.size() * sizeof(T));
  cuda::check_cuda(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice), "upload");
  // From pageable memory the copy may return before it has reached the device.
  cuda::check_cuda(cudaDeviceSynchronize(), "upload");
  return buffer;
}

struct DeviceFrame {
  explicit DeviceFrame(const Frame& frame) : view(frame.view) {
    pixels = upload(frame.pixels);
    view.data = pixels.data();
    if (!frame.chroma.empty()) {
      chroma = upload(frame.chroma);
      view.uv = chroma.data();
    }
  }

  ImageView view;
  cuda::DeviceBuffer pixels;
  cuda::DeviceBuffer chroma;
};

}  // namespace edgedet::test
