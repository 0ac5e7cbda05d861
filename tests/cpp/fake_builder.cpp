// The builder of the stand-in: notes what it is given, feeds its calibrator dry, and makes a plan that the stand-in
// runs.
#include <array>
#include <cstring>
#include <list>
#include <memory>
#include <string>

#include "fake_tensorrt.h"
#include "tensorrt_stubs.h"

namespace {

using namespace nvinfer1;             // NOLINT(google-build-using-namespace)
using namespace edgedet::test::fake;  // NOLINT(google-build-using-namespace)

class Tensor final : public ITensor, private TensorStubs {
 public:
  Tensor(const char* name, DataType type, Dims dims) : name_(name), type_(type), dims_(dims) { mImpl = this; }
  ~Tensor() noexcept override = default;

 private:
  void setName(char const* name) noexcept override { name_ = name; }
  char const* getName() const noexcept override { return name_.c_str(); }
  Dims getDimensions() const noexcept override { return dims_; }
  DataType getType() const noexcept override { return type_; }

  std::string name_;
  DataType type_;
  Dims dims_;
};

class Layer final : public IIdentityLayer, private LayerStubs {
 public:
  explicit Layer(ITensor& input) : output_("", input.getType(), input.getDimensions()) { mLayer = this; }
  ~Layer() noexcept override = default;

 private:
  LayerType getType() const noexcept override { return LayerType::kIDENTITY; }
  char const* getName() const noexcept override { return "layer"; }
  int32_t getNbOutputs() const noexcept override { return 1; }
  ITensor* getOutput(int32_t) const noexcept override { return const_cast<Tensor*>(&output_); }

  Tensor output_;
};

class Network final : public INetworkDefinition, private NetworkDefinitionStubs {
 public:
  Network() { mImpl = this; }
  ~Network() noexcept override = default;

 private:
  ITensor* addInput(char const* name, DataType type, Dims const& dims) noexcept override {
    return &inputs_.emplace_back(name, type, dims);
  }
  IIdentityLayer* addIdentity(ITensor& input) noexcept override { return &layers_.emplace_back(input); }
  void markOutput(ITensor& tensor) noexcept override { outputs_.push_back(&tensor); }
  void unmarkOutput(ITensor& tensor) noexcept override { outputs_.remove(&tensor); }
  int32_t getNbLayers() const noexcept override { return static_cast<int32_t>(layers_.size()); }
  ILayer* getLayer(int32_t index) const noexcept override {
    return const_cast<Layer*>(&*std::next(layers_.begin(), index));
  }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs_.size()); }
  ITensor* getInput(int32_t index) const noexcept override {
    return const_cast<Tensor*>(&*std::next(inputs_.begin(), index));
  }
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(outputs_.size()); }
  ITensor* getOutput(int32_t index) const noexcept override { return *std::next(outputs_.begin(), index); }

  std::list<Tensor> inputs_;
  std::list<Layer> layers_;
  std::list<ITensor*> outputs_;
};

class Memory final : public IHostMemory, private HostMemoryStubs {
 public:
  explicit Memory(std::string content) : content_(std::move(content)) { mImpl = this; }
  ~Memory() noexcept override = default;

 private:
  void* data() const noexcept override { return const_cast<char*>(content_.data()); }
  std::size_t size() const noexcept override { return content_.size(); }

  std::string content_;
};

class Timing final : public ITimingCache, private TimingCacheStubs {
 public:
  explicit Timing(std::string content) : content_(std::move(content)) { mImpl = this; }
  ~Timing() noexcept override = default;

  const std::string& content() const { return content_; }

 private:
  IHostMemory* serialize() const noexcept override { return new Memory(content_ + "+"); }

  std::string content_;
};

class Profile final : public IOptimizationProfile, private OptimizationProfileStubs {
 public:
  Profile() { mImpl = this; }
  ~Profile() noexcept override = default;

 private:
  bool setDimensions(char const* name, OptProfileSelector select, Dims const& dims) noexcept override {
    if (std::string(name) == "images") {
      calls().last.batch.resize(3);
      calls().last.batch[static_cast<std::size_t>(select)] = dims.d[0];
    }
    return true;
  }
};

class Config final : public IBuilderConfig, private BuilderConfigStubs {
 public:
  Config() { mImpl = this; }
  ~Config() noexcept override = default;

  IInt8Calibrator* calibrator = nullptr;
  IProgressMonitor* monitor = nullptr;

 private:
  void setFlag(BuilderFlag flag) noexcept override { calls().last.flags |= 1U << static_cast<unsigned>(flag); }
  void clearFlag(BuilderFlag flag) noexcept override { calls().last.flags &= ~(1U << static_cast<unsigned>(flag)); }
  void setInt8Calibrator(IInt8Calibrator* given) noexcept override { calibrator = given; }
  bool setCalibrationProfile(IOptimizationProfile const*) noexcept override { return true; }
  void setDefaultDeviceType(DeviceType) noexcept override {}
  void setDLACore(int32_t core) noexcept override { calls().last.dla_core = core; }
  int32_t addOptimizationProfile(IOptimizationProfile const*) noexcept override { return 0; }
  void setProfilingVerbosity(ProfilingVerbosity) noexcept override {}
  bool setTacticSources(TacticSources sources) noexcept override {
    calls().last.tactic_sources = sources;
    return true;
  }
  TacticSources getTacticSources() const noexcept override { return 0xFFU; }
  ITimingCache* createTimingCache(void const* blob, std::size_t size) const noexcept override {
    return new Timing(std::string(static_cast<const char*>(blob), size));
  }
  bool setTimingCache(ITimingCache const& cache, bool) noexcept override {
    calls().last.timing = static_cast<const Timing&>(cache).content();
    return true;
  }
  void setMemoryPoolLimit(MemoryPoolType, std::size_t size) noexcept override { calls().last.workspace = size; }
  void setProgressMonitor(IProgressMonitor* given) noexcept override { monitor = given; }
};

// False if a step says stop.
bool run_steps(IProgressMonitor* monitor) {
  if (monitor == nullptr) {
    return true;
  }
  monitor->phaseStart("building", nullptr, 3);
  monitor->phaseStart("tactics", "building", 9);
  bool going = monitor->stepComplete("tactics", 0);
  monitor->phaseFinish("tactics");
  for (int32_t step = 0; going && step < 3; ++step) {
    going = monitor->stepComplete("building", step);
  }
  monitor->phaseFinish("building");
  return going;
}

void calibrate(IInt8Calibrator& calibrator, Build& build) {
  build.calibrator = calibrator.getAlgorithm() == CalibrationAlgoType::kMINMAX_CALIBRATION ? "minmax" : "entropy";
  build.calibration_batch = calibrator.getBatchSize();
  std::size_t bytes = 0;
  if (const void* const kept = calibrator.readCalibrationCache(bytes)) {
    build.calibration.assign(static_cast<const char*>(kept), bytes);
    return;
  }
  std::array<void*, 1> bindings{};
  std::array<const char*, 1> names{"images"};
  while (calibrator.getBatch(bindings.data(), names.data(), 1)) {
    std::vector<float>& images = build.images.emplace_back(static_cast<std::size_t>(build.calibration_batch) * kPixels);
    static_cast<void>(
        calls().copy(images.data(), bindings[0], images.size() * sizeof(float), cudaMemcpyDeviceToHost, nullptr));
  }
  constexpr std::string_view kRanges = "ranges";
  calibrator.writeCalibrationCache(kRanges.data(), kRanges.size());
}

class Builder final : public IBuilder, private BuilderStubs {
 public:
  explicit Builder(ILogger& logger) : logger_(logger) {
    mImpl = this;
    calls().last = {};
  }
  ~Builder() noexcept override = default;

 private:
  int32_t getNbDLACores() const noexcept override { return 1; }
  void setGpuAllocator(IGpuAllocator* allocator) noexcept override { allocator_ = allocator; }
  IBuilderConfig* createBuilderConfig() noexcept override { return new Config; }
  INetworkDefinition* createNetworkV2(NetworkDefinitionCreationFlags flags) noexcept override {
    calls().last.strongly_typed =
        (flags & (1U << static_cast<unsigned>(NetworkDefinitionCreationFlag::kSTRONGLY_TYPED))) != 0;
    return new Network;
  }
  IOptimizationProfile* createOptimizationProfile() noexcept override { return &profile_; }

  IHostMemory* buildSerializedNetwork(INetworkDefinition& network, IBuilderConfig& given) noexcept override {
    auto& config = static_cast<Config&>(given);
    ++calls().builds;
    for (int32_t i = 0; i < network.getNbOutputs(); ++i) {
      calls().last.outputs.emplace_back(network.getOutput(i)->getName());
    }
    if (allocator_ != nullptr) {
      void* const weights = allocator_->allocate(calls().weights, 0, 0);
      if (weights == nullptr) {
        logger_.log(ILogger::Severity::kERROR, "no memory for weights");
        return nullptr;
      }
      allocator_->deallocate(weights);
    }
    if (config.calibrator != nullptr) {
      calibrate(*config.calibrator, calls().last);
    }
    return run_steps(config.monitor) ? new Memory("logits") : nullptr;
  }

  ILogger& logger_;
  IGpuAllocator* allocator_ = nullptr;
  Profile profile_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void* createInferBuilder_INTERNAL(void* logger,
                                                                                    int32_t /*version*/) noexcept {
  return static_cast<IBuilder*>(new Builder(*static_cast<ILogger*>(logger)));
}
