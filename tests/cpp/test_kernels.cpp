// Edge cases under the sanitizers; the values are compared with independent implementations in tests/test_kernels.py.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.h"
#include "common/thread_pool.h"
#include "frames.h"
#include "kernels/ops.h"
#include "tiny_bundle.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using test::Frame;

TEST(preprocess_shapes) {
  const int sizes[][2] = {{1, 1}, {1, 7}, {2, 2}, {3, 5}, {17, 1}, {33, 31}, {640, 3}};
  ops::PreprocessWorkspace workspace;
  ThreadPool pool(3);
  for (const auto& size : sizes) {
    for (const PixelFormat format : {PixelFormat::kRgb, PixelFormat::kBgr, PixelFormat::kGray, PixelFormat::kNv12}) {
      if (format == PixelFormat::kNv12 && (size[0] % 2 != 0 || size[1] % 2 != 0)) {
        continue;
      }
      for (const int extra : {0, 1, 13}) {
        const Frame frame(size[0], size[1], format, extra);
        for (const ResizeMode resize : {ResizeMode::kStretch, ResizeMode::kLetterbox}) {
          for (const Filter filter : {Filter::kBilinear, Filter::kAntialias}) {
            for (const int side : {1, 5, 32}) {
              PreprocessSpec spec;
              spec.width = side;
              spec.height = side + 2;
              spec.resize = resize;
              spec.filter = filter;
              const auto count = static_cast<std::size_t>(3 * spec.width * spec.height);
              std::vector<float> one(count, -1.F);
              std::vector<float> many(count, -2.F);
              std::vector<std::uint16_t> half(count);
              ops::preprocess_cpu(frame.view, spec, {DType::kFloat32}, one.data(), workspace, nullptr);
              ops::preprocess_cpu(frame.view, spec, {DType::kFloat32}, many.data(), workspace, &pool);
              ops::preprocess_cpu(frame.view, spec, {DType::kFloat16}, half.data(), workspace, nullptr);
              CHECK(one == many);
              bool in_range = true;
              for (const float value : one) {
                in_range = in_range && value >= 0.F && value <= 1.F;
              }
              CHECK(in_range);
            }
          }
        }
      }
    }
  }
}

// Against the definition of ONNX QuantizeLinear, on values that its rounding is delicate for.
TEST(preprocess_int8) {
  const Frame frame(16, 16, PixelFormat::kGray, 0);
  PreprocessSpec spec;
  spec.width = 16;
  spec.height = 16;
  spec.mean = {0.5F, 0.5F, 0.5F};
  ops::PreprocessWorkspace workspace;
  std::vector<float> values(3 * 256);
  std::vector<std::int8_t> stored(3 * 256);
  for (const float scale : {1.F / 510.F, 1.F / 255.F, 0.01F, 10.F, 0.0001F}) {
    ops::preprocess_cpu(frame.view, spec, {DType::kFloat32}, values.data(), workspace, nullptr);
    ops::preprocess_cpu(frame.view, spec, {DType::kInt8, scale}, stored.data(), workspace, nullptr);
    bool equal = true;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double rounded = std::nearbyint(static_cast<double>(values[i] / scale));
      equal = equal && stored[i] == std::min(127.0, std::max(-128.0, rounded));
    }
    CHECK(equal);
  }
  CHECK_THROWS(ErrorKind::kInvalidInput, "scale",
               ops::preprocess_cpu(frame.view, spec, {DType::kInt8, 0.F}, stored.data(), workspace, nullptr));
}

TEST(decode_logits_order) {
  const Geometry geometry = make_geometry(100, 50, 8, 8, ResizeMode::kStretch);
  const float infinity = std::numeric_limits<float>::infinity();
  // Two queries, three classes; ties keep the order of the flat index.
  const std::vector<float> logits{0.F, 2.F, 0.F, 2.F, -infinity, infinity};
  const std::vector<float> boxes{0.5F, 0.5F, 1.F, 1.F, 0.25F, 0.5F, 2.F, 0.5F};
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::DecodeOptions options;
  options.top_k = 100;
  ops::decode_logits_cpu(logits.data(), boxes.data(), 2, 3, geometry, options, workspace, out);
  CHECK(out.size() == 6);
  CHECK(out[0].label == 2 && out[0].score == 1.F);
  CHECK(out[1].label == 1 && out[1].x1 == 100.F && out[1].y1 == 50.F);
  CHECK(out[2].label == 0 && out[2].score == out[1].score);
  CHECK(out[0].x0 == 0.F && out[0].x1 == 100.F && out[0].y0 == 12.5F && out[0].y1 == 37.5F);  // clipped
  CHECK(out[3].label == 0 && out[4].label == 2 && out[5].score == 0.F);
  options.top_k = 1;
  options.score_threshold = 0.5F;
  ops::decode_logits_cpu(logits.data(), boxes.data(), 2, 3, geometry, options, workspace, out);
  CHECK(out.size() == 1);
  ops::decode_logits_cpu(logits.data(), boxes.data(), 0, 3, geometry, options, workspace, out);
  CHECK(out.empty());
}

TEST(decode_refuses_nan) {
  const Geometry geometry = make_geometry(8, 8, 8, 8, ResizeMode::kStretch);
  const float nan = std::nanf("");
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  const std::vector<float> boxes{0.5F, 0.5F, 0.5F, 0.5F};
  const std::vector<float> bad_boxes{0.5F, nan, 0.5F, 0.5F};
  const std::vector<float> logits{0.F, 1.F};
  const std::vector<float> bad_logits{0.F, nan};
  CHECK_THROWS(ErrorKind::kModel, "NaN",
               ops::decode_logits_cpu(bad_logits.data(), boxes.data(), 1, 2, geometry, {}, workspace, out));
  CHECK_THROWS(ErrorKind::kModel, "",
               ops::decode_logits_cpu(logits.data(), bad_boxes.data(), 1, 2, geometry, {}, workspace, out));
  const std::vector<std::int64_t> labels{0};
  const std::vector<std::int64_t> bad_labels{7};
  CHECK_THROWS(ErrorKind::kModel, "",
               ops::decode_scored_cpu(labels.data(), boxes.data(), &nan, 1, 2, geometry, {}, workspace, out));
  CHECK_THROWS(
      ErrorKind::kModel, "",
      ops::decode_scored_cpu(bad_labels.data(), boxes.data(), logits.data(), 1, 2, geometry, {}, workspace, out));
}

TEST(images_refused) {
  const Frame frame(4, 4, PixelFormat::kRgb, 0);
  const auto refused = [](const ImageView& view) {
    try {
      edgedet::validate(view);
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInvalidInput;
    }
  };
  CHECK(!refused(frame.view));
  ImageView view = frame.view;
  view.data = nullptr;
  CHECK(refused(view));
  view = frame.view;
  view.width = 0;
  CHECK(refused(view));
  view = frame.view;
  view.height = kMaxImageSide + 1;
  CHECK(refused(view));
  view = frame.view;
  view.stride = 11;
  CHECK(refused(view));
  view = frame.view;
  view.format = PixelFormat::kNv12;  // without a uv plane
  CHECK(refused(view));
}
