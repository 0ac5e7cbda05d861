// Opens the parser as nvinfer does, and calls it for Python.
#include <vector>

#include <dlfcn.h>

#include "nvdsinfer_custom_impl.h"

namespace {

std::vector<NvDsInferLayerInfo> layers_of(int count, const char* const* names, const int* types, const int* axes,
                                          const unsigned* dims, void* const* buffers) {
  std::vector<NvDsInferLayerInfo> layers;
  for (int i = 0; i < count; ++i) {
    NvDsInferLayerInfo layer{};
    layer.layerName = names[i];
    layer.dataType = static_cast<NvDsInferDataType>(types[i]);
    layer.inferDims.numDims = static_cast<unsigned>(axes[i]);
    layer.inferDims.numElements = 1;
    for (int axis = 0; axis < axes[i]; ++axis) {
      layer.inferDims.d[axis] = *dims++;
      layer.inferDims.numElements *= layer.inferDims.d[axis];
    }
    layer.buffer = buffers[i];
    layers.push_back(layer);
  }
  return layers;
}

}  // namespace

// Objects found, six values each: left, top, width, height, score, class; -1 where the parser fails.
extern "C" int driver_parse(const char* library, int count, const char* const* names, const int* types, const int* axes,
                            const unsigned* dims, void* const* buffers, unsigned width, unsigned height,
                            unsigned classes, const float* thresholds, int most, float* out) {
  void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* const symbol = handle != nullptr ? dlsym(handle, "NvDsInferParseEdgedet") : nullptr;
  if (symbol == nullptr) {
    return -2;
  }
  const auto parse = reinterpret_cast<NvDsInferParseCustomFunc>(symbol);
  NvDsInferParseDetectionParams params;
  params.numClassesConfigured = classes;
  params.perClassPreclusterThreshold.assign(thresholds, thresholds + classes);
  std::vector<NvDsInferObjectDetectionInfo> objects;
  if (!parse(layers_of(count, names, types, axes, dims, buffers), {width, height, 3}, params, objects)) {
    return -1;
  }
  int written = 0;
  for (const NvDsInferObjectDetectionInfo& one : objects) {
    if (written == most) {
      break;
    }
    const float row[6] = {
        one.left, one.top, one.width, one.height, one.detectionConfidence, static_cast<float>(one.classId)};
    for (int i = 0; i < 6; ++i) {
      out[6 * written + i] = row[i];
    }
    ++written;
  }
  return written;
}

// Has the sizes of a batch filled in; 0 where the library refuses.
extern "C" int driver_sizes(const char* library, int type, unsigned elements, void* buffer, unsigned width,
                            unsigned height, unsigned batch) {
  void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  void* const symbol = handle != nullptr ? dlsym(handle, "NvDsInferInitializeInputLayers") : nullptr;
  using Fill = bool (*)(const std::vector<NvDsInferLayerInfo>&, const NvDsInferNetworkInfo&, unsigned);
  const char* const name = "orig_target_sizes";
  const int axes = 1;
  return symbol != nullptr && reinterpret_cast<Fill>(symbol)(layers_of(1, &name, &type, &axes, &elements, &buffer),
                                                             {width, height, 3}, batch)
             ? 1
             : 0;
}
