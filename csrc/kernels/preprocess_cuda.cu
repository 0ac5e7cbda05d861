// Preprocessing on a CUDA device: one thread an output pixel, straight from the definition in preprocess.h.
#include <cstdint>

#include "kernels/cuda_check.h"
#include "kernels/ops.h"
#include "kernels/preprocess.h"

namespace edgedet::ops {

namespace {

constexpr int kBlockWidth = 32;
constexpr int kBlockHeight = 8;

struct Frame {
  ImageView image;
  Geometry geometry;
  Filter filter;
  ChannelOrder channels;
  float pad_level;
  kernel::Normalisation normalisation;
};

__device__ void put(float value, float* out) { *out = value; }
__device__ void put(float value, std::uint16_t* out) { *out = kernel::to_half(value); }

template <typename Out>
__global__ void preprocess_kernel(const Frame frame, Out* out) {
  const std::int32_t width = frame.geometry.network_width;
  const std::int32_t height = frame.geometry.network_height;
  const auto x = static_cast<std::int32_t>(blockIdx.x * kBlockWidth + threadIdx.x);
  const auto y = static_cast<std::int32_t>(blockIdx.y * kBlockHeight + threadIdx.y);
  if (x >= width || y >= height) {
    return;
  }
  for (int plane = 0; plane < 3; ++plane) {
    const float value =
        kernel::network_value(frame.image, frame.geometry, frame.filter, frame.channels, frame.pad_level,
                              frame.normalisation.scale[plane], frame.normalisation.bias[plane], x, y, plane);
    put(value, out + (static_cast<std::int64_t>(plane) * height + y) * width + x);
  }
}

}  // namespace

Geometry preprocess_cuda(const ImageView& image, const PreprocessSpec& spec, DType dtype, void* out, void* stream) {
  validate(image);
  validate(spec);
  const Geometry geometry = make_geometry(image.width, image.height, spec.width, spec.height, spec.resize);
  const Frame frame{image,
                    geometry,
                    spec.filter,
                    spec.channels,
                    static_cast<float>(spec.pad_value),
                    kernel::make_normalisation(spec)};
  const dim3 block(kBlockWidth, kBlockHeight);
  const dim3 grid(static_cast<unsigned>((spec.width + kBlockWidth - 1) / kBlockWidth),
                  static_cast<unsigned>((spec.height + kBlockHeight - 1) / kBlockHeight));
  auto* const queue = static_cast<cudaStream_t>(stream);
  if (dtype == DType::kFloat32) {
    preprocess_kernel<<<grid, block, 0, queue>>>(frame, static_cast<float*>(out));
  } else {
    preprocess_kernel<<<grid, block, 0, queue>>>(frame, static_cast<std::uint16_t*>(out));
  }
  check_cuda(cudaGetLastError(), "launch preprocessing");
  return geometry;
}

}  // namespace edgedet::ops
