#include "backends/tensorrt/engine.h"

#include <cstdint>

#include "backends/tensorrt/layers.h"
#include "backends/tensorrt/library.h"
#include "backends/tensorrt/logger.h"
#include "backends/tensorrt/plan_error.h"
#include "common/cuda_raii.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

std::unique_ptr<nvinfer1::ICudaEngine> deserialise(nvinfer1::IRuntime& runtime, const void* plan, std::size_t bytes,
                                                   const std::string& source, const MemoryBudget& memory) {
  const std::uint64_t mark = logger().mark();
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime.deserializeCudaEngine(plan, bytes));
  if (!engine && library().load_plugins()) {
    engine.reset(runtime.deserializeCudaEngine(plan, bytes));
  }
  if (const std::string refusal = memory.refusal(); !engine && !refusal.empty()) {
    throw Error(ErrorKind::kBackend, source + ": expected an engine within the limit, got one that takes more" +
                                         refusal + "; raise the limit, or build with a smaller batch");
  }
  if (!engine) {
    throw Error(ErrorKind::kBackend, plan_error(source, library().version(), logger().since(mark)));
  }
  return engine;
}

std::vector<std::int64_t> sides(const nvinfer1::Dims& dims) {
  return dims.nbDims > 0 ? std::vector<std::int64_t>(dims.d, dims.d + dims.nbDims) : std::vector<std::int64_t>();
}

// The first side of the shape that the one profile has for an input.
std::int64_t profile_batch(const nvinfer1::ICudaEngine& engine, const char* name, nvinfer1::OptProfileSelector which) {
  const nvinfer1::Dims dims = engine.getProfileShape(name, 0, which);
  return dims.nbDims > 0 ? dims.d[0] : 0;
}

Port describe(const nvinfer1::ICudaEngine& engine, const char* name) {
  Port port;
  port.name = name;
  port.dims = sides(engine.getTensorShape(name));
  const nvinfer1::DataType type = engine.getTensorDataType(name);
  port.type = nv::port_type(type);
  port.type_name = nv::type_name(type);
  port.input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
  port.on_host = engine.getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
  if (port.input && !port.dims.empty()) {
    const bool free = port.dims[0] < 0;
    const auto batch = [&](nvinfer1::OptProfileSelector which) {
      return free ? profile_batch(engine, name, which) : port.dims[0];
    };
    port.min_batch = batch(nvinfer1::OptProfileSelector::kMIN);
    port.opt_batch = batch(nvinfer1::OptProfileSelector::kOPT);
    port.max_batch = batch(nvinfer1::OptProfileSelector::kMAX);
  }
  return port;
}

}  // namespace

Engine::Engine(const void* plan, std::size_t bytes, int device, const std::string& source, std::size_t memory_limit)
    : device_(device), memory_(memory_limit) {
  if (bytes == 0 || bytes > kMaxPlanBytes) {
    throw Error(ErrorKind::kBackend, source + ": expected an engine of 1 to " + std::to_string(kMaxPlanBytes) +
                                         " bytes, got " + std::to_string(bytes) + "; build it again");
  }
  const Library& tensorrt = library();
  const cuda::DeviceScope scope(device);
  runtime_ = tensorrt.make_runtime();
  if (memory_.allocator() != nullptr) {
    runtime_->setGpuAllocator(memory_.allocator());
  }
  engine_ = deserialise(*runtime_, plan, bytes, source, memory_);
  if (engine_->getNbOptimizationProfiles() > 1) {
    throw Error(ErrorKind::kBackend, source + ": expected an engine with one optimisation profile, got " +
                                         std::to_string(engine_->getNbOptimizationProfiles()) + "; build it again");
  }
  for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
    ports_.push_back(describe(*engine_, engine_->getIOTensorName(i)));
  }
  context_bytes_ = nv::context_bytes(*engine_);
}

std::unique_ptr<nvinfer1::IExecutionContext> Engine::make_context() const {
  const cuda::DeviceScope scope(device_);
  const std::uint64_t mark = logger().mark();
  const std::lock_guard<std::mutex> lock(mutex_);
  auto context = nv::make_context(*engine_);
  if (!context) {
    throw Error(ErrorKind::kBackend,
                "expected an execution context of TensorRT, got none; check the free device memory" +
                    memory_.refusal() + said_since(mark));
  }
  return context;
}

std::vector<ExecutionNode> Engine::layers() const {
  const cuda::DeviceScope scope(device_);
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::uint64_t mark = logger().mark();
  const std::unique_ptr<nvinfer1::IEngineInspector> inspector(engine_->createEngineInspector());
  const char* const json =
      inspector ? inspector->getEngineInformation(nvinfer1::LayerInformationFormat::kJSON) : nullptr;
  if (json == nullptr) {
    throw Error(ErrorKind::kBackend,
                "expected layer information of TensorRT, got none; build the engine again" + said_since(mark));
  }
  return parse_layers(json);
}

}  // namespace edgedet::tensorrt
