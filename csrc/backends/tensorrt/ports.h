// The inputs and outputs of an engine, and whether they are those that model.json promises. Without TensorRT's headers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "edgedet/bundle.h"
#include "frame/frame_path.h"

namespace edgedet::tensorrt {

enum class PortType : std::uint8_t { kFloat32, kFloat16, kInt32, kInt64, kOther };

struct Port {
  std::string name;
  std::vector<std::int64_t> dims;  // -1 where the size is free
  PortType type = PortType::kOther;
  std::string type_name;
  bool input = false;
  bool on_host = false;  // TensorRT reads or writes it in host memory
  // Inputs: images that the optimisation profile allows and was made for.
  std::int64_t min_batch = 1;
  std::int64_t opt_batch = 1;
  std::int64_t max_batch = 1;
};

// An engine's ports as the frame path needs them.
struct NetworkPorts {
  frame::NetworkSpec network;
  std::size_t max_batch = 1;
  std::string input;
  std::string size;       // empty if there is none
  bool wide_size = true;  // it is int64, else int32
  std::string logits;     // kLogits; else empty
  std::string boxes;
  std::string labels;  // kScored; else empty
  std::string scores;  // kScored; else empty
};

// Throws Error(kModel) on a port that is missing, left over, of another shape or type, or if one image alone cannot be
// run. `source` is named in messages.
NetworkPorts check_ports(const std::vector<Port>& ports, const ModelSpec& spec, const std::string& source);

}  // namespace edgedet::tensorrt
