#include "runtime/choice.h"

#include <algorithm>

namespace edgedet {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// `zero` says what 0 means.
void check_range(const char* name, int value, int least, int most, const char* zero) {
  if (value < least || value > most) {
    refuse(std::string(name) + ": expected " + std::to_string(least) + (zero[0] == '\0' ? "" : " (") + zero +
           (zero[0] == '\0' ? "" : ")") + " to " + std::to_string(most) + ", got " + std::to_string(value));
  }
}

void validate(const EngineOptions& options) {
  constexpr int kMaxDevices = 1024;
  constexpr int kMaxMegabytes = 1 << 20;
  constexpr int kMaxBatch = 4096;
  check_range("device", options.device, 0, kMaxDevices, "");
  check_range("workspace_mb", options.workspace_mb, 1, kMaxMegabytes, "");
  check_range("memory_limit_mb", options.memory_limit_mb, 0, kMaxMegabytes, "no limit");
  check_range("dla_core", options.dla_core, -1, kMaxDevices, "");
  check_range("min_batch", options.min_batch, 0, 1, "automatic");
  check_range("opt_batch", options.opt_batch, 0, kMaxBatch, "automatic");
  check_range("max_batch", options.max_batch, 0, kMaxBatch, "automatic");
  if (options.opt_batch > 0 && options.max_batch > 0 && options.opt_batch > options.max_batch) {
    refuse("batch: expected opt_batch of at most max_batch, got " + std::to_string(options.opt_batch) + " and " +
           std::to_string(options.max_batch));
  }
}

void validate(const DetectorOptions& options) {
  constexpr int kMaxThreads = 1024;
  check_range("threads", options.threads, 0, kMaxThreads, "all");
  check_range("requests", options.requests, 0, kMaxThreads, "automatic");
  if (!(options.score_threshold >= 0.F && options.score_threshold <= 1.F)) {
    refuse("score_threshold: expected a number in [0, 1], got " + std::to_string(options.score_threshold));
  }
  if (options.max_detections < 0) {
    refuse("max_detections: expected 0 (the model's own) or more, got " + std::to_string(options.max_detections));
  }
  validate(options.engine);
  if (options.engine.calibrator != Calibrator::kNone && options.precision != "int8" && options.precision != "auto") {
    refuse("calibrator: expected precision int8, which is what it is for, got " + options.precision);
  }
}

// A backend without engines has none of these, and must not pass over that in silence.
void check_engine_options(const BackendEntry& entry, const EngineOptions& options) {
  if (entry.prepare != nullptr) {
    return;
  }
  const char* const option = options.device != 0                       ? "device"
                             : options.dla_core >= 0                   ? "dla_core"
                             : options.calibrator != Calibrator::kNone ? "calibrator"
                                                                       : nullptr;
  if (option != nullptr) {
    refuse(std::string(option) + ": expected a backend that builds engines (tensorrt), got " + entry.name +
           "; leave the option out, or see \"edgedet doctor\" for why tensorrt is not there");
  }
}

// The precision that runs: `precision` if this device computes in it, else float32 where the choice was left to us.
std::string possible_precision(const std::string& precision, const BackendInfo& here, const std::string& requested) {
  if (std::find(here.precisions.begin(), here.precisions.end(), precision) != here.precisions.end()) {
    return precision;
  }
  if (requested == "auto") {
    return "fp32";
  }
  std::string list;
  for (const std::string& name : here.precisions) {
    list.append(list.empty() ? "" : ", ").append(name);
  }
  throw Error(ErrorKind::kBackend, "precision: expected one that " + here.detail + " computes in (" + list + "), got " +
                                       precision + "; choose auto or one of these");
}

}  // namespace

Choice choose(const std::string& bundle, const DetectorOptions& options, FileCheck check) {
  validate(options);
  Choice choice;
  choice.options = options;
  choice.entry = &choose_backend(options.backend, options.engine.device);
  check_engine_options(*choice.entry, options.engine);
  choice.spec = load_model_spec(bundle, check);
  const std::string backend = choice.entry->name;
  const BackendInfo here = choice.entry->probe(options.engine.device);
  if (options.engine.calibrator != Calibrator::kNone) {
    choice.options.precision = possible_precision("int8", here, "int8");
    choice.model = model_path(choice.spec, backend, "fp32");  // the ranges come from the calibrator
  } else {
    const std::string chosen = choose_precision(choice.spec, backend, options.precision);
    choice.options.precision = possible_precision(chosen, here, options.precision);
    choice.model = model_path(choice.spec, backend, choice.options.precision);
  }
  int& rows = choice.options.max_detections;
  if (rows == 0 || rows > choice.spec.info.max_detections) {
    rows = choice.spec.info.max_detections;
  }
  choice.spec.info.max_detections = rows;
  return choice;
}

}  // namespace edgedet
