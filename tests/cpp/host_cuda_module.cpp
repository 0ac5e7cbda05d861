// What tests of the Python module on host_cuda need beside it; see tests/host_cuda_frames.py and tests/test_fusion.py.
#include <cstddef>
#include <cstdint>

#include "common/cuda_raii.h"
#include "edgedet/error.h"
#include "host_cuda/runtime.h"
#include "kernels/deformable_attention_cuda.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Memory of device 0 with the bytes of `from`, as pinned memory if asked for.
EXPORTED void* test_upload(const void* from, std::size_t bytes, int pinned) {
  void* memory = nullptr;
  if ((pinned != 0 ? cudaMallocHost(&memory, bytes) : cudaMalloc(&memory, bytes)) != cudaSuccess ||
      cudaMemcpy(memory, from, bytes, cudaMemcpyDefault) != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
    return nullptr;
  }
  return memory;
}

// Queues the same on a stream, from pinned memory, so that it happens late.
EXPORTED int test_copy_async(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
}

EXPORTED cudaStream_t test_make_stream() {
  cudaStream_t stream = nullptr;
  return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? stream : nullptr;
}

// Makes `waiting` wait for what `stream` has queued, as the owner of a DLPack array does.
EXPORTED int test_wait(cudaStream_t waiting, cudaStream_t stream) {
  const edgedet::cuda::Event event = edgedet::cuda::make_event();
  const cudaError_t recorded = cudaEventRecord(event.get(), stream);
  return recorded != cudaSuccess ? recorded : cudaStreamWaitEvent(waiting, event.get(), 0);
}

EXPORTED int test_free(void* memory, int pinned) { return pinned != 0 ? cudaFreeHost(memory) : cudaFree(memory); }
EXPORTED int test_synchronize(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
EXPORTED void test_set_seed(std::uint64_t seed) { host_cuda::set_seed(seed); }
EXPORTED std::size_t test_device_bytes() { return host_cuda::counters().device_bytes; }
EXPORTED int test_download(void* to, const void* from, std::size_t bytes) {
  const cudaError_t done = cudaDeviceSynchronize();
  return done != cudaSuccess ? done : cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost);
}

// Deformable attention of device tensors, 0 if it ran. `fixed`: heads, channels, layers, layer and the number of
// levels, then height, width and points of each.
EXPORTED int test_deformable_attention(const std::int32_t* fixed, const void* projection, const void* boxes,
                                       const void* values, void* out, std::size_t images, std::size_t queries,
                                       int half) {
  edgedet::cuda::DeformableSpec spec;
  spec.heads = fixed[0];
  spec.channels = fixed[1];
  spec.layers = fixed[2];
  spec.layer = fixed[3];
  for (std::int32_t i = 0; i < fixed[4]; ++i) {
    spec.levels.push_back({fixed[5 + 3 * i], fixed[6 + 3 * i], fixed[7 + 3 * i]});
  }
  try {
    const edgedet::cuda::DeformableTensors tensors{projection, static_cast<const float*>(boxes), values, out};
    const edgedet::DType dtype = half != 0 ? edgedet::DType::kFloat16 : edgedet::DType::kFloat32;
    edgedet::cuda::plan_deformable(spec, tensors, images, queries, dtype).launch(nullptr, "attend");
  } catch (const edgedet::Error&) {
    return 1;
  }
  return cudaDeviceSynchronize();
}
