#include "measure/files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "common/decimal.h"

namespace edgedet::telemetry {

namespace fs = std::filesystem;

std::optional<std::string> read_text(const std::string& path, std::string& reason) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    reason = path + ": " + std::strerror(errno);
    return std::nullopt;
  }
  constexpr std::size_t kMost = 65536;
  std::string text;
  std::array<char, 4096> part;
  ssize_t got = 0;
  while (text.size() < kMost && (got = read(file, part.data(), part.size())) > 0) {
    text.append(part.data(), static_cast<std::size_t>(got));
  }
  const int code = errno;
  close(file);
  if (got < 0) {
    reason = path + ": " + std::strerror(code);
    return std::nullopt;
  }
  constexpr std::string_view kSpace(" \t\r\n\0", 5);
  const std::size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

std::optional<double> leading_number(std::string_view text) {
  double value = 0.0;
  return parse_decimal(text.substr(0, text.find_first_not_of("0123456789.eE+-")), value) ? std::optional(value)
                                                                                         : std::nullopt;
}

std::optional<double> read_number(const std::string& path, std::string& reason) {
  const std::optional<std::string> text = read_text(path, reason);
  if (!text) {
    return std::nullopt;
  }
  const std::optional<double> value = leading_number(*text);
  if (!value) {
    reason = path + ": expected a number, got \"" + text->substr(0, 40) + "\"";
  }
  return value;
}

Read reader(std::string path, double scale) {
  return [path = std::move(path), scale](std::string& reason) {
    std::optional<double> value = read_number(path, reason);
    if (value) {
      *value *= scale;
    }
    return value;
  };
}

std::vector<std::string> list(const std::string& folder, std::string_view begin, std::string_view end) {
  std::vector<std::string> paths;
  std::error_code failed;
  for (fs::directory_iterator entry(folder, failed), last; !failed && entry != last; entry.increment(failed)) {
    const std::string name = entry->path().filename().string();
    if (name.size() >= begin.size() + end.size() && name.compare(0, begin.size(), begin) == 0 &&
        name.compare(name.size() - end.size(), end.size(), end) == 0) {
      paths.push_back(entry->path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace edgedet::telemetry
