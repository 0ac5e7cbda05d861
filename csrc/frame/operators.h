// Preprocessing and decoding on a CUDA device one by one, for those who bring their own streams. Without CUDA's
// headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "edgedet/types.h"
#include "frame/frame_path.h"
#include "kernels/geometry.h"
#include "kernels/ops.h"

namespace edgedet::frame {

// Not thread-safe; calls of one object go to one stream, or are ordered by the caller.
class Preprocessor {
 public:
  Preprocessor(const PreprocessSpec& spec, TensorType type, int device, std::size_t max_batch, std::int32_t max_width,
               std::int32_t max_height);
  ~Preprocessor();

  // Queues (count, 3, height, width) at `out` on `stream` (a cudaStream_t), after what source.producer has queued if
  // there is one. Images are kReadable and stay valid until the stream is through.
  void run(const ImageView* images, std::size_t count, const Source& source, void* out, void* stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Decoder {
 public:
  // Of a raw or a scored head as in `spec`.
  Decoder(const NetworkSpec& spec, const ops::DecodeOptions& options, int device, std::size_t max_batch);
  ~Decoder();

  // Queues ops::result_bytes(top_k) an image at `results`, in device or pinned memory. The outputs in `buffers` are
  // device memory.
  void run(const NetworkBuffers& buffers, const Geometry* geometries, std::size_t count, void* results, void* stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace edgedet::frame
