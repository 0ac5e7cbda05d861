#include "benchmark/coco.h"

#include <fstream>
#include <iterator>
#include <limits>

#include "benchmark/write_text.h"
#include "common/json.h"
#include "common/json_text.h"
#include "edgedet/error.h"

namespace edgedet::bench {

namespace {

std::string base_name(const std::string& path) { return path.substr(path.find_last_of("/\\") + 1); }

}  // namespace

std::map<std::string, std::int64_t> read_image_ids(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(ErrorKind::kInvalidInput, path + ": the annotations cannot be opened; check the path");
  }
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const json::Document document(text, path, ErrorKind::kInvalidInput);
  const json::View images = document.root().at("images");
  std::map<std::string, std::int64_t> ids;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const json::View image = images[i];
    constexpr std::int64_t kMaxId = std::int64_t{1} << 53;
    const bool added =
        ids.emplace(base_name(image.at("file_name").as_string()), image.at("id").as_int(-kMaxId, kMaxId)).second;
    if (!added) {
      image.fail("its file name stands in the file twice");
    }
  }
  return ids;
}

void ResultsWriter::add(std::int64_t image_id, const std::vector<Detection>& detections) {
  for (const Detection& detection : detections) {
    const double x = detection.x0;
    const double y = detection.y0;
    rows_ += rows_.empty() ? "\n" : ",\n";
    rows_ += "{\"image_id\": " + std::to_string(image_id) +
             ", \"category_id\": " + std::to_string(category_ids_.at(static_cast<std::size_t>(detection.label))) +
             ", \"bbox\": [" + json::number(x) + ", " + json::number(y) + ", " + json::number(detection.x1 - x) + ", " +
             json::number(detection.y1 - y) + "], \"score\": " + json::number(static_cast<double>(detection.score)) +
             "}";
  }
}

void ResultsWriter::write(const std::string& path) const { write_text(path, "[" + rows_ + "\n]\n"); }

}  // namespace edgedet::bench
