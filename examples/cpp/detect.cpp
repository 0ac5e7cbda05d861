// Finds objects in a binary PPM image: detect BUNDLE IMAGE.ppm
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <edgedet/detector.h>

int main(int count, char** values) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s BUNDLE IMAGE.ppm\n", values[0]);
    return 2;
  }
  std::ifstream file(values[2], std::ios::binary);
  std::string magic;
  edgedet::ImageView image;
  int most = 0;
  file >> magic >> image.width >> image.height >> most;
  file.get();
  if (!file || magic != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width > 16384 ||
      image.height > 16384) {
    std::fprintf(stderr, "error: %s: expected a binary PPM image\n", values[2]);
    return 2;
  }
  std::vector<std::uint8_t> pixels(std::size_t{3} * static_cast<std::size_t>(image.width) *
                                   static_cast<std::size_t>(image.height));
  file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  image.data = pixels.data();
  image.stride = 3 * image.width;

  try {
    edgedet::DetectorOptions options;
    options.score_threshold = 0.3F;
    const edgedet::Detector detector(values[1], options);
    std::vector<std::vector<edgedet::Detection>> found;
    detector.detect(&image, 1, found);
    for (const edgedet::Detection& object : found[0]) {
      const auto label = static_cast<std::size_t>(object.label);
      std::printf("%s %.3f %.1f %.1f %.1f %.1f\n", detector.info().classes[label].c_str(), object.score, object.x0,
                  object.y0, object.x1, object.y1);
    }
  } catch (const edgedet::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
