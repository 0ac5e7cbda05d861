#include "backends/tensorrt/tensorrt_backend.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>

#include "backends/tensorrt/context.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/engine_source.h"
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

constexpr std::size_t kMaxPaths = 64;  // of a FramePool
constexpr double kForEver = std::numeric_limits<double>::infinity();

constexpr int kThroughputPaths = 2;  // one uploads while another computes

// Where paths begin; they grow with the first larger image.
constexpr std::int32_t kFirstWidth = 1920;
constexpr std::int32_t kFirstHeight = 1080;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kBackend, message); }

// The frames of one detect call, oldest first. Whatever happens they are waited for.
class InFlight {
 public:
  bool empty() const noexcept { return count_ == 0; }

  // A call that holds paths never waits for another call's: it finishes its own oldest first.
  void start(frame::FramePool& pool, const ImageView* images, std::size_t count, const ImageSource& source,
             std::vector<Detection>* out) {
    for (; !empty(); finish_oldest()) {
      if (auto ticket = pool.try_submit(images, count, source)) {
        add(std::move(*ticket), out);
        return;
      }
    }
    add(pool.submit(images, count, source, kForEver), out);
  }

  void finish_oldest() {
    Frame frame = std::move(frames_[first_]);
    first_ = (first_ + 1) % frames_.size();
    --count_;
    frame.ticket.wait(frame.out);
  }

 private:
  struct Frame {
    frame::FramePool::Ticket ticket;
    std::vector<Detection>* out = nullptr;
  };

  // There are no more paths than room.
  void add(frame::FramePool::Ticket ticket, std::vector<Detection>* out) {
    frames_[(first_ + count_) % frames_.size()] = {std::move(ticket), out};
    ++count_;
  }

  std::array<Frame, kMaxPaths> frames_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

std::shared_ptr<const Engine> open_engine(const EngineSource& source, const std::string& model,
                                          const EngineOptions& options, EngineInfo& info,
                                          const BuildProgress& progress) {
  const std::vector<char> plan = source.plan(info, progress);
  return std::make_shared<Engine>(plan.data(), plan.size(), options.device, model,
                                  static_cast<std::size_t>(options.memory_limit_mb) << 20U);
}

class TensorrtBackend final : public Backend {
 public:
  TensorrtBackend(const ModelSpec& spec, const std::string& model, const DetectorOptions& options)
      : device_(options.engine.device),
        gpu_(describe_gpu(device_)),
        engine_(open_engine(EngineSource(spec, model, options, gpu_), model, options.engine, info_, nullptr)),
        ports_(check_ports(engine_->ports(), spec, model)),
        paths_(options.requests > 0 ? std::min<std::size_t>(static_cast<std::size_t>(options.requests), kMaxPaths)
               : options.mode == PerformanceMode::kThroughput ? kThroughputPaths
                                                              : 1) {
    decode_.top_k = options.max_detections;
    decode_.score_threshold = options.score_threshold;
    make_pool(kFirstWidth, kFirstHeight);
  }

  // Upload, preprocessing, network and decoding of a frame are one graph, whose parts cannot be told apart from
  // outside: all of the time is given as inference.
  void detect(const ImageView* images, std::size_t count, const ImageSource& source, std::vector<Detection>* out,
              StageTimes& times) override {
    const auto begin = Clock::now();
    const std::shared_lock<std::shared_mutex> lock = pool_for(images, count);
    InFlight flying;
    for (std::size_t done = 0; done < count;) {
      const std::size_t batch = std::min(count - done, ports_.max_batch);
      flying.start(*pool_, images + done, batch, source, out + done);
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
      const std::shared_lock<std::shared_mutex> shared(pool_mutex_);
      const std::size_t bytes = RawOutputs::device_bytes(*engine_, ports_);
      engine_->memory().set_aside(pool_bytes_ + bytes, "frame paths and the network alone");
      raw_bytes_ = bytes;
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
  EngineInfo engine() const override { return info_; }

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
    options.device = device_;
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

  void check_memory(const frame::FrameOptions& options) {
    const std::size_t frames = frame::FramePath::memory_of(ports_.network, options).device;
    const std::size_t context = Context::device_bytes(*engine_, ports_);
    const std::size_t needed = paths_ * (frames + context);
    const std::string what = std::to_string(paths_) + " frame paths (of each, " + std::to_string(context) +
                             " bytes for the network and " + std::to_string(frames) + " for images of " +
                             std::to_string(options.max_width) + "x" + std::to_string(options.max_height) + ")";
    engine_->memory().set_aside(raw_bytes_ + needed, what);
    std::size_t free = 0;
    std::size_t total = 0;
    const cuda::DeviceScope scope(device_);
    cuda::check_cuda(cudaMemGetInfo(&free, &total), "ask for free memory");
    if (needed > free) {
      refuse("expected " + std::to_string(needed) + " bytes of free device memory for " + what + ", got " +
             std::to_string(free) + "; lower requests, send smaller images or close what else uses the GPU");
    }
    pool_bytes_ = needed;
  }

  int device_;
  Gpu gpu_;
  EngineInfo info_;
  std::shared_ptr<const Engine> engine_;
  NetworkPorts ports_;
  ops::DecodeOptions decode_;
  std::size_t paths_;
  std::mutex raw_mutex_;
  std::unique_ptr<RawOutputs> raw_;
  std::shared_mutex pool_mutex_;  // shared: frames are in flight; else the pool is replaced
  std::int32_t width_ = kFirstWidth;
  std::int32_t height_ = kFirstHeight;
  std::size_t pool_bytes_ = 0;  // of device memory
  std::atomic<std::size_t> raw_bytes_{0};
  std::unique_ptr<frame::FramePool> pool_;
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

BackendInfo probe(int device) {
  std::string reason;
  if (!available(&reason)) {
    return {"tensorrt", false, reason, {}};
  }
  try {
    const Gpu gpu = describe_gpu(device);
    return {"tensorrt", true, "TensorRT " + library().version() + " (" + library().path() + ") on " + gpu.name,
            precisions_of(gpu)};
  } catch (const Error& error) {
    return {"tensorrt", false, error.what(), {}};
  }
}

std::unique_ptr<Backend> make(const ModelSpec& spec, const std::string& model, const DetectorOptions& options) {
  return std::make_unique<TensorrtBackend>(spec, model, options);
}

EngineInfo prepare(const ModelSpec& spec, const std::string& model, const DetectorOptions& options,
                   const BuildProgress& progress) {
  const EngineSource source(spec, model, options, describe_gpu(options.engine.device));
  EngineInfo info;
  // Opened, too: an engine that cannot be used is to be known now.
  const auto engine = open_engine(source, model, options.engine, info, progress);
  static_cast<void>(check_ports(engine->ports(), spec, model));
  return info;
}

bool prepared(const ModelSpec& spec, const std::string& model, const DetectorOptions& options) {
  return EngineSource(spec, model, options, describe_gpu(options.engine.device)).kept();
}

}  // namespace edgedet::tensorrt
