// Preprocessing on a CUDA device: plans the launch of a batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/cuda_raii.h"
#include "edgedet/types.h"
#include "kernels/geometry.h"
#include "kernels/kernel_call.h"

namespace edgedet::kernel {
struct AxisTable;  // preprocess_device.h
}

namespace edgedet::cuda {

// The tiles of antialias resizing, chosen so that their shared memory fits.
struct Tiling {
  bool fits = false;
  int log_width = 5;
  int log_height = 3;
  int log_lines = 0;
  std::int32_t stage_pitch = 0;
  std::int32_t mixed_pitch = 0;
  std::size_t shared_bytes = 0;
};
Tiling choose_tiling(const ImageView& image, const Geometry& geometry);

// Throw Error(kInvalidInput) on a batch or a largest image that no launch can take.
void check_max_batch(std::size_t max_images);
void check_limits(std::size_t max_images, std::int32_t max_width, std::int32_t max_height);

// For one stream of frames on the current device; not thread-safe. Resize tables stay on the device, the ones of the
// last sizes seen; a size that is not among them costs one more launch.
class Preprocessor {
 public:
  // Images of at most max_width x max_height pixels. Throws Error(kInvalidInput) on a spec or limits that do not
  // `validate`.
  Preprocessor(const PreprocessSpec& spec, TensorType type, std::size_t max_images, std::int32_t max_width,
               std::int32_t max_height);

  // The launch that writes (count, 3, spec.height, spec.width) at `out`, and where each image lies in it. Queues tables
  // that are missing on `stream`, where the launch must follow. The planes of the images are in memory that the device
  // can read. Allocates nothing. Throws Error(kInvalidInput).
  KernelCall plan(const ImageView* images, std::size_t count, void* out, Geometry* geometries, cudaStream_t stream);

  // Throws Error(kInvalidInput) on an image that `plan` would refuse, or on their number.
  void check(const ImageView* images, std::size_t count) const;

  std::size_t device_bytes() const noexcept { return tables_.bytes(); }
  static std::size_t device_bytes(const PreprocessSpec& spec, std::size_t max_images, std::int32_t max_width,
                                  std::int32_t max_height);

 private:
  struct Slot {
    std::int32_t in = 0;
    std::int32_t out = 0;
    bool of_rows = false;
    std::int32_t groups = 0;
    std::uint64_t last_use = 0;
  };

  kernel::AxisTable table(std::int32_t in, std::int32_t out, bool of_rows, cudaStream_t stream);
  template <typename Out>
  KernelCall plan_as(const ImageView* images, std::size_t count, void* out, Geometry* geometries, cudaStream_t stream);

  PreprocessSpec spec_;
  TensorType type_;
  std::size_t max_images_;
  std::int32_t max_width_;
  std::int32_t max_height_;
  std::size_t slot_bytes_;
  std::vector<Slot> slots_;
  std::uint64_t uses_ = 0;
  DeviceBuffer tables_;
};

}  // namespace edgedet::cuda
