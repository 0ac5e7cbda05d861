#include "backends/tensorrt/build_options.h"

#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return "fp32";
    case Precision::kFp16:
      return "fp16";
    case Precision::kInt8:
      return "int8";
    case Precision::kTyped:
      break;
  }
  return "typed";
}

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

void check(const BuildOptions& options) {
  constexpr int kMaxBatch = 4096;
  if (options.min_batch < 1 || options.opt_batch < options.min_batch || options.max_batch < options.opt_batch ||
      options.max_batch > kMaxBatch) {
    refuse("batch: expected 1 <= min <= opt <= max <= " + std::to_string(kMaxBatch) + ", got " +
           std::to_string(options.min_batch) + ", " + std::to_string(options.opt_batch) + ", " +
           std::to_string(options.max_batch));
  }
  if (options.dla_core < -1) {
    refuse("dla_core: expected -1 (none) or more, got " + std::to_string(options.dla_core));
  }
  if (options.dla_core >= 0 && options.precision == Precision::kFp32) {
    refuse("dla_core: expected half precision or int8, which is all that a DLA computes in, got fp32");
  }
  if (!options.calibration.identity.empty() &&
      (options.calibration.batch < 1 || options.calibration.batch > kMaxBatch)) {
    refuse("calibration batch: expected 1 to " + std::to_string(kMaxBatch) + ", got " +
           std::to_string(options.calibration.batch));
  }
}

}  // namespace

std::string canonical_text(const BuildOptions& options) {
  check(options);
  std::string text;
  const auto add = [&text](const char* name, const std::string& value) {
    text.append(name).append("=").append(std::to_string(value.size())).append(":").append(value).append("\n");
  };
  const auto add_list = [&](const char* name, const std::vector<std::string>& values) {
    add(name, std::to_string(values.size()));
    for (const std::string& value : values) {
      add(name, value);
    }
  };
  add("precision", name_of(options.precision));
  add("tf32", options.tf32 ? "1" : "0");
  add("workspace", std::to_string(options.workspace_bytes));
  add("memory_limit", std::to_string(options.memory_limit));
  add("min_batch", std::to_string(options.min_batch));
  add("opt_batch", std::to_string(options.opt_batch));
  add("max_batch", std::to_string(options.max_batch));
  add("dla_core", std::to_string(options.dla_core));
  add_list("output", options.outputs);
  add_list("float_layer", options.float_layers);
  if (!options.calibration.identity.empty()) {
    add("calibration", options.calibration.method == Calibration::Method::kEntropy ? "entropy" : "minmax");
    add("calibration_batch", std::to_string(options.calibration.batch));
    add("calibration_identity", options.calibration.identity);
  }
  return text;
}

}  // namespace edgedet::tensorrt
