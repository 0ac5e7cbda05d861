// Why TensorRT refuses a plan.
#pragma once

#include <string>

namespace edgedet::tensorrt {

// One sentence with its remedy, from what TensorRT logged. `here` is the TensorRT that runs, e.g. "8.6.1".
std::string plan_error(const std::string& source, const std::string& here, const std::string& log);

}  // namespace edgedet::tensorrt
