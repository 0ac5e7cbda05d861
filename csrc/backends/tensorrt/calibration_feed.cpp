#include "backends/tensorrt/calibration_feed.h"

#include <string_view>
#include <utility>

#include "edgedet/error.h"

namespace edgedet::tensorrt {

CallbackFeed::CallbackFeed(const Calibration& calibration, std::string input, std::size_t values,
                           std::function<bool(int)> fed)
    : calibration_(calibration), input_(std::move(input)), fed_(std::move(fed)) {
  if (calibration_.next) {
    host_.resize(static_cast<std::size_t>(calibration_.batch) * values);
    device_ = cuda::make_device_buffer(host_.size() * sizeof(float));
  }
}

template <typename Body>
bool CallbackFeed::guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    error_ = std::current_exception();
    return false;
  }
}

bool CallbackFeed::next(void** bindings, const char* const* names, std::int32_t count) noexcept {
  return guarded([&] {
    if (!calibration_.next) {
      throw Error(ErrorKind::kInvalidInput,
                  "calibrator: expected calibration images, got none and no calibration that was kept; build the "
                  "engine with \"edgedet build --calibrator\"");
    }
    if (!calibration_.next(host_.data(), host_.size())) {
      return false;
    }
    if (!fed_(++batches_)) {
      stopped_ = true;
      return false;
    }
    cuda::check_cuda(cudaMemcpy(device_.data(), host_.data(), device_.bytes(), cudaMemcpyHostToDevice),
                     "upload a calibration batch");
    for (std::int32_t i = 0; i < count; ++i) {
      if (input_ != names[i]) {
        throw Error(ErrorKind::kModel, "expected calibration of a model with one input, got \"" +
                                           std::string(names[i]) + "\", too; use a Q/DQ model");
      }
      bindings[i] = device_.data();
    }
    return true;
  });
}

const void* CallbackFeed::read_cache(std::size_t& bytes) noexcept {
  cache_.clear();
  guarded([&] {
    if (calibration_.read_cache) {
      cache_ = calibration_.read_cache();
    }
    return true;
  });
  bytes = cache_.size();
  return cache_.empty() ? nullptr : cache_.data();
}

void CallbackFeed::write_cache(const void* data, std::size_t bytes) noexcept {
  guarded([&] {
    // TensorRT takes a failure for the end of the images: ranges of some of them must not be kept for those of all.
    if (calibration_.write_cache && !error_ && !stopped_) {
      calibration_.write_cache(std::string_view(static_cast<const char*>(data), bytes));
    }
    return true;
  });
}

void CallbackFeed::rethrow() const {
  if (error_) {
    std::rethrow_exception(error_);
  }
}

}  // namespace edgedet::tensorrt
