// edgedet's own operators for TensorRT.
#pragma once

#include "backends/tensorrt/nv.h"

namespace edgedet::tensorrt {

// Makes them known, for parsing and for plans. Another copy of edgedet in the process that came first keeps its own.
void register_plugins(nvinfer1::IPluginRegistry& registry);

}  // namespace edgedet::tensorrt
