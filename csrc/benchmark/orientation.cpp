#include "benchmark/orientation.h"

#include <cstddef>
#include <utility>

namespace edgedet::bench {

namespace {

// Bounds-checked integers of either byte order.
class TiffReader {
 public:
  TiffReader(std::string_view bytes, bool little) : bytes_(bytes), little_(little) {}

  bool covers(std::size_t at, std::size_t size) const { return at <= bytes_.size() && size <= bytes_.size() - at; }

  std::uint32_t integer(std::size_t at, std::size_t size) const {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t place = little_ ? at + size - 1 - i : at + i;
      value = (value << 8U) | static_cast<unsigned char>(bytes_[place]);
    }
    return value;
  }

 private:
  std::string_view bytes_;
  bool little_;
};

}  // namespace

int exif_orientation(std::string_view tiff) {
  constexpr std::size_t kEntrySize = 12;
  constexpr std::uint32_t kOrientationTag = 0x0112;
  constexpr std::uint32_t kShort = 3;
  const bool little = tiff.substr(0, 2) == "II";
  const TiffReader reader(tiff, little);
  if ((!little && tiff.substr(0, 2) != "MM") || !reader.covers(0, 8) || reader.integer(2, 2) != 42) {
    return 0;
  }
  const std::size_t directory = reader.integer(4, 4);
  if (!reader.covers(directory, 2)) {
    return 0;
  }
  const std::uint32_t entries = reader.integer(directory, 2);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntrySize;
    if (!reader.covers(entry, kEntrySize)) {
      return 0;
    }
    if (reader.integer(entry, 2) == kOrientationTag && reader.integer(entry + 2, 2) == kShort) {
      return static_cast<int>(reader.integer(entry + 8, 2));
    }
  }
  return 0;
}

int xmp_orientation(std::string_view xmp) {
  constexpr std::string_view kKey = "tiff:Orientation";
  for (std::size_t at = xmp.find(kKey); at != std::string_view::npos; at = xmp.find(kKey, at + 1)) {
    std::string_view rest = xmp.substr(at + kKey.size());
    if (rest.substr(0, 2) == "=\"") {
      rest.remove_prefix(2);
    } else if (rest.substr(0, 1) == ">") {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') {
      return rest[0] - '0';
    }
  }
  return 0;
}

Image oriented(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) {
    return image;
  }
  // The eight cases are a transposition (5 to 8) of the stored picture after mirroring it left-right or top-bottom.
  const bool transposed = orientation >= 5;
  const bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image result;
  result.width = transposed ? image.height : image.width;
  result.height = transposed ? image.width : image.height;
  result.rgb.resize(image.rgb.size());
  std::uint8_t* to = result.rgb.data();
  for (std::int32_t y = 0; y < result.height; ++y) {
    for (std::int32_t x = 0; x < result.width; ++x) {
      const std::int32_t column = transposed ? y : x;
      const std::int32_t row = transposed ? x : y;
      const std::int32_t from_x = mirror_x ? image.width - 1 - column : column;
      const std::int32_t from_y = mirror_y ? image.height - 1 - row : row;
      const std::uint8_t* from = image.rgb.data() + 3 * (static_cast<std::ptrdiff_t>(from_y) * image.width + from_x);
      for (int channel = 0; channel < 3; ++channel) {
        *to++ = from[channel];
      }
    }
  }
  return result;
}

}  // namespace edgedet::bench
