// A stand-in for the header of DeepStream's nvinfer: the part of its interface that examples/deepstream needs, for
// machines without DeepStream. Names, numbers and layouts are those of the real one.
#pragma once

#include <vector>

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3 };

struct NvDsInferDims {
  unsigned int numDims;
  unsigned int d[8];
  unsigned int numElements;
};

struct NvDsInferLayerInfo {
  NvDsInferDataType dataType;
  NvDsInferDims inferDims;
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
};

struct NvDsInferNetworkInfo {
  unsigned int width;
  unsigned int height;
  unsigned int channels;
};

struct NvDsInferObjectDetectionInfo {
  unsigned int classId;
  float left;
  float top;
  float width;
  float height;
  float detectionConfidence;
};

struct NvDsInferParseDetectionParams {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold;
};

using NvDsInferParseCustomFunc = bool (*)(const std::vector<NvDsInferLayerInfo>&, const NvDsInferNetworkInfo&,
                                          const NvDsInferParseDetectionParams&,
                                          std::vector<NvDsInferObjectDetectionInfo>&);

#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) \
  static_assert(static_cast<NvDsInferParseCustomFunc>(&function) != nullptr, "a parser of objects")
