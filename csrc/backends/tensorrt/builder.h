// From an ONNX file to an engine.
#pragma once

#include <string>
#include <vector>

#include "backends/tensorrt/build_options.h"

namespace edgedet::tensorrt {

// The plan of the network in the file `onnx`, for this device. Takes minutes. Throws Error(kModel) on a file that
// cannot be read or parsed, with the node, or whose shapes do not fit the options; Error(kInvalidInput) on options,
// Error(kBackend) on a precision that this TensorRT does not have, too little memory or a failed build.
std::vector<char> build(const std::string& onnx, const BuildOptions& options);

}  // namespace edgedet::tensorrt
