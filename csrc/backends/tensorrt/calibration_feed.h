// Feeds TensorRT's calibrators from the callbacks of a Calibration.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "backends/tensorrt/build_options.h"
#include "backends/tensorrt/nv.h"
#include "common/cuda_raii.h"

namespace edgedet::tensorrt {

class CallbackFeed final : public nv::CalibrationFeed {
 public:
  // `input` is the name of the image input, `values` are the numbers of one image. `fed` is told how many batches there
  // were so far; false ends them.
  CallbackFeed(const Calibration& calibration, std::string input, std::size_t values, std::function<bool(int)> fed);

  std::int32_t batch() const noexcept override { return calibration_.batch; }
  bool next(void** bindings, const char* const* names, std::int32_t count) noexcept override;
  const void* read_cache(std::size_t& bytes) noexcept override;
  void write_cache(const void* data, std::size_t bytes) noexcept override;

  // Throws what a callback threw, which TensorRT could not pass on.
  void rethrow() const;

 private:
  template <typename Body>
  bool guarded(Body&& body) noexcept;

  const Calibration& calibration_;
  std::string input_;
  std::function<bool(int)> fed_;
  int batches_ = 0;
  bool stopped_ = false;
  std::vector<float> host_;
  cuda::DeviceBuffer device_;
  std::string cache_;
  std::exception_ptr error_;
};

}  // namespace edgedet::tensorrt
