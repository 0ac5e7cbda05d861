#include "tiny_bundle.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <stdexcept>

#include <unistd.h>

#include "common/sha256.h"

namespace edgedet::test {
namespace {

// Protocol buffers' wire format, as far as ONNX needs it.
class Message {
 public:
  Message& number(unsigned field, std::uint64_t value) {
    varint(field << 3U);
    varint(value);
    return *this;
  }
  Message& bytes(unsigned field, const std::string& value) {
    varint((field << 3U) | 2U);
    varint(value.size());
    data_ += value;
    return *this;
  }
  Message& message(unsigned field, const Message& value) { return bytes(field, value.data_); }
  const std::string& data() const { return data_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80U; value >>= 7U) {
      data_.push_back(static_cast<char>(static_cast<unsigned char>((value & 0x7FU) | 0x80U)));
    }
    data_.push_back(static_cast<char>(static_cast<unsigned char>(value)));
  }

  std::string data_;
};

constexpr unsigned kFloat = 1;  // TensorProto.DataType
constexpr unsigned kInt64 = 7;

template <typename T>
Message tensor(const std::string& name, unsigned type, const std::vector<std::uint64_t>& dims,
               const std::vector<T>& values) {
  Message result;
  for (const std::uint64_t dim : dims) {
    result.number(1, dim);
  }
  std::string raw(values.size() * sizeof(T), '\0');
  std::memcpy(raw.data(), values.data(), raw.size());
  return result.number(2, type).bytes(8, name).bytes(9, raw);
}

Message node(const std::string& op, const std::vector<std::string>& inputs, const std::string& output) {
  Message result;
  for (const std::string& input : inputs) {
    result.bytes(1, input);
  }
  return result.bytes(2, output).bytes(3, output).bytes(4, op);
}

// A float port of shape (N, dims...).
Message port(const std::string& name, const std::vector<std::uint64_t>& dims) {
  Message shape;
  shape.message(1, Message().bytes(2, "N"));
  for (const std::uint64_t dim : dims) {
    shape.message(1, Message().number(1, dim));
  }
  const Message type = Message().number(1, kFloat).message(2, shape);
  return Message().bytes(1, name).message(2, Message().message(1, type));
}

std::vector<float> product(const std::vector<float>& input, const std::vector<float>& weights) {
  const std::size_t columns = weights.size() / input.size();
  std::vector<float> result(columns);
  for (std::size_t column = 0; column < columns; ++column) {
    double sum = 0.0;
    for (std::size_t row = 0; row < input.size(); ++row) {
      sum += static_cast<double>(input[row]) * static_cast<double>(weights[row * columns + column]);
    }
    result[column] = static_cast<float>(sum);
  }
  return result;
}

}  // namespace

TinyNetwork tiny_network() {
  std::mt19937 random(1);  // its sequence is fixed by the standard, unlike the distributions'
  const auto fill = [&random](std::vector<float>& weights, int columns) {
    weights.resize(static_cast<std::size_t>(kPixels) * static_cast<std::size_t>(columns));
    for (float& weight : weights) {
      weight = static_cast<float>(random() % 2001U) / 1000.F - 1.F;
    }
  };
  TinyNetwork network;
  fill(network.class_weights, kQueries * kClasses);
  fill(network.box_weights, kQueries * 4);
  return network;
}

std::string to_onnx(const TinyNetwork& network) {
  const std::vector<std::int64_t> logits_shape{-1, kQueries, kClasses};
  const std::vector<std::int64_t> boxes_shape{-1, kQueries, 4};
  Message graph;
  graph.message(1, node("Flatten", {"images"}, "flat"))
      .message(1, node("MatMul", {"flat", "class_weights"}, "flat_logits"))
      .message(1, node("Reshape", {"flat_logits", "logits_shape"}, "logits"))
      .message(1, node("MatMul", {"flat", "box_weights"}, "flat_boxes"))
      .message(1, node("Sigmoid", {"flat_boxes"}, "flat_sigmoid"))
      .message(1, node("Reshape", {"flat_sigmoid", "boxes_shape"}, "boxes"))
      .bytes(2, "tiny")
      .message(5, tensor("class_weights", kFloat, {kPixels, kQueries * kClasses}, network.class_weights))
      .message(5, tensor("box_weights", kFloat, {kPixels, kQueries * 4}, network.box_weights))
      .message(5, tensor("logits_shape", kInt64, {3}, logits_shape))
      .message(5, tensor("boxes_shape", kInt64, {3}, boxes_shape))
      .message(11, port("images", {3, kSide, kSide}))
      .message(12, port("logits", {kQueries, kClasses}))
      .message(12, port("boxes", {kQueries, 4}));
  return Message().number(1, 8).message(7, graph).message(8, Message().bytes(1, "").number(2, 17)).data();
}

TinyOutput run(const TinyNetwork& network, const std::vector<float>& input) {
  TinyOutput output;
  output.logits = product(input, network.class_weights);
  output.boxes = product(input, network.box_weights);
  for (float& value : output.boxes) {
    value = 1.F / (1.F + std::exp(-value));
  }
  return output;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "edgedet-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) {
    throw std::runtime_error("cannot make a temporary folder");
  }
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TemporaryFolder::write(const std::string& name, const std::string& content) const {
  std::ofstream stream(path_ + "/" + name, std::ios::binary);
  stream << content;
  if (!stream.flush()) {
    throw std::runtime_error("cannot write " + path_ + "/" + name);
  }
}

std::string model_json(const std::string& model) {
  Sha256 hash;
  hash.update(model.data(), model.size());
  return R"({
"format": "edgedet.bundle",
"version": 1,
"name": "tiny",
"input": {"name": "images", "width": 8, "height": 8, "resize": "stretch", "filter": "bilinear",
  "channels": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1], "pad_value": 114},
"output": {"form": "logits_boxes", "logits": "logits", "boxes": "boxes", "top_k": 30},
"classes": ["a", "b", "c"],
"category_ids": [1, 5, 7],
"models": {"fp32": {"*": "model.onnx"}},
"best": {},
"files": {"model.onnx": {"sha256": ")" +
         hash.hex_digest() + R"(", "bytes": )" + std::to_string(model.size()) + R"(}},
"licence": {"weights": "CC0-1.0", "data": "none"},
"unknown": 1
})";
}

void write_bundle(const TemporaryFolder& folder, const TinyNetwork& network) {
  const std::string model = to_onnx(network);
  folder.write("model.onnx", model);
  folder.write("model.json", model_json(model));
}

std::vector<std::uint8_t> picture(int width, int height, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  for (std::uint8_t& value : pixels) {
    value = static_cast<std::uint8_t>(random() & 0xFFU);
  }
  return pixels;
}

}  // namespace edgedet::test
