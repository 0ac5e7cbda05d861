// A stand-in for libnvinfer.so.10 of TensorRT 10.16, for tests without a GPU: plans are a word of text, and the network
// copies pixels of its input to its outputs. Built as a library of its own and opened as the real one is.
#include "fake_tensorrt.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include <NvInfer.h>

namespace {

using namespace nvinfer1;             // NOLINT(google-build-using-namespace)
using namespace edgedet::test::fake;  // NOLINT(google-build-using-namespace)

// Where edgedet calls what it should not need.
[[noreturn]] void unused() { std::abort(); }

Calls& calls() {
  static Calls instance{};
  return instance;
}

class RuntimeStubs : public apiv::VRuntime {
 public:
  IRuntime* getPImpl() noexcept override { unused(); }
  nvinfer1::ICudaEngine* deserializeCudaEngine(IStreamReader&) noexcept override { unused(); }
  void setDLACore(int32_t) noexcept override { unused(); }
  int32_t getDLACore() const noexcept override { unused(); }
  int32_t getNbDLACores() const noexcept override { unused(); }
  void setGpuAllocator(IGpuAllocator*) noexcept override { unused(); }
  void setErrorRecorder(IErrorRecorder*) noexcept override { unused(); }
  IErrorRecorder* getErrorRecorder() const noexcept override { unused(); }
  ILogger* getLogger() const noexcept override { unused(); }
  bool setMaxThreads(int32_t) noexcept override { unused(); }
  int32_t getMaxThreads() const noexcept override { unused(); }
  void setTemporaryDirectory(char const*) noexcept override { unused(); }
  char const* getTemporaryDirectory() const noexcept override { unused(); }
  void setTempfileControlFlags(TempfileControlFlags) noexcept override { unused(); }
  TempfileControlFlags getTempfileControlFlags() const noexcept override { unused(); }
  IPluginRegistry& getPluginRegistry() noexcept override { unused(); }
  void setPluginRegistryParent(IPluginRegistry*) noexcept override { unused(); }
  IRuntime* loadRuntime(char const*) noexcept override { unused(); }
  void setEngineHostCodeAllowed(bool) noexcept override { unused(); }
  bool getEngineHostCodeAllowed() const noexcept override { unused(); }
  nvinfer1::ICudaEngine* deserializeCudaEngineV2(IStreamReaderV2&) noexcept override { unused(); }
};

class EngineStubs : public apiv::VCudaEngine {
 public:
  ICudaEngine* getPImpl() noexcept override { unused(); }
  int32_t getNbLayers() const noexcept override { unused(); }
  IHostMemory* serialize() const noexcept override { unused(); }
  IExecutionContext* createExecutionContextWithoutDeviceMemory() noexcept override { unused(); }
  size_t getDeviceMemorySize() const noexcept override { unused(); }
  bool isRefittable() const noexcept override { unused(); }
  char const* getName() const noexcept override { unused(); }
  int32_t const* getProfileTensorValues(char const*, int32_t, OptProfileSelector) const noexcept override { unused(); }
  EngineCapability getEngineCapability() const noexcept override { unused(); }
  void setErrorRecorder(IErrorRecorder*) noexcept override { unused(); }
  IErrorRecorder* getErrorRecorder() const noexcept override { unused(); }
  bool hasImplicitBatchDimension() const noexcept override { unused(); }
  TacticSources getTacticSources() const noexcept override { unused(); }
  ProfilingVerbosity getProfilingVerbosity() const noexcept override { unused(); }
  bool isShapeInferenceIO(char const*) const noexcept override { unused(); }
  int32_t getTensorBytesPerComponent(char const*) const noexcept override { unused(); }
  int32_t getTensorComponentsPerElement(char const*) const noexcept override { unused(); }
  TensorFormat getTensorFormat(char const*) const noexcept override { unused(); }
  char const* getTensorFormatDesc(char const*) const noexcept override { unused(); }
  int32_t getTensorVectorizedDim(char const*) const noexcept override { unused(); }
  HardwareCompatibilityLevel getHardwareCompatibilityLevel() const noexcept override { unused(); }
  int32_t getNbAuxStreams() const noexcept override { unused(); }
  int32_t getTensorBytesPerComponentV2(char const*, int32_t) const noexcept override { unused(); }
  int32_t getTensorComponentsPerElementV2(char const*, int32_t) const noexcept override { unused(); }
  TensorFormat getTensorFormatV2(char const*, int32_t) const noexcept override { unused(); }
  char const* getTensorFormatDescV2(char const*, int32_t) const noexcept override { unused(); }
  int32_t getTensorVectorizedDimV2(char const*, int32_t) const noexcept override { unused(); }
  ISerializationConfig* createSerializationConfig() noexcept override { unused(); }
  IHostMemory* serializeWithConfig(ISerializationConfig&) const noexcept override { unused(); }
  size_t getDeviceMemorySizeForProfile(int32_t) const noexcept override { unused(); }
  IRefitter* createRefitter(ILogger&) noexcept override { unused(); }
  bool setWeightStreamingBudget(int64_t) noexcept override { unused(); }
  int64_t getWeightStreamingBudget() const noexcept override { unused(); }
  int64_t getMinimumWeightStreamingBudget() const noexcept override { unused(); }
  int64_t getStreamableWeightsSize() const noexcept override { unused(); }
  bool isDebugTensor(char const*) const noexcept override { unused(); }
  bool setWeightStreamingBudgetV2(int64_t) noexcept override { unused(); }
  int64_t getWeightStreamingBudgetV2() const noexcept override { unused(); }
  int64_t getWeightStreamingAutomaticBudget() const noexcept override { unused(); }
  int64_t getWeightStreamingScratchMemorySize() const noexcept override { unused(); }
  int64_t getDeviceMemorySizeForProfileV2(int32_t) const noexcept override { unused(); }
  int64_t const* getProfileTensorValuesV2(char const*, int32_t, OptProfileSelector) const noexcept override {
    unused();
  }
  IExecutionContext* createExecutionContextWithRuntimeConfig(IRuntimeConfig*) noexcept override { unused(); }
  IRuntimeConfig* createRuntimeConfig() noexcept override { unused(); }
  int64_t getEngineStat(EngineStat) const noexcept override { unused(); }
  char const* getAliasedInputTensor(char const*) const noexcept override { unused(); }
};

class ContextStubs : public apiv::VExecutionContext {
 public:
  IExecutionContext* getPImpl() noexcept override { unused(); }
  void setDebugSync(bool) noexcept override { unused(); }
  bool getDebugSync() const noexcept override { unused(); }
  void setProfiler(IProfiler*) noexcept override { unused(); }
  IProfiler* getProfiler() const noexcept override { unused(); }
  ICudaEngine const& getEngine() const noexcept override { unused(); }
  void setName(char const*) noexcept override { unused(); }
  char const* getName() const noexcept override { unused(); }
  void setDeviceMemory(void*) noexcept override { unused(); }
  int32_t getOptimizationProfile() const noexcept override { unused(); }
  bool allInputDimensionsSpecified() const noexcept override { unused(); }
  bool allInputShapesSpecified() const noexcept override { unused(); }
  void setErrorRecorder(IErrorRecorder*) noexcept override { unused(); }
  IErrorRecorder* getErrorRecorder() const noexcept override { unused(); }
  bool executeV2(void* const*) noexcept override { unused(); }
  bool setOptimizationProfileAsync(int32_t, cudaStream_t) noexcept override { unused(); }
  void setEnqueueEmitsProfile(bool) noexcept override { unused(); }
  bool getEnqueueEmitsProfile() const noexcept override { unused(); }
  bool reportToProfiler() const noexcept override { unused(); }
  Dims getTensorShape(char const*) const noexcept override { unused(); }
  Dims getTensorStrides(char const*) const noexcept override { unused(); }
  void const* getTensorAddress(char const*) const noexcept override { unused(); }
  bool setInputTensorAddress(char const*, void const*) noexcept override { unused(); }
  bool setOutputTensorAddress(char const*, void*) noexcept override { unused(); }
  int32_t inferShapes(int32_t, char const**) noexcept override { unused(); }
  bool setInputConsumedEvent(cudaEvent_t) noexcept override { unused(); }
  cudaEvent_t getInputConsumedEvent() const noexcept override { unused(); }
  void* getOutputTensorAddress(char const*) const noexcept override { unused(); }
  bool setOutputAllocator(char const*, IOutputAllocator*) noexcept override { unused(); }
  IOutputAllocator* getOutputAllocator(char const*) noexcept override { unused(); }
  int64_t getMaxOutputSize(char const*) const noexcept override { unused(); }
  bool setTemporaryStorageAllocator(IGpuAllocator*) noexcept override { unused(); }
  IGpuAllocator* getTemporaryStorageAllocator() const noexcept override { unused(); }
  void setPersistentCacheLimit(size_t) noexcept override { unused(); }
  size_t getPersistentCacheLimit() const noexcept override { unused(); }
  bool setNvtxVerbosity(ProfilingVerbosity) noexcept override { unused(); }
  ProfilingVerbosity getNvtxVerbosity() const noexcept override { unused(); }
  void setAuxStreams(cudaStream_t*, int32_t) noexcept override { unused(); }
  bool setDebugListener(IDebugListener*) noexcept override { unused(); }
  IDebugListener* getDebugListener() noexcept override { unused(); }
  bool setTensorDebugState(char const*, bool) noexcept override { unused(); }
  bool getDebugState(char const*) const noexcept override { unused(); }
  bool setAllTensorsDebugState(bool) noexcept override { unused(); }
  size_t updateDeviceMemorySizeForShapes() noexcept override { unused(); }
  IRuntimeConfig* getRuntimeConfig() const noexcept override { unused(); }
  bool setUnfusedTensorsDebugState(bool) noexcept override { unused(); }
  bool getUnfusedTensorsDebugState() const noexcept override { unused(); }
  bool setCommunicator(void*) noexcept override { unused(); }
};

class InspectorStubs : public apiv::VEngineInspector {
 public:
  IEngineInspector* getPImpl() noexcept override { unused(); }
  bool setExecutionContext(IExecutionContext const*) noexcept override { unused(); }
  IExecutionContext const* getExecutionContext() const noexcept override { unused(); }
  char const* getLayerInformation(int32_t, LayerInformationFormat) const noexcept override { unused(); }
  void setErrorRecorder(IErrorRecorder*) noexcept override { unused(); }
  IErrorRecorder* getErrorRecorder() const noexcept override { unused(); }
};

Dims dims_of(std::initializer_list<std::int64_t> sides) {
  Dims dims{};
  for (const std::int64_t side : sides) {
    dims.d[dims.nbDims++] = side;
  }
  return dims;
}

struct Tensor {
  const char* name;
  Dims dims;
  DataType type;
  TensorIOMode mode;
};

const std::array<Tensor, 3> kLogitsTensors{
    {{"images", dims_of({-1, 3, kHeight, kWidth}), DataType::kFLOAT, TensorIOMode::kINPUT},
     {"logits", dims_of({-1, kRows, kClasses}), DataType::kFLOAT, TensorIOMode::kOUTPUT},
     {"boxes", dims_of({-1, kRows, 4}), DataType::kFLOAT, TensorIOMode::kOUTPUT}}};

const std::array<Tensor, 5> kScoredTensors{
    {{"images", dims_of({-1, 3, kHeight, kWidth}), DataType::kFLOAT, TensorIOMode::kINPUT},
     {"orig_target_sizes", dims_of({-1, 2}), DataType::kINT64, TensorIOMode::kINPUT},
     {"labels", dims_of({-1, kRows}), DataType::kINT64, TensorIOMode::kOUTPUT},
     {"boxes", dims_of({-1, kRows, 4}), DataType::kFLOAT, TensorIOMode::kOUTPUT},
     {"scores", dims_of({-1, kRows}), DataType::kFLOAT, TensorIOMode::kOUTPUT}}};

class Context final : public IExecutionContext, private ContextStubs {
 public:
  explicit Context(bool scored) : scored_(scored) {
    mImpl = this;
    ++calls().contexts;
  }
  ~Context() noexcept override { --calls().contexts; }

 private:
  bool setInputShape(char const* name, Dims const& dims) noexcept override {
    if (dims.d[0] < 1 || dims.d[0] > kMaxBatch || (batch_ != 0 && batch_ != dims.d[0])) {
      return false;  // one context a batch size, or captured graphs would break
    }
    batch_ = dims.d[0];
    shaped_ += std::string_view(name) == "images" || std::string_view(name) == "orig_target_sizes" ? 1 : 100;
    return true;
  }

  bool setTensorAddress(char const* name, void* data) noexcept override {
    addresses_[name] = static_cast<unsigned char*>(data);
    return data != nullptr;
  }

  void setDeviceMemoryV2(void* memory, int64_t size) noexcept override {
    ready_ = memory != nullptr && size == kContextBytes;
  }

  bool copy(const char* to, std::size_t to_offset, const char* from, std::size_t from_offset, std::size_t bytes,
            cudaStream_t stream) {
    return calls().copy(addresses_[to] + to_offset, addresses_[from] + from_offset, bytes, cudaMemcpyDeviceToDevice,
                        stream) == cudaSuccess;
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    const bool complete =
        ready_ && batch_ > 0 && shaped_ == (scored_ ? 2 : 1) && addresses_.size() == (scored_ ? 5 : 3);
    bool queued = complete && calls().copy != nullptr;
    for (std::size_t i = 0; queued && i < static_cast<std::size_t>(batch_); ++i) {
      const std::size_t image = i * kPixels * sizeof(float);
      const std::size_t values = (scored_ ? kRows : kRows * kClasses) * sizeof(float);
      const std::size_t boxes = 4 * kRows * sizeof(float);
      queued = copy(scored_ ? "scores" : "logits", i * values, "images", image, values, stream) &&
               copy("boxes", i * boxes, "images", image + values, boxes, stream);
      if (scored_) {
        constexpr std::size_t kLabels = kRows * sizeof(std::int64_t);
        constexpr std::size_t kSize = 2 * sizeof(std::int64_t);
        queued = queued && calls().fill(addresses_["labels"] + i * kLabels, 0, kLabels, stream) == cudaSuccess &&
                 copy("labels", i * kLabels, "orig_target_sizes", i * kSize, kSize, stream);
      }
    }
    return queued;
  }

  bool scored_;
  bool ready_ = false;
  std::int64_t batch_ = 0;
  int shaped_ = 0;
  std::map<std::string, unsigned char*> addresses_;
};

class Inspector final : public IEngineInspector, private InspectorStubs {
 public:
  Inspector() { mImpl = this; }

 private:
  char const* getEngineInformation(LayerInformationFormat) const noexcept override {
    return R"({"Layers": [{"Name": "copy", "LayerType": "Copy", "Inputs": [{"Format/Datatype": "FP32"}]}]})";
  }
};

class Engine final : public ICudaEngine, private EngineStubs {
 public:
  explicit Engine(bool scored) : scored_(scored) { mImpl = this; }

 private:
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept override {
    return strategy == ExecutionContextAllocationStrategy::kUSER_MANAGED ? new Context(scored_) : nullptr;
  }
  int32_t getNbOptimizationProfiles() const noexcept override { return 1; }
  IEngineInspector* createEngineInspector() const noexcept override { return new Inspector; }
  Dims getTensorShape(char const* name) const noexcept override { return find(name).dims; }
  DataType getTensorDataType(char const* name) const noexcept override { return find(name).type; }
  TensorLocation getTensorLocation(char const*) const noexcept override { return TensorLocation::kDEVICE; }
  TensorIOMode getTensorIOMode(char const* name) const noexcept override { return find(name).mode; }
  Dims getProfileShape(char const* name, int32_t, OptProfileSelector select) const noexcept override {
    Dims dims = find(name).dims;
    dims.d[0] = select == OptProfileSelector::kMAX ? kMaxBatch : 1;
    return dims;
  }
  int32_t getNbIOTensors() const noexcept override {
    return static_cast<int32_t>(scored_ ? kScoredTensors.size() : kLogitsTensors.size());
  }
  char const* getIOTensorName(int32_t index) const noexcept override {
    const auto at = static_cast<std::size_t>(index);
    return scored_ ? kScoredTensors[at].name : kLogitsTensors[at].name;
  }
  int64_t getDeviceMemorySizeV2() const noexcept override { return kContextBytes; }

  const Tensor& find(std::string_view name) const {
    for (const Tensor& tensor : kScoredTensors) {
      if (scored_ && name == tensor.name) {
        return tensor;
      }
    }
    for (const Tensor& tensor : kLogitsTensors) {
      if (!scored_ && name == tensor.name) {
        return tensor;
      }
    }
    unused();
  }

  bool scored_;
};

class Runtime final : public IRuntime, private RuntimeStubs {
 public:
  explicit Runtime(ILogger& logger) : logger_(logger) { mImpl = this; }

 private:
  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
    const std::string_view plan(static_cast<const char*>(blob), size);
    if (plan == "logits" || plan == "scored") {
      return new Engine(plan == "scored");
    }
    logger_.log(ILogger::Severity::kERROR, plan == "old" ? "Version tag does not match" : "Magic tag does not match");
    return nullptr;
  }

  ILogger& logger_;
};

// Keeps one creator.
class Registry final : public IPluginRegistry {
 public:
  bool registerCreator(IPluginCreatorInterface& creator, char const* plugin_namespace) noexcept override {
    const bool first = creator_ == nullptr && std::string_view(plugin_namespace).empty();
    creator_ = first ? &creator : creator_;
    return first;
  }
  IPluginCreatorInterface* getCreator(char const* name, char const* version, char const* space) noexcept override {
    const auto* const creator = dynamic_cast<IPluginCreatorV3One*>(creator_);
    const bool same = creator != nullptr && std::string_view(name) == creator->getPluginName() &&
                      std::string_view(version) == creator->getPluginVersion() &&
                      std::string_view(space) == creator->getPluginNamespace();
    return same ? creator_ : nullptr;
  }

 private:
  bool registerCreator(IPluginCreator&, char const*) noexcept override { unused(); }
  IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { unused(); }
  IPluginCreator* getPluginCreator(char const*, char const*, char const*) noexcept override { unused(); }
  void setErrorRecorder(IErrorRecorder*) noexcept override { unused(); }
  IErrorRecorder* getErrorRecorder() const noexcept override { unused(); }
  bool deregisterCreator(IPluginCreator const&) noexcept override { unused(); }
  bool isParentSearchEnabled() const override { unused(); }
  void setParentSearchEnabled(bool) override { unused(); }
  PluginLibraryHandle loadLibrary(char const*) noexcept override { unused(); }
  void deregisterLibrary(PluginLibraryHandle) noexcept override { unused(); }
  IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override { unused(); }
  bool deregisterCreator(IPluginCreatorInterface const&) noexcept override { unused(); }
  IPluginResource* acquirePluginResource(char const*, IPluginResource*) noexcept override { unused(); }
  int32_t releasePluginResource(char const*) noexcept override { unused(); }
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override { unused(); }

  IPluginCreatorInterface* creator_ = nullptr;
};

}  // namespace

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

FAKE_EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t /*version*/) noexcept {
  return static_cast<IRuntime*>(new Runtime(*static_cast<ILogger*>(logger)));
}

FAKE_EXPORT IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}

FAKE_EXPORT int32_t getInferLibVersion() noexcept { return NV_TENSORRT_VERSION; }

FAKE_EXPORT Calls* edgedet_fake_calls() { return &calls(); }
