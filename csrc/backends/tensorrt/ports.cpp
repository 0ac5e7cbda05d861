#include "backends/tensorrt/ports.h"

#include <algorithm>
#include <initializer_list>

#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

constexpr std::int64_t kAny = -1;

std::string shape_text(const std::vector<std::int64_t>& dims, const char* any) {
  std::string text;
  for (const std::int64_t side : dims) {
    text += (text.empty() ? "" : ", ") + (side == kAny ? std::string(any) : std::to_string(side));
  }
  return "(" + text + ")";
}

class Checker {
 public:
  Checker(const std::vector<Port>& ports, const std::string& source) : ports_(ports), source_(source) {}

  // The port called `name`, which has one of `types` and, behind the batch axis, the sides `dims` (kAny: a fixed size
  // of any value).
  const Port& find(const std::string& name, bool input, std::initializer_list<PortType> types,
                   const std::vector<std::int64_t>& dims) {
    const auto found = std::find_if(ports_.begin(), ports_.end(),
                                    [&](const Port& port) { return port.name == name && port.input == input; });
    if (found == ports_.end()) {
      fail("expected an " + kind(input) + " named \"" + name + "\" as in model.json, got " + names(input) +
           "; correct the name in model.json or export the model again");
    }
    used_.push_back(name);
    check_type(*found, types);
    check_shape(*found, dims);
    if (found->on_host) {
      fail("expected \"" + name +
           "\" in device memory, got one that decides shapes and lies on the host; export fixed shapes");
    }
    return *found;
  }

  void nothing_left() const {
    for (const Port& port : ports_) {
      if (std::find(used_.begin(), used_.end(), port.name) == used_.end()) {
        fail("expected only what model.json names, got the " + kind(port.input) + " \"" + port.name +
             "\", too; name it there or export the model without it");
      }
    }
  }

  [[noreturn]] void fail(const std::string& problem) const { throw Error(ErrorKind::kModel, source_ + ": " + problem); }

 private:
  static std::string kind(bool input) { return input ? "input" : "output"; }

  std::string names(bool input) const {
    std::string list;
    for (const Port& port : ports_) {
      if (port.input == input) {
        list += (list.empty() ? "" : ", ") + port.name;
      }
    }
    return list.empty() ? "none" : list;
  }

  static const char* name_of(PortType type) {
    switch (type) {
      case PortType::kFloat32:
        return "float32";
      case PortType::kFloat16:
        return "float16";
      case PortType::kInt32:
        return "int32";
      case PortType::kInt64:
        return "int64";
      case PortType::kOther:
        break;
    }
    return "another type";
  }

  void check_type(const Port& port, std::initializer_list<PortType> types) const {
    if (std::find(types.begin(), types.end(), port.type) != types.end()) {
      return;
    }
    std::string expected;
    for (const PortType type : types) {
      expected += std::string(expected.empty() ? "" : " or ") + name_of(type);
    }
    fail("expected \"" + port.name + "\" of type " + expected + ", got " + port.type_name +
         "; export the model with that type at its ports");
  }

  void check_shape(const Port& port, const std::vector<std::int64_t>& dims) const {
    bool same = port.dims.size() == dims.size() + 1 && (port.dims[0] == kAny || port.dims[0] >= 1);
    for (std::size_t i = 0; same && i < dims.size(); ++i) {
      same = dims[i] == kAny ? port.dims[i + 1] >= 1 : port.dims[i + 1] == dims[i];
    }
    if (!same) {
      const std::string expected = shape_text(dims, "a fixed number");
      fail("expected \"" + port.name + "\" of shape (N, " + expected.substr(1) + ", got " +
           shape_text(port.dims, "free") + "; export the model in the shape of model.json, only N free");
    }
  }

  const std::vector<Port>& ports_;
  const std::string& source_;
  std::vector<std::string> used_;
};

constexpr auto kFloats = {PortType::kFloat32, PortType::kFloat16};
constexpr auto kIntegers = {PortType::kInt32, PortType::kInt64};

std::int32_t rows_of(const Port& boxes, const Checker& checker) {
  constexpr std::int64_t kMaxRows = 1 << 20;
  if (boxes.dims[1] > kMaxRows) {
    checker.fail("expected at most " + std::to_string(kMaxRows) + " boxes an image, got " +
                 std::to_string(boxes.dims[1]) + "; check the export");
  }
  return static_cast<std::int32_t>(boxes.dims[1]);
}

// Outputs that a decoder reads together.
void same_type(const Port& values, const Port& boxes, const Checker& checker) {
  if (values.type != boxes.type) {
    checker.fail("expected \"" + values.name + "\" and \"" + boxes.name + "\" of one type, got " + values.type_name +
                 " and " + boxes.type_name + "; export both as float32");
  }
}

}  // namespace

NetworkPorts check_ports(const std::vector<Port>& ports, const ModelSpec& spec, const std::string& source) {
  Checker checker(ports, source);
  const PreprocessSpec& preprocess = spec.info.preprocess;
  NetworkPorts result;
  frame::NetworkSpec& network = result.network;
  network.preprocess = preprocess;
  network.classes = static_cast<std::int32_t>(spec.info.classes.size());
  result.input = spec.input;
  result.boxes = spec.boxes;

  const Port& input = checker.find(spec.input, true, kFloats, {3, preprocess.height, preprocess.width});
  network.input.dtype = input.type == PortType::kFloat16 ? DType::kFloat16 : DType::kFloat32;
  if (input.min_batch > 1 || input.max_batch < 1) {
    checker.fail("expected an engine that runs one image, got batches of " + std::to_string(input.min_batch) + " to " +
                 std::to_string(input.max_batch) + "; export the model with a free batch axis and build it from 1 on");
  }
  result.max_batch = static_cast<std::size_t>(input.max_batch);

  const Port& boxes = checker.find(spec.boxes, false, kFloats, {kAny, 4});
  network.rows = rows_of(boxes, checker);
  network.output = boxes.type == PortType::kFloat16 ? DType::kFloat16 : DType::kFloat32;
  if (spec.form == OutputForm::kLogitsBoxes) {
    network.form = frame::HeadForm::kLogits;
    result.logits = spec.logits;
    same_type(checker.find(spec.logits, false, kFloats, {network.rows, network.classes}), boxes, checker);
  } else {
    network.form = frame::HeadForm::kScored;
    result.labels = spec.labels;
    result.scores = spec.scores;
    same_type(checker.find(spec.scores, false, kFloats, {network.rows}), boxes, checker);
    network.wide_labels = checker.find(spec.labels, false, kIntegers, {network.rows}).type == PortType::kInt64;
    if (!spec.size_input.empty()) {
      result.size = spec.size_input;
      result.wide_size = checker.find(spec.size_input, true, kIntegers, {2}).type == PortType::kInt64;
    }
  }
  checker.nothing_left();
  return result;
}

}  // namespace edgedet::tensorrt
