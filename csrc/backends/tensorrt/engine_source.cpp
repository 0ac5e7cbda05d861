#include "backends/tensorrt/engine_source.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string_view>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/float_layers.h"
#include "backends/tensorrt/library.h"
#include "common/files.h"
#include "common/sha256.h"

namespace edgedet::tensorrt {
namespace {

using Clock = std::chrono::steady_clock;
namespace fs = std::filesystem;

// In throughput mode a few images share a launch.
constexpr int kThroughputBatch = 4;

constexpr std::size_t kMaxCalibrationBytes = std::size_t{64} << 20U;

std::size_t mebibytes(int count) { return static_cast<std::size_t>(count) << 20U; }

// A file of a precision for this backend has its types spelt out; one for every backend is in float32.
Precision precision_of(const ModelSpec& spec, const DetectorOptions& options) {
  if (options.engine.calibrator != Calibrator::kNone) {
    return Precision::kInt8;
  }
  const auto files = spec.models.find(options.precision);
  if (files != spec.models.end() && files->second.count("tensorrt") != 0) {
    return Precision::kTyped;
  }
  if (options.precision == "int8") {
    // TensorRT takes unsigned Q/DQ for signed: such a file builds, and is wrong.
    throw Error(ErrorKind::kBundle, spec.folder +
                                        ": expected an int8 model for TensorRT, got one for other backends; make one "
                                        "with \"python -m calibration quantize --backend tensorrt\"");
  }
  return options.precision == "fp16" ? Precision::kFp16 : Precision::kFp32;
}

void set_batches(BuildOptions& build, const EngineOptions& engine, PerformanceMode mode) {
  const int usual = mode == PerformanceMode::kThroughput ? kThroughputBatch : 1;
  build.max_batch = engine.max_batch > 0 ? engine.max_batch : std::max(usual, engine.opt_batch);
  build.opt_batch = engine.opt_batch > 0 ? engine.opt_batch : std::min(usual, build.max_batch);
}

// Files about a device, of the same name for equal texts.
std::string digest(const std::vector<std::string>& texts) {
  Sha256 hash;
  for (const std::string& text : texts) {
    const std::string part = std::to_string(text.size()) + ":" + text;
    hash.update(part.data(), part.size());
  }
  return hash.hex_digest();
}

// The callbacks of a calibration, whose result is kept in `file`.
void set_calibration(Calibration& calibration, const EngineOptions& engine, const std::string& file) {
  if (!nv::kHasWeakTyping) {
    throw Error(ErrorKind::kBackend, "calibrator: expected TensorRT before 11, got " + library().version() +
                                         ", which has none; make an int8 model with \"python -m calibration quantize "
                                         "--backend tensorrt\" and leave the calibrator out");
  }
  if (engine.calibration.digest.empty()) {
    throw Error(ErrorKind::kInvalidInput,
                "calibrator: expected calibration images with a digest, got none; choose them with \"python -m "
                "calibration sample\" and build with \"edgedet build --calibrator\"");
  }
  calibration.method =
      engine.calibrator == Calibrator::kMinMax ? Calibration::Method::kMinMax : Calibration::Method::kEntropy;
  calibration.identity = engine.calibration.digest;
  calibration.next = engine.calibration.next;
  if (!file.empty()) {
    calibration.read_cache = [file] {
      const std::vector<char> kept = read_file(file, kMaxCalibrationBytes).value_or(std::vector<char>());
      return std::string(kept.begin(), kept.end());
    };
    calibration.write_cache = [file](std::string_view ranges) { write_file(file, {ranges}); };
  }
}

}  // namespace

EngineSource::EngineSource(const ModelSpec& spec, const std::string& model, const DetectorOptions& options,
                           const Gpu& gpu)
    : model_(model), folder_(options.cache_dir) {
  const EngineOptions& engine = options.engine;
  options_.device = engine.device;
  options_.precision = precision_of(spec, options);
  options_.workspace_bytes = mebibytes(engine.workspace_mb);
  options_.memory_limit = mebibytes(engine.memory_limit_mb);
  options_.dla_core = engine.dla_core;
  set_batches(options_, engine, options.mode);
  options_.outputs = spec.form == OutputForm::kLogitsBoxes
                         ? std::vector<std::string>{spec.logits, spec.boxes}
                         : std::vector<std::string>{spec.labels, spec.boxes, spec.scores};
  if (options.precision == "fp16" && !nv::kHasStrongTyping) {
    options_.float_layers = read_float_layers(spec.folder);
  }

  const std::string onnx = model_file(spec, model).sha256;
  const std::string tensorrt = library().version();
  const auto beside = [&](const std::string& name) {
    return folder_.empty() ? "" : (fs::path(folder_) / name).string();
  };
  const std::string capability = std::to_string(gpu.major) + "." + std::to_string(gpu.minor);
  options_.timing_cache =
      beside(digest({tensorrt, gpu.name, capability, std::to_string(gpu.driver_major)}).substr(0, 16) + ".timing");
  if (engine.calibrator != Calibrator::kNone) {
    Calibration& calibration = options_.calibration;
    calibration.batch = options_.opt_batch;  // TensorRT calibrates with the batch that it tunes for
    set_calibration(calibration, engine,
                    beside(digest({onnx, engine.calibration.digest, tensorrt,
                                   engine.calibrator == Calibrator::kMinMax ? "minmax" : "entropy",
                                   std::to_string(calibration.batch)}) +
                           ".calibration"));
  }
  key_.add("onnx", onnx).add("tensorrt", tensorrt).add("gpu", gpu.name).add("capability", capability);
  key_.add("driver", gpu.driver_major).add("options", canonical_text(options_));
}

bool EngineSource::kept() const { return is_kept(key_, folder_); }

std::vector<char> EngineSource::plan(EngineInfo& info, const BuildProgress& progress) const {
  const auto begin = Clock::now();
  info = {};
  std::vector<char> plan = load_or_build(key_, folder_, [&] {
    BuildOptions options = options_;
    options.progress = progress;
    Built built = build(model_, options);
    info.built = true;
    info.workspace_mb = static_cast<int>(built.workspace_bytes >> 20U);
    return std::move(built.plan);
  });
  if (!folder_.empty()) {
    info.path = engine_path(key_, folder_);
  }
  info.bytes = plan.size();
  info.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return plan;
}

}  // namespace edgedet::tensorrt
