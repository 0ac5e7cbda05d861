// For tools that look inside: what a network takes and gives, its raw outputs, what a backend makes of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgedet {

// A network output, row-major, integers converted to float.
struct Tensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// One step of a compiled network.
struct ExecutionNode {
  std::string name;
  std::string type;       // layer type, e.g. "Convolution"
  std::string primitive;  // implementation, e.g. "brgconv_avx512_I8"
  std::string precision;  // what it computes in, e.g. "u8" or "f32"
  std::string original;   // comma-separated names of the model's layers that were fused into it
};

constexpr std::int64_t kDynamic = -1;

// An input or output of a model file.
struct ModelPort {
  std::string name;
  std::string dtype;                // NumPy's name, e.g. "float32"
  bool ranked = true;               // false: even the number of axes is unknown, and shape is empty
  std::vector<std::int64_t> shape;  // kDynamic where the size is free
};

struct ModelPorts {
  std::vector<ModelPort> inputs;
  std::vector<ModelPort> outputs;
};

// Reads an ONNX file. Throws Error(kModel) if it is not one, Error(kBackend) in a build without OpenVINO.
ModelPorts inspect_onnx(const std::string& path);

}  // namespace edgedet
