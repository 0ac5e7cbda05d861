#include <array>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

#include <sys/stat.h>

#include "common/json.h"
#include "common/sha256.h"
#include "common/validate.h"
#include "edgedet/bundle.h"

namespace edgedet {
namespace {

constexpr int kVersion = 1;
constexpr std::size_t kMaxSpecBytes = std::size_t{16} << 20U;
constexpr std::int64_t kMaxFileBytes = 9007199254740992;  // 2^53, what a JSON number holds exactly
constexpr std::size_t kMaxClasses = 1U << 20U;

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::kBundle, message); }

// Size of a regular file, or -1.
std::int64_t file_size(const std::string& path) {
  struct stat status{};
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return -1;
  }
  return status.st_size;
}

std::string read_text(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) {
    fail(path + ": cannot be read; check its permissions");
  }
  return text;
}

std::string sha256_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  Sha256 hash;
  std::vector<char> chunk(std::size_t{1} << 18U);
  while (stream) {
    stream.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    hash.update(chunk.data(), static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof()) {
    fail(path + ": cannot be read; check its permissions");
  }
  return hash.hex_digest();
}

template <typename T, std::size_t N>
T one_of(const json::View& view, const std::array<std::pair<const char*, T>, N>& choices) {
  const std::string& text = view.as_string();
  std::string expected;
  for (const auto& [name, value] : choices) {
    if (text == name) {
      return value;
    }
    expected.append(expected.empty() ? "\"" : ", \"").append(name).append("\"");
  }
  view.fail("expected one of " + expected + ", got \"" + text + "\"");
}

// A name that stays inside the bundle folder.
void check_file_name(const json::View& view, const std::string& name) {
  const bool plain = !name.empty() && name != "." && name != ".." && name != "model.json" &&
                     name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
  if (!plain) {
    view.fail("expected the plain name of a file in the bundle folder, got \"" + name + "\"");
  }
}

const std::string& non_empty(const json::View& view) {
  const std::string& text = view.as_string();
  if (text.empty()) {
    view.fail("expected a name, got an empty string");
  }
  return text;
}

std::array<float, 3> three_numbers(const json::View& view) {
  if (view.size() != 3) {
    view.fail("expected 3 numbers, one per channel, got " + std::to_string(view.size()));
  }
  std::array<float, 3> numbers{};
  for (std::size_t i = 0; i < 3; ++i) {
    numbers[i] = static_cast<float>(view[i].as_number());
  }
  return numbers;
}

void read_input(const json::View& input, ModelSpec& spec) {
  spec.input = non_empty(input.at("name"));
  PreprocessSpec& preprocess = spec.info.preprocess;
  preprocess.width = static_cast<std::int32_t>(input.at("width").as_int(1, kMaxImageSide));
  preprocess.height = static_cast<std::int32_t>(input.at("height").as_int(1, kMaxImageSide));
  preprocess.resize = one_of<ResizeMode, 2>(
      input.at("resize"), {{{"stretch", ResizeMode::kStretch}, {"letterbox", ResizeMode::kLetterbox}}});
  preprocess.filter =
      one_of<Filter, 2>(input.at("filter"), {{{"bilinear", Filter::kBilinear}, {"antialias", Filter::kAntialias}}});
  preprocess.channels =
      one_of<ChannelOrder, 2>(input.at("channels"), {{{"rgb", ChannelOrder::kRgb}, {"bgr", ChannelOrder::kBgr}}});
  preprocess.mean = three_numbers(input.at("mean"));
  preprocess.std = three_numbers(input.at("std"));
  if (input.has("pad_value")) {
    preprocess.pad_value = static_cast<std::uint8_t>(input.at("pad_value").as_int(0, 255));
  }
  try {
    validate(preprocess);
  } catch (const Error& error) {
    input.fail(error.what());
  }
}

void read_output(const json::View& output, ModelSpec& spec) {
  spec.form = one_of<OutputForm, 2>(output.at("form"), {{{"logits_boxes", OutputForm::kLogitsBoxes},
                                                         {"labels_boxes_scores", OutputForm::kLabelsBoxesScores}}});
  spec.boxes = non_empty(output.at("boxes"));
  if (spec.form == OutputForm::kLogitsBoxes) {
    spec.logits = non_empty(output.at("logits"));
  } else {
    spec.labels = non_empty(output.at("labels"));
    spec.scores = non_empty(output.at("scores"));
    if (output.has("size_input") && !output.at("size_input").is_null()) {
      spec.size_input = non_empty(output.at("size_input"));
    }
  }
  spec.info.max_detections = static_cast<std::int32_t>(output.at("top_k").as_int(1, 1 << 20));
}

void read_classes(const json::View& root, ModelSpec& spec) {
  const json::View classes = root.at("classes");
  const json::View ids = root.at("category_ids");
  if (classes.size() == 0 || classes.size() > kMaxClasses) {
    classes.fail("expected 1 to " + std::to_string(kMaxClasses) + " class names, got " +
                 std::to_string(classes.size()));
  }
  if (ids.size() != classes.size()) {
    ids.fail("expected one id per class (" + std::to_string(classes.size()) + "), got " + std::to_string(ids.size()));
  }
  for (std::size_t i = 0; i < classes.size(); ++i) {
    spec.info.classes.push_back(classes[i].as_string());
    spec.info.category_ids.push_back(
        static_cast<std::int32_t>(ids[i].as_int(0, std::numeric_limits<std::int32_t>::max())));
  }
}

void read_files(const json::View& root, ModelSpec& spec) {
  for (const auto& [name, entry] : root.at("files").items()) {
    BundleFile file;
    file.sha256 = entry.at("sha256").as_string();
    if (file.sha256.size() != 64 || file.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
      entry.at("sha256").fail("expected 64 lower-case hex digits, got \"" + file.sha256 + "\"");
    }
    file.bytes = entry.at("bytes").as_int(0, kMaxFileBytes);
    check_file_name(entry, name);
    spec.files.emplace(name, std::move(file));
  }
}

void read_models(const json::View& root, ModelSpec& spec) {
  const json::View models = root.at("models");
  for (const auto& [precision, per_backend] : models.items()) {
    for (const auto& [backend, file] : per_backend.items()) {
      const std::string& name = file.as_string();
      check_file_name(file, name);
      if (spec.files.count(name) == 0) {
        file.fail("\"" + name + "\" is not listed in \"files\"");
      }
      spec.models[precision][backend] = name;
    }
  }
  if (spec.models.empty()) {
    models.fail("expected at least one model");
  }
  if (root.has("best")) {
    for (const auto& [backend, precision] : root.at("best").items()) {
      const auto found = spec.models.find(precision.as_string());
      if (found == spec.models.end() || (found->second.count(backend) == 0 && found->second.count("*") == 0)) {
        precision.fail("there is no \"" + precision.as_string() + "\" model for \"" + backend + "\" in \"models\"");
      }
      spec.best[backend] = precision.as_string();
    }
  }
}

void check_files(const ModelSpec& spec) {
  for (const auto& [name, file] : spec.files) {
    const std::string path = spec.folder + "/" + name;
    const std::int64_t bytes = file_size(path);
    if (bytes < 0) {
      fail(path + ": missing, though model.json lists it; copy the bundle again, as a whole folder");
    }
    if (bytes != file.bytes) {
      fail(path + ": expected " + std::to_string(file.bytes) + " bytes as in model.json, got " + std::to_string(bytes) +
           "; copy or write the bundle again");
    }
    const std::string sha256 = sha256_of(path);
    if (sha256 != file.sha256) {
      fail(path + ": expected sha256 " + file.sha256 + " as in model.json, got " + sha256 +
           ": the file was changed after the bundle was written; copy or write the bundle again");
    }
  }
}

// The precisions a backend can run, for messages.
std::string precisions_of(const ModelSpec& spec, const std::string& backend) {
  std::string list;
  for (const auto& [precision, per_backend] : spec.models) {
    if (per_backend.count(backend) != 0 || per_backend.count("*") != 0) {
      list.append(list.empty() ? "" : ", ").append(precision);
    }
  }
  return list.empty() ? "none" : list;
}

}  // namespace

ModelSpec load_model_spec(const std::string& folder, FileCheck check) {
  const std::string path = folder + "/model.json";
  const std::int64_t bytes = file_size(path);
  if (bytes < 0) {
    fail(folder + ": expected a bundle folder with a model.json in it; make one with `edgedet import`");
  }
  if (bytes > static_cast<std::int64_t>(kMaxSpecBytes)) {
    fail(path + ": expected at most " + std::to_string(kMaxSpecBytes) + " bytes, got " + std::to_string(bytes));
  }
  const json::Document document(read_text(path), path, ErrorKind::kBundle);
  const json::View root = document.root();

  if (!root.has("format") || root.at("format").as_string() != "edgedet.bundle") {
    root.fail("expected \"format\": \"edgedet.bundle\"; this is not a bundle of edgedet");
  }
  const std::int64_t version = root.at("version").as_int(0, kMaxFileBytes);
  if (version != kVersion) {
    root.fail("expected version " + std::to_string(kVersion) + ", got " + std::to_string(version) +
              "; use the edgedet that wrote it or write the bundle again");
  }

  ModelSpec spec;
  spec.folder = folder;
  spec.info.name = root.at("name").as_string();
  read_input(root.at("input"), spec);
  read_output(root.at("output"), spec);
  read_classes(root, spec);
  read_files(root, spec);
  read_models(root, spec);
  if (root.has("licence")) {
    const json::View licence = root.at("licence");
    spec.weights_licence = licence.has("weights") ? licence.at("weights").as_string() : "";
    spec.data_licence = licence.has("data") ? licence.at("data").as_string() : "";
  }
  if (check == FileCheck::kFull) {
    check_files(spec);
  }
  return spec;
}

std::string choose_precision(const ModelSpec& spec, const std::string& backend, const std::string& requested) {
  std::string precision = requested;
  if (requested == "auto") {
    const auto best = spec.best.find(backend);
    precision = best != spec.best.end() ? best->second : "fp32";
  }
  const auto found = spec.models.find(precision);
  if (found == spec.models.end() || (found->second.count(backend) == 0 && found->second.count("*") == 0)) {
    fail(spec.folder + ": no " + precision + " model for the backend " + backend +
         "; it has: " + precisions_of(spec, backend));
  }
  return precision;
}

std::string model_path(const ModelSpec& spec, const std::string& backend, const std::string& precision) {
  const auto& per_backend = spec.models.at(precision);
  const auto own = per_backend.find(backend);
  return spec.folder + "/" + (own != per_backend.end() ? own->second : per_backend.at("*"));
}

const BundleFile& model_file(const ModelSpec& spec, const std::string& path) {
  return spec.files.at(path.substr(spec.folder.size() + 1));
}

}  // namespace edgedet
