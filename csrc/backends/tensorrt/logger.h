// Keeps what TensorRT says, for messages of errors; prints nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

#include "backends/tensorrt/nv.h"

namespace edgedet::tensorrt {

class Logger final : public nvinfer1::ILogger {
 public:
  static constexpr std::size_t kMaxLines = 8;  // of errors, and as many of warnings
  static constexpr std::size_t kMaxLength = 600;

  void log(Severity severity, const char* message) noexcept override;

  // Where the log stands now.
  std::uint64_t mark() const noexcept;

  // What was kept since `mark`, errors before warnings, "; " between lines; empty if nothing was said. Lines of builds
  // that run at the same time are among them.
  std::string since(std::uint64_t mark) const;

 private:
  struct Line {
    std::uint64_t number = 0;
    std::string text;
  };

  mutable std::mutex mutex_;
  std::uint64_t count_ = 0;
  std::deque<Line> errors_;
  std::deque<Line> warnings_;
};

// One per process and never destroyed: TensorRT keeps the first logger that it is given and calls no other.
Logger& logger();

// " (TensorRT says: ...)" with what was said since `mark`, or nothing.
std::string said_since(std::uint64_t mark);

}  // namespace edgedet::tensorrt
