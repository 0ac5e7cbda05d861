// A bundle with a network of two matrix products, written byte by byte, and the same network in plain loops.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace edgedet::test {

constexpr int kSide = 8;
constexpr int kQueries = 10;
constexpr int kClasses = 3;
constexpr int kPixels = 3 * kSide * kSide;

// logits = flatten(images) x class_weights, boxes = sigmoid(flatten(images) x box_weights).
struct TinyNetwork {
  std::vector<float> class_weights;  // (kPixels, kQueries * kClasses)
  std::vector<float> box_weights;    // (kPixels, kQueries * 4)
};

TinyNetwork tiny_network();

// As ONNX, opset 17, batch dynamic.
std::string to_onnx(const TinyNetwork& network);

struct TinyOutput {
  std::vector<float> logits;  // (kQueries, kClasses)
  std::vector<float> boxes;   // (kQueries, 4)
};

TinyOutput run(const TinyNetwork& network, const std::vector<float>& input);

// A fresh folder under the system's temporary one, removed with all its files when this goes.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& content) const;

 private:
  std::string path_;
};

// model.json of a bundle whose model.onnx is `model`. Every line can be replaced by a test to spoil it.
std::string model_json(const std::string& model);

// Writes model.onnx and model.json.
void write_bundle(const TemporaryFolder& folder, const TinyNetwork& network);

// Pixels of a test picture, different for every seed: (height, width, 3).
std::vector<std::uint8_t> picture(int width, int height, unsigned seed);

}  // namespace edgedet::test
