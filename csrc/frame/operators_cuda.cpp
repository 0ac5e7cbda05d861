#include "common/cuda_raii.h"
#include "frame/operators.h"
#include "frame/shared_cuda.h"
#include "kernels/decode_cuda.h"
#include "kernels/preprocess_cuda.h"

namespace edgedet::frame {

struct Preprocessor::Impl {
  int device;
  std::unique_ptr<cuda::Preprocessor> operation;
  std::vector<Geometry> geometries;
  cuda::Event produced;
};

Preprocessor::Preprocessor(const PreprocessSpec& spec, TensorType type, int device, std::size_t max_batch,
                           std::int32_t max_width, std::int32_t max_height) {
  const cuda::DeviceScope scope(device);
  auto operation = std::make_unique<cuda::Preprocessor>(spec, type, max_batch, max_width, max_height);
  impl_ =
      std::make_unique<Impl>(Impl{device, std::move(operation), std::vector<Geometry>(max_batch), cuda::make_event()});
}

Preprocessor::~Preprocessor() = default;

void Preprocessor::run(const ImageView* images, std::size_t count, const Source& source, void* out, void* stream) {
  const cuda::DeviceScope scope(impl_->device);
  auto* const queue = static_cast<cudaStream_t>(stream);
  if (source.has_producer && source.producer != stream) {
    wait_for(queue, source.producer, impl_->produced);
  }
  impl_->operation->plan(images, count, out, impl_->geometries.data(), queue).launch(queue, "launch preprocessing");
}

struct Decoder::Impl {
  NetworkSpec spec;
  int device;
  std::unique_ptr<cuda::Decoder> operation;
};

Decoder::Decoder(const NetworkSpec& spec, const ops::DecodeOptions& options, int device, std::size_t max_batch) {
  const cuda::DeviceScope scope(device);
  impl_ =
      std::make_unique<Impl>(Impl{spec, device, std::make_unique<cuda::Decoder>(options, max_batch, values_of(spec))});
}

Decoder::~Decoder() = default;

void Decoder::run(const NetworkBuffers& buffers, const Geometry* geometries, std::size_t count, void* results,
                  void* stream) {
  const cuda::DeviceScope scope(impl_->device);
  plan_decode(*impl_->operation, impl_->spec, buffers, geometries, count, results)
      .launch(static_cast<cudaStream_t>(stream), "launch decoding");
}

}  // namespace edgedet::frame
