// model.json of a bundle: read, checked and typed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "edgedet/detector.h"

namespace edgedet {

enum class OutputForm : std::uint8_t {
  kLogitsBoxes,        // logits (N, Q, C), boxes (N, Q, 4) cxcywh in [0, 1]
  kLabelsBoxesScores,  // labels (N, R), boxes (N, R, 4) xyxy pixels of the network input, scores (N, R)
};

struct BundleFile {
  std::string sha256;
  std::int64_t bytes = 0;
};

struct ModelSpec {
  std::string folder;
  ModelInfo info;
  std::string input;  // name of the image input
  OutputForm form = OutputForm::kLogitsBoxes;
  std::string logits;  // kLogitsBoxes only
  std::string labels;  // kLabelsBoxesScores only
  std::string boxes;
  std::string scores;  // kLabelsBoxesScores only
  std::string
      size_input;  // kLabelsBoxesScores only, may be empty: the input that is fed (width, height) of the network
  std::map<std::string, std::map<std::string, std::string>> models;  // precision → backend or "*" → file
  std::map<std::string, std::string> best;                           // backend → precision
  std::map<std::string, BundleFile> files;
  std::string weights_licence;
  std::string data_licence;
};

enum class FileCheck : std::uint8_t { kFull, kNone };

// Reads and checks model.json in `folder`; kFull also checks every file it lists (presence, size, sha256). Throws
// Error(kBundle).
ModelSpec load_model_spec(const std::string& folder, FileCheck check = FileCheck::kFull);

// The precision that `requested` ("auto" or a precision) means on `backend`. Throws Error(kBundle) if the bundle has no
// model for it.
std::string choose_precision(const ModelSpec& spec, const std::string& backend, const std::string& requested);

// Path of the model file for a precision that choose_precision gave.
std::string model_path(const ModelSpec& spec, const std::string& backend, const std::string& precision);

// What model.json says of a path that model_path gave.
const BundleFile& model_file(const ModelSpec& spec, const std::string& path);

}  // namespace edgedet
