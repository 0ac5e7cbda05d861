#include "backends/tensorrt/tensorrt_backend.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "backends/tensorrt/build_options.h"
#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/context.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/float_layers.h"
#include "backends/tensorrt/gpu.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/ports.h"
#include "backends/tensorrt/raw_outputs.h"
#include "common/cuda_raii.h"
#include "frame/device.h"
#include "frame/frame_path.h"
#include "runtime/engine_cache.h"

namespace edgedet::tensorrt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kDevice = 0;
constexpr std::size_t kMaxPaths = 64;  // of a FramePool
constexpr double kForEver = std::numeric_limits<double>::infinity();

// In throughput mode a few images share a launch, and one path uploads while another computes.
constexpr int kThroughputBatch = 4;
constexpr int kThroughputPaths = 2;

// Where paths begin; they grow with the first larger image.
constexpr std::int32_t kFirstWidth = 1920;
constexpr std::int32_t kFirstHeight = 1080;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kBackend, message); }

// How many frames may still be started. Who holds a permit finds a free path.
class Permits {
 public:
  explicit Permits(std::size_t count) : count_(count) {}

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    freed_.wait(lock, [this] { return count_ > 0; });
    --count_;
  }

  bool try_take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (count_ == 0) {
      return false;
    }
    --count_;
    return true;
  }

  void give_back() noexcept {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++count_;
    }
    freed_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable freed_;
  std::size_t count_;
};

// The frames of one detect call, oldest first. Whatever happens they are waited for, and their permits given back.
class InFlight {
 public:
  explicit InFlight(Permits& permits) : permits_(permits) {}
  ~InFlight() {
    while (!empty()) {
      drop();
    }
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  bool empty() const noexcept { return count_ == 0; }

  // Takes a permit; false if there is none now and this call has frames to finish first: a call that holds paths never
  // waits for another call's.
  bool may_start() {
    if (empty()) {
      permits_.wait();
      return true;
    }
    return permits_.try_take();
  }

  // With a permit that may_start took.
  void start(frame::FramePool& pool, const ImageView* images, std::size_t count, std::vector<Detection>* out) {
    try {
      Frame& frame = frames_[(first_ + count_) % frames_.size()];
      frame.ticket = pool.submit(images, count, {}, kForEver);
      frame.out = out;
    } catch (...) {
      permits_.give_back();
      throw;
    }
    ++count_;
  }

  void finish_oldest() {
    Frame& frame = frames_[first_];
    try {
      frame.ticket.wait(frame.out);
    } catch (...) {
      drop();
      throw;
    }
    drop();
  }

 private:
  struct Frame {
    frame::FramePool::Ticket ticket;
    std::vector<Detection>* out = nullptr;
  };

  void drop() {
    frames_[first_].ticket = {};  // the path first, then the right to it
    first_ = (first_ + 1) % frames_.size();
    --count_;
    permits_.give_back();
  }

  Permits& permits_;
  std::array<Frame, kMaxPaths> frames_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

// A file of a precision for this backend has its types spelt out; one for every backend is in float32.
Precision precision_of(const ModelSpec& spec, const std::string& precision) {
  const auto files = spec.models.find(precision);
  if (files != spec.models.end() && files->second.count("tensorrt") != 0) {
    return Precision::kTyped;
  }
  if (precision == "int8") {
    // TensorRT takes unsigned Q/DQ for signed: such a file builds, and is wrong.
    throw Error(ErrorKind::kBundle, spec.folder +
                                        ": expected an int8 model for TensorRT, got one for other backends; make one "
                                        "with \"python -m calibration quantize --backend tensorrt\"");
  }
  return precision == "fp16" ? Precision::kFp16 : Precision::kFp32;
}

BuildOptions build_options(const ModelSpec& spec, const DetectorOptions& options) {
  BuildOptions build;
  build.device = kDevice;
  build.precision = precision_of(spec, options.precision);
  if (options.mode == PerformanceMode::kThroughput) {
    build.opt_batch = build.max_batch = kThroughputBatch;
  }
  build.outputs = spec.form == OutputForm::kLogitsBoxes
                      ? std::vector<std::string>{spec.logits, spec.boxes}
                      : std::vector<std::string>{spec.labels, spec.boxes, spec.scores};
  if (options.precision == "fp16" && !nv::kHasStrongTyping) {
    build.float_layers = read_float_layers(spec.folder);
  }
  return build;
}

std::shared_ptr<const Engine> open_engine(const ModelSpec& spec, const std::string& model,
                                          const DetectorOptions& options, const Gpu& gpu) {
  const BuildOptions settings = build_options(spec, options);
  EngineKey key;
  key.add("onnx", model_file(spec, model).sha256).add("tensorrt", library().version()).add("gpu", gpu.name);
  key.add("capability", std::to_string(gpu.major) + "." + std::to_string(gpu.minor)).add("driver", gpu.driver_major);
  key.add("options", canonical_text(settings));
  const std::vector<char> plan = load_or_build(key, options.cache_dir, [&] { return build(model, settings); });
  return std::make_shared<Engine>(plan.data(), plan.size(), kDevice, model);
}

class TensorrtBackend final : public Backend {
 public:
  TensorrtBackend(const ModelSpec& spec, const std::string& model, const DetectorOptions& options)
      : gpu_(describe_gpu(kDevice)),
        engine_(open_engine(spec, model, options, gpu_)),
        ports_(check_ports(engine_->ports(), spec, model)),
        paths_(options.requests > 0 ? std::min<std::size_t>(static_cast<std::size_t>(options.requests), kMaxPaths)
               : options.mode == PerformanceMode::kThroughput ? kThroughputPaths
                                                              : 1),
        permits_(paths_) {
    decode_.top_k = options.max_detections;
    decode_.score_threshold = options.score_threshold;
    make_pool(kFirstWidth, kFirstHeight);
  }

  // Upload, preprocessing, network and decoding of a frame are one graph, whose parts cannot be told apart from
  // outside: all of the time is given as inference.
  void detect(const ImageView* images, std::size_t count, std::vector<Detection>* out, StageTimes& times) override {
    const auto begin = Clock::now();
    const std::shared_lock<std::shared_mutex> lock = pool_for(images, count);
    InFlight flying(permits_);
    for (std::size_t done = 0; done < count;) {
      while (!flying.may_start()) {
        flying.finish_oldest();
      }
      const std::size_t batch = std::min(count - done, ports_.max_batch);
      flying.start(*pool_, images + done, batch, out + done);
      done += batch;
    }
    while (!flying.empty()) {
      flying.finish_oldest();
    }
    times.inference = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  }

  std::vector<Tensor> infer(const float* input, std::size_t batch) override {
    const std::lock_guard<std::mutex> lock(raw_mutex_);
    if (!raw_) {
      raw_ = std::make_unique<RawOutputs>(engine_, ports_);
    }
    return raw_->run(input, batch);
  }

  // Of a call that takes several frames, the sums of these.
  PartTimes time_parts(const ImageView* images, std::size_t count, int calls) override {
    const std::shared_lock<std::shared_mutex> lock = pool_for(images, count);
    PartTimes total = pool_->time_parts(images, std::min(count, ports_.max_batch), calls);
    for (std::size_t done = ports_.max_batch; done < count; done += ports_.max_batch) {
      const PartTimes more = pool_->time_parts(images + done, std::min(count - done, ports_.max_batch), calls);
      for (std::size_t i = 0; i < total.network.size(); ++i) {
        total.network[i] += more.network[i];
        total.network_device[i] += more.network_device[i];
        total.resident[i] += more.resident[i];
        StageTimes& stages = total.stages[i];
        stages.preprocess += more.stages[i].preprocess;
        stages.inference += more.stages[i].inference;
        stages.decode += more.stages[i].decode;
        stages.upload += more.stages[i].upload;
        stages.download += more.stages[i].download;
      }
    }
    return total;
  }

  std::string gpu() const override { return gpu_.pci; }

  std::vector<ExecutionNode> execution_graph() const override { return engine_->layers(); }

  std::string device() const override {
    return gpu_.name + " (compute capability " + std::to_string(gpu_.major) + "." + std::to_string(gpu_.minor) +
           "), TensorRT " + library().version();
  }

  int threads() const noexcept override { return 1; }
  int requests() const noexcept override { return static_cast<int>(paths_); }

 private:
  bool fits(const ImageView* images, std::size_t count) const {
    return pool_ != nullptr && std::all_of(images, images + count, [this](const ImageView& image) {
             return image.width <= width_ && image.height <= height_;
           });
  }

  // Keeps the pool, which has room for the images, from being replaced.
  std::shared_lock<std::shared_mutex> pool_for(const ImageView* images, std::size_t count) {
    std::shared_lock<std::shared_mutex> lock(pool_mutex_);
    while (!fits(images, count)) {
      lock.unlock();
      grow_for(images, count);
      lock.lock();
    }
    return lock;
  }

  // Paths for the largest image so far. Waits for all frames in flight.
  void grow_for(const ImageView* images, std::size_t count) {
    const std::unique_lock<std::shared_mutex> lock(pool_mutex_);
    if (fits(images, count)) {
      return;  // another call was faster
    }
    std::int32_t width = width_;
    std::int32_t height = height_;
    for (std::size_t i = 0; i < count; ++i) {
      width = std::max(width, images[i].width);
      height = std::max(height, images[i].height);
    }
    make_pool(width, height);
  }

  void make_pool(std::int32_t width, std::int32_t height) {
    frame::FrameOptions options;
    options.device = kDevice;
    options.max_batch = ports_.max_batch;
    options.max_width = width;
    options.max_height = height;
    options.decode = decode_;
    pool_.reset();  // the old paths' memory may be what the new ones need
    check_memory(options);
    const auto make_network = [this] {
      const auto context = std::make_shared<Context>(engine_, ports_);
      return frame::EnqueueNetwork([context](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
        context->enqueue(buffers, batch, stream);
      });
    };
    pool_ = std::make_unique<frame::FramePool>(ports_.network, make_network, options, paths_);
    width_ = width;
    height_ = height;
  }

  void check_memory(const frame::FrameOptions& options) const {
    const std::size_t frames = frame::FramePath::memory_of(ports_.network, options).device;
    const std::size_t context = Context::device_bytes(*engine_, ports_);
    const std::size_t needed = paths_ * (frames + context);
    std::size_t free = 0;
    std::size_t total = 0;
    const cuda::DeviceScope scope(kDevice);
    cuda::check_cuda(cudaMemGetInfo(&free, &total), "ask for free memory");
    if (needed > free) {
      refuse("expected " + std::to_string(needed) + " bytes of free device memory for " + std::to_string(paths_) +
             " frame paths (of each, " + std::to_string(context) + " for the network and " + std::to_string(frames) +
             " for images of " + std::to_string(options.max_width) + "x" + std::to_string(options.max_height) +
             "), got " + std::to_string(free) +
             "; lower requests, send smaller images or close what else uses the GPU");
    }
  }

  Gpu gpu_;
  std::shared_ptr<const Engine> engine_;
  NetworkPorts ports_;
  ops::DecodeOptions decode_;
  std::size_t paths_;
  std::mutex raw_mutex_;
  std::unique_ptr<RawOutputs> raw_;
  std::shared_mutex pool_mutex_;  // shared: frames are in flight; else the pool is replaced
  std::int32_t width_ = kFirstWidth;
  std::int32_t height_ = kFirstHeight;
  std::unique_ptr<frame::FramePool> pool_;
  Permits permits_;
};

// Tensor cores or at least paired instructions for half precision from 5.3, dot products of int8 from 6.1; a few
// chips between have slow ones.
std::vector<std::string> precisions_of(const Gpu& gpu) {
  std::vector<std::string> names{"fp32"};
  const int capability = 10 * gpu.major + gpu.minor;
  if (capability >= 53 && capability != 61) {
    names.emplace_back("fp16");
  }
  if (capability >= 61 && capability != 62) {
    names.emplace_back("int8");
  }
  return names;
}

}  // namespace

BackendInfo probe() {
  std::string reason;
  if (!available(&reason)) {
    return {"tensorrt", false, reason, {}};
  }
  try {
    const Gpu gpu = describe_gpu(kDevice);
    return {"tensorrt", true, "TensorRT " + library().version() + " on " + gpu.name, precisions_of(gpu)};
  } catch (const Error& error) {
    return {"tensorrt", false, error.what(), {}};
  }
}

std::unique_ptr<Backend> make(const ModelSpec& spec, const std::string& model, const DetectorOptions& options) {
  return std::make_unique<TensorrtBackend>(spec, model, options);
}

}  // namespace edgedet::tensorrt
