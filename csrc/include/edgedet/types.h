// Plain values that cross the public API: images in, detections out, and how an image becomes network input.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace edgedet {

// Memory layout of an image. kRgb and kBgr: 3 interleaved bytes a pixel. kGray: one byte.
// kNv12: a full-resolution Y plane and an interleaved, half-resolution UV plane (BT.601, limited range).
enum class PixelFormat : std::uint8_t { kRgb, kBgr, kGray, kNv12 };

// A view of an image that the caller owns. Strides are in bytes and at least one row of pixels.
struct ImageView {
  const std::uint8_t* data = nullptr;
  std::int32_t width = 0;
  std::int32_t height = 0;
  std::ptrdiff_t stride = 0;
  PixelFormat format = PixelFormat::kRgb;
  const std::uint8_t* uv = nullptr;  // kNv12 only
  std::ptrdiff_t uv_stride = 0;      // kNv12 only
};

// Where the pixels of the images of one call are.
struct ImageSource {
  enum class Memory : std::uint8_t {
    kHost,      // anywhere; copied before the device is asked for anything
    kReadable,  // the device reads them in place: device, managed or pinned memory
  };
  Memory memory = Memory::kHost;
  // kReadable: the stream (a cudaStream_t) whose queued work writes the images; it is waited for on the device.
  bool has_producer = false;
  void* producer = nullptr;
};

enum class ResizeMode : std::uint8_t {
  kStretch,    // both axes to the network size, aspect ratio not kept
  kLetterbox,  // aspect ratio kept, centred, the rest filled with pad_value
};

enum class Filter : std::uint8_t {
  kBilinear,   // two taps an axis, half-pixel centres (OpenCV INTER_LINEAR)
  kAntialias,  // triangle filter widened by the scale when shrinking (Pillow BILINEAR, torch antialias=True)
};

enum class ChannelOrder : std::uint8_t { kRgb, kBgr };

enum class DType : std::uint8_t { kFloat32, kFloat16, kInt8 };

// Element type of a network input.
struct TensorType {
  DType dtype = DType::kFloat32;
  float scale = 1.F;  // kInt8 only: a stored q stands for q * scale
};

// From image to network input: out = (pixel / 255 - mean) / std, NCHW, channels in `channels` order.
struct PreprocessSpec {
  std::int32_t width = 0;   // of the network input, pixels
  std::int32_t height = 0;  // of the network input, pixels
  ResizeMode resize = ResizeMode::kStretch;
  Filter filter = Filter::kBilinear;
  ChannelOrder channels = ChannelOrder::kRgb;
  std::array<float, 3> mean{0.F, 0.F, 0.F};  // in the network's channel order, of pixels in [0, 1]
  std::array<float, 3> std{1.F, 1.F, 1.F};
  std::uint8_t pad_value = 114;  // grey level of letterbox borders
};

// One detected object: corners in pixels of the source image, clipped to it.
struct Detection {
  float x0 = 0.F;
  float y0 = 0.F;
  float x1 = 0.F;
  float y1 = 0.F;
  float score = 0.F;       // in [0, 1]
  std::int32_t label = 0;  // contiguous class index, see ModelInfo::classes
};

// Milliseconds spent per stage by one detect call (for the whole batch).
struct StageTimes {
  double preprocess = 0.0;
  double inference = 0.0;
  double decode = 0.0;
  double upload = 0.0;  // to the memory of a GPU and back; PartTimes alone tells them
  double download = 0.0;
};

// The parts of a frame, timed one by one: milliseconds of each call. For benchmarks.
struct PartTimes {
  std::vector<double> network;         // by the clock on the wall, on an input that is there already
  std::vector<double> network_device;  // the same by the device's own clock; empty on a CPU
  std::vector<StageTimes> stages;      // by the device's own clock; empty where detect itself tells stages apart
  std::vector<double> resident;        // images that are on the device to detections; empty on a CPU
};

}  // namespace edgedet
