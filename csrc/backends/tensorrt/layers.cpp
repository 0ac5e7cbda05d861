#include "backends/tensorrt/layers.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>
#include <utility>

#include "common/json.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

// A description of a tensor's format, in words that change with the version, to the short name of its type.
std::string short_type(std::string format) {
  // Longer names first: "int8" is also in "uint8", "int" in all.
  static constexpr std::array<std::pair<std::string_view, const char*>, 16> kTypes{{{"uint8", "u8"},
                                                                                    {"int8", "s8"},
                                                                                    {"int4", "s4"},
                                                                                    {"int32", "i32"},
                                                                                    {"int64", "i64"},
                                                                                    {"bfloat16", "bf16"},
                                                                                    {"bf16", "bf16"},
                                                                                    {"fp16", "f16"},
                                                                                    {"float16", "f16"},
                                                                                    {"half", "f16"},
                                                                                    {"fp8", "f8"},
                                                                                    {"fp4", "f4"},
                                                                                    {"fp32", "f32"},
                                                                                    {"float", "f32"},
                                                                                    {"bool", "bool"},
                                                                                    {"int", "i32"}}};
  std::transform(format.begin(), format.end(), format.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const auto& [word, name] : kTypes) {
    if (format.find(word) != std::string::npos) {
      return name;
    }
  }
  return format;
}

std::string text(const json::View& layer, std::string_view key) {
  return layer.has(key) ? layer.at(key).as_string() : std::string();
}

// The type of the first of the tensors `key`; empty if there is none.
std::string tensor_type(const json::View& layer, std::string_view key) {
  if (!layer.has(key) || layer.at(key).size() == 0) {
    return {};
  }
  const json::View tensor = layer.at(key)[0];
  for (const std::string_view fact : {"Datatype", "Format/Datatype"}) {
    if (tensor.has(fact)) {
      return short_type(tensor.at(fact).as_string());
    }
  }
  return {};
}

void append(std::string& list, std::string_view name) {
  if (!name.empty()) {
    list += list.empty() ? "" : ",";
    list += name;
  }
}

// "[ONNX Layer: a]", one behind the other, or, where there is none, the parts of a fused layer's name "a + b".
std::string original_layers(const std::string& metadata, const std::string& name) {
  constexpr std::string_view kOpen = "[ONNX Layer: ";
  std::string list;
  for (std::size_t at = metadata.find(kOpen); at != std::string::npos; at = metadata.find(kOpen, at)) {
    at += kOpen.size();
    // Names may have brackets: a layer ends where the next begins.
    const std::size_t next = std::min(metadata.find(kOpen, at), metadata.size());
    const std::size_t end = metadata.rfind(']', next);
    append(list, std::string_view(metadata).substr(at, end == std::string::npos || end < at ? 0 : end - at));
  }
  if (list.empty()) {
    constexpr std::string_view kPlus = " + ";
    std::string_view rest = name;
    for (std::size_t plus = rest.find(kPlus); plus != std::string_view::npos; plus = rest.find(kPlus)) {
      append(list, rest.substr(0, plus));
      rest.remove_prefix(plus + kPlus.size());
    }
    append(list, rest);
  }
  return list;
}

ExecutionNode parse_layer(const json::View& layer) {
  ExecutionNode node;
  node.name = text(layer, "Name");
  node.type = text(layer, "LayerType");
  node.primitive = text(layer, "TacticName");
  node.precision = tensor_type(layer, "Inputs");
  if (node.precision.empty()) {
    node.precision = tensor_type(layer, "Outputs");
  }
  node.original = original_layers(text(layer, "Metadata"), node.name);
  return node;
}

}  // namespace

std::vector<ExecutionNode> parse_layers(const std::string& json) {
  const json::Document document(json, "layer information of TensorRT", ErrorKind::kBackend);
  const json::View layers = document.root().at("Layers");
  std::vector<ExecutionNode> nodes;
  nodes.reserve(layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    nodes.push_back(parse_layer(layers[i]));
  }
  return nodes;
}

}  // namespace edgedet::tensorrt
