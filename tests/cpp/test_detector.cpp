// The detector on OpenVINO; in a build without it, what it says instead.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "edgedet/detector.h"
#include "kernels/ops.h"
#include "tiny_bundle.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using edgedet::test::kClasses;
using edgedet::test::kPixels;
using edgedet::test::kQueries;
using edgedet::test::kSide;

namespace {

bool available() {
  for (const BackendInfo& info : backends()) {
    if (info.name == "openvino" && info.available) {
      return true;
    }
  }
  return false;
}

struct Images {
  explicit Images(int count) {
    for (int i = 0; i < count; ++i) {
      const int width = 5 + 7 * i;
      const int height = 60 - 5 * i;
      pixels.push_back(test::picture(width, height, static_cast<unsigned>(i)));
      ImageView view;
      view.data = pixels.back().data();
      view.width = width;
      view.height = height;
      view.stride = width * 3;
      views.push_back(view);
    }
  }
  std::vector<std::vector<std::uint8_t>> pixels;
  std::vector<ImageView> views;
};

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const Detection& x, const Detection& y) {
           return std::tie(x.x0, x.y0, x.x1, x.y1, x.score, x.label) ==
                  std::tie(y.x0, y.y0, y.x1, y.y1, y.score, y.label);
         });
}

// The tiny bundle with other weights, under another name.
void write_other_bundle(const test::TemporaryFolder& folder) {
  test::TinyNetwork network = test::tiny_network();
  for (float& weight : network.class_weights) {
    weight = -weight;
  }
  const std::string model = to_onnx(network);
  std::string text = test::model_json(model);
  text.replace(text.find("tiny"), 4, "other");
  folder.write("model.onnx", model);
  folder.write("model.json", text);
}

DetectorOptions with_mode(PerformanceMode mode, int requests) {
  DetectorOptions options;
  options.mode = mode;
  options.requests = requests;
  options.threads = 2;
  return options;
}

}  // namespace

TEST(detector_equals_plain_loops) {
  if (!available()) {
    return;
  }
  const test::TinyNetwork network = test::tiny_network();
  const test::TemporaryFolder folder;
  write_bundle(folder, network);
  const Detector detector(folder.path());
  CHECK(detector.backend() == "openvino" && detector.precision() == "fp32");
  CHECK(detector.threads() >= 1 && detector.requests() == 1 && !detector.device().empty());
  const Images images(6);
  std::vector<std::vector<Detection>> out;
  StageTimes times;
  detector.detect(images.views.data(), images.views.size(), out, &times);
  CHECK(out.size() == 6);
  CHECK(times.preprocess > 0.0 && times.inference > 0.0 && times.decode > 0.0);
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::vector<float> input(kPixels);
    ops::PreprocessWorkspace workspace;
    const Geometry geometry = ops::preprocess_cpu(images.views[i], detector.info().preprocess, {DType::kFloat32},
                                                  input.data(), workspace, nullptr);
    const test::TinyOutput expected = run(network, input);
    CHECK(out[i].size() == static_cast<std::size_t>(kQueries * kClasses));
    // Scores may differ in the last digits, so rows are matched by the box that the label's query gives.
    for (const Detection& found : out[i]) {
      const bool matched = [&] {
        for (int q = 0; q < kQueries; ++q) {
          const auto* box = &expected.boxes[static_cast<std::size_t>(q * 4)];
          const float x0 = source_x(geometry, (box[0] - box[2] / 2.F) * kSide);
          const float y1 = source_y(geometry, (box[1] + box[3] / 2.F) * kSide);
          const float logit = expected.logits[static_cast<std::size_t>(q * kClasses + found.label)];
          const float score = 1.F / (1.F + std::exp(-logit));
          if (std::abs(x0 - found.x0) < 1e-2F && std::abs(y1 - found.y1) < 1e-2F &&
              std::abs(score - found.score) < 1e-4F) {
            return true;
          }
        }
        return false;
      }();
      CHECK(matched);
    }
    for (std::size_t r = 1; r < out[i].size(); ++r) {
      CHECK(out[i][r - 1].score >= out[i][r].score);
    }
  }
}

TEST(detector_raw_outputs) {
  if (!available()) {
    return;
  }
  const test::TinyNetwork network = test::tiny_network();
  const test::TemporaryFolder folder;
  write_bundle(folder, network);
  const Detector detector(folder.path());
  std::vector<float> input(2 * kPixels);
  for (std::size_t i = 0; i < input.size(); ++i) {
    input[i] = static_cast<float>(i % 17) / 17.F;
  }
  const std::vector<Tensor> outputs = detector.infer(input.data(), 2);
  CHECK(outputs.size() == 2);
  for (const Tensor& output : outputs) {
    CHECK(output.shape[0] == 2 && output.shape[1] == kQueries);
    for (std::size_t image = 0; image < 2; ++image) {
      const std::vector<float> one(input.begin() + static_cast<std::ptrdiff_t>(image * kPixels),
                                   input.begin() + static_cast<std::ptrdiff_t>((image + 1) * kPixels));
      const test::TinyOutput expected = run(network, one);
      const std::vector<float>& values = output.name == "logits" ? expected.logits : expected.boxes;
      for (std::size_t i = 0; i < values.size(); ++i) {
        CHECK(std::abs(output.values[image * values.size() + i] - values[i]) < 1e-4F);
      }
    }
  }
  bool has_product = false;
  for (const ExecutionNode& node : detector.execution_graph()) {
    has_product = has_product || (node.type == "FullyConnected" && node.precision == "f32");
  }
  CHECK(has_product);
}

// Eight threads on one detector, single images and batches, in both modes: always the bits of the serial run.
TEST(detector_threads) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  const Images images(8);
  std::vector<std::vector<Detection>> expected;
  Detector(folder.path(), with_mode(PerformanceMode::kLatency, 0))
      .detect(images.views.data(), images.views.size(), expected);
  for (const auto& [mode, requests] :
       {std::pair(PerformanceMode::kLatency, 1), std::pair(PerformanceMode::kLatency, 3),
        std::pair(PerformanceMode::kThroughput, 0), std::pair(PerformanceMode::kThroughput, 4)}) {
    const Detector detector(folder.path(), with_mode(mode, requests));
    CHECK(requests == 0 || detector.requests() == requests);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        std::vector<std::vector<Detection>> out;
        for (std::size_t turn = 0; turn < 20; ++turn) {
          const std::size_t first = (t + turn) % 8;
          const std::size_t count = 1 + (t * turn) % (8 - first);
          detector.detect(&images.views[first], count, out);
          for (std::size_t i = 0; i < count; ++i) {
            wrong += same(out[i], expected[first + i]) ? 0 : 1;
          }
        }
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    CHECK(wrong == 0);
  }
}

// A failing image leaves the detector usable and no request lost.
TEST(detector_survives_bad_input) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  test::TinyNetwork network = test::tiny_network();
  write_bundle(folder, network);
  const Detector detector(folder.path(), with_mode(PerformanceMode::kThroughput, 2));
  Images images(6);
  std::vector<std::vector<Detection>> out;
  detector.detect(nullptr, 0, out);
  CHECK(out.empty());
  CHECK_THROWS(ErrorKind::kInvalidInput, "null", detector.detect(nullptr, 1, out));
  images.views[4].stride = 1;
  for (int i = 0; i < 5; ++i) {
    CHECK_THROWS(ErrorKind::kInvalidInput, "stride", detector.detect(images.views.data(), 6, out));
  }
  detector.detect(images.views.data(), 4, out);
  CHECK(out.size() == 4 && !out[3].empty());

  // NaN weights: every call fails, none hangs for want of a request.
  network.class_weights[0] = std::nanf("");
  const test::TemporaryFolder poisoned;
  write_bundle(poisoned, network);
  const Detector broken(poisoned.path(), with_mode(PerformanceMode::kThroughput, 2));
  for (int i = 0; i < 5; ++i) {
    CHECK_THROWS(ErrorKind::kModel, "NaN", broken.detect(images.views.data(), 4, out));
  }
}

TEST(detector_options) {
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  DetectorOptions options;
  options.backend = "abacus";
  CHECK_THROWS(ErrorKind::kInvalidInput, "expected auto or one of tensorrt, openvino, got \"abacus\"",
               Detector(folder.path(), options));
  options = {};
  options.backend = "tensorrt";
  CHECK_THROWS(ErrorKind::kBackend, "tensorrt is not available here", Detector(folder.path(), options));
  options = {};
  options.threads = -1;
  CHECK_THROWS(ErrorKind::kInvalidInput, "threads: expected", Detector(folder.path(), options));
  options = {};
  options.score_threshold = std::nanf("");
  CHECK_THROWS(ErrorKind::kInvalidInput, "score_threshold: expected", Detector(folder.path(), options));
  options = {};
  options.requests = 5000;
  CHECK_THROWS(ErrorKind::kInvalidInput, "requests: expected", Detector(folder.path(), options));
  options = {};
  options.max_detections = -1;
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_detections: expected", Detector(folder.path(), options));
  if (!available()) {
    CHECK_THROWS(ErrorKind::kBackend, "OpenVINO", Detector(folder.path()));
    CHECK_THROWS(ErrorKind::kBackend, "OpenVINO", inspect_onnx(folder.path() + "/model.onnx"));
    return;
  }
  options = {};
  options.precision = "int8";
  CHECK_THROWS(ErrorKind::kBundle, "no int8 model", Detector(folder.path(), options));
  options = {};
  options.max_detections = 7;
  options.score_threshold = 0.25F;
  const Images images(1);
  std::vector<std::vector<Detection>> out;
  Detector(folder.path(), options).detect(images.views.data(), 1, out);
  CHECK(out[0].size() <= 7);
  CHECK(std::all_of(out[0].begin(), out[0].end(), [](const Detection& d) { return d.score >= 0.25F; }));
}

// The network and model.json disagree, or the network is none: a model error that names what was expected.
TEST(detector_wrong_model) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  const std::string model = to_onnx(test::tiny_network());
  const std::pair<const char*, std::pair<const char*, const char*>> table[] = {
      {"\"name\": \"images\"",
       {"\"name\": \"pixels\"", "expected an input named \"pixels\" as in model.json, got: images"}},
      {"\"logits\": \"logits\"", {"\"logits\": \"classes\"", "expected an output named \"classes\""}},
      {"\"width\": 8", {"\"width\": 9", "of shape [1,3,8,9] as in model.json, got [?,3,8,8]"}},
      {"[\"a\", \"b\", \"c\"]", {"[\"a\", \"b\"]", "of shape [1,10,2] as in model.json, got [1,10,3]"}},
  };
  for (const auto& [from, to_and_message] : table) {
    folder.write("model.onnx", model);
    std::string text = test::model_json(model);
    text.replace(text.find(from), std::strlen(from), to_and_message.first);
    if (std::strstr(from, "\"c\"") != nullptr) {
      text.replace(text.find("[1, 5, 7]"), 9, "[1, 5]");
    }
    folder.write("model.json", text);
    CHECK_THROWS(ErrorKind::kModel, to_and_message.second, Detector(folder.path()));
  }
  for (const std::string& junk : {std::string("junk"), std::string(), model.substr(0, model.size() / 2)}) {
    folder.write("model.onnx", junk);
    folder.write("model.json", test::model_json(junk));
    CHECK_THROWS(ErrorKind::kModel, "model.onnx", Detector(folder.path()));
    CHECK_THROWS(ErrorKind::kModel, "model.onnx", inspect_onnx(folder.path() + "/model.onnx"));
  }
}

TEST(swap_replaces_what_runs) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder first;
  const test::TemporaryFolder second;
  write_bundle(first, test::tiny_network());
  write_other_bundle(second);
  DetectorOptions options = with_mode(PerformanceMode::kLatency, 1);
  options.max_detections = 7;
  Detector detector(first.path(), options);
  const Images images(1);
  std::vector<std::vector<Detection>> before;
  std::vector<std::vector<Detection>> after;
  const std::shared_ptr<const RunInfo> ran = detector.detect(images.views.data(), 1, before);
  CHECK(ran == detector.running() && ran->model.name == "tiny");

  CHECK_THROWS(ErrorKind::kBundle, "nowhere", detector.swap(first.path() + "/nowhere"));
  second.write("model.onnx", "tampered");
  CHECK_THROWS(ErrorKind::kBundle, "model.onnx", detector.swap(second.path()));
  detector.detect(images.views.data(), 1, after);
  CHECK(detector.running() == ran && same(before[0], after[0]));

  write_other_bundle(second);
  detector.swap(second.path());
  CHECK(detector.detect(images.views.data(), 1, after)->model.name == "other" && detector.info().name == "other");
  CHECK(after[0].size() == 7 && !same(before[0], after[0]));  // the options of before
  CHECK(ran->model.name == "tiny");                           // what a caller holds does not change

  options.max_detections = 3;
  detector.swap(first.path(), options);
  detector.swap(second.path());
  detector.detect(images.views.data(), 1, after);
  CHECK(after[0].size() == 3 && detector.info().max_detections == 3);
}

TEST(swap_under_traffic) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder first;
  const test::TemporaryFolder second;
  write_bundle(first, test::tiny_network());
  write_other_bundle(second);
  DetectorOptions options = with_mode(PerformanceMode::kThroughput, 2);
  options.threads = 1;
  Detector detector(first.path(), options);
  const Images images(3);
  std::vector<std::vector<Detection>> tiny;
  std::vector<std::vector<Detection>> other;
  detector.detect(images.views.data(), 3, tiny);
  Detector(second.path(), options).detect(images.views.data(), 3, other);

  std::atomic<bool> done{false};
  std::atomic<int> of_tiny{0};
  std::atomic<int> of_other{0};
  std::atomic<int> torn{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      std::vector<std::vector<Detection>> out;
      while (!done) {
        const std::string name = detector.detect(images.views.data(), 3, out)->model.name;
        ++(name == "tiny" ? of_tiny : of_other);
        for (std::size_t i = 0; i < 3; ++i) {
          torn += same(out[i], name == "tiny" ? tiny[i] : other[i]) ? 0 : 1;
        }
      }
    });
  }
  for (int round = 0; round < 12; ++round) {
    CHECK_THROWS(ErrorKind::kBundle, "nowhere", detector.swap("nowhere"));
    const int seen = round % 2 == 0 ? of_other.load() : of_tiny.load();
    detector.swap(round % 2 == 0 ? second.path() : first.path());
    while ((round % 2 == 0 ? of_other.load() : of_tiny.load()) == seen) {
      std::this_thread::yield();  // until the new one has served
    }
  }
  done = true;
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(torn == 0);
}

TEST(preparing_where_nothing_is_built) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  DetectorOptions options;
  options.backend = "openvino";
  const Prepared prepared = prepare(folder.path(), options, nullptr);
  CHECK(prepared.backend == "openvino" && prepared.precision == "fp32" && !prepared.device.empty());
  CHECK(prepared.engine.path.empty() && !prepared.engine.built && is_prepared(folder.path(), options));
  const auto refused = [&](auto&& change, const char* part) {
    DetectorOptions changed = options;
    change(changed.engine);
    CHECK_THROWS(ErrorKind::kInvalidInput, part, Detector(folder.path(), changed));
    CHECK_THROWS(ErrorKind::kInvalidInput, part, prepare(folder.path(), changed, nullptr));
  };
  refused([](EngineOptions& engine) { engine.device = 1; }, "device: expected a backend that builds engines");
  refused([](EngineOptions& engine) { engine.dla_core = 0; }, "dla_core: expected a backend");
  refused([](EngineOptions& engine) { engine.calibrator = Calibrator::kMinMax; }, "calibrator: expected a backend");
  refused([](EngineOptions& engine) { engine.workspace_mb = 0; }, "workspace_mb: expected 1 to");
  refused([](EngineOptions& engine) { engine.memory_limit_mb = -1; }, "memory_limit_mb: expected 0 (no limit)");
  refused([](EngineOptions& engine) { engine.min_batch = 2; }, "min_batch: expected 0 (automatic) to 1");
  refused(
      [](EngineOptions& engine) {
        engine.opt_batch = 4;
        engine.max_batch = 3;
      },
      "opt_batch of at most max_batch");
  options.precision = "fp32";
  refused([](EngineOptions& engine) { engine.calibrator = Calibrator::kEntropy; }, "expected precision int8");
}

TEST(inspect_ports) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  const ModelPorts ports = inspect_onnx(folder.path() + "/model.onnx");
  CHECK(ports.inputs.size() == 1 && ports.outputs.size() == 2);
  CHECK(ports.inputs[0].name == "images" && ports.inputs[0].dtype == "float32");
  CHECK((ports.inputs[0].shape == std::vector<std::int64_t>{kDynamic, 3, kSide, kSide}));
}

TEST(the_network_alone_is_timed) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  const Images images(5);
  std::vector<std::vector<Detection>> before;
  std::vector<std::vector<Detection>> after;
  for (const int requests : {1, 3}) {
    const Detector detector(folder.path(), with_mode(PerformanceMode::kThroughput, requests));
    detector.detect(images.views.data(), images.views.size(), before);
    constexpr std::size_t kCalls = 40;
    const PartTimes times = detector.time_parts(images.views.data(), images.views.size(), kCalls);
    CHECK(times.network.size() == kCalls && *std::min_element(times.network.begin(), times.network.end()) > 0);
    // The CPU needs no upload, and detect tells the stages.
    CHECK(times.network_device.empty() && times.stages.empty() && times.resident.empty() && detector.gpu().empty());
    detector.detect(images.views.data(), images.views.size(), after);
    CHECK(std::equal(before.begin(), before.end(), after.begin(), after.end(), same));
    CHECK_THROWS(ErrorKind::kInvalidInput, "got 0", detector.time_parts(images.views.data(), 0, 1));
    CHECK_THROWS(ErrorKind::kInvalidInput, "got 1 and 0", detector.time_parts(images.views.data(), 1, 0));
    CHECK_THROWS(ErrorKind::kInvalidInput, "null", detector.time_parts(nullptr, 1, 1));
  }
}
