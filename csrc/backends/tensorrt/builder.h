// From an ONNX file to an engine.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "backends/tensorrt/build_options.h"

namespace edgedet::tensorrt {

struct Built {
  std::vector<char> plan;
  std::size_t workspace_bytes = 0;  // that layers had, of those asked for
};

// The plan of the network in the file `onnx`, for this device. Takes minutes. Throws Error(kModel) on a file that
// cannot be read or parsed, with the node, or whose shapes do not fit the options; Error(kInvalidInput) on options,
// Error(kBackend) on a precision that this TensorRT does not have, too little memory, a failed build or one that
// options.progress stopped; and what that threw.
Built build(const std::string& onnx, const BuildOptions& options);

}  // namespace edgedet::tensorrt
