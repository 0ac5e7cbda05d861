// Every instruction set gives the bits of the portable loops, and whole frames give those of the definition per pixel.
#include <atomic>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "common/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/preprocess.h"
#include "kernels/row_loops.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)

namespace {

std::vector<std::uint8_t> noise(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> bytes(size);
  for (std::uint8_t& byte : bytes) {
    byte = static_cast<std::uint8_t>(random() & 0xFFU);
  }
  return bytes;
}

// What all loops make of the same random rows and tables.
struct Results {
  std::vector<std::int16_t> linear[3];
  std::vector<std::uint8_t> triangle[3];
  std::vector<std::uint8_t> linear_down;
  std::vector<std::uint8_t> triangle_down;
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  std::vector<std::uint32_t> rgb;

  bool operator==(const Results& other) const {
    bool same = linear_down == other.linear_down && triangle_down == other.triangle_down && floats == other.floats &&
                halves == other.halves && rgb == other.rgb;
    for (int i = 0; i < 3; ++i) {
      same = same && linear[i] == other.linear[i] && triangle[i] == other.triangle[i];
    }
    return same;
  }
};

Results run(const kernel::RowLoops& loops, std::int32_t taps) {
  constexpr std::int32_t kCount = 2 * kernel::kRowPadding;
  constexpr std::int32_t kPixels = 100;
  constexpr auto kSize = static_cast<std::size_t>(kCount);
  Results results;
  const int steps[3] = {1, 3, 4};
  const kernel::RowLoops::Linear linear[3] = {loops.linear_gray, loops.linear_packed, loops.linear_spaced};
  const kernel::RowLoops::Triangle triangle[3] = {loops.triangle_gray, loops.triangle_packed, loops.triangle_spaced};
  std::mt19937 random(7);
  std::vector<std::int32_t> weights(kSize * static_cast<std::size_t>(taps));
  for (std::int32_t& weight : weights) {
    weight = static_cast<std::int32_t>(random() % static_cast<unsigned>(kernel::kWeightOne / taps));
  }
  std::vector<std::int16_t> halves;
  for (std::size_t group = 0; group < weights.size(); group += kernel::kTapPadding) {
    for (int tap = 0; tap < kernel::kTapPadding; ++tap) {
      halves.push_back(static_cast<std::int16_t>(weights[group + static_cast<std::size_t>(tap)] / 2048));
    }
    for (int tap = 0; tap < kernel::kTapPadding; ++tap) {
      halves.push_back(static_cast<std::int16_t>(weights[group + static_cast<std::size_t>(tap)] % 2048));
    }
  }
  std::vector<std::uint32_t> linear_weights(kSize);
  for (std::uint32_t& weight : linear_weights) {
    const auto second = static_cast<std::uint32_t>(random() % (kernel::kLinearOne + 1));
    weight = (kernel::kLinearOne - second) | (second << 16);
  }
  for (int i = 0; i < 3; ++i) {
    const auto row = noise(static_cast<std::size_t>(steps[i] * (kPixels + taps) + kernel::kSourcePadding), 1);
    std::vector<std::int32_t> offsets(kSize);
    for (std::int32_t& offset : offsets) {
      offset = static_cast<std::int32_t>(random() % kPixels) * steps[i];
    }
    const std::size_t planes = steps[i] == 1 ? 1 : 3;
    results.linear[i].resize(planes * kSize);
    results.triangle[i].resize(planes * kSize);
    linear[i](row.data(), {offsets.data(), linear_weights.data(), kCount}, results.linear[i].data());
    triangle[i](row.data(), {offsets.data(), weights.data(), halves.data(), kCount, taps, taps},
                results.triangle[i].data());
  }
  const std::int16_t* top = results.linear[1].data();
  results.linear_down.resize(kSize);
  loops.linear_down(top, top + kCount, 700, 1348, kCount, results.linear_down.data());
  const auto rows = noise(kSize * static_cast<std::size_t>(taps), 2);
  std::vector<const std::uint8_t*> window;
  for (std::int32_t tap = 0; tap < taps; ++tap) {
    window.push_back(rows.data() + static_cast<std::size_t>(tap) * kSize);
  }
  results.triangle_down.resize(kSize);
  loops.triangle_down(window.data(), weights.data(), taps, kCount, results.triangle_down.data());
  for (const std::int32_t count : {1, 15, 77}) {  // rows of the network input are not padded
    results.floats.resize(static_cast<std::size_t>(count));
    results.halves.resize(static_cast<std::size_t>(count));
    loops.to_float(rows.data(), count, 0.017F, -2.1F, results.floats.data());
    loops.to_half(rows.data(), count, 0.017F, -2.1F, results.halves.data());
  }
  results.rgb.resize(kSize);
  loops.nv12(rows.data(), rows.data() + kSize, kCount, results.rgb.data());
  return results;
}

}  // namespace

TEST(instruction_sets_agree) {
  const kernel::RowLoopsTable table = kernel::all_row_loops();
  const kernel::RowLoops& portable = table.begin()[table.count - 1];
  CHECK(portable.usable());
  for (const kernel::RowLoops& loops : table) {
    for (const std::int32_t taps : {8, 16, 40}) {
      if (loops.usable()) {
        edgedet::test::check(run(loops, taps) == run(portable, taps), loops.name, __FILE__, __LINE__);
      }
    }
  }
}

TEST(frames_agree_with_the_definition) {
  const int sizes[][4] = {{40, 30, 17, 13}, {6, 70, 9, 20}, {24, 18, 31, 33}, {2, 2, 5, 3}};
  const auto bytes = noise(3 * 70 * 40, 3);
  ops::PreprocessWorkspace workspace;
  for (const auto& size : sizes) {
    for (int choice = 0; choice < 32; ++choice) {
      ImageView image;
      image.width = size[0];
      image.height = size[1];
      image.format = static_cast<PixelFormat>(choice % 4);
      const bool colour = image.format == PixelFormat::kRgb || image.format == PixelFormat::kBgr;
      image.data = bytes.data();
      image.stride = image.width * (colour ? 3 : 1);
      image.uv = bytes.data() + image.stride * image.height;
      image.uv_stride = image.width;
      PreprocessSpec spec;
      spec.width = size[2];
      spec.height = size[3];
      spec.filter = (choice & 4) != 0 ? Filter::kAntialias : Filter::kBilinear;
      spec.resize = (choice & 8) != 0 ? ResizeMode::kLetterbox : ResizeMode::kStretch;
      spec.channels = (choice & 16) != 0 ? ChannelOrder::kBgr : ChannelOrder::kRgb;
      spec.mean = {0.4F, 0.5F, 0.6F};
      spec.std = {0.2F, 0.3F, 0.25F};
      std::vector<float> out(static_cast<std::size_t>(3 * spec.width * spec.height));
      const Geometry geometry = ops::preprocess_cpu(image, spec, {DType::kFloat32}, out.data(), workspace, nullptr);
      const kernel::Normalisation normalisation = kernel::make_normalisation(spec);
      bool same = true;
      std::size_t at = 0;
      for (int plane = 0; plane < 3; ++plane) {
        for (std::int32_t y = 0; y < spec.height; ++y) {
          for (std::int32_t x = 0; x < spec.width; ++x) {
            same = same && out[at++] == kernel::network_value(image, geometry, spec.filter, spec.channels,
                                                              spec.pad_value, normalisation.scale[plane],
                                                              normalisation.bias[plane], x, y, plane);
          }
        }
      }
      edgedet::test::check(same, "same values", __FILE__, __LINE__, "choice " + std::to_string(choice));
    }
  }
}

TEST(thread_pool_covers_every_index_once) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (const int count : {0, 1, 3, 1000}) {
      std::vector<int> calls(static_cast<std::size_t>(count), 0);
      auto body = [&](int index, int slot) {
        calls[static_cast<std::size_t>(index)] += slot >= 0 && slot < threads ? 1 : 100;
      };
      pool.for_each(count, body);
      CHECK(calls == std::vector<int>(static_cast<std::size_t>(count), 1));
    }
  }
}

TEST(thread_pool_serves_several_callers_and_nested_loops) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  auto inner = [&](int, int) { ++calls; };
  auto outer = [&](int, int) { pool.for_each(10, inner); };
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        pool.for_each(10, outer);
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  CHECK(calls == 4 * 20 * 10 * 10);
}

TEST(thread_pool_passes_exceptions_on) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 50; ++repeat) {
    auto body = [](int index, int) {
      if (index % 7 == 3) {
        throw std::out_of_range("seven");
      }
    };
    bool caught = false;
    try {
      pool.for_each(100, body);
    } catch (const std::out_of_range&) {
      caught = true;
    }
    CHECK(caught);
  }
}
