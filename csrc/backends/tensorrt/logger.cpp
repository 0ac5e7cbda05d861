#include "backends/tensorrt/logger.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

namespace edgedet::tensorrt {

void Logger::log(Severity severity, const char* message) noexcept {
  if (message == nullptr || severity > Severity::kWARNING) {
    return;
  }
  try {
    std::string text(message, std::min(std::strlen(message), kMaxLength));
    std::replace_if(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20U; }, ' ');
    const std::lock_guard<std::mutex> lock(mutex_);
    std::deque<Line>& lines = severity == Severity::kWARNING ? warnings_ : errors_;
    lines.push_back({++count_, std::move(text)});
    if (lines.size() > kMaxLines) {
      lines.pop_front();
    }
  } catch (const std::exception&) {
    return;  // out of memory: a line less
  }
}

std::uint64_t Logger::mark() const noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

std::string Logger::since(std::uint64_t mark) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::string text;
  for (const std::deque<Line>* lines : {&errors_, &warnings_}) {
    for (const Line& line : *lines) {
      if (line.number > mark) {
        text += (text.empty() ? "" : "; ") + line.text;
      }
    }
  }
  return text;
}

Logger& logger() {
  static auto* instance = new Logger;
  return *instance;
}

std::string said_since(std::uint64_t mark) {
  const std::string text = logger().since(mark);
  return text.empty() ? "" : " (TensorRT says: " + text + ")";
}

}  // namespace edgedet::tensorrt
