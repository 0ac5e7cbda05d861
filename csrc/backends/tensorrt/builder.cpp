#include "backends/tensorrt/builder.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>

#include "backends/tensorrt/calibration_feed.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/memory_budget.h"
#include "backends/tensorrt/nv.h"
#include "common/cuda_raii.h"
#include "common/files.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

constexpr std::size_t kMaxOnnxBytes = std::size_t{2} << 30U;  // a limit of ONNX's own
constexpr std::size_t kMaxTimingCacheBytes = std::size_t{256} << 20U;
constexpr int kMaxParserErrors = 8;

[[noreturn]] void fail(ErrorKind kind, const std::string& message) { throw Error(kind, message); }

template <typename Object>
Object& made(const std::unique_ptr<Object>& object, const char* what, std::uint64_t mark) {
  if (!object) {
    fail(ErrorKind::kBackend,
         std::string("expected ") + what + " of TensorRT, got none; check the free memory" + said_since(mark));
  }
  return *object;
}

bool wants_strong_typing(const BuildOptions& options) {
  return !nv::kHasWeakTyping || (nv::kHasStrongTyping && options.precision == Precision::kTyped);
}

// What layers may work in: what was asked for, and at most half of what there is, for weights and tensors are there
// too.
std::size_t workspace_of(const BuildOptions& options) {
  constexpr std::size_t kLeast = std::size_t{32} << 20U;
  std::size_t free = 0;
  std::size_t total = 0;
  cuda::check_cuda(cudaMemGetInfo(&free, &total), "ask for free memory");
  const bool limited = options.memory_limit != 0 && options.memory_limit < free;
  const std::size_t half = (limited ? options.memory_limit : free) / 2;
  if (half < kLeast) {
    fail(ErrorKind::kBackend,
         "expected at least " + std::to_string(2 * kLeast >> 20U) +
             " MiB of device memory to build an engine in, got " +
             (limited ? "memory_limit_mb " + std::to_string(options.memory_limit >> 20U) + "; raise it"
                      : std::to_string(free >> 20U) + " MiB free of " + std::to_string(total >> 20U) +
                            "; close what else uses the GPU"));
  }
  return std::min(options.workspace_bytes, half);
}

// Hands progress on, one call at a time, until it says stop or throws.
class Report {
 public:
  explicit Report(const BuildProgress& progress) : progress_(progress) {}

  bool operator()(const char* phase, int step, int of) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      stopped_ = stopped_ || (progress_ && !progress_(phase, step, of));
    } catch (...) {
      error_ = std::current_exception();  // TensorRT could not pass it on
      stopped_ = true;
    }
    return !stopped_;
  }

  // Throws what progress threw, or says that it stopped the build.
  void check(const std::string& onnx) const {
    if (error_) {
      std::rethrow_exception(error_);
    }
    if (stopped_) {
      fail(ErrorKind::kBackend, onnx + ": expected an engine, got a build that was stopped; start it again");
    }
  }

 private:
  const BuildProgress& progress_;
  std::mutex mutex_;
  bool stopped_ = false;
  std::exception_ptr error_;
};

void parse(nvonnxparser::IParser& parser, const std::string& onnx, std::uint64_t mark) {
  const std::optional<std::vector<char>> model = read_file(onnx, kMaxOnnxBytes);
  if (!model) {
    fail(ErrorKind::kModel, onnx + ": expected an ONNX file of at most " + std::to_string(kMaxOnnxBytes >> 30U) +
                                " GiB, got none that can be read; check the path");
  }
  if (parser.parse(model->data(), model->size(), onnx.c_str())) {
    return;
  }
  std::string errors;
  for (int i = 0; i < std::min(parser.getNbErrors(), kMaxParserErrors); ++i) {
    errors += (errors.empty() ? "" : "; ") + nv::describe(*parser.getError(i));
  }
  fail(ErrorKind::kModel, onnx + ": expected a network that TensorRT " + library().version() +
                              " can parse, got: " + (errors.empty() ? "a refusal" : errors) +
                              "; export the model for this version" + said_since(mark));
}

// What of a network decides how it is built.
struct Contents {
  bool quantised = false;
  bool half = false;
};

Contents contents_of(const nvinfer1::INetworkDefinition& network) {
  Contents found;
  for (std::int32_t i = 0; i < network.getNbLayers(); ++i) {
    const nvinfer1::ILayer& layer = *network.getLayer(i);
    found.quantised = found.quantised || layer.getType() == nvinfer1::LayerType::kQUANTIZE;
    for (std::int32_t o = 0; o < layer.getNbOutputs(); ++o) {
      found.half = found.half || layer.getOutput(o)->getType() == nvinfer1::DataType::kHALF;
    }
  }
  return found;
}

void keep_outputs(nvinfer1::INetworkDefinition& network, const std::vector<std::string>& names,
                  const std::string& onnx) {
  if (names.empty()) {
    return;
  }
  for (std::int32_t i = network.getNbOutputs(); i-- > 0;) {
    nvinfer1::ITensor& output = *network.getOutput(i);
    if (std::find(names.begin(), names.end(), output.getName()) == names.end()) {
      network.unmarkOutput(output);
    }
  }
  if (network.getNbOutputs() == 0) {
    fail(ErrorKind::kModel, onnx + ": expected an output named \"" + names.front() +
                                "\" or another one of model.json, got none of them; correct the names in model.json");
  }
}

// What allows the builder which types; the rest of the types are the network's.
void set_precision(nvinfer1::INetworkDefinition& network, nvinfer1::IBuilderConfig& config,
                   const BuildOptions& options) {
  if (!options.tf32) {
    config.clearFlag(nvinfer1::BuilderFlag::kTF32);
  }
  if (wants_strong_typing(options)) {
    return;
  }
  const Contents contents = contents_of(network);
  const bool half = options.precision == Precision::kFp16 || (options.precision == Precision::kTyped && contents.half);
  const bool int8 =
      options.precision == Precision::kInt8 || (options.precision == Precision::kTyped && contents.quantised);
  nv::allow(config, half, int8);
  if (!half || options.float_layers.empty()) {
    return;
  }
  nv::obey_types(config);
  for (std::int32_t i = 0; i < network.getNbLayers(); ++i) {
    nvinfer1::ILayer& layer = *network.getLayer(i);
    const std::string_view name = layer.getName();
    if (std::find(options.float_layers.begin(), options.float_layers.end(), name) != options.float_layers.end()) {
      nv::keep_float(layer);
    }
  }
}

// 11 takes its types from the ONNX file, and nothing else can make it compute in others.
void check_precision(const nvinfer1::INetworkDefinition& network, const BuildOptions& options,
                     const std::string& onnx) {
  const bool asked = options.precision == Precision::kFp16 || options.precision == Precision::kInt8;
  const Contents contents = contents_of(network);
  const bool there = options.precision == Precision::kFp16 ? contents.half : contents.quantised;
  if (asked && wants_strong_typing(options) && !there) {
    fail(ErrorKind::kBackend, onnx + ": expected a model with the types of its layers spelt out, which TensorRT " +
                                  std::to_string(nv::kMajor) +
                                  " needs for anything but float32, got a float model; make one with \"python -m "
                                  "calibration half\" or \"quantize --backend tensorrt\"");
  }
  if (options.precision == Precision::kInt8 && !contents.quantised && options.calibration.identity.empty()) {
    fail(ErrorKind::kBackend, onnx +
                                  ": expected a model with Q/DQ or calibration images for int8, got neither; make "
                                  "one with \"python -m calibration quantize --backend tensorrt\"");
  }
}

nvinfer1::Dims with_batch(nvinfer1::Dims dims, int batch) {
  dims.d[0] = static_cast<nv::Extent>(batch);
  return dims;
}

bool has_free_axis_behind_batch(const nvinfer1::Dims& dims) {
  const int count = std::min(dims.nbDims, static_cast<int>(nvinfer1::Dims::MAX_DIMS));
  for (int i = 1; i < count; ++i) {
    if (dims.d[i] < 0) {
      return true;
    }
  }
  return false;
}

// The inputs with a free batch axis get the batches of the options. Null if there is none.
const nvinfer1::IOptimizationProfile* add_profile(nvinfer1::IBuilder& builder,
                                                  const nvinfer1::INetworkDefinition& network,
                                                  nvinfer1::IBuilderConfig& config, const BuildOptions& options,
                                                  const std::string& onnx, std::uint64_t mark) {
  nvinfer1::IOptimizationProfile* const profile = builder.createOptimizationProfile();  // the builder's own
  bool free = false;
  bool set = profile != nullptr;
  for (std::int32_t i = 0; set && i < network.getNbInputs(); ++i) {
    const nvinfer1::ITensor& input = *network.getInput(i);
    const nvinfer1::Dims dims = input.getDimensions();
    if (has_free_axis_behind_batch(dims)) {
      fail(ErrorKind::kModel, onnx + ": expected \"" + input.getName() +
                                  "\" with at most its batch axis free, got another free axis; export a fixed size");
    }
    if (dims.nbDims < 1 || dims.d[0] >= 0) {
      continue;
    }
    free = true;
    const auto dimensions = [&](nvinfer1::OptProfileSelector which, int batch) {
      return profile->setDimensions(input.getName(), which, with_batch(dims, batch));
    };
    set = dimensions(nvinfer1::OptProfileSelector::kMIN, options.min_batch) &&
          dimensions(nvinfer1::OptProfileSelector::kOPT, options.opt_batch) &&
          dimensions(nvinfer1::OptProfileSelector::kMAX, options.max_batch);
  }
  if (!set || (free && config.addOptimizationProfile(profile) < 0)) {
    fail(ErrorKind::kBackend, onnx + ": expected a profile of " + std::to_string(options.min_batch) + " to " +
                                  std::to_string(options.max_batch) +
                                  " images, got a refusal; choose other batch sizes" + said_since(mark));
  }
  return free ? profile : nullptr;
}

void use_dla(const nvinfer1::IBuilder& builder, nvinfer1::IBuilderConfig& config, int core) {
  if (core < 0) {
    return;
  }
  if (core >= builder.getNbDLACores()) {
    fail(ErrorKind::kBackend, "dla_core: expected one of " + std::to_string(builder.getNbDLACores()) +
                                  " DLA cores, counted from 0, got " + std::to_string(core) +
                                  "; leave it out for the GPU");
  }
  config.setDefaultDeviceType(nvinfer1::DeviceType::kDLA);
  config.setDLACore(core);
  config.setFlag(nvinfer1::BuilderFlag::kGPU_FALLBACK);  // few DETRs run on a DLA alone
}

// How long kernels took in earlier builds. A file that does not fit this device is left out and written anew.
std::unique_ptr<nvinfer1::ITimingCache> open_timing_cache(nvinfer1::IBuilderConfig& config, const std::string& path) {
  if (path.empty()) {
    return nullptr;
  }
  const std::vector<char> known = read_file(path, kMaxTimingCacheBytes).value_or(std::vector<char>());
  std::unique_ptr<nvinfer1::ITimingCache> cache;
  if (!known.empty()) {
    cache.reset(config.createTimingCache(known.data(), known.size()));
    if (cache && config.setTimingCache(*cache, false)) {
      return cache;
    }
  }
  cache.reset(config.createTimingCache(nullptr, 0));
  if (cache && !config.setTimingCache(*cache, false)) {
    cache.reset();
  }
  return cache;
}

void save_timing_cache(const nvinfer1::ITimingCache* cache, const std::string& path) {
  const std::unique_ptr<nvinfer1::IHostMemory> data(cache == nullptr ? nullptr : cache->serialize());
  if (!data || data->size() == 0) {
    return;
  }
  try {
    write_file(path, {std::string_view(static_cast<const char*>(data->data()), data->size())});
  } catch (const Error&) {
    return;  // the engine is built, and the next build will be slower, not different
  }
}

// The image input, which is what calibrates.
const nvinfer1::ITensor& image_input(const nvinfer1::INetworkDefinition& network, const std::string& onnx) {
  for (std::int32_t i = 0; i < network.getNbInputs(); ++i) {
    if (network.getInput(i)->getDimensions().nbDims == 4) {
      return *network.getInput(i);
    }
  }
  fail(ErrorKind::kModel, onnx + ": expected an input of shape (N, 3, height, width), got none; check the export");
}

std::size_t values_of(const nvinfer1::ITensor& image) {
  const nvinfer1::Dims dims = image.getDimensions();
  std::size_t values = 1;
  for (int i = 1; i < dims.nbDims; ++i) {
    values *= static_cast<std::size_t>(dims.d[i]);
  }
  return values;
}

}  // namespace

Built build(const std::string& onnx, const BuildOptions& options) {
  static_cast<void>(canonical_text(options));  // checks them
  const Library& tensorrt = library();
  const cuda::DeviceScope scope(options.device);
  Built built;
  built.workspace_bytes = workspace_of(options);

  // Every object goes before the one that made it, and what TensorRT calls goes last.
  MemoryBudget budget(options.memory_limit);
  Report report(options.progress);
  std::shared_ptr<void> monitor;
  std::unique_ptr<CallbackFeed> feed;
  std::shared_ptr<void> calibrator;
  const std::uint64_t mark = logger().mark();
  const std::unique_ptr<nvinfer1::IBuilder> builder = tensorrt.make_builder();
  if (budget.allocator() != nullptr) {
    builder->setGpuAllocator(budget.allocator());
  }
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(
      builder->createNetworkV2(nv::network_flags(wants_strong_typing(options))));
  made(network, "a network", mark);
  const std::unique_ptr<nvonnxparser::IParser> parser = tensorrt.make_parser(*network);  // holds the weights
  parse(*parser, onnx, mark);
  check_precision(*network, options, onnx);
  keep_outputs(*network, options.outputs, onnx);

  const std::unique_ptr<nvinfer1::IBuilderConfig> made_config(builder->createBuilderConfig());
  nvinfer1::IBuilderConfig& config = made(made_config, "a configuration", mark);
  config.setMemoryPoolLimit(nvinfer1::MemoryPoolType::kWORKSPACE, built.workspace_bytes);
  config.setProfilingVerbosity(nvinfer1::ProfilingVerbosity::kDETAILED);
  nv::use_own_kernels(config);
  set_precision(*network, config, options);
  use_dla(*builder, config, options.dla_core);
  const nvinfer1::IOptimizationProfile* const profile = add_profile(*builder, *network, config, options, onnx, mark);
  const std::unique_ptr<nvinfer1::ITimingCache> timing = open_timing_cache(config, options.timing_cache);
  if (options.progress) {
    monitor = nv::report(config, [&report](const char* phase, int step, int of) { return report(phase, step, of); });
  }
  if (options.precision == Precision::kInt8 && nv::kHasWeakTyping && !contents_of(*network).quantised) {
    const nvinfer1::ITensor& image = image_input(*network, onnx);
    feed = std::make_unique<CallbackFeed>(options.calibration, image.getName(), values_of(image),
                                          [&report](int batches) { return report("calibration", batches, 0); });
    calibrator = nv::calibrate(config, *feed, options.calibration.method == Calibration::Method::kMinMax, profile);
  }

  const std::unique_ptr<nvinfer1::IHostMemory> plan(builder->buildSerializedNetwork(*network, config));
  report.check(onnx);
  if (feed) {
    feed->rethrow();
  }
  if (!plan || plan->size() == 0) {
    fail(ErrorKind::kBackend, onnx +
                                  ": expected an engine, got a failed build; raise workspace_mb, close what else "
                                  "uses the GPU, or try another precision" +
                                  budget.refusal() + said_since(mark));
  }
  save_timing_cache(timing.get(), options.timing_cache);
  const auto* const data = static_cast<const char*>(plan->data());
  built.plan.assign(data, data + plan->size());
  return built;
}

}  // namespace edgedet::tensorrt
