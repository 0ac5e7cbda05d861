// What TensorRT's engine inspector says of an engine's layers.
#pragma once

#include <string>
#include <vector>

#include "edgedet/inspect.h"

namespace edgedet::tensorrt {

// From the inspector's JSON, in execution order. Precision is the type of a layer's first input, which is what it
// computes in: of a convolution in int8 that gives float16, "s8". Throws Error(kBackend) if it is not such JSON.
std::vector<ExecutionNode> parse_layers(const std::string& json);

}  // namespace edgedet::tensorrt
