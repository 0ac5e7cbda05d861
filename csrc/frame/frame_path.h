// From images to detections on a CUDA device, around a network that the caller brings: upload, preprocessing, network,
// decoding and download on one stream, replayed as one CUDA graph. Without CUDA's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "edgedet/types.h"
#include "kernels/ops.h"

namespace edgedet::frame {

using Source = ImageSource;

enum class HeadForm : std::uint8_t {
  kLogits,  // logits (rows, classes), boxes (rows, 4) cxcywh in [0, 1] of the network input
  kScored,  // labels (rows), boxes (rows, 4) xyxy in pixels of the network input, scores (rows)
};

struct NetworkSpec {
  PreprocessSpec preprocess;
  TensorType input;
  HeadForm form = HeadForm::kLogits;
  DType output = DType::kFloat32;  // of logits, boxes and scores: float32 or float16
  bool wide_labels = true;         // labels are int64, else int32
  std::int32_t rows = 300;         // queries of a kLogits head
  std::int32_t classes = 80;
};

// Device memory that the network works on; `batch` images from the start of each.
struct NetworkBuffers {
  void* input = nullptr;   // (batch, 3, height, width)
  void* logits = nullptr;  // kLogits; else null
  void* boxes = nullptr;
  void* labels = nullptr;  // kScored; else null
  void* scores = nullptr;  // kScored; else null
};

// Queues the network on `stream` (a cudaStream_t) for `batch` images and returns without waiting. Called with the same
// buffers every time; while a graph is captured it must not wait or allocate device memory.
using EnqueueNetwork = std::function<void(const NetworkBuffers& buffers, std::size_t batch, void* stream)>;

struct FrameOptions {
  int device = 0;
  std::size_t max_batch = 1;
  std::int32_t max_width = 3840;  // of an image, pixels
  std::int32_t max_height = 2160;
  ops::DecodeOptions decode;
  bool graph = true;             // false for networks that cannot be captured
  std::size_t memory_limit = 0;  // bytes of device memory a path may take; 0: no limit
};

// Bytes that a path holds, exactly.
struct FrameMemory {
  std::size_t device = 0;
  std::size_t pinned = 0;
};

// One frame (a batch of images) in flight at a time. Allocates when it is made and when a batch size comes for the
// first time, and nothing after. Not thread-safe; see FramePool.
class FramePath {
 public:
  // Throws Error(kInvalidInput) on options, with the figures if the limit does not suffice, Error(kBackend) where CUDA
  // fails.
  FramePath(const NetworkSpec& spec, EnqueueNetwork network, const FrameOptions& options);
  ~FramePath();  // waits for the frame in flight
  FramePath(FramePath&&) noexcept;
  FramePath& operator=(FramePath&&) noexcept;

  // Starts a frame of 1 to max_batch images. kReadable images must stay valid, and unchanged, until `wait` returns.
  // Throws Error(kInvalidInput) on an image, or if a frame is in flight.
  void submit(const ImageView* images, std::size_t count, const Source& source);

  // Whether `wait` would return at once.
  bool done() const;

  // Sleeps until the frame is through; out[i] are the detections of image i, as of ops::decode_logits_cpu. Throws
  // Error(kModel) on NaN and the like, Error(kBackend) where CUDA fails; the path is free again in any case.
  void wait(std::vector<Detection>* out);

  // As `wait`, without the result.
  void discard();

  // Times the parts of a frame of 1 to max_batch images on the host, `calls` times each. Throws as submit does.
  PartTimes time_parts(const ImageView* images, std::size_t count, int calls);

  FrameMemory memory() const noexcept;
  void* stream() const noexcept;  // a cudaStream_t

  // What a path with these options takes.
  static FrameMemory memory_of(const NetworkSpec& spec, const FrameOptions& options);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Frame paths for threads that share one network.
class FramePool {
 public:
  // `make_network` is called once a path: what each queues must be able to run while the others do.
  FramePool(const NetworkSpec& spec, const std::function<EnqueueNetwork()>& make_network, const FrameOptions& options,
            std::size_t paths);

  // A frame in flight. Its path is free again after `wait` or, if that is never called, when the ticket is destroyed,
  // which waits. May outlive the pool.
  class Ticket {
   public:
    Ticket() = default;
    ~Ticket();
    Ticket(Ticket&& other) noexcept;
    Ticket& operator=(Ticket&& other) noexcept;

    std::size_t images() const noexcept { return images_; }
    bool done() const;
    void wait(std::vector<Detection>* out);  // once

   private:
    friend class FramePool;
    Ticket(std::shared_ptr<struct PoolState> pool, FramePath* path, const ImageView* images, std::size_t count,
           const Source& source);
    void release() noexcept;

    std::shared_ptr<struct PoolState> pool_;
    FramePath* path_ = nullptr;
    std::size_t images_ = 0;
  };

  // Takes a free path, or sleeps until there is one. Throws Error(kBackend) if there is none for `timeout` seconds,
  // which may be infinite. Thread-safe. Allocates nothing once the paths have seen the batch size.
  Ticket submit(const ImageView* images, std::size_t count, const Source& source, double timeout);

  // As `submit`, but nothing if there is no free path now.
  std::optional<Ticket> try_submit(const ImageView* images, std::size_t count, const Source& source);
  // As of FramePath, on a path that is or becomes free. Thread-safe.
  PartTimes time_parts(const ImageView* images, std::size_t count, int calls);

  FrameMemory memory() const noexcept;  // of all paths
  std::size_t paths() const noexcept;

 private:
  std::shared_ptr<struct PoolState> state_;
};

}  // namespace edgedet::frame
