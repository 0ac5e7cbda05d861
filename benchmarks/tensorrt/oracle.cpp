// The shortest way to run a plan, which shares nothing with edgedet: a second opinion on its outputs and its time.
//
//   oracle PLAN BATCH FOLDER CALLS
//
// FOLDER/NAME.bin holds the batch of each input, as raw numbers of its type; FOLDER/NAME.out gets each output. Prints
// "NAME TYPE SIZE..." of each output, then "milliseconds T" for each of CALLS replays of the network as a CUDA graph.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

namespace {

class Logger final : public nvinfer1::ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kERROR) {
      std::cerr << text << "\n";
    }
  }
};

void need(bool holds, const std::string& what) {
  if (!holds) {
    throw std::runtime_error(what);
  }
}

void check(cudaError_t status) { need(status == cudaSuccess, cudaGetErrorString(status)); }

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  need(file.good(), path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const char* name_of(nvinfer1::DataType type, std::size_t& bytes) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      bytes = 4;
      return "float32";
    case nvinfer1::DataType::kHALF:
      bytes = 2;
      return "float16";
    case nvinfer1::DataType::kINT32:
      bytes = 4;
      return "int32";
#if NV_TENSORRT_MAJOR >= 10
    case nvinfer1::DataType::kINT64:
      bytes = 8;
      return "int64";
#endif
    default:
      throw std::runtime_error("a tensor of a type that no detector has");
  }
}

struct Port {
  std::string name;
  void* memory = nullptr;
  std::size_t bytes = 0;
};

void run(const std::string& plan_path, int batch, const std::string& folder, int calls) {
  int devices = 0;
  check(cudaGetDeviceCount(&devices));  // first: without a driver some versions crash
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  need(runtime != nullptr, "no runtime");
  const std::vector<char> plan = read(plan_path);
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(plan.data(), plan.size()));
  need(engine != nullptr, "the plan was refused");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  need(context != nullptr, "no context");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

  std::vector<Port> outputs;
  // Inputs first: shapes of outputs follow from theirs.
  for (const auto mode : {nvinfer1::TensorIOMode::kINPUT, nvinfer1::TensorIOMode::kOUTPUT}) {
    for (std::int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
      const char* const name = engine->getIOTensorName(i);
      if (engine->getTensorIOMode(name) != mode) {
        continue;
      }
      nvinfer1::Dims shape = engine->getTensorShape(name);
      if (mode == nvinfer1::TensorIOMode::kINPUT) {
        shape.d[0] = shape.d[0] < 0 ? batch : shape.d[0];
        need(context->setInputShape(name, shape), std::string(name) + ": another batch size is expected");
      } else {
        shape = context->getTensorShape(name);
      }
      Port port;
      port.name = name;
      const char* const type = name_of(engine->getTensorDataType(name), port.bytes);
      std::string text = port.name + " " + type;
      for (std::int32_t axis = 0; axis < shape.nbDims; ++axis) {
        port.bytes *= static_cast<std::size_t>(shape.d[axis]);
        text += " " + std::to_string(shape.d[axis]);
      }
      check(cudaMalloc(&port.memory, port.bytes));
      need(context->setTensorAddress(name, port.memory), port.name + ": no address");
      if (mode == nvinfer1::TensorIOMode::kINPUT) {
        const std::vector<char> values = read(folder + "/" + port.name + ".bin");
        need(values.size() == port.bytes, port.name + ".bin: expected " + std::to_string(port.bytes) + " bytes");
        check(cudaMemcpy(port.memory, values.data(), port.bytes, cudaMemcpyHostToDevice));
      } else {
        std::cout << text << "\n";
        outputs.push_back(port);
      }
    }
  }
  need(context->enqueueV3(stream), "the network was not queued");
  check(cudaStreamSynchronize(stream));
  for (const Port& port : outputs) {
    std::vector<char> values(port.bytes);
    check(cudaMemcpy(values.data(), port.memory, port.bytes, cudaMemcpyDeviceToHost));
    std::ofstream(folder + "/" + port.name + ".out", std::ios::binary)
        .write(values.data(), static_cast<std::streamsize>(values.size()));
  }

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  need(context->enqueueV3(stream), "the network was not captured");
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiateWithFlags(&replay, graph, 0));
  cudaEvent_t start = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  for (int call = -20; call < calls; ++call) {  // the first ones warm up
    check(cudaEventRecord(start, stream));
    check(cudaGraphLaunch(replay, stream));
    check(cudaEventRecord(end, stream));
    check(cudaStreamSynchronize(stream));
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start, end));
    if (call >= 0) {
      std::cout << "milliseconds " << milliseconds << "\n";
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::cerr << "expected PLAN BATCH FOLDER CALLS\n";
    return 2;
  }
  try {
    run(arguments[1], std::atoi(arguments[2]), arguments[3], std::atoi(arguments[4]));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
