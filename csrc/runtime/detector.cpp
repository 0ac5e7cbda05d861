#include "edgedet/detector.h"

#include <mutex>
#include <utility>

#include "common/validate.h"
#include "runtime/choice.h"

namespace edgedet {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// A bundle that runs.
struct Pipeline {
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const RunInfo> info;  // on its own: who keeps it keeps no engine
};

void check(const ImageView* images, std::size_t count) {
  if (images == nullptr && count > 0) {
    refuse("images: expected a pointer to " + std::to_string(count) + " images, got null");
  }
  for (std::size_t i = 0; i < count; ++i) {
    edgedet::validate(images[i]);
  }
}

std::shared_ptr<const Pipeline> make_pipeline(const std::string& bundle, const DetectorOptions& options) {
  const Choice choice = choose(bundle, options, FileCheck::kFull);
  auto made = std::make_shared<Pipeline>();
  made->backend = choice.entry->make(choice.spec, choice.model, choice.options);
  const Backend& backend = *made->backend;
  made->info =
      std::make_shared<RunInfo>(RunInfo{choice.spec.info, choice.entry->name, choice.options.precision,
                                        backend.device(), backend.threads(), backend.requests(), backend.engine()});
  return made;
}

}  // namespace

class Detector::Impl {
 public:
  Impl(const std::string& bundle, const DetectorOptions& options)
      : options_(options), pipeline_(make_pipeline(bundle, options)) {}

  // Who holds it may go on with it whatever is swapped in.
  std::shared_ptr<const Pipeline> pipeline() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return pipeline_;
  }

  // Null options: those of before.
  void swap(const std::string& bundle, const DetectorOptions* options) {
    const std::lock_guard<std::mutex> one_at_a_time(swapping_);
    DetectorOptions wanted = options == nullptr ? options_ : *options;
    std::shared_ptr<const Pipeline> made = make_pipeline(bundle, wanted);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      pipeline_.swap(made);
    }
    options_ = std::move(wanted);
  }  // the old one goes here, outside of the lock, or with the last call that it runs

 private:
  std::mutex swapping_;
  DetectorOptions options_;   // guarded by swapping_
  mutable std::mutex mutex_;  // held for moments only
  std::shared_ptr<const Pipeline> pipeline_;
};

Detector::Detector(const std::string& bundle, const DetectorOptions& options)
    : impl_(std::make_unique<Impl>(bundle, options)) {}
Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

void Detector::swap(const std::string& bundle) { impl_->swap(bundle, nullptr); }
void Detector::swap(const std::string& bundle, const DetectorOptions& options) { impl_->swap(bundle, &options); }

std::shared_ptr<const RunInfo> Detector::running() const { return impl_->pipeline()->info; }

std::shared_ptr<const RunInfo> Detector::detect(const ImageView* images, std::size_t count,
                                                std::vector<std::vector<Detection>>& out, StageTimes* times,
                                                const ImageSource& source) const {
  check(images, count);
  out.resize(count);
  StageTimes spent;
  const std::shared_ptr<const Pipeline> pipeline = impl_->pipeline();
  pipeline->backend->detect(images, count, source, out.data(), spent);
  if (times != nullptr) {
    *times = spent;
  }
  return pipeline->info;
}

std::vector<Tensor> Detector::infer(const float* input, std::size_t batch) const {
  if (input == nullptr && batch > 0) {
    refuse("input: expected a pointer to a batch of " + std::to_string(batch) + ", got null");
  }
  return impl_->pipeline()->backend->infer(input, batch);
}

PartTimes Detector::time_parts(const ImageView* images, std::size_t count, int calls) const {
  check(images, count);
  if (count < 1 || calls < 1) {
    refuse("expected images and calls, 1 or more of each, got " + std::to_string(count) + " and " +
           std::to_string(calls));
  }
  return impl_->pipeline()->backend->time_parts(images, count, calls);
}

std::string Detector::gpu() const { return impl_->pipeline()->backend->gpu(); }

std::vector<ExecutionNode> Detector::execution_graph() const { return impl_->pipeline()->backend->execution_graph(); }

}  // namespace edgedet
