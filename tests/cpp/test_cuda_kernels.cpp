// The CUDA kernels, run on the CPU by host_cuda in shuffled order, against the CPU's own preprocessing and decoding.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "device_frames.h"
#include "kernels/decode.h"
#include "kernels/decode_cuda.h"
#include "kernels/preprocess.h"
#include "kernels/preprocess_cuda.h"
#include "simulated.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using test::DeviceFrame;
using test::Frame;
using test::upload;

namespace {

std::size_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : (dtype == DType::kFloat16 ? 2 : 1); }

// What the device makes of a batch, byte for byte.
std::vector<std::uint8_t> on_device(const std::vector<Frame>& frames, const PreprocessSpec& spec, TensorType type,
                                    cuda::Preprocessor& preprocessor, std::vector<Geometry>& geometries) {
  const std::size_t bytes =
      frames.size() * 3 * static_cast<std::size_t>(spec.width * spec.height) * element_bytes(type.dtype);
  std::vector<DeviceFrame> uploaded;
  std::vector<ImageView> views;
  for (const Frame& frame : frames) {
    uploaded.emplace_back(frame);
  }
  for (const DeviceFrame& frame : uploaded) {
    views.push_back(frame.view);
  }
  const cuda::DeviceBuffer out = cuda::make_device_buffer(bytes);
  const cuda::Stream stream = cuda::make_stream();
  geometries.resize(frames.size());
  preprocessor.plan(views.data(), views.size(), out.data(), geometries.data(), stream.get())
      .launch(stream.get(), "preprocess");
  std::vector<std::uint8_t> result(bytes);
  cuda::check_cuda(cudaStreamSynchronize(stream.get()), "run");
  cuda::check_cuda(cudaMemcpy(result.data(), out.data(), bytes, cudaMemcpyDeviceToHost), "copy");
  return result;
}

std::vector<std::uint8_t> on_cpu(const std::vector<Frame>& frames, const PreprocessSpec& spec, TensorType type) {
  const std::size_t bytes = 3 * static_cast<std::size_t>(spec.width * spec.height) * element_bytes(type.dtype);
  std::vector<std::uint8_t> result(frames.size() * bytes);
  ops::PreprocessWorkspace workspace;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    ops::preprocess_cpu(frames[i].view, spec, type, result.data() + i * bytes, workspace, nullptr);
  }
  return result;
}

void check_preprocess(const std::vector<Frame>& frames, const PreprocessSpec& spec, TensorType type) {
  std::int32_t width = 1;
  std::int32_t height = 1;
  for (const Frame& frame : frames) {
    width = std::max(width, frame.view.width);
    height = std::max(height, frame.view.height);
  }
  cuda::Preprocessor preprocessor(spec, type, frames.size(), width, height);
  std::vector<Geometry> geometries;
  const bool same = on_device(frames, spec, type, preprocessor, geometries) == on_cpu(frames, spec, type);
  test::check(same, "the device's bytes are the CPU's", __FILE__, __LINE__,
              frames[0].describe() + " to " + std::to_string(spec.width) + "x" + std::to_string(spec.height) +
                  (spec.filter == Filter::kAntialias ? " antialias" : " bilinear") +
                  (spec.resize == ResizeMode::kLetterbox ? " letterbox" : " stretch"));
}

constexpr PixelFormat kFormats[] = {PixelFormat::kRgb, PixelFormat::kBgr, PixelFormat::kGray, PixelFormat::kNv12};

bool possible(int width, int height, PixelFormat format) {
  return format != PixelFormat::kNv12 || (width % 2 == 0 && height % 2 == 0);
}

PreprocessSpec make_spec(int width, int height, ResizeMode resize, Filter filter) {
  PreprocessSpec spec;
  spec.width = width;
  spec.height = height;
  spec.resize = resize;
  spec.filter = filter;
  spec.mean = {0.485F, 0.456F, 0.406F};
  spec.std = {0.229F, 0.224F, 0.225F};
  return spec;
}

}  // namespace

TEST(cuda_preprocess_is_the_cpus) {
  const int sizes[][2] = {{1, 1}, {1, 7}, {2, 2}, {17, 1}, {66, 50}, {50, 130}, {201, 67}, {258, 300}};
  const int outputs[][2] = {{1, 1}, {5, 7}, {40, 33}, {64, 64}};
  std::uint64_t seed = 0;
  for (const auto& size : sizes) {
    for (const PixelFormat format : kFormats) {
      if (!possible(size[0], size[1], format)) {
        continue;
      }
      for (const auto& output : outputs) {
        for (const Filter filter : {Filter::kBilinear, Filter::kAntialias}) {
          const ResizeMode resize = seed % 2 == 0 ? ResizeMode::kLetterbox : ResizeMode::kStretch;
          host_cuda::set_seed(++seed);
          PreprocessSpec spec = make_spec(output[0], output[1], resize, filter);
          spec.channels = seed % 3 == 0 ? ChannelOrder::kBgr : ChannelOrder::kRgb;
          std::vector<Frame> frames;
          frames.emplace_back(size[0], size[1], format, static_cast<int>(seed % 5));
          check_preprocess(frames, spec, {DType::kFloat32});
        }
      }
    }
  }
}

TEST(cuda_preprocess_types) {
  for (const Filter filter : {Filter::kBilinear, Filter::kAntialias}) {
    const PreprocessSpec spec = make_spec(48, 40, ResizeMode::kLetterbox, filter);
    std::vector<Frame> frames;
    frames.emplace_back(100, 70, PixelFormat::kRgb, 3);
    check_preprocess(frames, spec, {DType::kFloat16});
    check_preprocess(frames, spec, {DType::kInt8, 0.0186F});
    check_preprocess(frames, spec, {DType::kInt8, 0.001F});  // saturates
  }
}

TEST(cuda_preprocess_ragged_batch) {
  for (const Filter filter : {Filter::kBilinear, Filter::kAntialias}) {
    for (const ResizeMode resize : {ResizeMode::kLetterbox, ResizeMode::kStretch}) {
      std::vector<Frame> frames;
      frames.emplace_back(120, 80, PixelFormat::kBgr, 0);
      frames.emplace_back(31, 77, PixelFormat::kGray, 1);
      frames.emplace_back(260, 34, PixelFormat::kNv12, 6);
      frames.emplace_back(40, 200, PixelFormat::kRgb, 2);  // the vertical pass comes first
      check_preprocess(frames, make_spec(32, 48, resize, filter), {DType::kFloat32});
    }
  }
}

TEST(cuda_preprocess_extreme_ratios) {
  const int sizes[][2] = {{3000, 2}, {2, 3000}, {4096, 40}, {40, 4096}, {30000, 4}, {4, 30000}};
  for (const auto& size : sizes) {
    for (const int side : {1, 3, 16}) {
      for (const PixelFormat format : {PixelFormat::kRgb, PixelFormat::kNv12}) {
        std::vector<Frame> frames;
        frames.emplace_back(size[0], size[1], format, 0);
        check_preprocess(frames, make_spec(side, side, ResizeMode::kStretch, Filter::kAntialias), {DType::kFloat32});
      }
    }
  }
}

TEST(cuda_preprocess_keeps_tables) {
  const PreprocessSpec spec = make_spec(24, 24, ResizeMode::kStretch, Filter::kAntialias);
  cuda::Preprocessor preprocessor(spec, {}, 2, 200, 200);
  CHECK(preprocessor.device_bytes() == cuda::Preprocessor::device_bytes(spec, 2, 200, 200));
  std::vector<Geometry> geometries;
  const auto launches = [&](int width, int height) {
    std::vector<Frame> frames;
    frames.emplace_back(width, height, PixelFormat::kRgb, 0);
    const std::size_t before = host_cuda::counters().kernel_launches;
    CHECK(on_device(frames, spec, {}, preprocessor, geometries) == on_cpu(frames, spec, {}));
    return host_cuda::counters().kernel_launches - before;
  };
  CHECK(launches(100, 60) == 3 || !kSimulated);
  CHECK(launches(100, 60) == 1 || !kSimulated);
  CHECK(launches(60, 100) == 1 || !kSimulated);  // a triangle has the same taps on both axes
  for (int i = 0; i < 20; ++i) {                 // more sizes than there are places
    launches(121 + i, 141 + i);
  }
  CHECK(launches(100, 60) == 3 || !kSimulated);
  // The tables of the first image are the oldest, and must survive what the second image needs.
  for (int i = 0; i < 6; ++i) {
    launches(20 + 2 * i, 21 + 2 * i);
  }
  std::vector<Frame> frames;
  frames.emplace_back(20, 21, PixelFormat::kRgb, 0);
  frames.emplace_back(90, 91, PixelFormat::kRgb, 0);
  CHECK(on_device(frames, spec, {}, preprocessor, geometries) == on_cpu(frames, spec, {}));
}

TEST(cuda_preprocess_refuses) {
  const PreprocessSpec spec = make_spec(24, 24, ResizeMode::kStretch, Filter::kAntialias);
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_batch", cuda::Preprocessor(spec, {}, 33, 200, 200));
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_width", cuda::Preprocessor(spec, {}, 1, 0, 200));
  CHECK_THROWS(ErrorKind::kInvalidInput, "scale", cuda::Preprocessor(spec, {DType::kInt8, 0.F}, 1, 200, 200));
  cuda::Preprocessor preprocessor(spec, {}, 1, 50, 50);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  Geometry geometry;
  CHECK_THROWS(ErrorKind::kInvalidInput, "at most 50x50",
               preprocessor.plan(&frame.view, 1, nullptr, &geometry, nullptr));
}

namespace {

struct Head {
  std::vector<float> values;
  std::vector<float> boxes;
  std::vector<std::int64_t> labels;
};

std::vector<std::uint16_t> halves(const std::vector<float>& values) {
  std::vector<std::uint16_t> result;
  for (const float value : values) {
    result.push_back(kernel::to_half(value));
  }
  return result;
}

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(Detection)) == 0);
}

std::vector<std::vector<Detection>> run(const cuda::KernelCall& call, const cuda::DeviceBuffer& results,
                                        std::size_t images, std::int32_t top_k) {
  const cuda::Stream stream = cuda::make_stream();
  call.launch(stream.get(), "decode");
  cuda::check_cuda(cudaStreamSynchronize(stream.get()), "run");
  std::vector<unsigned char> bytes(results.bytes());
  cuda::check_cuda(cudaMemcpy(bytes.data(), results.data(), bytes.size(), cudaMemcpyDeviceToHost), "copy");
  std::vector<std::vector<Detection>> out(images);
  for (std::size_t i = 0; i < images; ++i) {
    ops::read_result(bytes.data() + i * static_cast<std::size_t>(ops::result_bytes(top_k)), out[i]);
  }
  return out;
}

// Decodes the same values on device and CPU, in float32 and float16.
void check_logits(const std::vector<float>& logits, std::size_t images, int queries, int classes,
                  const ops::DecodeOptions& options, const std::string& what) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(0.F, 1.F);
  std::vector<float> boxes(images * static_cast<std::size_t>(queries) * 4);
  std::generate(boxes.begin(), boxes.end(), [&] { return uniform(random); });
  std::vector<Geometry> geometries;
  for (std::size_t i = 0; i < images; ++i) {
    geometries.push_back(make_geometry(100 + static_cast<int>(i), 60, 64, 64, ResizeMode::kLetterbox));
  }
  const std::int64_t values = static_cast<std::int64_t>(queries) * classes;
  const cuda::Decoder decoder(options, images, values);
  CHECK(decoder.device_bytes() == cuda::Decoder::device_bytes(images, values));
  const cuda::DeviceBuffer results =
      cuda::make_device_buffer(images * static_cast<std::size_t>(ops::result_bytes(options.top_k)));
  for (const DType dtype : {DType::kFloat32, DType::kFloat16}) {
    const bool half = dtype == DType::kFloat16;
    const cuda::DeviceBuffer device_logits = half ? upload(halves(logits)) : upload(logits);
    const cuda::DeviceBuffer device_boxes = half ? upload(halves(boxes)) : upload(boxes);
    const auto rounded = [&](float value) { return half ? kernel::from_half(kernel::to_half(value)) : value; };
    for (int repeat = 0; repeat < 2; ++repeat) {  // the second launch finds the scratch memory as the first left it
      const auto found =
          run(decoder.plan(cuda::LogitsOutput{device_logits.data(), device_boxes.data(), queries, classes}, dtype,
                           geometries.data(), images, results.data()),
              results, images, options.top_k);
      for (std::size_t i = 0; i < images; ++i) {
        std::vector<float> own(static_cast<std::size_t>(values));
        std::vector<float> own_boxes(static_cast<std::size_t>(queries) * 4);
        std::transform(logits.begin() + static_cast<std::ptrdiff_t>(i) * values,
                       logits.begin() + static_cast<std::ptrdiff_t>(i + 1) * values, own.begin(), rounded);
        std::transform(boxes.begin() + static_cast<std::ptrdiff_t>(i * own_boxes.size()),
                       boxes.begin() + static_cast<std::ptrdiff_t>((i + 1) * own_boxes.size()), own_boxes.begin(),
                       rounded);
        ops::DecodeWorkspace workspace;
        std::vector<Detection> expected;
        ops::decode_logits_cpu(own.data(), own_boxes.data(), queries, classes, geometries[i], options, workspace,
                               expected);
        test::check(same(found[i], expected), "the device's rows are the CPU's", __FILE__, __LINE__, what);
      }
    }
  }
}

std::vector<float> normal_logits(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(-4.F, 2.F);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  return values;
}

}  // namespace

TEST(cuda_decode_logits) {
  ops::DecodeOptions options;
  host_cuda::set_seed(3);
  check_logits(normal_logits(2 * 300 * 80, 1), 2, 300, 80, options, "300 x 80");
  options.top_k = 100;
  options.score_threshold = 0.4F;
  check_logits(normal_logits(3 * 77 * 13, 2), 3, 77, 13, options, "values that are not aligned");
  options = {};
  check_logits(normal_logits(2 * 10 * 3, 3), 2, 10, 3, options, "fewer values than rows");
  check_logits(normal_logits(1, 4), 1, 1, 1, options, "one value");
}

TEST(cuda_decode_several_blocks) {
  ops::DecodeOptions options;
  check_logits(normal_logits(2 * 400 * 157, 5), 2, 400, 157, options, "three blocks an image");
  options.top_k = 2048;
  check_logits(normal_logits(900 * 91, 6), 1, 900, 91, options, "as many rows as are allowed");
}

TEST(cuda_decode_ties) {
  ops::DecodeOptions options;
  const float infinity = std::numeric_limits<float>::infinity();
  check_logits(std::vector<float>(300 * 80, -2.F), 1, 300, 80, options, "all the same");
  std::vector<float> values(400 * 157, -infinity);
  check_logits(values, 1, 400, 157, options, "all minus infinity, several blocks");
  for (std::size_t i = 0; i < values.size(); i += 11) {
    values[i] = i % 2 == 0 ? 0.F : -0.F;
  }
  values[500] = infinity;
  check_logits(values, 1, 400, 157, options, "zeros of both signs");
  // All of the best lie in the places of a few threads.
  std::vector<float> gathered = normal_logits(300 * 80, 8);
  for (std::size_t i = 0; i < gathered.size(); ++i) {
    if (i / 4 % 1024 < 30) {
      gathered[i] += 100.F;
    }
  }
  options.top_k = 1000;
  check_logits(gathered, 1, 300, 80, options, "the best in few threads");
}

// Rows are cut at the threshold where the CPU cuts them, however close their scores come to it.
TEST(cuda_decode_thresholds) {
  for (const float threshold : {1e-30F, 1e-4F, 0.3F, 0.5F, 0.9F, 0.999F, 0.999999F, 1.F}) {
    const double logit = std::log(threshold / (1.0 - std::min(static_cast<double>(threshold), 0.99999999)));
    std::vector<float> values;
    for (int i = 0; i < 64; ++i) {
      values.push_back(static_cast<float>(logit + 0.002 * (i - 32)));
      values.push_back(static_cast<float>(logit + 1e-6 * (i - 32)));
      values.push_back(static_cast<float>(0.5 * (i - 32)));
    }
    ops::DecodeOptions options;
    options.score_threshold = threshold;
    check_logits(values, 1, 64, 3, options, "threshold " + std::to_string(threshold));
  }
}

TEST(cuda_decode_scored) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform(0.F, 1.F);
  constexpr int kRows = 300;
  Head head;
  for (int i = 0; i < 2 * kRows; ++i) {
    head.values.push_back(uniform(random));
    head.labels.push_back(static_cast<std::int64_t>(random() % 80));
    for (int side = 0; side < 4; ++side) {
      head.boxes.push_back(64.F * uniform(random));
    }
  }
  const std::vector<std::int32_t> narrow(head.labels.begin(), head.labels.end());
  const std::vector<Geometry> geometries(2, make_geometry(640, 480, 64, 64, ResizeMode::kLetterbox));
  ops::DecodeOptions options;
  options.top_k = 120;
  options.score_threshold = 0.3F;
  const cuda::Decoder decoder(options, 2, kRows);
  const cuda::DeviceBuffer results = cuda::make_device_buffer(2 * static_cast<std::size_t>(ops::result_bytes(120)));
  const cuda::DeviceBuffer scores = upload(head.values);
  const cuda::DeviceBuffer boxes = upload(head.boxes);
  const cuda::DeviceBuffer wide = upload(head.labels);
  const cuda::DeviceBuffer thin = upload(narrow);
  for (const bool wide_labels : {true, false}) {
    const cuda::ScoredOutput output{
        wide_labels ? wide.data() : thin.data(), boxes.data(), scores.data(), kRows, 80, wide_labels};
    const auto found =
        run(decoder.plan(output, DType::kFloat32, geometries.data(), 2, results.data()), results, 2, options.top_k);
    for (std::size_t i = 0; i < 2; ++i) {
      ops::DecodeWorkspace workspace;
      std::vector<Detection> expected;
      ops::decode_scored_cpu(head.labels.data() + i * kRows, head.boxes.data() + 4 * i * kRows,
                             head.values.data() + i * kRows, kRows, 80, geometries[i], options, workspace, expected);
      CHECK(same(found[i], expected));
    }
  }
}

TEST(cuda_decode_broken_outputs) {
  const auto decode = [](const std::vector<float>& logits, const std::vector<float>& boxes, int queries, int classes) {
    const Geometry geometry = make_geometry(8, 8, 8, 8, ResizeMode::kStretch);
    const cuda::Decoder decoder({}, 1, static_cast<std::int64_t>(logits.size()));
    const cuda::DeviceBuffer results = cuda::make_device_buffer(static_cast<std::size_t>(ops::result_bytes(300)));
    const cuda::DeviceBuffer device_logits = upload(logits);
    const cuda::DeviceBuffer device_boxes = upload(boxes);
    const auto call = decoder.plan(cuda::LogitsOutput{device_logits.data(), device_boxes.data(), queries, classes},
                                   DType::kFloat32, &geometry, 1, results.data());
    for (int repeat = 0; repeat < 2; ++repeat) {
      CHECK_THROWS(ErrorKind::kModel, "expected", run(call, results, 1, 300));
    }
  };
  const float nan = std::nanf("");
  decode({0.F, nan}, {0.5F, 0.5F, 0.5F, 0.5F}, 1, 2);
  decode({0.F, -nan}, {0.5F, 0.5F, 0.5F, 0.5F}, 1, 2);
  decode({0.F, 1.F}, {0.5F, nan, 0.5F, 0.5F}, 1, 2);
  std::vector<float> many(400 * 157, -1.F);
  many[40000] = nan;
  decode(many, std::vector<float>(400 * 4, 0.5F), 400, 157);
}

TEST(cuda_decode_refuses) {
  ops::DecodeOptions options;
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_batch", cuda::Decoder(options, 33, 100));
  CHECK_THROWS(ErrorKind::kInvalidInput, "values", cuda::Decoder(options, 1, 0));
  options.top_k = 2049;
  CHECK_THROWS(ErrorKind::kInvalidInput, "top_k", cuda::Decoder(options, 1, 100));
  options = {};
  options.score_threshold = 1.5F;
  CHECK_THROWS(ErrorKind::kInvalidInput, "score_threshold", cuda::Decoder(options, 1, 100));
}

TEST(halves_are_exact) {
  bool exact = true;
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = kernel::from_half(half);
    const bool nan = (bits & 0x7C00U) == 0x7C00U && (bits & 0x3FFU) != 0;
    exact = exact && (nan ? std::isnan(value) : kernel::to_half(value) == half);
  }
  CHECK(exact);
  CHECK(kernel::from_half(0x3C00U) == 1.F && kernel::from_half(0xC000U) == -2.F);
  CHECK(kernel::from_half(0x0001U) == 0x1p-24F && kernel::from_half(0x7BFFU) == 65504.F);
}
