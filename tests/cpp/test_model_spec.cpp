#include <filesystem>
#include <string>
#include <utility>

#include "check.h"
#include "edgedet/bundle.h"
#include "tiny_bundle.h"

using edgedet::ErrorKind;
using edgedet::load_model_spec;
using edgedet::ModelSpec;
using edgedet::test::TemporaryFolder;

namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  CHECK(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

}  // namespace

TEST(model_spec_reads_all) {
  const TemporaryFolder folder;
  write_bundle(folder, edgedet::test::tiny_network());
  const ModelSpec spec = load_model_spec(folder.path());
  CHECK(spec.info.name == "tiny");
  CHECK(spec.info.preprocess.width == 8 && spec.info.preprocess.height == 8);
  CHECK(spec.info.preprocess.pad_value == 114);
  CHECK(spec.info.classes.size() == 3 && spec.info.classes[2] == "c");
  CHECK(spec.info.category_ids[1] == 5);
  CHECK(spec.info.max_detections == 30);
  CHECK(spec.logits == "logits" && spec.boxes == "boxes" && spec.input == "images");
  CHECK(spec.weights_licence == "CC0-1.0");
  CHECK(edgedet::choose_precision(spec, "openvino", "auto") == "fp32");
  CHECK(edgedet::model_path(spec, "openvino", "fp32") == folder.path() + "/model.onnx");
  CHECK_THROWS(ErrorKind::kBundle, "no int8 model for the backend openvino; it has: fp32",
               edgedet::choose_precision(spec, "openvino", "int8"));
}

TEST(model_spec_best_precision) {
  const TemporaryFolder folder;
  const std::string model = to_onnx(edgedet::test::tiny_network());
  folder.write("model.onnx", model);
  std::string text = replaced(edgedet::test::model_json(model), R"({"fp32": {"*": "model.onnx"}})",
                              R"({"fp32": {"*": "model.onnx"}, "int8": {"openvino": "model.onnx"}})");
  text = replaced(text, R"("best": {})", R"("best": {"openvino": "int8"})");
  folder.write("model.json", text);
  const ModelSpec spec = load_model_spec(folder.path());
  CHECK(edgedet::choose_precision(spec, "openvino", "auto") == "int8");
  CHECK(edgedet::choose_precision(spec, "tensorrt", "auto") == "fp32");
  CHECK_THROWS(ErrorKind::kBundle, "it has: fp32", edgedet::choose_precision(spec, "tensorrt", "int8"));
}

TEST(model_spec_refuses) {
  const std::pair<const char*, std::pair<const char*, const char*>> table[] = {
      // what is replaced, by what, the message
      {"\"version\": 1", {"\"version\": 2", "expected version 1, got 2"}},
      {"\"edgedet.bundle\"", {"\"other\"", "not a bundle of edgedet"}},
      {"\"name\": \"tiny\",", {"", "missing key \"name\""}},
      {"\"width\": 8", {"\"width\": 0", "input: width: expected an integer in [1,"}},
      {"\"width\": 8", {"\"width\": 1e9", "input: width: expected an integer in [1,"}},
      {"\"height\": 8", {"\"height\": \"8\"", "input: height: expected an integer, got a string"}},
      {"\"stretch\"", {"\"crop\"", "expected one of \"stretch\", \"letterbox\", got \"crop\""}},
      {"\"bilinear\"", {"\"cubic\"", "input: filter"}},
      {"\"rgb\"", {"\"hsv\"", "input: channels"}},
      {"[0, 0, 0]", {"[0, 0]", "input: mean: expected 3 numbers"}},
      {"[1, 1, 1]", {"[1, 0, 1]", "std"}},
      {"114", {"256", "pad_value"}},
      {"\"logits_boxes\"", {"\"other\"", "output: form"}},
      {"\"logits\": \"logits\", ", {"", "missing key \"logits\""}},
      {"\"top_k\": 30", {"\"top_k\": 0", "output: top_k"}},
      {"[\"a\", \"b\", \"c\"]", {"[]", "classes: expected 1 to"}},
      {"[1, 5, 7]", {"[1, 5]", "category_ids: expected one id per class (3), got 2"}},
      {"{\"*\": \"model.onnx\"}", {"{\"*\": \"other.onnx\"}", "\"other.onnx\" is not listed in \"files\""}},
      {"{\"*\": \"model.onnx\"}", {"{\"*\": \"../model.onnx\"}", "expected the plain name of a file"}},
      {"{\"fp32\": {\"*\": \"model.onnx\"}}", {"{}", "expected at least one model"}},
      {"\"best\": {}", {"\"best\": {\"openvino\": \"int8\"}", "there is no \"int8\" model"}},
      {"{\"model.onnx\": {\"sha256\"", {"{\"a/b\": {\"sha256\"", "expected the plain name of a file"}},
      {"{\"model.onnx\": {\"sha256\"", {"{\"..\": {\"sha256\"", "expected the plain name of a file"}},
      {"{\"model.onnx\": {\"sha256\": \"", {"{\"model.onnx\": {\"sha256\": \"x", "64 lower-case hex digits"}},
      {"\"bytes\": ", {"\"bytes\": 1", "bytes as in model.json"}},
      {"\"unknown\": 1", {"\"unknown\": 1,", "not valid JSON"}},
  };
  const TemporaryFolder folder;
  const std::string model = to_onnx(edgedet::test::tiny_network());
  folder.write("model.onnx", model);
  const std::string good = edgedet::test::model_json(model);
  for (const auto& [from, to_and_message] : table) {
    folder.write("model.json", replaced(good, from, to_and_message.first));
    CHECK_THROWS(ErrorKind::kBundle, to_and_message.second, load_model_spec(folder.path()));
  }
}

TEST(model_spec_files) {
  const TemporaryFolder folder;
  CHECK_THROWS(ErrorKind::kBundle, "expected a bundle folder with a model.json", load_model_spec(folder.path()));
  CHECK_THROWS(ErrorKind::kBundle, "expected a bundle folder", load_model_spec(folder.path() + "/absent"));
  std::string model = to_onnx(edgedet::test::tiny_network());
  folder.write("model.json", edgedet::test::model_json(model));
  CHECK_THROWS(ErrorKind::kBundle, "model.onnx: missing", load_model_spec(folder.path()));
  folder.write("model.onnx", model + "x");
  CHECK_THROWS(ErrorKind::kBundle, "bytes as in model.json", load_model_spec(folder.path()));
  model[model.size() / 2] = static_cast<char>(model[model.size() / 2] ^ 1);
  folder.write("model.onnx", model);
  CHECK_THROWS(ErrorKind::kBundle, "expected sha256", load_model_spec(folder.path()));
  std::filesystem::remove(folder.path() + "/model.onnx");
  std::filesystem::create_directory(folder.path() + "/model.onnx");
  CHECK_THROWS(ErrorKind::kBundle, "model.onnx: missing", load_model_spec(folder.path()));
}
