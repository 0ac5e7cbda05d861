// Images for tests, in buffers with no byte to spare after the last row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgedet/types.h"

namespace edgedet::test {

struct Frame {
  Frame(int width, int height, PixelFormat format, int extra) {
    const int channels = format == PixelFormat::kRgb || format == PixelFormat::kBgr ? 3 : 1;
    view.width = width;
    view.height = height;
    view.format = format;
    view.stride = width * channels + extra;
    pixels = plane(width * channels, height, view.stride);
    view.data = pixels.data();
    if (format == PixelFormat::kNv12) {
      view.uv_stride = view.stride;
      chroma = plane(width, height / 2, view.uv_stride);
      view.uv = chroma.data();
    }
  }

  static std::vector<std::uint8_t> plane(int row, int rows, std::ptrdiff_t stride) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(stride * (rows - 1) + row));
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::uint8_t>(i * 7919U >> 3U);
    }
    return bytes;
  }

  std::string describe() const {
    return std::to_string(view.width) + "x" + std::to_string(view.height) + " of format " +
           std::to_string(static_cast<int>(view.format)) + ", stride " + std::to_string(view.stride);
  }

  ImageView view;
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> chroma;
};

}  // namespace edgedet::test
