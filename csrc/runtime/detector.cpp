#include "edgedet/detector.h"

#include <algorithm>

#include "common/validate.h"
#include "runtime/backend.h"

namespace edgedet {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

void validate(const DetectorOptions& options) {
  constexpr int kMaxThreads = 1024;
  if (options.threads < 0 || options.threads > kMaxThreads) {
    refuse("threads: expected 0 (all) to " + std::to_string(kMaxThreads) + ", got " + std::to_string(options.threads));
  }
  if (options.requests < 0 || options.requests > kMaxThreads) {
    refuse("requests: expected 0 (automatic) to " + std::to_string(kMaxThreads) + ", got " +
           std::to_string(options.requests));
  }
  if (!(options.score_threshold >= 0.F && options.score_threshold <= 1.F)) {
    refuse("score_threshold: expected a number in [0, 1], got " + std::to_string(options.score_threshold));
  }
  if (options.max_detections < 0) {
    refuse("max_detections: expected 0 (the model's own) or more, got " + std::to_string(options.max_detections));
  }
}

void check(const ImageView* images, std::size_t count) {
  if (images == nullptr && count > 0) {
    refuse("images: expected a pointer to " + std::to_string(count) + " images, got null");
  }
  for (std::size_t i = 0; i < count; ++i) {
    edgedet::validate(images[i]);
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

class Detector::Impl {
 public:
  Impl(const std::string& bundle, DetectorOptions options) {
    validate(options);
    const BackendEntry& entry = choose_backend(options.backend);
    backend_name_ = entry.name;
    spec_ = load_model_spec(bundle);
    const std::string chosen = choose_precision(spec_, backend_name_, options.precision);
    precision_ = options.precision = possible_precision(chosen, entry.probe(), options.precision);
    if (options.max_detections == 0 || options.max_detections > spec_.info.max_detections) {
      options.max_detections = spec_.info.max_detections;
    }
    spec_.info.max_detections = options.max_detections;
    backend_ = entry.make(spec_, model_path(spec_, backend_name_, precision_), options);
  }

  ModelSpec spec_;
  std::string backend_name_;
  std::string precision_;
  std::unique_ptr<Backend> backend_;
};

Detector::Detector(const std::string& bundle, const DetectorOptions& options)
    : impl_(std::make_unique<Impl>(bundle, options)) {}
Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

const ModelInfo& Detector::info() const noexcept { return impl_->spec_.info; }
const std::string& Detector::backend() const noexcept { return impl_->backend_name_; }
const std::string& Detector::precision() const noexcept { return impl_->precision_; }
std::string Detector::device() const { return impl_->backend_->device(); }
int Detector::threads() const noexcept { return impl_->backend_->threads(); }
int Detector::requests() const noexcept { return impl_->backend_->requests(); }

void Detector::detect(const ImageView* images, std::size_t count, std::vector<std::vector<Detection>>& out,
                      StageTimes* times) const {
  check(images, count);
  out.resize(count);
  StageTimes spent;
  impl_->backend_->detect(images, count, out.data(), spent);
  if (times != nullptr) {
    *times = spent;
  }
}

std::vector<Tensor> Detector::infer(const float* input, std::size_t batch) const {
  if (input == nullptr && batch > 0) {
    refuse("input: expected a pointer to a batch of " + std::to_string(batch) + ", got null");
  }
  return impl_->backend_->infer(input, batch);
}

PartTimes Detector::time_parts(const ImageView* images, std::size_t count, int calls) const {
  check(images, count);
  if (count < 1 || calls < 1) {
    refuse("expected images and calls, 1 or more of each, got " + std::to_string(count) + " and " +
           std::to_string(calls));
  }
  return impl_->backend_->time_parts(images, count, calls);
}

std::string Detector::gpu() const { return impl_->backend_->gpu(); }

std::vector<ExecutionNode> Detector::execution_graph() const { return impl_->backend_->execution_graph(); }

}  // namespace edgedet
