// Engines and contexts on fake_tensorrt.cpp and host_cuda.
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "backends/tensorrt/context.h"
#include "backends/tensorrt/engine.h"
#include "backends/tensorrt/ports.h"
#include "backends/tensorrt/raw_outputs.h"
#include "check.h"
#include "fake_library.h"
#include "frame/frame_path.h"
#include "frames.h"
#include "simulated.h"

using namespace edgedet;            // NOLINT(google-build-using-namespace)
using namespace edgedet::tensorrt;  // NOLINT(google-build-using-namespace)
using test::Frame;
namespace fake = test::fake;

namespace {

std::shared_ptr<const Engine> engine_of(const std::string& plan) {
  fake::opened();
  return std::make_shared<Engine>(plan.data(), plan.size(), 0, "plan", 0);
}

ModelSpec spec_of(OutputForm form) {
  ModelSpec spec;
  spec.info.preprocess.width = fake::kWidth;
  spec.info.preprocess.height = fake::kHeight;
  spec.info.classes.resize(fake::kClasses);
  spec.input = "images";
  spec.form = form;
  spec.boxes = "boxes";
  if (form == OutputForm::kLogitsBoxes) {
    spec.logits = "logits";
  } else {
    spec.labels = "labels";
    spec.scores = "scores";
    spec.size_input = "orig_target_sizes";
  }
  return spec;
}

NetworkPorts ports_of(const Engine& engine, OutputForm form) {
  return check_ports(engine.ports(), spec_of(form), "plan");
}

std::vector<float> ramp(std::size_t count) {
  std::vector<float> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.push_back(static_cast<float>(i % 997) / 1000.F);
  }
  return values;
}

std::vector<Frame> frames_of(int number) {
  std::vector<Frame> frames;
  for (int i = 0; i < number; ++i) {
    frames.emplace_back(20 + 3 * i, 50 - 2 * i, PixelFormat::kRgb, i % 3);
    std::uint8_t value = static_cast<std::uint8_t>(17 * i);
    for (std::uint8_t& pixel : frames.back().pixels) {
      pixel = value = static_cast<std::uint8_t>(value * 13 + 7);
    }
  }
  return frames;
}

// What the fake network and the decoder make of an image, on the CPU.
std::vector<Detection> expected(const Frame& frame, const frame::NetworkSpec& spec, const ops::DecodeOptions& options) {
  std::vector<float> input(fake::kPixels);
  ops::PreprocessWorkspace preprocess;
  const Geometry geometry =
      ops::preprocess_cpu(frame.view, spec.preprocess, spec.input, input.data(), preprocess, nullptr);
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::decode_logits_cpu(input.data(), input.data() + fake::kRows * fake::kClasses, fake::kRows, fake::kClasses,
                         geometry, options, workspace, out);
  return out;
}

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Detection)) == 0);
}

}  // namespace

TEST(engine_lists_its_ports) {
  const auto engine = engine_of("logits");
  CHECK(engine->ports().size() == 3 && engine->context_bytes() == fake::kContextBytes);
  const Port& input = engine->ports()[0];
  CHECK(input.name == "images" && input.input && !input.on_host && input.type == PortType::kFloat32);
  CHECK(input.min_batch == 1 && input.opt_batch == 1 && input.max_batch == fake::kMaxBatch);
  CHECK(ports_of(*engine, OutputForm::kLogitsBoxes).max_batch == fake::kMaxBatch);
  CHECK_THROWS(ErrorKind::kModel, "named \"scores\"", ports_of(*engine, OutputForm::kLabelsBoxesScores));
  CHECK(engine->layers().size() == 1 && engine->layers()[0].name == "copy");
}

TEST(engine_refuses_plans) {
  fake::opened();
  const auto refused = [](const std::string& plan, const char* part) {
    CHECK_THROWS(ErrorKind::kBackend, part, engine_of(plan));
  };
  refused("old", "another version");
  refused("nonsense", "damaged");
  refused("", "1 to");
}

TEST(contexts_run_on_frame_paths) {
  const auto engine = engine_of("logits");
  const NetworkPorts ports = ports_of(*engine, OutputForm::kLogitsBoxes);
  const std::vector<Frame> frames = frames_of(6);
  for (const bool graph : {true, false}) {
    frame::FrameOptions options;
    options.max_batch = ports.max_batch;
    options.max_width = options.max_height = 100;
    options.decode.top_k = 12;
    options.graph = graph;
    const std::size_t before = host_cuda::counters().device_bytes;
    {
      frame::FramePool pool(
          ports.network,
          [&] {
            const auto context = std::make_shared<Context>(engine, ports);
            return [context](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
              context->enqueue(buffers, batch, stream);
            };
          },
          options, 2);
      CHECK(host_cuda::counters().device_bytes - before ==
            pool.memory().device + 2 * Context::device_bytes(*engine, ports));
      // Batch sizes take turns, so that a graph of one is replayed after the other was set up.
      for (std::size_t round = 0; round < 12; ++round) {
        const std::size_t batch = 1 + round % 3;
        const std::size_t first = round % (frames.size() - 2);
        std::vector<ImageView> views;
        for (std::size_t i = 0; i < batch; ++i) {
          views.push_back(frames[first + i].view);
        }
        // Parts are timed between frames, and disturb none.
        const PartTimes times = pool.time_parts(views.data(), batch, 2);
        CHECK(times.network.size() == 2 && times.network_device.size() == 2 && times.network[1] > 0);
        CHECK(times.stages.size() == 2 && times.stages[1].inference > 0 && times.resident.size() == 2);
        std::vector<std::vector<Detection>> out(batch);
        auto ticket = pool.submit(views.data(), batch, {}, std::numeric_limits<double>::infinity());
        ticket.wait(out.data());
        for (std::size_t i = 0; i < batch; ++i) {
          CHECK(same(out[i], expected(frames[first + i], ports.network, options.decode)));
        }
      }
      CHECK(fake::opened().contexts >= 3 && fake::opened().contexts <= 6);  // one a batch size and path
    }
    CHECK(fake::opened().contexts == 0 && host_cuda::counters().device_bytes == before);
  }
}

TEST(context_refuses_batches) {
  const auto engine = engine_of("logits");
  const NetworkPorts ports = ports_of(*engine, OutputForm::kLogitsBoxes);
  Context context(engine, ports);
  CHECK_THROWS(ErrorKind::kInvalidInput, "1 to 3, got 4", context.enqueue({}, 4, nullptr));
  CHECK_THROWS(ErrorKind::kInvalidInput, "got 0", context.enqueue({}, 0, nullptr));
  CHECK_THROWS(ErrorKind::kBackend, "a buffer for \"images\"", context.enqueue({}, 1, nullptr));
}

TEST(raw_outputs_of_logits) {
  const auto engine = engine_of("logits");
  RawOutputs raw(engine, ports_of(*engine, OutputForm::kLogitsBoxes));
  constexpr std::size_t kBatch = 5;  // more than one launch takes
  const std::vector<float> input = ramp(kBatch * fake::kPixels);
  const std::vector<Tensor> outputs = raw.run(input.data(), kBatch);
  CHECK(outputs.size() == 2 && outputs[0].name == "logits" && outputs[1].name == "boxes");
  CHECK((outputs[0].shape == std::vector<std::int64_t>{kBatch, fake::kRows, fake::kClasses}));
  CHECK((outputs[1].shape == std::vector<std::int64_t>{kBatch, fake::kRows, 4}));
  constexpr std::size_t kLogits = fake::kRows * fake::kClasses;
  bool equal = outputs[0].values.size() == kBatch * kLogits;
  for (std::size_t i = 0; equal && i < kBatch * kLogits; ++i) {
    equal = outputs[0].values[i] == input[i / kLogits * fake::kPixels + i % kLogits];
  }
  CHECK(equal);
  CHECK(raw.run(input.data(), 0)[0].values.empty());
}

TEST(raw_outputs_of_scored_heads) {
  const auto engine = engine_of("scored");
  const NetworkPorts ports = ports_of(*engine, OutputForm::kLabelsBoxesScores);
  CHECK(ports.wide_size && Context::device_bytes(*engine, ports) == fake::kContextBytes + fake::kMaxBatch * 16);
  RawOutputs raw(engine, ports);
  const std::vector<float> input = ramp(2 * fake::kPixels);
  const std::vector<Tensor> outputs = raw.run(input.data(), 2);
  CHECK(outputs.size() == 3 && outputs[0].name == "labels" && outputs[2].name == "scores");
  // The fake's first labels are the size it was given.
  for (const std::size_t image : {0, 1}) {
    CHECK(outputs[0].values[image * fake::kRows] == fake::kWidth);
    CHECK(outputs[0].values[image * fake::kRows + 1] == fake::kHeight);
  }
  CHECK(outputs[2].values[fake::kRows] == input[fake::kPixels]);
}
