// The kernel of deformable attention against its definition in double precision.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "attention_reference.h"
#include "check.h"
#include "device_frames.h"
#include "kernels/deformable_attention_cuda.h"
#include "simulated.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using test::as;
using test::blank;
using test::check_close;
using test::definition;
using test::DeformableSpec;
using test::from_half;
using test::Inputs;
using test::make_spec;
using test::random_inputs;
using test::size_of;
using test::upload;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// shift: elements that every tensor lies behind the start of its allocation.
template <typename T>
std::vector<float> on_device(const DeformableSpec& spec, const Inputs& inputs, std::size_t shift = 0) {
  const auto shifted = [shift](std::vector<T> values) {
    values.insert(values.begin(), shift, T{});
    return upload(values);
  };
  const cuda::DeviceBuffer projection = shifted(as<T>(inputs.projection));
  const cuda::DeviceBuffer values = shifted(as<T>(inputs.values));
  const cuda::DeviceBuffer boxes = upload(inputs.boxes);
  const std::size_t count = inputs.images * inputs.queries * size_of(spec.dim());
  const cuda::DeviceBuffer out = cuda::make_device_buffer((count + shift) * sizeof(T));
  const cuda::DeformableTensors tensors{projection.as<T>() + shift, boxes.as<float>(), values.as<T>() + shift,
                                        out.as<T>() + shift};
  const cuda::Stream stream = cuda::make_stream();
  cuda::plan_deformable(spec, tensors, inputs.images, inputs.queries,
                        sizeof(T) == 2 ? DType::kFloat16 : DType::kFloat32)
      .launch(stream.get(), "attend");
  cuda::check_cuda(cudaStreamSynchronize(stream.get()), "run");
  std::vector<T> read(count + shift);
  cuda::check_cuda(cudaMemcpy(read.data(), out.data(), out.bytes(), cudaMemcpyDeviceToHost), "copy");
  std::vector<float> result;
  for (std::size_t i = shift; i < read.size(); ++i) {
    if constexpr (sizeof(T) == 2) {
      result.push_back(from_half(read[i]));
    } else {
      result.push_back(read[i]);
    }
  }
  return result;
}

// What one ray of weight 1 reads at (x, y) in cells of a map with the values 1, 2, 3 ... in row order.
float read_at(float x, float y, std::int32_t width, std::int32_t height) {
  const DeformableSpec spec = make_spec(1, 1, {{height, width, 1}});
  Inputs inputs = blank(spec, 1, 1);
  for (std::size_t i = 0; i < inputs.values.size(); ++i) {
    inputs.values[i] = static_cast<float>(i + 1);
  }
  inputs.boxes = {0.F, 0.F, 1.F, 1.F};
  inputs.projection = {x + 0.5F, y + 0.5F, 3.F};
  return on_device<float>(spec, inputs)[0];
}

const std::vector<cuda::DeformableLevel> kTwoMaps = {{7, 9, 3}, {4, 5, 1}};

}  // namespace

TEST(deformable_attention_is_its_definition) {
  const std::vector<DeformableSpec> specs = {
      make_spec(8, 12, {{26, 26, 3}, {13, 13, 3}}),                            // femto
      make_spec(8, 8, {{20, 20, 3}, {10, 10, 3}}),                             // atto
      make_spec(8, 32, {{20, 20, 4}, {10, 10, 4}, {5, 5, 4}}, 3, 1),           // the shape of RT-DETR's
      make_spec(3, 5, {{6, 11, 2}, {1, 1, 5}, {2, 1, 1}}),                     // odd
      make_spec(1, 1, {{1, 1, 1}}),                                            // least
      make_spec(5, 6, {{3, 4, 1}, {2, 2, 7}}, 2, 1),                           // words of eight bytes in float32
      make_spec(64, 4, {{3, 3, 8}, {2, 2, 8}}),                                // as many rays as there may be
      make_spec(2, 160, kTwoMaps),                                             // more parts than threads
      make_spec(2, 8, std::vector<cuda::DeformableLevel>(8, {3, 2, 2}), 2, 0)  // as many levels as there may be
  };
  unsigned seed = 0;
  for (const DeformableSpec& spec : specs) {
    for (const std::size_t queries : {1, 9}) {
      host_cuda::set_seed(++seed);
      const Inputs inputs = random_inputs(spec, 1 + seed % 3, queries, seed);
      const std::vector<double> wanted = definition(spec, inputs);
      check_close(on_device<float>(spec, inputs), wanted, spec, 0.0);
      check_close(on_device<std::uint16_t>(spec, inputs), wanted, spec, 0x1p-11);
    }
  }
}

TEST(deformable_attention_at_any_address) {
  for (const std::int32_t channels : {8, 12}) {
    const DeformableSpec spec = make_spec(4, channels, kTwoMaps);
    const Inputs inputs = random_inputs(spec, 2, 5, 7);
    const std::vector<float> wide = on_device<float>(spec, inputs);
    const std::vector<float> half = on_device<std::uint16_t>(spec, inputs);
    for (const std::size_t shift : {1, 2, 4}) {
      CHECK(on_device<float>(spec, inputs, shift) == wide);
      CHECK(on_device<std::uint16_t>(spec, inputs, shift) == half);
    }
  }
}

TEST(deformable_attention_at_borders) {
  CHECK(read_at(0, 0, 3, 2) == 1.F && read_at(2, 1, 3, 2) == 6.F && read_at(1, 1, 3, 2) == 5.F);
  CHECK(read_at(0.5F, 0, 3, 2) == 1.5F && read_at(1, 0.25F, 3, 2) == 2.75F);
  CHECK(read_at(-0.5F, 0, 3, 2) == 0.5F && read_at(2.75F, 1, 3, 2) == 1.5F && read_at(2, 1.5F, 3, 2) == 3.F);
  CHECK(read_at(-1, 0, 3, 2) == 0.F && read_at(3, 1, 3, 2) == 0.F && read_at(0, 2, 3, 2) == 0.F);
  for (const float far : {-1.5F, 40.F, -1e9F, 3e9F, 1e30F, -3e38F}) {
    CHECK(read_at(far, 0, 3, 2) == 0.F && read_at(1, far, 3, 2) == 0.F && read_at(far, far, 3, 2) == 0.F);
  }
  CHECK(read_at(0, 0, 1, 1) == 1.F && read_at(0.75F, 0, 1, 1) == 0.25F && read_at(-0.5F, -0.5F, 1, 1) == 0.25F);
}

TEST(deformable_attention_of_what_is_not_finite) {
  const DeformableSpec spec = make_spec(2, 4, {{3, 3, 2}});
  const std::size_t rays = size_of(spec.rays());
  Inputs clean = random_inputs(spec, 1, 3, 1);
  for (std::size_t i = 0; i < 12; ++i) {
    clean.boxes[i] = 0.5F;
  }
  const std::vector<float> wanted = on_device<float>(spec, clean);
  // The second query's first head only, whichever of its numbers it is.
  const auto spoilt = [&](std::size_t at, float value, bool nan) {
    Inputs inputs = clean;
    inputs.projection[3 * rays + at] = value;
    for (const std::vector<float>& got : {on_device<float>(spec, inputs), on_device<std::uint16_t>(spec, inputs)}) {
      bool as_expected = true;
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool hit = i >= 8 && i < 12;
        as_expected = as_expected && std::isnan(got[i]) == (hit && nan);
        as_expected = as_expected && (hit || std::abs(got[i] - wanted[i]) < 0.01F);
      }
      test::check(as_expected, "NaN where it belongs", __FILE__, __LINE__,
                  std::to_string(at) + " is " + std::to_string(value));
    }
  };
  for (const std::size_t at : {std::size_t{0}, std::size_t{1}, rays, rays + 1}) {
    spoilt(at, kNan, true);
    spoilt(at, kInfinity, true);
    spoilt(at, -kInfinity, true);
  }
  spoilt(2 * rays, kNan, true);
  spoilt(2 * rays + 1, kInfinity, true);
  spoilt(2 * rays + 1, -kInfinity, false);  // a weight of 0

  Inputs inputs = clean;
  inputs.boxes[5] = kNan;
  const std::vector<float> got = on_device<float>(spec, inputs);
  CHECK(std::all_of(got.begin() + 8, got.begin() + 16, [](float value) { return std::isnan(value); }));
  CHECK(std::equal(got.begin(), got.begin() + 8, wanted.begin()));

  // What lies outside has no part in it, whatever is in the table.
  const DeformableSpec outside = make_spec(1, 4, {{2, 2, 1}});
  Inputs far = blank(outside, 1, 1);
  std::fill(far.values.begin(), far.values.end(), kNan);
  far.boxes = {5.F, 5.F, 1.F, 1.F};
  CHECK(on_device<float>(outside, far) == std::vector<float>(4, 0.F));
}

TEST(deformable_attention_of_large_logits) {
  const DeformableSpec spec = make_spec(1, 4, {{1, 1, 1}, {1, 1, 1}});
  Inputs inputs = blank(spec, 1, 1);
  inputs.boxes = {0.5F, 0.5F, 1.F, 1.F};
  inputs.values = {1, 2, 3, 4, 5, 6, 7, 8};
  for (const float large : {1e4F, 6e4F, -6e4F}) {
    inputs.projection = {0, 0, 0, 0, large, large};
    CHECK((on_device<float>(spec, inputs) == std::vector<float>{3, 4, 5, 6}));
    inputs.projection[5] = -large;
    const std::vector<float> first = {1, 2, 3, 4};
    const std::vector<float> second = {5, 6, 7, 8};
    CHECK(on_device<std::uint16_t>(spec, inputs) == (large > 0 ? first : second));
  }
}

TEST(deformable_attention_refuses) {
  const auto refused = [](DeformableSpec spec, const char* part) {
    CHECK_THROWS(ErrorKind::kInvalidInput, part, cuda::check_spec(spec));
  };
  const DeformableSpec good = make_spec(2, 4, kTwoMaps, 3, 2);
  cuda::check_spec(good);
  DeformableSpec spec = good;
  spec.heads = 0;
  refused(spec, "1 to 1024 heads, got 0");
  spec = good;
  spec.channels = -1;
  refused(spec, "channels of a head, got -1");
  spec = good;
  spec.layer = 3;
  refused(spec, "0 to 2 as the layer, got 3");
  spec = good;
  spec.levels.clear();
  refused(spec, "1 to 8 levels, got 0");
  spec.levels.resize(9);
  refused(spec, "1 to 8 levels, got 9");
  spec = good;
  spec.levels[1].width = 0;
  refused(spec, "columns of a map, got 0");
  spec = good;
  spec.levels[0].points = 600;
  refused(spec, "points of all heads, got 1202");
  refused(make_spec(64, 4096, {{8192, 8192, 1}}, 64, 0), "rows of values");
  refused(make_spec(1, 4096, {{8192, 8192, 1}}), "values, got");

  const auto planned = [&](std::size_t images, std::size_t queries, DType dtype) {
    static_cast<void>(cuda::plan_deformable(good, {}, images, queries, dtype));
  };
  CHECK_THROWS(ErrorKind::kInvalidInput, "images, got 0", planned(0, 1, DType::kFloat32));
  CHECK_THROWS(ErrorKind::kInvalidInput, "images, got 65536", planned(std::size_t{1} << 40, 1, DType::kFloat32));
  CHECK_THROWS(ErrorKind::kInvalidInput, "queries, got 0", planned(1, 0, DType::kFloat32));
  CHECK_THROWS(ErrorKind::kInvalidInput, "got int8", planned(1, 1, DType::kInt8));
}
