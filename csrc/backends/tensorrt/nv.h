// Everything that differs between TensorRT 8.5 and 11, and nothing else: no other file asks for a version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include "backends/tensorrt/ports.h"

#if NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 5)
#error "edgedet needs TensorRT 8.5 or newer"
#endif

namespace edgedet::tensorrt::nv {

constexpr int kMajor = NV_TENSORRT_MAJOR;
constexpr int kMinor = NV_TENSORRT_MINOR;

// From 10 on types can be those of the network ("strongly typed"); 11 knows nothing else.
constexpr bool kHasStrongTyping = NV_TENSORRT_MAJOR >= 10;
constexpr bool kHasWeakTyping = NV_TENSORRT_MAJOR < 11;

struct Version {
  int major = 0;
  int minor = 0;
  int patch = 0;
};

// What getInferLibVersion returns: 8601 for 8.6.1 before 10, 100300 for 10.3.0 since.
inline Version decode_version(int code) {
  const int unit = code < 10000 ? 1000 : 10000;
  return {code / unit, code % unit / 100, code % 100};
}

// Sides of a shape: 32 bits before 10, 64 since.
using Extent = std::remove_reference_t<decltype(std::declval<nvinfer1::Dims&>().d[0])>;

// 64-bit integers exist since 10; before, the parser turns them into 32-bit ones.
inline PortType port_type(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return PortType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return PortType::kFloat16;
    case nvinfer1::DataType::kINT32:
      return PortType::kInt32;
#if NV_TENSORRT_MAJOR >= 10
    case nvinfer1::DataType::kINT64:
      return PortType::kInt64;
#endif
    default:
      return PortType::kOther;
  }
}

// bfloat16 exists since 10, more of the small types with every version since.
inline std::string type_name(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kINT32:
      return "int32";
    case nvinfer1::DataType::kINT8:
      return "int8";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    case nvinfer1::DataType::kBOOL:
      return "bool";
#if NV_TENSORRT_MAJOR >= 10
    case nvinfer1::DataType::kINT64:
      return "int64";
    case nvinfer1::DataType::kBF16:
      return "bfloat16";
#endif
    default:
      return "TensorRT's type " + std::to_string(static_cast<int>(type));
  }
}

// An explicit batch axis has to be asked for before 10 and is the only form since. Strong typing has to be asked for
// in 10 and is the only form since 11.
inline nvinfer1::NetworkDefinitionCreationFlags network_flags([[maybe_unused]] bool strongly_typed) {
#if NV_TENSORRT_MAJOR < 10
  return 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#elif NV_TENSORRT_MAJOR < 11
  return strongly_typed ? 1U << static_cast<unsigned>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED) : 0U;
#else
  return 0U;
#endif
}

// Lets the builder choose half precision or int8 by itself: before 11.
inline void allow([[maybe_unused]] nvinfer1::IBuilderConfig& config, [[maybe_unused]] bool half,
                  [[maybe_unused]] bool int8) {
#if NV_TENSORRT_MAJOR < 11
  if (half) {
    config.setFlag(nvinfer1::BuilderFlag::kFP16);
  }
  if (int8) {
    config.setFlag(nvinfer1::BuilderFlag::kINT8);
  }
#endif
}

// Holds the builder to the types that `keep_float` sets: before 11.
inline void obey_types([[maybe_unused]] nvinfer1::IBuilderConfig& config) {
#if NV_TENSORRT_MAJOR < 11
  config.setFlag(nvinfer1::BuilderFlag::kOBEY_PRECISION_CONSTRAINTS);
#endif
}

// A layer on float tensors computes and gives float32: before 11.
inline void keep_float([[maybe_unused]] nvinfer1::ILayer& layer) {
#if NV_TENSORRT_MAJOR < 11
  bool computes = false;
  for (std::int32_t i = 0; i < layer.getNbOutputs(); ++i) {
    if (layer.getOutput(i)->getType() == nvinfer1::DataType::kFLOAT) {
      layer.setOutputType(i, nvinfer1::DataType::kFLOAT);
      computes = true;
    }
  }
  if (computes) {
    layer.setPrecision(nvinfer1::DataType::kFLOAT);
  }
#endif
}

// Kernels of TensorRT alone. Before 11 cuBLAS and cuDNN are sources, too: it opens them by name, and fails where they
// are not installed.
inline void use_own_kernels([[maybe_unused]] nvinfer1::IBuilderConfig& config) {
#if NV_TENSORRT_MAJOR < 11
  nvinfer1::TacticSources sources = config.getTacticSources();
  for (const nvinfer1::TacticSource source :
       {nvinfer1::TacticSource::kCUBLAS, nvinfer1::TacticSource::kCUBLAS_LT, nvinfer1::TacticSource::kCUDNN}) {
    sources &= ~(1U << static_cast<unsigned>(source));
  }
  config.setTacticSources(sources);
#endif
}

// Bytes that an execution context works in: 64 bits with an own name since 10.1, the only one since 11.
inline std::size_t context_bytes(const nvinfer1::ICudaEngine& engine) {
#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1)
  return static_cast<std::size_t>(engine.getDeviceMemorySizeV2());
#else
  return engine.getDeviceMemorySize();
#endif
}

// A context whose memory is the caller's: a strategy since 10, an own function before.
inline std::unique_ptr<nvinfer1::IExecutionContext> make_context(nvinfer1::ICudaEngine& engine) {
#if NV_TENSORRT_MAJOR >= 10
  return std::unique_ptr<nvinfer1::IExecutionContext>(
      engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
#else
  return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContextWithoutDeviceMemory());
#endif
}

// Gives it that memory: with its size since 10.1.
inline void set_memory(nvinfer1::IExecutionContext& context, void* memory, [[maybe_unused]] std::size_t bytes) {
#if NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1)
  context.setDeviceMemoryV2(memory, static_cast<std::int64_t>(bytes));
#else
  context.setDeviceMemory(memory);
#endif
}

// An error of the parser: with the node's name and operator since 10, with its number before.
inline std::string describe(const nvonnxparser::IParserError& error) {
#if NV_TENSORRT_MAJOR >= 10
  const auto text = [](const char* given) { return std::string(given == nullptr ? "" : given); };
  const std::string name = text(error.nodeName());
  const std::string node = name.empty() ? "" : "node " + name + " (" + text(error.nodeOperator()) + "): ";
#else
  const std::string node = error.node() < 0 ? "" : "node " + std::to_string(error.node()) + ": ";
#endif
  return node + (error.desc() == nullptr ? "no reason given" : error.desc());
}

// What a calibrator of TensorRT asks for. Nothing throws.
class CalibrationFeed {
 public:
  CalibrationFeed() = default;
  virtual ~CalibrationFeed() = default;
  CalibrationFeed(const CalibrationFeed&) = delete;
  CalibrationFeed& operator=(const CalibrationFeed&) = delete;

  virtual std::int32_t batch() const noexcept = 0;
  // Points bindings[i] at device memory with the next batch of names[i]; false at the end.
  virtual bool next(void** bindings, const char* const* names, std::int32_t count) noexcept = 0;
  virtual const void* read_cache(std::size_t& bytes) noexcept = 0;  // valid until the next call
  virtual void write_cache(const void* data, std::size_t bytes) noexcept = 0;
};

#if NV_TENSORRT_MAJOR < 11
template <typename Base>
class Calibrator final : public Base {
 public:
  explicit Calibrator(CalibrationFeed& feed) : feed_(feed) {}

  std::int32_t getBatchSize() const noexcept override { return feed_.batch(); }
  bool getBatch(void* bindings[], const char* names[], std::int32_t count) noexcept override {
    return feed_.next(bindings, names, count);
  }
  const void* readCalibrationCache(std::size_t& bytes) noexcept override { return feed_.read_cache(bytes); }
  void writeCalibrationCache(const void* data, std::size_t bytes) noexcept override { feed_.write_cache(data, bytes); }

 private:
  CalibrationFeed& feed_;
};
#endif

// Has the builder calibrate: before 11. What is returned must outlive the build, and `feed` that.
inline std::shared_ptr<void> calibrate([[maybe_unused]] nvinfer1::IBuilderConfig& config,
                                       [[maybe_unused]] CalibrationFeed& feed, [[maybe_unused]] bool min_max,
                                       [[maybe_unused]] const nvinfer1::IOptimizationProfile* profile) {
#if NV_TENSORRT_MAJOR < 11
  std::shared_ptr<nvinfer1::IInt8Calibrator> calibrator;
  if (min_max) {
    calibrator = std::make_shared<Calibrator<nvinfer1::IInt8MinMaxCalibrator>>(feed);
  } else {
    calibrator = std::make_shared<Calibrator<nvinfer1::IInt8EntropyCalibrator2>>(feed);
  }
  config.setInt8Calibrator(calibrator.get());
  if (profile != nullptr) {
    config.setCalibrationProfile(profile);
  }
  return calibrator;
#else
  return nullptr;
#endif
}

// Where device memory comes from. Thread-safe.
class MemorySource {
 public:
  virtual void* allocate(std::size_t bytes) noexcept = 0;  // null if there is not as much
  virtual void free(void* memory) noexcept = 0;

 protected:
  ~MemorySource() = default;
};

// Hands it to TensorRT. `free` has another name, too, before 10.
class Allocator final : public nvinfer1::IGpuAllocator {
 public:
  explicit Allocator(MemorySource& source) : source_(source) {}

  void* allocate(std::uint64_t size, std::uint64_t /*alignment*/,
                 nvinfer1::AllocatorFlags /*flags*/) noexcept override {
    return source_.allocate(static_cast<std::size_t>(size));
  }
  bool deallocate(void* memory) noexcept override {
    source_.free(memory);
    return true;
  }
#if NV_TENSORRT_MAJOR < 10
  void free(void* memory) noexcept override { source_.free(memory); }
#endif

 private:
  MemorySource& source_;
};

// Told of a phase, how many of its steps are done and how many there are; false stops the build. Throws nothing. Called
// from any thread.
using Progress = std::function<bool(const char* phase, std::int32_t step, std::int32_t of)>;

#if NV_TENSORRT_MAJOR >= 10
class ProgressMonitor final : public nvinfer1::IProgressMonitor {
 public:
  explicit ProgressMonitor(Progress progress) : progress_(std::move(progress)) {}

  // Phases within phases overlap: their length is not told.
  void phaseStart(const char* phase, const char* parent, std::int32_t steps) noexcept override {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      steps_[phase] = parent == nullptr ? steps : 0;
    } catch (const std::exception&) {
      return;  // out of memory: its length stays unknown
    }
  }
  bool stepComplete(const char* phase, std::int32_t step) noexcept override {
    std::int32_t of = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto found = steps_.find(phase);
      of = found == steps_.end() ? 0 : found->second;
    }
    return progress_(phase, step + 1, of);  // steps are counted from 0
  }
  void phaseFinish(const char* /*phase*/) noexcept override {}

 private:
  Progress progress_;
  std::mutex mutex_;
  std::map<std::string, std::int32_t, std::less<>> steps_;  // by phase
};
#endif

// Reports the build's progress: since 10. What is returned must outlive the build.
inline std::shared_ptr<void> report([[maybe_unused]] nvinfer1::IBuilderConfig& config,
                                    [[maybe_unused]] Progress progress) {
#if NV_TENSORRT_MAJOR >= 10
  auto monitor = std::make_shared<ProgressMonitor>(std::move(progress));
  config.setProgressMonitor(monitor.get());
  return monitor;
#else
  return nullptr;
#endif
}

}  // namespace edgedet::tensorrt::nv
