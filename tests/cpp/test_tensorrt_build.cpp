// Building engines and running them as a backend, on the stand-in for TensorRT and host_cuda.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "backends/tensorrt/builder.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/nv.h"
#include "backends/tensorrt/tensorrt_backend.h"
#include "check.h"
#include "common/files.h"
#include "device_frames.h"
#include "fake_library.h"
#include "frames.h"
#include "kernels/ops.h"
#include "runtime/backend.h"
#include "simulated.h"
#include "tiny_bundle.h"

using namespace edgedet;            // NOLINT(google-build-using-namespace)
using namespace edgedet::tensorrt;  // NOLINT(google-build-using-namespace)
using test::Frame;
using test::TemporaryFolder;
namespace fake = test::fake;

namespace {

constexpr std::size_t kMebibyte = std::size_t{1} << 20U;

std::uint32_t bit(nvinfer1::BuilderFlag flag) { return 1U << static_cast<unsigned>(flag); }

// A bundle whose model the stand-in parses, and where its engines go.
struct World {
  World() {
    fake::opened().weights = kMebibyte;
    folder.write("model.onnx", "network");
    spec.folder = folder.path();
    spec.info.preprocess.width = fake::kWidth;
    spec.info.preprocess.height = fake::kHeight;
    spec.info.classes.resize(fake::kClasses);
    spec.input = "images";
    spec.logits = "logits";
    spec.boxes = "boxes";
    spec.models["fp32"]["*"] = "model.onnx";
    spec.files["model.onnx"].sha256 = "digest of the model";
    options.precision = "fp32";
    options.max_detections = 12;
    options.cache_dir = folder.path() + "/engines";
    options.engine.max_batch = 3;
  }
  ~World() { host_cuda::set_memory(std::size_t{8} << 30U); }

  EngineInfo build(const BuildProgress& progress = nullptr) { return prepare(spec, model, options, progress); }

  TemporaryFolder folder;
  ModelSpec spec;
  DetectorOptions options;
  std::string model = folder.path() + "/model.onnx";
};

std::vector<Detection> expected(const Frame& frame, const World& world) {
  std::vector<float> input(fake::kPixels);
  ops::PreprocessWorkspace preprocess;
  const Geometry geometry =
      ops::preprocess_cpu(frame.view, world.spec.info.preprocess, {}, input.data(), preprocess, nullptr);
  ops::DecodeOptions options;
  options.top_k = world.options.max_detections;
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::decode_logits_cpu(input.data(), input.data() + fake::kRows * fake::kClasses, fake::kRows, fake::kClasses,
                         geometry, options, workspace, out);
  return out;
}

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Detection& x, const Detection& y) {
    return x.x0 == y.x0 && x.y0 == y.y0 && x.x1 == y.x1 && x.y1 == y.y1 && x.score == y.score && x.label == y.label;
  });
}

std::vector<Frame> frames_of(int number) {
  std::vector<Frame> frames;
  for (int i = 0; i < number; ++i) {
    frames.emplace_back(20 + 3 * i, 50 - 2 * i, PixelFormat::kRgb, i % 3);
    auto value = static_cast<std::uint8_t>(17 * i);
    for (std::uint8_t& pixel : frames.back().pixels) {
      pixel = value = static_cast<std::uint8_t>(value * 13 + 7);
    }
  }
  return frames;
}

}  // namespace

TEST(build_hands_options_on) {
  World world;
  world.options.engine.workspace_mb = 77;
  world.options.engine.opt_batch = 2;
  const EngineInfo info = world.build();
  const fake::Build& last = fake::opened().last;
  CHECK(last.workspace == 77 * kMebibyte && info.workspace_mb == 77);
  CHECK((last.batch == std::vector<std::int64_t>{1, 2, 3}));
  CHECK((last.outputs == std::vector<std::string>{"logits", "boxes"}));  // and not "aux"
  CHECK(!last.strongly_typed && last.flags == 0 && last.dla_core == -1 && last.calibrator.empty());
  for (const nvinfer1::TacticSource source : {nvinfer1::TacticSource::kCUBLAS, nvinfer1::TacticSource::kCUDNN}) {
    CHECK((last.tactic_sources & (1U << static_cast<unsigned>(source))) == 0);
  }
  world.options.precision = "fp16";
  world.options.engine.dla_core = 0;
  world.build();
  CHECK(fake::opened().last.flags == (bit(nvinfer1::BuilderFlag::kFP16) | bit(nvinfer1::BuilderFlag::kGPU_FALLBACK)));
  CHECK(fake::opened().last.dla_core == 0);
  world.spec.models["fp16"]["tensorrt"] = "model.onnx";  // typed
  world.options.engine.dla_core = -1;
  world.build();
  CHECK(fake::opened().last.strongly_typed && fake::opened().last.flags == 0);
  world.options.engine.dla_core = 1;
  CHECK_THROWS(ErrorKind::kBackend, "one of 1 DLA cores", world.build());
}

TEST(build_batches_by_mode) {
  World world;
  world.options.engine.max_batch = 0;
  world.build();
  CHECK((fake::opened().last.batch == std::vector<std::int64_t>{1, 1, 1}));
  world.options.mode = PerformanceMode::kThroughput;
  world.build();
  CHECK((fake::opened().last.batch == std::vector<std::int64_t>{1, 4, 4}));
  world.options.engine.opt_batch = 6;
  world.build();
  CHECK((fake::opened().last.batch == std::vector<std::int64_t>{1, 6, 6}));
}

TEST(engines_are_kept_for_their_options) {
  World world;
  CHECK(!prepared(world.spec, world.model, world.options));
  const EngineInfo first = world.build();
  CHECK(first.built && first.bytes == 6 && first.path.rfind(world.options.cache_dir, 0) == 0);
  CHECK(prepared(world.spec, world.model, world.options));
  const int builds = fake::opened().builds;
  const EngineInfo second = world.build();
  CHECK(!second.built && second.path == first.path && second.workspace_mb == 0 && fake::opened().builds == builds);
  const auto rebuilt = [&](auto&& change) {
    DetectorOptions changed = world.options;
    change(changed.engine);
    return !prepared(world.spec, world.model, changed);
  };
  CHECK(rebuilt([](EngineOptions& engine) { engine.workspace_mb = 1; }));
  CHECK(rebuilt([](EngineOptions& engine) { engine.opt_batch = 2; }));
  CHECK(rebuilt([](EngineOptions& engine) { engine.memory_limit_mb = 500; }));
  CHECK(!rebuilt([](EngineOptions& engine) { engine.min_batch = 1; }));
  world.spec.files["model.onnx"].sha256 = "another";
  CHECK(!prepared(world.spec, world.model, world.options));
  world.options.cache_dir.clear();
  CHECK(world.build().path.empty() && !prepared(world.spec, world.model, world.options));
}

TEST(timing_of_one_build_serves_the_next) {
  World world;
  world.build();
  CHECK(fake::opened().last.timing.empty());
  world.options.engine.opt_batch = 2;
  world.build();
  CHECK(fake::opened().last.timing == "+");
  world.options.engine.opt_batch = 3;
  world.build();
  CHECK(fake::opened().last.timing == "++");
}

TEST(models_that_cannot_be_parsed) {
  World world;
  world.folder.write("model.onnx", "something else");
  CHECK_THROWS(ErrorKind::kModel, "node /decoder/sample (GridSample): no such operator", world.build());
  world.folder.write("model.onnx", "network");
  world.spec.logits = "scores";
  world.spec.boxes = "corners";
  CHECK_THROWS(ErrorKind::kModel, "expected an output named \"scores\"", world.build());
}

TEST(progress_is_told_and_stops_a_build) {
  World world;
  std::vector<std::pair<int, int>> steps;
  bool within = false;
  world.options.engine.opt_batch = 1;
  world.build([&](const std::string& phase, int step, int of) {
    if (phase == "building") {
      steps.emplace_back(step, of);
    }
    within = within || (phase == "tactics" && of == 0);  // a part of another phase has no length of its own
    return true;
  });
  CHECK((steps == std::vector<std::pair<int, int>>{{1, 3}, {2, 3}, {3, 3}}) && within);
  world.options.engine.opt_batch = 2;
  CHECK_THROWS(ErrorKind::kBackend, "a build that was stopped",
               world.build([](const char*, int step, int) { return step < 2; }));
  CHECK(!prepared(world.spec, world.model, world.options));
  bool thrown = false;
  try {
    world.build([](const char*, int, int) -> bool { throw std::runtime_error("by progress"); });
  } catch (const std::runtime_error& error) {
    thrown = std::string(error.what()) == "by progress";
  }
  CHECK(thrown);
  CHECK(world.build().built);
}

TEST(workspace_is_what_there_is) {
  World world;
  host_cuda::set_memory(100 * kMebibyte);
  CHECK(world.build().workspace_mb == 50 && fake::opened().last.workspace == 50 * kMebibyte);
  host_cuda::set_memory(60 * kMebibyte);
  world.options.engine.opt_batch = 2;
  CHECK_THROWS(ErrorKind::kBackend, "at least 64 MiB of device memory to build an engine in, got 60 MiB free of 60",
               world.build());
}

TEST(builds_keep_to_a_memory_limit) {
  World world;
  world.options.engine.memory_limit_mb = 200;
  fake::opened().weights = 200 * kMebibyte;
  CHECK(world.build().workspace_mb == 100);
  world.options.engine.opt_batch = 2;
  fake::opened().weights = 200 * kMebibyte + 1;
  CHECK_THROWS(ErrorKind::kBackend, "memory_limit_mb is 200 MiB: 0 MiB were taken and TensorRT asked for 201 MiB more",
               world.build());
  world.options.engine.memory_limit_mb = 60;
  CHECK_THROWS(ErrorKind::kBackend, "got memory_limit_mb 60; raise it", world.build());
  CHECK(host_cuda::counters().device_bytes == 0);
}

TEST(detectors_keep_to_a_memory_limit) {
  World world;
  world.options.engine.memory_limit_mb = 64;
  world.build();
  fake::opened().weights = 65 * kMebibyte;
  CHECK_THROWS(ErrorKind::kBackend, "expected an engine within the limit", world.build());
  fake::opened().weights = kMebibyte;
  const auto backend = make(world.spec, world.model, world.options);
  CHECK(host_cuda::counters().device_bytes <= 64 * kMebibyte);
  const std::vector<float> input(fake::kPixels);
  CHECK(backend->infer(input.data(), 1).size() == 2);
  // A frame for which the paths would have to be larger than the limit.
  const Frame large(6000, 4000, PixelFormat::kRgb, 0);
  std::vector<Detection> out;
  StageTimes times;
  CHECK_THROWS(ErrorKind::kBackend, "memory_limit_mb: expected at most 64 MiB",
               backend->detect(&large.view, 1, {}, &out, times));
  world.options.requests = 8;
  CHECK_THROWS(ErrorKind::kBackend, "8 frame paths", make(world.spec, world.model, world.options));
}

TEST(calibrators_are_fed) {
  World world;
  world.options.precision = "int8";
  world.options.engine.calibrator = Calibrator::kEntropy;
  CHECK_THROWS(ErrorKind::kInvalidInput, "images with a digest", world.build());
  CalibrationImages& images = world.options.engine.calibration;
  images.digest = "of five images";
  CHECK_THROWS(ErrorKind::kInvalidInput, "expected calibration images, got none", world.build());

  world.options.engine.opt_batch = 2;
  int given = 0;
  images.next = [&given](float* out, std::size_t values) {
    CHECK(values == 2 * fake::kPixels);
    if (given + 2 > 5) {
      return false;
    }
    std::fill(out, out + fake::kPixels, static_cast<float>(given));
    std::fill(out + fake::kPixels, out + values, static_cast<float>(given + 1));
    given += 2;
    return true;
  };
  std::vector<int> told;
  world.build([&](const std::string& phase, int step, int) {
    if (phase == "calibration") {
      told.push_back(step);
    }
    return true;
  });
  const fake::Build entropy = fake::opened().last;
  CHECK(entropy.calibrator == "entropy" && entropy.calibration_batch == 2 &&
        entropy.flags == bit(nvinfer1::BuilderFlag::kINT8));
  CHECK(entropy.images.size() == 2 && (told == std::vector<int>{1, 2}));
  for (std::size_t batch = 0; batch < entropy.images.size(); ++batch) {
    for (std::size_t image = 0; image < 2; ++image) {
      const auto begin = entropy.images[batch].begin() + static_cast<std::ptrdiff_t>(image * fake::kPixels);
      const auto value = static_cast<float>(2 * batch + image);
      CHECK(std::all_of(begin, begin + fake::kPixels, [value](float found) { return found == value; }));
    }
  }

  // The ranges are kept: another engine of the same images needs none.
  images.next = nullptr;
  world.options.engine.workspace_mb = 99;
  world.build();
  CHECK(fake::opened().last.calibration == "ranges" && fake::opened().last.images.empty());
  images.digest = "of other images";
  CHECK_THROWS(ErrorKind::kInvalidInput, "got none", world.build());
  images.next = [](float*, std::size_t) -> bool { throw Error(ErrorKind::kImage, "a broken picture"); };
  CHECK_THROWS(ErrorKind::kImage, "a broken picture", world.build());
  // Ranges of a part of the images are not kept.
  images.next = [](float*, std::size_t) { return true; };
  CHECK_THROWS(ErrorKind::kBackend, "stopped", world.build([](const char*, int, int) { return false; }));
  images.next = nullptr;
  CHECK_THROWS(ErrorKind::kInvalidInput, "got none", world.build());
  images.next = [](float*, std::size_t) { return false; };
  world.options.engine.calibrator = Calibrator::kMinMax;
  world.build();
  CHECK(fake::opened().last.calibrator == "minmax");
}

TEST(backend_runs_what_it_built) {
  World world;
  world.options.requests = 2;
  const auto backend = make(world.spec, world.model, world.options);
  CHECK(backend->engine().built && backend->requests() == 2);
  CHECK(backend->device().find("TensorRT 10.16") != std::string::npos);
  const BackendInfo info = probe(0);
  CHECK(info.available && info.detail.find(EDGEDET_FAKE_TENSORRT "/libnvinfer.so.10") != std::string::npos);
  CHECK(!probe(5).available && probe(5).detail.find("device: expected 0 to 0, got 5") != std::string::npos);
  const std::vector<Frame> frames = frames_of(8);
  std::vector<ImageView> views;
  for (const Frame& frame : frames) {
    views.push_back(frame.view);
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t round = 0; round < 3; ++round) {
        const std::size_t count =
            1 + (t * 3 + round) % views.size();  // more than one launch, more than there are paths
        std::vector<std::vector<Detection>> out(count);
        StageTimes times;
        backend->detect(views.data(), count, {}, out.data(), times);
        for (std::size_t i = 0; i < count; ++i) {
          wrong += same(out[i], expected(frames[i], world)) ? 0 : 1;
        }
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
  // An image that is refused in the middle of a call leaves the paths free.
  views[7].data = nullptr;
  std::vector<std::vector<Detection>> out(views.size());
  StageTimes times;
  CHECK_THROWS(ErrorKind::kInvalidInput, "", backend->detect(views.data(), views.size(), {}, out.data(), times));
  backend->detect(views.data(), 7, {}, out.data(), times);
  CHECK(same(out[6], expected(frames[6], world)));
}

TEST(backend_reads_images_in_device_memory) {
  World world;
  world.options.requests = 2;
  const auto backend = make(world.spec, world.model, world.options);
  const std::vector<Frame> frames = frames_of(8);
  std::vector<test::DeviceFrame> uploaded;
  std::vector<ImageView> views;
  for (const Frame& frame : frames) {
    views.push_back(uploaded.emplace_back(frame).view);
  }
  ImageSource source;
  source.memory = ImageSource::Memory::kReadable;
  std::vector<std::vector<Detection>> out(views.size());
  StageTimes times;
  backend->detect(views.data(), views.size(), source, out.data(), times);
  for (std::size_t i = 0; i < frames.size(); ++i) {
    CHECK(same(out[i], expected(frames[i], world)));
  }
}

TEST(engines_side_by_side) {
  World first;
  World second;
  second.options.max_detections = 5;
  const auto a = make(first.spec, first.model, first.options);
  auto b = make(second.spec, second.model, second.options);
  const std::vector<Frame> frames = frames_of(1);
  std::vector<Detection> out;
  StageTimes times;
  for (int round = 0; round < 3; ++round) {
    a->detect(&frames[0].view, 1, {}, &out, times);
    CHECK(same(out, expected(frames[0], first)));
    b->detect(&frames[0].view, 1, {}, &out, times);
    CHECK(same(out, expected(frames[0], second)));
  }
  const std::size_t both = host_cuda::counters().device_bytes;
  b.reset();
  CHECK(host_cuda::counters().device_bytes < both);
  a->detect(&frames[0].view, 1, {}, &out, times);
  CHECK(same(out, expected(frames[0], first)));
}
