// The CUDA entry points of a build without CUDA.
#include "edgedet/error.h"
#include "kernels/ops.h"

namespace edgedet::ops {

namespace {

[[noreturn]] void no_cuda() {
  throw Error(ErrorKind::kBackend,
              "expected a build with CUDA, got one without; build where nvcc is found, or use a CPU backend");
}

}  // namespace

void check(const DecodeStatus& /*status*/) { no_cuda(); }

Geometry preprocess_cuda(const ImageView& /*image*/, const PreprocessSpec& /*spec*/, DType /*dtype*/, void* /*out*/,
                         void* /*stream*/) {
  no_cuda();
}

void decode_logits_cuda(const float* /*logits*/, const float* /*boxes*/, std::int32_t /*queries*/,
                        std::int32_t /*classes*/, const Geometry& /*geometry*/, const DecodeOptions& /*options*/,
                        Detection* /*out*/, DecodeStatus* /*status*/, void* /*stream*/) {
  no_cuda();
}

void decode_scored_cuda(const std::int64_t* /*labels*/, const float* /*boxes*/, const float* /*scores*/,
                        std::int32_t /*rows*/, std::int32_t /*classes*/, const Geometry& /*geometry*/,
                        const DecodeOptions& /*options*/, Detection* /*out*/, DecodeStatus* /*status*/,
                        void* /*stream*/) {
  no_cuda();
}

}  // namespace edgedet::ops
