// What whole frames and single operators share: the head that a NetworkSpec describes, and waiting for a producer.
#pragma once

#include "frame/frame_path.h"
#include "kernels/decode_cuda.h"

namespace edgedet::frame {

// Makes `stream` wait for what `producer` has queued.
inline void wait_for(cudaStream_t stream, void* producer, const cuda::Event& event) {
  cuda::check_cuda(cudaEventRecord(event.get(), static_cast<cudaStream_t>(producer)), "mark the producer's stream");
  cuda::check_cuda(cudaStreamWaitEvent(stream, event.get(), 0), "wait for the producer's stream");
}

// What is ordered: logits or scores of an image.
inline std::int64_t values_of(const NetworkSpec& spec) {
  return spec.form == HeadForm::kLogits ? static_cast<std::int64_t>(spec.rows) * spec.classes : spec.rows;
}

inline cuda::KernelCall plan_decode(const cuda::Decoder& decoder, const NetworkSpec& spec,
                                    const NetworkBuffers& buffers, const Geometry* geometries, std::size_t count,
                                    void* results) {
  if (spec.form == HeadForm::kLogits) {
    return decoder.plan(cuda::LogitsOutput{buffers.logits, buffers.boxes, spec.rows, spec.classes}, spec.output,
                        geometries, count, results);
  }
  return decoder.plan(
      cuda::ScoredOutput{buffers.labels, buffers.boxes, buffers.scores, spec.rows, spec.classes, spec.wide_labels},
      spec.output, geometries, count, results);
}

}  // namespace edgedet::frame
