// The layers that a TensorRT before 10 has to be told to keep in float32.
#pragma once

#include <string>
#include <vector>

namespace edgedet::tensorrt {

// Nodes under half.tensorrt.islands of calibration.json in `folder`, sorted; none if there is no such entry. Throws
// Error(kBundle) if the file is not what it should be.
std::vector<std::string> read_float_layers(const std::string& folder);

}  // namespace edgedet::tensorrt
