#include "benchmark/synthetic.h"

namespace edgedet::bench {

Image synthetic_frame(std::int32_t width, std::int32_t height) {
  constexpr std::int32_t kPatch = 16;
  Image image;
  image.width = width;
  image.height = height;
  image.rgb.reserve(static_cast<std::size_t>(3 * static_cast<std::int64_t>(width) * height));
  for (std::int32_t y = 0; y < height; ++y) {
    for (std::int32_t x = 0; x < width; ++x) {
      std::uint32_t hash = static_cast<std::uint32_t>(y / kPatch * 2048 + x / kPatch + 1) * 2654435761U;
      for (int channel = 0; channel < 3; ++channel) {
        hash = (hash ^ (hash >> 15U)) * 2246822519U;
        image.rgb.push_back(static_cast<std::uint8_t>(hash >> 24U));
      }
    }
  }
  return image;
}

}  // namespace edgedet::bench
