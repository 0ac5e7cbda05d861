// Reads image files as edgedet-bench does and prints, a line a file, "width height sha256" of the RGB bytes or
// "error: ...". tests/test_benchmark_binary.py compares the lines with Pillow.
#include <cstdio>

#include "benchmark/image.h"
#include "common/sha256.h"
#include "edgedet/error.h"

int main(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    try {
      const edgedet::bench::Image image = edgedet::bench::read_image(paths[i]);
      edgedet::Sha256 digest;
      digest.update(image.rgb.data(), image.rgb.size());
      std::printf("%d %d %s\n", image.width, image.height, digest.hex_digest().c_str());
    } catch (const edgedet::Error& error) {
      std::printf("error: %s\n", error.what());
    }
    std::fflush(stdout);  // a crash shows which file was next
  }
  return 0;
}
