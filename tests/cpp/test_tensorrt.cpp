// What of the TensorRT backend needs neither TensorRT nor a GPU.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "backends/tensorrt/build_options.h"
#include "backends/tensorrt/float_layers.h"
#include "backends/tensorrt/layers.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/plan_error.h"
#include "backends/tensorrt/ports.h"
#include "backends/tensorrt/tensorrt_backend.h"
#include "check.h"
#include "folder.h"
#include "frame/device.h"

namespace fs = std::filesystem;
using namespace edgedet;            // NOLINT(google-build-using-namespace)
using namespace edgedet::tensorrt;  // NOLINT(google-build-using-namespace)
using test::Folder;
using test::spill;

namespace {

ModelSpec logits_spec() {
  ModelSpec spec;
  spec.info.preprocess.width = 64;
  spec.info.preprocess.height = 32;
  spec.info.classes = {"a", "b", "c"};
  spec.input = "images";
  spec.form = OutputForm::kLogitsBoxes;
  spec.logits = "logits";
  spec.boxes = "boxes";
  return spec;
}

ModelSpec scored_spec() {
  ModelSpec spec = logits_spec();
  spec.form = OutputForm::kLabelsBoxesScores;
  spec.logits.clear();
  spec.labels = "labels";
  spec.scores = "scores";
  spec.size_input = "orig_target_sizes";
  return spec;
}

Port port(const std::string& name, std::vector<std::int64_t> dims, PortType type, bool input) {
  Port made;
  made.name = name;
  made.dims = std::move(dims);
  made.type = type;
  made.type_name = "given";
  made.input = input;
  made.max_batch = 4;
  return made;
}

std::vector<Port> logits_ports() {
  return {port("images", {-1, 3, 32, 64}, PortType::kFloat32, true),
          port("logits", {-1, 20, 3}, PortType::kFloat32, false),
          port("boxes", {-1, 20, 4}, PortType::kFloat32, false)};
}

std::vector<Port> scored_ports() {
  return {port("images", {-1, 3, 32, 64}, PortType::kFloat16, true),
          port("orig_target_sizes", {-1, 2}, PortType::kInt32, true), port("labels", {-1, 20}, PortType::kInt64, false),
          port("boxes", {-1, 20, 4}, PortType::kFloat16, false), port("scores", {-1, 20}, PortType::kFloat16, false)};
}

}  // namespace

TEST(engine_key_knows_every_option) {
  const std::string plain = canonical_text({});
  const auto changes = [&](auto&& change) {
    BuildOptions options;
    options.max_batch = 8;
    const std::string before = canonical_text(options);
    change(options);
    return canonical_text(options) != before;
  };
  CHECK(plain == canonical_text({}));
  CHECK(changes([](BuildOptions& options) { options.precision = Precision::kFp16; }));
  CHECK(changes([](BuildOptions& options) { options.precision = Precision::kInt8; }));
  CHECK(changes([](BuildOptions& options) { options.precision = Precision::kTyped; }));
  CHECK(changes([](BuildOptions& options) { options.tf32 = true; }));
  CHECK(changes([](BuildOptions& options) { options.workspace_bytes += 1; }));
  CHECK(changes([](BuildOptions& options) { options.min_batch = options.opt_batch = 2; }));
  CHECK(changes([](BuildOptions& options) { options.opt_batch = 4; }));
  CHECK(changes([](BuildOptions& options) { options.max_batch = 9; }));
  CHECK(changes([](BuildOptions& options) {
    options.precision = Precision::kTyped;
    options.dla_core = 0;
  }));
  CHECK(changes([](BuildOptions& options) { options.outputs = {"boxes"}; }));
  CHECK(changes([](BuildOptions& options) { options.float_layers = {"norm"}; }));
  CHECK(changes([](BuildOptions& options) { options.memory_limit = 1; }));
  CHECK(changes([](BuildOptions& options) { options.calibration.identity = "images"; }));
  const auto calibrated = [](auto&& change) {
    BuildOptions options;
    options.calibration.identity = "images";
    change(options.calibration);
    return canonical_text(options);
  };
  const std::string with = calibrated([](Calibration&) {});
  CHECK(with != plain);
  CHECK(with != calibrated([](Calibration& c) { c.method = Calibration::Method::kMinMax; }));
  CHECK(with != calibrated([](Calibration& c) { c.batch = 2; }));
  CHECK(with != calibrated([](Calibration& c) { c.identity = "other images"; }));
  // What does not change the engine.
  CHECK(!changes([](BuildOptions& options) { options.timing_cache = "file"; }));
  CHECK(!changes([](BuildOptions& options) { options.device = 1; }));

  BuildOptions lists;
  lists.outputs = {"a", "b"};
  BuildOptions joined;
  joined.outputs = {"a\noutput=1:b"};
  CHECK(canonical_text(lists) != canonical_text(joined));
}

TEST(build_options_out_of_range) {
  BuildOptions options;
  options.opt_batch = 2;
  CHECK_THROWS(ErrorKind::kInvalidInput, "min <= opt <= max", canonical_text(options));
  options = {};
  options.dla_core = 0;
  CHECK_THROWS(ErrorKind::kInvalidInput, "DLA", canonical_text(options));
}

TEST(library_says_why_it_is_not_there) {
  std::string reason;
  if (available(&reason)) {
    CHECK(probe(0).available);
    return;
  }
  CHECK(!available(nullptr));
  std::string no_device;
  const bool device = !frame::devices(&no_device).empty();
  CHECK(reason.find(device ? "install TensorRT" : "expected a CUDA device") != std::string::npos);
  CHECK(device || reason.find(no_device) != std::string::npos);
  CHECK_THROWS(ErrorKind::kBackend, "expected", library());
  const BackendInfo info = probe(0);
  CHECK(!info.available && info.name == "tensorrt" && info.detail == reason);
}

TEST(library_version_numbers) {
  CHECK(nv::decode_version(8601).major == 8 && nv::decode_version(8601).minor == 6 &&
        nv::decode_version(8601).patch == 1);
  CHECK(nv::decode_version(100300).major == 10 && nv::decode_version(100300).minor == 3);
  CHECK(nv::decode_version(101600).minor == 16 && nv::decode_version(110102).patch == 2);
}

TEST(logger_keeps_the_last_lines) {
  using Severity = nvinfer1::ILogger::Severity;
  Logger log;
  log.log(Severity::kINFO, "left out");
  log.log(Severity::kERROR, nullptr);
  CHECK(log.since(0).empty());
  log.log(Severity::kERROR, "the\ncause");
  for (int i = 0; i < 100; ++i) {
    log.log(Severity::kWARNING, ("warning " + std::to_string(i)).c_str());
  }
  const std::string all = log.since(0);
  CHECK(all.rfind("the cause; ", 0) == 0);
  CHECK(all.find("warning 99") != std::string::npos && all.find("warning 91;") == std::string::npos);
  const std::uint64_t mark = log.mark();
  CHECK(log.since(mark).empty());
  log.log(Severity::kINTERNAL_ERROR, std::string(100000, 'x').c_str());
  CHECK(log.since(mark) == std::string(Logger::kMaxLength, 'x'));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&log] {
      for (int line = 0; line < 1000; ++line) {
        log.log(Severity::kERROR, std::string(Logger::kMaxLength, 'y').c_str());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(log.since(0).size() <= 2 * Logger::kMaxLines * (Logger::kMaxLength + 2));
}

TEST(plan_errors_name_the_cause) {
  const auto has = [](const std::string& log, const std::string& part) {
    return plan_error("file", "8.6.1", log).find(part) != std::string::npos;
  };
  CHECK(has("The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 7.5",
            "on this GPU"));
  CHECK(has("The engine plan file is not compatible with this version of TensorRT, expecting library version 8.6.1",
            "another version"));
  CHECK(
      has("Version tag does not match. Note: Current Version: 232, Serialized Engine Version: 213", "another version"));
  CHECK(has("Magic tag does not match", "damaged"));
  CHECK(has("", "damaged"));
}

TEST(ports_of_logits) {
  const NetworkPorts found = check_ports(logits_ports(), logits_spec(), "engine");
  CHECK(found.network.form == frame::HeadForm::kLogits && found.network.rows == 20 && found.network.classes == 3);
  CHECK(found.network.input.dtype == DType::kFloat32 && found.network.output == DType::kFloat32);
  CHECK(found.max_batch == 4 && found.input == "images" && found.size.empty() && found.labels.empty());
  CHECK(found.network.preprocess.width == 64 && found.network.preprocess.height == 32);
}

TEST(ports_of_scored_heads) {
  const NetworkPorts found = check_ports(scored_ports(), scored_spec(), "engine");
  CHECK(found.network.form == frame::HeadForm::kScored && found.network.rows == 20 && found.network.wide_labels);
  CHECK(found.network.input.dtype == DType::kFloat16 && found.network.output == DType::kFloat16);
  CHECK(found.size == "orig_target_sizes" && !found.wide_size && found.logits.empty());
}

TEST(ports_that_do_not_fit) {
  const auto refused = [](std::vector<Port> ports, const ModelSpec& spec, const char* part) {
    CHECK_THROWS(ErrorKind::kModel, part, check_ports(ports, spec, "engine"));
  };
  const auto with = [](std::vector<Port> ports, std::size_t index, auto&& change) {
    change(ports[index]);
    return ports;
  };
  const ModelSpec spec = logits_spec();
  refused({}, spec, "named \"images\" as in model.json, got none");
  refused(with(logits_ports(), 0, [](Port& p) { p.name = "x"; }), spec, "got x");
  refused(with(logits_ports(), 0, [](Port& p) { p.dims = {-1, 3, 64, 32}; }), spec, "(N, 3, 32, 64)");
  refused(with(logits_ports(), 0, [](Port& p) { p.dims = {}; }), spec, "of shape");
  refused(with(logits_ports(), 0, [](Port& p) { p.type = PortType::kOther; }), spec, "float32 or float16");
  refused(with(logits_ports(), 0, [](Port& p) { p.on_host = true; }), spec, "device memory");
  refused(with(logits_ports(), 0, [](Port& p) { p.min_batch = 2; }), spec, "runs one image");
  refused(with(logits_ports(), 0, [](Port& p) { p.max_batch = 0; }), spec, "runs one image");
  refused(with(logits_ports(), 1, [](Port& p) { p.dims = {-1, 20, 4}; }), spec, "(N, 20, 3)");
  refused(with(logits_ports(), 1, [](Port& p) { p.type = PortType::kFloat16; }), spec, "of one type");
  refused(with(logits_ports(), 2, [](Port& p) { p.dims = {-1, -1, 4}; }), spec, "(N, a fixed number, 4)");
  refused(with(logits_ports(), 2, [](Port& p) { p.dims = {-1, std::int64_t{1} << 40, 4}; }), spec, "boxes an image");
  std::vector<Port> more = logits_ports();
  more.push_back(port("aux", {-1, 7}, PortType::kFloat32, false));
  refused(more, spec, "the output \"aux\"");
  refused(with(scored_ports(), 2, [](Port& p) { p.type = PortType::kFloat32; }), scored_spec(), "int32 or int64");
  refused(with(scored_ports(), 1, [](Port& p) { p.dims = {-1, 3}; }), scored_spec(), "(N, 2)");
  ModelSpec sizeless = scored_spec();
  sizeless.size_input.clear();
  refused(scored_ports(), sizeless, "the input \"orig_target_sizes\"");
}

TEST(layers_of_the_inspector) {
  const std::vector<ExecutionNode> nodes = parse_layers(R"({"Layers": [
    {"Name": "conv + relu", "LayerType": "CaskConvolution", "TacticName": "sm80_int8",
     "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
     "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
     "Metadata": "[ONNX Layer: /conv[0]/Conv]\u001e[ONNX Layer: /relu]"},
    {"Name": "a + b", "LayerType": "kgen", "Inputs": [],
     "Outputs": [{"Name": "y", "Format": "Row major linear", "Datatype": "Half"}]},
    {"Name": "shuffle", "Inputs": [{"Datatype": "BFloat16"}]}, {}], "Bindings": ["x"]})");
  CHECK(nodes.size() == 4);
  CHECK(nodes[0].name == "conv + relu" && nodes[0].type == "CaskConvolution" && nodes[0].primitive == "sm80_int8");
  CHECK(nodes[0].precision == "s8" && nodes[0].original == "/conv[0]/Conv,/relu");
  CHECK(nodes[1].precision == "f16" && nodes[1].original == "a,b");
  CHECK(nodes[2].precision == "bf16" && nodes[2].original == "shuffle");
  CHECK_THROWS(ErrorKind::kBackend, "layer information of TensorRT", parse_layers("{}"));
  CHECK_THROWS(ErrorKind::kBackend, "layer information of TensorRT", parse_layers("no JSON"));
}

TEST(float_layers_of_a_bundle) {
  const Folder folder;
  CHECK(read_float_layers(folder.path()).empty());
  spill(folder / "calibration.json", R"({"half": {"tensorrt": {"islands": {"b": "rule", "a": "rule"}}}})");
  CHECK((read_float_layers(folder.path()) == std::vector<std::string>{"a", "b"}));
  spill(folder / "calibration.json", R"({"half": {}})");
  CHECK(read_float_layers(folder.path()).empty());
  spill(folder / "calibration.json", R"({"half": 1})");
  CHECK_THROWS(ErrorKind::kBundle, "calibration.json", read_float_layers(folder.path()));
}
