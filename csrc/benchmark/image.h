// Image files to RGB bytes, for the benchmark: JPEG and PNG where the build found their libraries, and binary PPM.
// Pixels equal those of edgedet.read_image in Python (Pillow): EXIF orientation applied, alpha dropped, 16-bit colour
// cut to its high byte, one-channel 16-bit refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgedet/types.h"

namespace edgedet::bench {

// Largest width x height that is decoded; checked against the header, before pixels are allocated.
constexpr std::int64_t kMaxPixels = 100'000'000;

struct Image {
  std::int32_t width = 0;
  std::int32_t height = 0;
  std::vector<std::uint8_t> rgb;  // interleaved, no padding

  ImageView view() const {
    return {rgb.data(), width, height, std::ptrdiff_t{3} * width, PixelFormat::kRgb, nullptr, 0};
  }
};

// What a decoder finds in a file.
struct Decoded {
  Image image;
  int orientation = 1;  // EXIF, 1 to 8
};

// Throws Error(kImage) with `name` in front for whatever cannot be decoded.
Image read_image(const std::string& path);

// The image files of a folder that this build can read, sorted by name.
std::vector<std::string> list_images(const std::string& folder);

// What follows is for the decoders.

[[noreturn]] void fail(const std::string& name, const std::string& problem);

// Throws if the size is beyond the limits, before anything is allocated for it.
void check_size(std::int64_t width, std::int64_t height, const std::string& name);

Decoded decode_jpeg(std::string_view bytes, const std::string& name);
Decoded decode_png(std::string_view bytes, const std::string& name);
Decoded decode_ppm(std::string_view bytes, const std::string& name);

}  // namespace edgedet::bench
