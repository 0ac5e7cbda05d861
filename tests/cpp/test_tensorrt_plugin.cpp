// The plugin of deformable attention behind both interfaces of TensorRT, registered with fake_tensorrt.cpp, on
// host_cuda.
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <dlfcn.h>

#include "attention_reference.h"
#include "backends/tensorrt/attention_plugin.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/plugin_nv.h"
#include "backends/tensorrt/plugin_state.h"
#include "check.h"
#include "device_frames.h"
#include "simulated.h"

using namespace edgedet;            // NOLINT(google-build-using-namespace)
using namespace edgedet::tensorrt;  // NOLINT(google-build-using-namespace)
using nvinfer1::DataType;
using test::DeformableSpec;
using test::Inputs;

namespace {

using V2 = nv::CreatorV2<AttentionPlugin>;
using State = std::vector<std::int32_t>;
constexpr auto kBuild = nvinfer1::TensorRTPhase::kBUILD;
constexpr auto kRuntime = nvinfer1::TensorRTPhase::kRUNTIME;

struct Destroy {
  void operator()(nvinfer1::IPluginV2* plugin) const { plugin->destroy(); }
};
using OwnedV2 = std::unique_ptr<nvinfer1::IPluginV2, Destroy>;

// The registry of the library that edgedet opened.
nvinfer1::IPluginRegistry& registry() {
  set_library_folders({EDGEDET_FAKE_TENSORRT});
  static_cast<void>(library());
  void* const handle =
      dlopen((std::string(EDGEDET_FAKE_TENSORRT) + "/libnvinfer.so.10").c_str(), RTLD_LAZY | RTLD_NOLOAD);
  return *reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(handle, "getPluginRegistry"))();
}

nvinfer1::IPluginCreatorV3One& creator() {
  return *dynamic_cast<nvinfer1::IPluginCreatorV3One*>(registry().getCreator("EdgedetDeformableAttention", "1", ""));
}

// The attributes of a node, as the parser hands them over.
struct Fields {
  explicit Fields(const std::map<std::string, State>& given) : values(given) {
    for (const auto& [name, numbers] : values) {
      fields.emplace_back(name.c_str(), numbers.data(), nvinfer1::PluginFieldType::kINT32,
                          static_cast<std::int32_t>(numbers.size()));
    }
    collection = {static_cast<std::int32_t>(fields.size()), fields.data()};
  }
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  std::map<std::string, State> values;
  std::vector<nvinfer1::PluginField> fields;
  nvinfer1::PluginFieldCollection collection{};
};

std::map<std::string, State> attributes_of(const DeformableSpec& spec) {
  std::map<std::string, State> attributes = {
      {"heads", {spec.heads}}, {"channels", {spec.channels}}, {"layers", {spec.layers}}, {"layer", {spec.layer}}};
  for (const cuda::DeformableLevel& level : spec.levels) {
    attributes["heights"].push_back(level.height);
    attributes["widths"].push_back(level.width);
    attributes["points"].push_back(level.points);
  }
  return attributes;
}

DeformableSpec example() { return test::make_spec(4, 8, {{6, 7, 3}, {3, 4, 2}}, 2, 1); }

nvinfer1::Dims dims_of(const State& sides) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(sides.size());
  std::copy(sides.begin(), sides.end(), dims.d);
  return dims;
}

nvinfer1::PluginTensorDesc desc_of(const State& sides, DataType type) {
  nvinfer1::PluginTensorDesc desc{};
  desc.dims = dims_of(sides);
  desc.type = type;
  desc.format = nvinfer1::TensorFormat::kLINEAR;
  return desc;
}

// Projection, boxes, values and the output.
std::vector<nvinfer1::PluginTensorDesc> tensors_of(const DeformableSpec& spec, std::int32_t images,
                                                   std::int32_t queries, DataType type) {
  return {desc_of({images, queries, 3 * spec.rays()}, type), desc_of({images, queries, 4}, DataType::kFLOAT),
          desc_of({images, spec.rows(), spec.channels}, type), desc_of({images, queries, spec.dim()}, type)};
}

// Runs `enqueue` in a captured graph that is replayed, and compares with the definition.
template <typename T, typename Enqueue>
void check_runs(const DeformableSpec& spec, const Enqueue& enqueue) {
  const Inputs inputs = test::random_inputs(spec, 2, 5, 3);
  const cuda::DeviceBuffer projection = test::upload(test::as<T>(inputs.projection));
  const cuda::DeviceBuffer boxes = test::upload(inputs.boxes);
  const cuda::DeviceBuffer values = test::upload(test::as<T>(inputs.values));
  const std::size_t count = inputs.images * inputs.queries * test::size_of(spec.dim());
  const cuda::DeviceBuffer out = cuda::make_device_buffer(count * sizeof(T));
  const std::vector<nvinfer1::PluginTensorDesc> tensors =
      tensors_of(spec, 2, 5, sizeof(T) == 2 ? DataType::kHALF : DataType::kFLOAT);
  const void* const reads[] = {projection.data(), boxes.data(), values.data()};
  void* const writes[] = {out.data()};

  const cuda::Stream stream = cuda::make_stream();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cuda::check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
  CHECK(enqueue(tensors.data(), tensors.data() + 3, reads, writes, stream.get()) == 0);
  cuda::check_cuda(cudaStreamEndCapture(stream.get(), &graph), "capture");
  cuda::check_cuda(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cuda::check_cuda(cudaGraphLaunch(exec, stream.get()), "replay");
  cuda::check_cuda(cudaStreamSynchronize(stream.get()), "replay");
  std::vector<T> got(count);
  cuda::check_cuda(cudaMemcpy(got.data(), out.data(), out.bytes(), cudaMemcpyDeviceToHost), "copy");
  cuda::check_cuda(cudaGraphExecDestroy(exec), "destroy");
  cuda::check_cuda(cudaGraphDestroy(graph), "destroy");
  std::vector<float> read;
  for (const T value : got) {
    if constexpr (sizeof(T) == 2) {
      read.push_back(test::from_half(value));
    } else {
      read.push_back(value);
    }
  }
  test::check_close(read, test::definition(spec, inputs), spec, sizeof(T) == 2 ? 0x1p-11 : 0.0);
}

// Expressions of shapes that only know constants.
class Expression final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Expression(std::int64_t value) : value_(value) { mImpl = this; }

 private:
  bool isConstant() const override { return value_ >= 0; }
  std::int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }
  std::int64_t value_;
};

class Expressions final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  Expressions() { mImpl = this; }
  const Expression* made(std::int64_t value) {
    kept_.push_back(std::make_unique<Expression>(value));
    return kept_.back().get();
  }
  nvinfer1::DimsExprs shape(const State& sides) {
    nvinfer1::DimsExprs dims{};
    dims.nbDims = static_cast<std::int32_t>(sides.size());
    for (std::size_t i = 0; i < sides.size(); ++i) {
      dims.d[i] = made(sides[i]);
    }
    return dims;
  }

 private:
  const nvinfer1::IDimensionExpr* constant(std::int64_t value) override { return made(value); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                            const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
  std::vector<std::unique_ptr<Expression>> kept_;
};

// What the logger kept while `body` ran.
template <typename Body>
std::string said(Body&& body) {
  const std::uint64_t mark = logger().mark();
  body();
  return logger().since(mark);
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
}

nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin) {
  return *static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin.getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

}  // namespace

TEST(plugin_is_registered_when_the_library_opens) {
  CHECK(registry().getCreator("EdgedetDeformableAttention", "1", "") != nullptr);
  CHECK(registry().getCreator("EdgedetDeformableAttention", "2", "") == nullptr);
  const nvinfer1::PluginFieldCollection& names = *creator().getFieldNames();
  CHECK(names.nbFields == 7 && std::string(names.fields[0].name) == "heads");
}

TEST(plugin_v3_goes_through_a_plan) {
  const DeformableSpec spec = example();
  const Fields fields(attributes_of(spec));
  const std::unique_ptr<nvinfer1::IPluginV3> made(creator().createPlugin("node", &fields.collection, kBuild));
  const std::unique_ptr<nvinfer1::IPluginV3> cloned(made->clone());
  const nvinfer1::PluginFieldCollection& kept = *runtime_of(*cloned).getFieldsToSerialize();
  const std::unique_ptr<nvinfer1::IPluginV3> read(creator().createPlugin("node", &kept, kRuntime));
  const std::unique_ptr<nvinfer1::IPluginV3> attached(runtime_of(*read).attachToContext(nullptr));
  const auto* const core =
      static_cast<nvinfer1::IPluginV3OneCore*>(attached->getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
  CHECK(std::string(core->getPluginName()) == "EdgedetDeformableAttention");

  nvinfer1::IPluginV3OneRuntime& runtime = runtime_of(*attached);
  const auto enqueue = [&](const auto* in, const auto* out, const auto& reads, const auto& writes, auto stream) {
    return runtime.onShapeChange(in, 3, out, 1) + runtime.enqueue(in, out, reads, writes, nullptr, stream);
  };
  check_runs<float>(spec, enqueue);
  check_runs<std::uint16_t>(spec, enqueue);
}

TEST(plugin_v2_goes_through_a_plan) {
  const DeformableSpec spec = example();
  const Fields fields(attributes_of(spec));
  V2 old;
  const OwnedV2 made(old.createPlugin("node", &fields.collection));
  made->setPluginNamespace("space");
  const OwnedV2 cloned(made->clone());
  CHECK(std::string(cloned->getPluginNamespace()) == "space");
  std::vector<char> plan(cloned->getSerializationSize() + 1);
  cloned->serialize(plan.data() + 1);  // at an odd address
  const OwnedV2 read(old.deserializePlugin("node", plan.data() + 1, plan.size() - 1));
  CHECK(read->getSerializationSize() == plan.size() - 1);
  CHECK(std::string(read->getPluginType()) == "EdgedetDeformableAttention" && read->initialize() == 0);

  auto& plugin = static_cast<nvinfer1::IPluginV2DynamicExt&>(*read);
  const auto enqueue = [&](const auto* in, const auto* out, const auto& reads, const auto& writes, auto stream) {
    return plugin.enqueue(in, out, reads, writes, nullptr, stream);
  };
  check_runs<float>(spec, enqueue);
  check_runs<std::uint16_t>(spec, enqueue);

  Expressions expressions;
  const nvinfer1::DimsExprs inputs[] = {expressions.shape({-1, 5, 60}), expressions.shape({-1, 5, 4}),
                                        expressions.shape({-1, 432, 8})};
  const nvinfer1::DimsExprs out = plugin.getOutputDimensions(0, inputs, 3, expressions);
  CHECK(out.nbDims == 3 && out.d[0] == inputs[0].d[0] && out.d[2]->getConstantValue() == 32);
  const DataType types[] = {DataType::kHALF, DataType::kFLOAT, DataType::kHALF};
  CHECK(plugin.getOutputDataType(0, types, 3) == DataType::kHALF);
  const std::string reason = said([&] { CHECK(plugin.getOutputDimensions(0, inputs, 2, expressions).nbDims == -1); });
  CHECK(contains(reason, "expected three inputs"));
}

TEST(plugin_v3_shapes_and_types) {
  const DeformableSpec spec = example();
  const Fields fields(attributes_of(spec));
  const std::unique_ptr<nvinfer1::IPluginV3> plugin(creator().createPlugin("node", &fields.collection, kBuild));
  nvinfer1::IPluginV3OneBuild& build = build_of(*plugin);
  Expressions expressions;
  nvinfer1::DimsExprs inputs[] = {expressions.shape({-1, 5, 60}), expressions.shape({-1, 5, 4}),
                                  expressions.shape({-1, 432, 8})};
  nvinfer1::DimsExprs out{};
  CHECK(build.getNbOutputs() == 1 && build.getOutputShapes(inputs, 3, nullptr, 0, &out, 1, expressions) == 0);
  CHECK(out.nbDims == 3 && out.d[0] == inputs[0].d[0] && out.d[1] == inputs[0].d[1]);
  CHECK(out.d[2]->getConstantValue() == spec.dim());
  inputs[1] = expressions.shape({5, 4});
  CHECK(build.getOutputShapes(inputs, 3, nullptr, 0, &out, 1, expressions) == 1);
  const DataType types[] = {DataType::kHALF, DataType::kFLOAT, DataType::kHALF};
  DataType type{};
  CHECK(build.getOutputDataTypes(&type, 1, types, 3) == 0 && type == DataType::kHALF);

  const auto supported = [&](DataType first, DataType boxes, DataType values, DataType result) {
    const DataType given[] = {first, boxes, values, result};
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors(4);
    for (std::size_t i = 0; i < 4; ++i) {
      tensors[i].desc = desc_of({1, 1, 1}, given[i]);
    }
    bool all = true;
    for (std::int32_t i = 0; i < 4; ++i) {
      all = build.supportsFormatCombination(i, tensors.data(), 3, 1) && all;
    }
    return all;
  };
  constexpr DataType kFloat = DataType::kFLOAT;
  constexpr DataType kHalf = DataType::kHALF;
  CHECK(supported(kFloat, kFloat, kFloat, kFloat) && supported(kHalf, kFloat, kHalf, kHalf));
  CHECK(!supported(kHalf, kHalf, kHalf, kHalf) && !supported(kHalf, kFloat, kFloat, kHalf));
  CHECK(!supported(DataType::kBF16, kFloat, DataType::kBF16, DataType::kBF16));
  nvinfer1::DynamicPluginTensorDesc packed{};
  packed.desc = desc_of({1, 1, 1}, kHalf);
  packed.desc.format = nvinfer1::TensorFormat::kCHW16;
  CHECK(!build.supportsFormatCombination(0, &packed, 3, 1));

  std::vector<nvinfer1::DynamicPluginTensorDesc> free(3);
  const auto tensors = tensors_of(spec, -1, 5, kFloat);
  for (std::size_t i = 0; i < 3; ++i) {
    free[i].desc = tensors[i];
  }
  CHECK(build.configurePlugin(free.data(), 3, nullptr, 1) == 0);
  free[2].desc.dims.d[1] = 431;
  const std::string reason = said([&] { CHECK(build.configurePlugin(free.data(), 3, nullptr, 1) == 1); });
  CHECK(contains(reason, "(B, 432, 8), got (-1, 5, 60), (-1, 5, 4) and (-1, 431, 8)"));
}

TEST(plugin_refuses_wrong_shapes_when_it_runs) {
  const DeformableSpec spec = example();
  const Fields fields(attributes_of(spec));
  const std::unique_ptr<nvinfer1::IPluginV3> plugin(creator().createPlugin("node", &fields.collection, kBuild));
  V2 old;
  const OwnedV2 before(old.createPlugin("node", &fields.collection));
  const void* const reads[3] = {};
  void* const writes[1] = {};
  const auto refused = [&](std::size_t tensor, std::size_t side, std::int64_t length) {
    auto tensors = tensors_of(spec, 2, 5, DataType::kFLOAT);
    tensors[tensor].dims.d[side] = length;
    CHECK(runtime_of(*plugin).onShapeChange(tensors.data(), 3, tensors.data() + 3, 1) == 1);
    CHECK(runtime_of(*plugin).enqueue(tensors.data(), nullptr, reads, writes, nullptr, nullptr) == 1);
    CHECK(static_cast<nvinfer1::IPluginV2DynamicExt&>(*before).enqueue(tensors.data(), nullptr, reads, writes, nullptr,
                                                                       nullptr) == 1);
  };
  refused(0, 2, 59);
  refused(1, 0, 1);
  refused(1, 1, 4);
  refused(1, 2, 5);
  refused(2, 0, 3);
  refused(2, 1, 1000000);
  refused(2, 2, 4);
  refused(0, 1, 4);
}

TEST(plugin_refuses_attributes) {
  V2 old;
  const auto refused = [&](const char* name, const State& numbers, const char* part) {
    auto attributes = attributes_of(example());
    attributes[name] = numbers;
    if (numbers.empty()) {
      attributes.erase(name);
    }
    const Fields fields(attributes);
    for (const bool v3 : {true, false}) {
      const std::string reason = said([&] {
        CHECK(v3 ? creator().createPlugin("node", &fields.collection, kBuild) == nullptr
                 : old.createPlugin("node", &fields.collection) == nullptr);
      });
      test::check(contains(reason, part), "the reason", __FILE__, __LINE__, reason);
    }
  };
  refused("heads", {}, "expected the attribute heads, got none");
  refused("heads", {0}, "1 to 1024 heads, got 0");
  refused("layer", {2}, "0 to 1 as the layer, got 2");
  refused("points", {1, 2, 3}, "got 2, 2 and 3");
  refused("widths", State(65, 1), "got 65 of another type");
  refused("widths", {2147483647, 2147483647}, "columns of a map");

  auto attributes = attributes_of(example());
  Fields fields(attributes);
  fields.fields[0].type = nvinfer1::PluginFieldType::kFLOAT32;
  CHECK(creator().createPlugin("node", &fields.collection, kBuild) == nullptr);
  fields.fields[0] = {"channels", nullptr, nvinfer1::PluginFieldType::kINT32, 1};
  CHECK(creator().createPlugin("node", &fields.collection, kBuild) == nullptr);
}

TEST(plugin_refuses_damaged_plans) {
  const State good = write_state(example());
  CHECK(write_state(read_state(good.data(), good.size() * 4)) == good);
  V2 old;
  const auto refused = [&](const State& words, std::size_t bytes) {
    // In memory of exactly that size, so that reading beyond it shows.
    const std::unique_ptr<char[]> plan(new char[bytes]);
    std::memcpy(plan.get(), words.data(), bytes);
    CHECK_THROWS(ErrorKind::kBackend, "build the engine again", static_cast<void>(read_state(plan.get(), bytes)));
    CHECK(old.deserializePlugin("node", plan.get(), bytes) == nullptr);
  };
  for (std::size_t bytes = 0; bytes < good.size() * 4; ++bytes) {
    refused(good, bytes);
  }
  const auto changed = [&](std::size_t at, std::int32_t value) {
    State words = good;
    words[at] = value;
    refused(words, words.size() * 4);
  };
  for (const std::int32_t value : {0, -1, 2, 1000000}) {
    changed(0, value);                   // version
    changed(5, value == 2 ? 3 : value);  // levels
    changed(4, value == 0 ? 2 : value);  // layer, of two
  }
  for (std::size_t at = 1; at < good.size(); ++at) {
    for (const std::int32_t value :
         {-1, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
      changed(at, value);
    }
  }
  State longer = good;
  longer.resize(1000, 1);
  refused(longer, longer.size() * 4);

  const auto field = [&](const void* data, nvinfer1::PluginFieldType type, std::int32_t length) {
    const nvinfer1::PluginField given("state", data, type, length);
    const nvinfer1::PluginFieldCollection fields{1, &given};
    return std::unique_ptr<nvinfer1::IPluginV3>(creator().createPlugin("node", &fields, kRuntime));
  };
  constexpr auto kInt32 = nvinfer1::PluginFieldType::kINT32;
  const auto count = static_cast<std::int32_t>(good.size());
  CHECK(field(good.data(), kInt32, count) != nullptr);
  CHECK(field(good.data(), kInt32, count - 1) == nullptr && field(good.data(), kInt32, -1) == nullptr);
  CHECK(field(nullptr, kInt32, count) == nullptr);
  CHECK(field(good.data(), nvinfer1::PluginFieldType::kINT64, count) == nullptr);
  const nvinfer1::PluginFieldCollection none{0, nullptr};
  CHECK(creator().createPlugin("node", &none, kRuntime) == nullptr);
}
