#include "benchmark/image.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>

#include "benchmark/orientation.h"
#include "edgedet/error.h"

namespace edgedet::bench {

namespace {

constexpr std::int64_t kMaxSide = 65535;
constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 30U;

std::string file_bytes(const std::string& path) {
  std::error_code code;
  const std::filesystem::file_status status = std::filesystem::status(path, code);
  if (!std::filesystem::exists(status)) {
    fail(path, "no such file; check the path");
  }
  if (!std::filesystem::is_regular_file(status)) {
    fail(path, "expected an image file, got something else");
  }
  const std::uintmax_t size = std::filesystem::file_size(path, code);
  if (code || size > kMaxFileBytes) {
    fail(path, code ? "its size cannot be read" : "expected at most 1 GB; shrink the image");
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file) {
    fail(path, "the file cannot be read; check its permissions");
  }
  return bytes;
}

Decoded decode(std::string_view bytes, const std::string& name) {
  if (bytes.substr(0, 3) == "\xFF\xD8\xFF") {
    return decode_jpeg(bytes, name);
  }
  if (bytes.substr(0, 8) == std::string_view("\x89PNG\r\n\x1A\n", 8)) {
    return decode_png(bytes, name);
  }
  if (bytes.substr(0, 2) == "P6") {
    return decode_ppm(bytes, name);
  }
  fail(name, "expected a JPEG, PNG or binary PPM image; convert the file");
}

// A decimal number of a PPM header and the white space and comments before it; `at` moves behind it.
std::int64_t header_number(std::string_view bytes, std::size_t& at, const std::string& name) {
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (at < bytes.size() && (is_space(bytes[at]) || bytes[at] == '#')) {
    at = bytes[at] == '#' ? std::min(bytes.find('\n', at), bytes.size()) : at + 1;
  }
  std::int64_t value = 0;
  std::size_t digits = 0;
  for (; at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9' && digits < 9; ++at, ++digits) {
    value = 10 * value + (bytes[at] - '0');
  }
  if (digits == 0) {
    fail(name, "damaged PPM header");
  }
  return value;
}

}  // namespace

void fail(const std::string& name, const std::string& problem) {
  throw Error(ErrorKind::kImage, name + ": " + problem);
}

void check_size(std::int64_t width, std::int64_t height, const std::string& name) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide || width * height > kMaxPixels) {
    fail(name, std::to_string(width) + "x" + std::to_string(height) + " is outside the limits (1 to " +
                   std::to_string(kMaxSide) + " pixels a side, " + std::to_string(kMaxPixels) +
                   " in all); shrink the image");
  }
}

Decoded decode_ppm(std::string_view bytes, const std::string& name) {
  std::size_t at = 2;
  const std::int64_t width = header_number(bytes, at, name);
  const std::int64_t height = header_number(bytes, at, name);
  const std::int64_t maximum = header_number(bytes, at, name);
  if (maximum != 255) {
    fail(name, "expected a PPM of 8 bits (maximum 255), got maximum " + std::to_string(maximum) + "; convert the file");
  }
  check_size(width, height, name);
  const auto size = static_cast<std::size_t>(3 * width * height);
  ++at;  // the one white space character that ends the header
  if (at > bytes.size() || bytes.size() - at < size) {
    fail(name, "the file is truncated");
  }
  Decoded decoded;
  decoded.image.width = static_cast<std::int32_t>(width);
  decoded.image.height = static_cast<std::int32_t>(height);
  const auto* pixels = reinterpret_cast<const std::uint8_t*>(bytes.data()) + at;
  decoded.image.rgb.assign(pixels, pixels + size);
  return decoded;
}

Image read_image(const std::string& path) {
  const std::string bytes = file_bytes(path);
  Decoded decoded = decode(bytes, path);
  return oriented(std::move(decoded.image), decoded.orientation);
}

std::vector<std::string> list_images(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(folder, code)) {
    std::string suffix = entry.path().extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".ppm") {
      paths.push_back(entry.path().string());
    }
  }
  if (code) {
    fail(folder, "the folder cannot be read: " + code.message());
  }
  if (paths.empty()) {
    fail(folder, "no image in this folder; expected files ending in .jpg, .jpeg, .png or .ppm");
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace edgedet::bench
