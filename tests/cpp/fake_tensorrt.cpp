// A stand-in for libnvinfer.so.10 of TensorRT 10.16, for tests without a GPU: plans are a word of text, and the network
// copies pixels of its input to its outputs. Built as a library of its own and opened as the real one is.
#include "fake_tensorrt.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "tensorrt_stubs.h"

namespace edgedet::test::fake {

Calls& calls() {
  static Calls instance;
  return instance;
}

}  // namespace edgedet::test::fake

namespace {

using namespace nvinfer1;             // NOLINT(google-build-using-namespace)
using namespace edgedet::test::fake;  // NOLINT(google-build-using-namespace)

// Where edgedet calls what it should not need.
[[noreturn]] void unused() { std::abort(); }

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

class Context final : public IExecutionContext, private ExecutionContextStubs {
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

class Inspector final : public IEngineInspector, private EngineInspectorStubs {
 public:
  Inspector() { mImpl = this; }

 private:
  char const* getEngineInformation(LayerInformationFormat) const noexcept override {
    return R"({"Layers": [{"Name": "copy", "LayerType": "Copy", "Inputs": [{"Format/Datatype": "FP32"}]}]})";
  }
};

class Engine final : public ICudaEngine, private CudaEngineStubs {
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
    if (allocator_ != nullptr) {
      void* const weights = allocator_->allocate(calls().weights, 0, 0);
      if (weights == nullptr) {
        logger_.log(ILogger::Severity::kERROR, "no memory for weights");
        return nullptr;
      }
      allocator_->deallocate(weights);  // a stand-in keeps none
    }
    if (plan == "logits" || plan == "scored") {
      return new Engine(plan == "scored");
    }
    logger_.log(ILogger::Severity::kERROR, plan == "old" ? "Version tag does not match" : "Magic tag does not match");
    return nullptr;
  }

  void setGpuAllocator(IGpuAllocator* allocator) noexcept override { allocator_ = allocator; }

  ILogger& logger_;
  IGpuAllocator* allocator_ = nullptr;
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
