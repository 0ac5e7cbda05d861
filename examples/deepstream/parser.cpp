// Objects of edgedet's networks for DeepStream's Gst-nvinfer, by edgedet's own decoding: the same order, the same ties.
//
// Outputs are told by type and shape, as `edgedet import` tells them: labels (R), boxes (R, 4) in pixels and scores
// (R); or logits (Q, C) and boxes (Q, 4) as cx, cy, w, h in 0..1. Frames are always scaled to the network's size here,
// so boxes stay in its pixels, as nvinfer wants them.
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include <nvdsinfer_custom_impl.h>

#include "edgedet/error.h"
#include "kernels/decode.h"
#include "kernels/geometry.h"
#include "kernels/ops.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

using edgedet::Detection;
using edgedet::Error;
using edgedet::ErrorKind;

constexpr std::int32_t kTopK = EDGEDET_TOP_K;  // of (query, class) pairs, as "top_k" of the bundle

// Versions before TensorRT 10 have no name for it, and give INT32 where the graph says INT64.
constexpr int kInt64 = 4;

bool is_float(const NvDsInferLayerInfo& layer) { return layer.dataType == FLOAT || layer.dataType == HALF; }

bool is_integer(const NvDsInferLayerInfo& layer) {
  return layer.dataType == INT32 || static_cast<int>(layer.dataType) == kInt64;
}

bool is_boxes(const NvDsInferLayerInfo& layer) {
  return is_float(layer) && layer.inferDims.numDims == 2 && layer.inferDims.d[1] == 4;
}

bool named_box(const NvDsInferLayerInfo& layer) {
  std::string name = layer.layerName != nullptr ? layer.layerName : "";
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char letter) { return std::tolower(letter); });
  return name.find("box") != std::string::npos;
}

// The values of a layer as float32, in `copy` where they are stored as float16.
const float* floats(const NvDsInferLayerInfo& layer, std::vector<float>& copy) {
  if (layer.dataType == FLOAT) {
    return static_cast<const float*>(layer.buffer);
  }
  const auto* halves = static_cast<const std::uint16_t*>(layer.buffer);
  copy.assign(layer.inferDims.numElements, 0.F);
  std::transform(halves, halves + copy.size(), copy.begin(), edgedet::kernel::from_half);
  return copy.data();
}

const std::int64_t* integers(const NvDsInferLayerInfo& layer, std::vector<std::int64_t>& copy) {
  if (layer.dataType != INT32) {
    return static_cast<const std::int64_t*>(layer.buffer);
  }
  const auto* values = static_cast<const std::int32_t*>(layer.buffer);
  copy.assign(values, values + layer.inferDims.numElements);
  return copy.data();
}

struct Head {
  const NvDsInferLayerInfo* boxes = nullptr;
  const NvDsInferLayerInfo* logits = nullptr;
  const NvDsInferLayerInfo* labels = nullptr;
  const NvDsInferLayerInfo* scores = nullptr;
};

[[noreturn]] void reject(const std::vector<NvDsInferLayerInfo>& layers) {
  std::string message =
      "expected outputs logits (Q, C) and boxes (Q, 4), or labels (R), boxes (R, 4) and scores (R), got";
  for (const NvDsInferLayerInfo& layer : layers) {
    message += std::string(" ") + (layer.layerName != nullptr ? layer.layerName : "?") + " (";
    for (unsigned int axis = 0; axis < layer.inferDims.numDims; ++axis) {
      message += (axis != 0 ? ", " : "") + std::to_string(layer.inferDims.d[axis]);
    }
    message += ")";
  }
  throw Error(ErrorKind::kModel, message + "; export the bundle again with `edgedet export deepstream`");
}

Head find_head(const std::vector<NvDsInferLayerInfo>& layers) {
  Head head;
  const auto boxes = std::count_if(layers.begin(), layers.end(), is_boxes);
  for (const NvDsInferLayerInfo& layer : layers) {
    const unsigned int axes = layer.inferDims.numDims;
    if (is_boxes(layer) && (boxes == 1 || named_box(layer))) {
      head.boxes = &layer;
    } else if (axes == 2 && is_float(layer)) {
      head.logits = &layer;
    } else if (axes == 1 && is_float(layer)) {
      head.scores = &layer;
    } else if (axes == 1 && is_integer(layer)) {
      head.labels = &layer;
    }
  }
  const bool raw = layers.size() == 2 && head.boxes != nullptr && head.logits != nullptr &&
                   head.logits->inferDims.d[0] == head.boxes->inferDims.d[0];
  const bool scored = layers.size() == 3 && head.boxes != nullptr && head.labels != nullptr && head.scores != nullptr &&
                      head.labels->inferDims.d[0] == head.boxes->inferDims.d[0] &&
                      head.scores->inferDims.d[0] == head.boxes->inferDims.d[0];
  if (!raw && !scored) {
    reject(layers);
  }
  return head;
}

void parse(const std::vector<NvDsInferLayerInfo>& layers, const NvDsInferNetworkInfo& network,
           const NvDsInferParseDetectionParams& params, std::vector<NvDsInferObjectDetectionInfo>& objects) {
  const Head head = find_head(layers);
  const auto classes = static_cast<std::int32_t>(params.numClassesConfigured);
  const auto width = static_cast<std::int32_t>(network.width);
  const auto height = static_cast<std::int32_t>(network.height);
  const edgedet::Geometry geometry =
      edgedet::make_geometry(width, height, width, height, edgedet::ResizeMode::kStretch);
  const std::vector<float>& thresholds = params.perClassPreclusterThreshold;
  if (thresholds.size() < params.numClassesConfigured) {
    throw Error(ErrorKind::kInvalidInput, "expected a pre-cluster-threshold for each class, got fewer");
  }

  thread_local std::vector<float> values[2];
  thread_local std::vector<std::int64_t> labels;
  thread_local edgedet::ops::DecodeWorkspace workspace;
  thread_local std::vector<Detection> found;
  edgedet::ops::DecodeOptions options;
  options.top_k = kTopK;
  const float* boxes = floats(*head.boxes, values[0]);
  const auto rows = static_cast<std::int32_t>(head.boxes->inferDims.d[0]);
  if (head.logits != nullptr) {
    if (static_cast<std::int32_t>(head.logits->inferDims.d[1]) != classes) {
      throw Error(ErrorKind::kModel, "expected num-detected-classes=" + std::to_string(head.logits->inferDims.d[1]) +
                                         " as the network has classes, got " + std::to_string(classes));
    }
    edgedet::ops::decode_logits_cpu(floats(*head.logits, values[1]), boxes, rows, classes, geometry, options, workspace,
                                    found);
  } else {
    edgedet::ops::decode_scored_cpu(integers(*head.labels, labels), boxes, floats(*head.scores, values[1]), rows,
                                    classes, geometry, options, workspace, found);
  }
  for (const Detection& one : found) {
    if (one.score < thresholds[static_cast<std::size_t>(one.label)]) {
      continue;
    }
    NvDsInferObjectDetectionInfo object{};
    object.classId = static_cast<unsigned int>(one.label);
    object.left = one.x0;
    object.top = one.y0;
    object.width = one.x1 - one.x0;
    object.height = one.y1 - one.y0;
    object.detectionConfidence = one.score;
    objects.push_back(object);
  }
}

void complain(const char* what) { std::fprintf(stderr, "edgedet: %s\n", what); }

}  // namespace

// The function that parse-bbox-func-name names. False, with the reason on stderr, for outputs it cannot read.
EXPORTED bool NvDsInferParseEdgedet(std::vector<NvDsInferLayerInfo> const& layers, NvDsInferNetworkInfo const& network,
                                    NvDsInferParseDetectionParams const& params,
                                    std::vector<NvDsInferObjectDetectionInfo>& objects) {
  try {
    parse(layers, network, params, objects);
    return true;
  } catch (const std::exception& error) {
    complain(error.what());
    return false;
  }
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseEdgedet);

// Called once for networks with a second input, which is the size that boxes are scaled to: (N, 2), width and height.
EXPORTED bool NvDsInferInitializeInputLayers(std::vector<NvDsInferLayerInfo> const& layers,
                                             NvDsInferNetworkInfo const& network, unsigned int batch) {
  if (layers.size() != 1 || !is_integer(layers[0]) || layers[0].inferDims.numElements != 2) {
    complain("expected one input beside the image, of two integers an image");
    return false;
  }
  for (unsigned int image = 0; image < batch; ++image) {
    const std::int64_t size[2] = {network.width, network.height};
    for (unsigned int axis = 0; axis < 2; ++axis) {
      if (layers[0].dataType == INT32) {
        static_cast<std::int32_t*>(layers[0].buffer)[2 * image + axis] = static_cast<std::int32_t>(size[axis]);
      } else {
        static_cast<std::int64_t*>(layers[0].buffer)[2 * image + axis] = size[axis];
      }
    }
  }
  return true;
}
