// Prints, a line each, the sha256 of what the kernels make of the image files given and of noise. Two machines agree to
// the bit where the output is the same; tests/test_cross_build.py compares x86-64 and emulated aarch64.
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "benchmark/image.h"
#include "common/sha256.h"
#include "edgedet/error.h"
#include "kernels/ops.h"
#include "kernels/row_loops.h"

namespace {

using namespace edgedet;  // NOLINT(google-build-using-namespace)

std::string sha256(const void* bytes, std::size_t size) {
  Sha256 digest;
  digest.update(bytes, size);
  return digest.hex_digest();
}

// Every filter, resize mode and type of the network input, for networks smaller and larger than the image.
void preprocess(const std::string& name, const ImageView& image) {
  ops::PreprocessWorkspace workspace;
  for (const std::int32_t side : {96, 320, 640}) {
    for (int choice = 0; choice < 12; ++choice) {
      PreprocessSpec spec;
      spec.width = side;
      spec.height = side;
      spec.filter = (choice & 1) != 0 ? Filter::kAntialias : Filter::kBilinear;
      spec.resize = (choice & 2) != 0 ? ResizeMode::kLetterbox : ResizeMode::kStretch;
      spec.mean = {0.485F, 0.456F, 0.406F};
      spec.std = {0.229F, 0.224F, 0.225F};
      constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kInt8};
      TensorType type{kTypes[choice / 4]};
      type.scale = type.dtype == DType::kInt8 ? 0.02F : type.scale;
      std::vector<std::uint8_t> out(static_cast<std::size_t>(12 * side * side));
      ops::preprocess_cpu(image, spec, type, out.data(), workspace, nullptr);
      std::printf("preprocess %s %d %d %s\n", name.c_str(), side, choice, sha256(out.data(), out.size()).c_str());
    }
  }
}

void decode(unsigned seed) {
  constexpr std::int32_t kQueries = 300;
  constexpr std::int32_t kClasses = 80;
  std::mt19937 random(seed);
  const auto uniform = [&random] { return static_cast<float>(random() >> 8U) * 0x1p-24F; };
  std::vector<float> logits(static_cast<std::size_t>(kQueries * kClasses));
  for (float& logit : logits) {
    logit = 16.F * uniform() - 12.F;
  }
  std::vector<float> boxes(std::size_t{4} * kQueries);
  for (float& side : boxes) {
    side = uniform();
  }
  ops::DecodeWorkspace workspace;
  std::vector<Detection> found;
  for (const ResizeMode resize : {ResizeMode::kStretch, ResizeMode::kLetterbox}) {
    const Geometry geometry = make_geometry(641, 479, 320, 320, resize);
    ops::decode_logits_cpu(logits.data(), boxes.data(), kQueries, kClasses, geometry, {}, workspace, found);
    std::printf("decode %u %s\n", seed, sha256(found.data(), found.size() * sizeof(Detection)).c_str());
  }
}

void run(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    const std::string path = paths[i];
    const bench::Image image = bench::read_image(path);
    const std::string name = path.substr(path.rfind('/') + 1);
    std::printf("read %s %s\n", name.c_str(), sha256(image.rgb.data(), image.rgb.size()).c_str());
    preprocess(name, image.view());
  }
  std::mt19937 random(1);
  std::vector<std::uint8_t> bytes(3 * 250 * 130);
  for (std::uint8_t& byte : bytes) {
    byte = static_cast<std::uint8_t>(random() & 0xFFU);
  }
  preprocess("grey", {bytes.data(), 250, 130, 250, PixelFormat::kGray, nullptr, 0});
  preprocess("bgr", {bytes.data(), 250, 130, 750, PixelFormat::kBgr, nullptr, 0});
  preprocess("nv12", {bytes.data(), 250, 130, 250, PixelFormat::kNv12, bytes.data() + 250 * 130, 250});
  decode(1);
  decode(2);
  std::fprintf(stderr, "row loops: %s\n", kernel::best_row_loops().name);
}

}  // namespace

int main(int count, char** paths) {
  try {
    run(count, paths);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
