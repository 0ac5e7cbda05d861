// COCO files: image ids by file name, and results.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "edgedet/types.h"

namespace edgedet::bench {

// Id of each image of a COCO annotations file, by the last part of its file name. Throws Error(kInvalidInput).
std::map<std::string, std::int64_t> read_image_ids(const std::string& path);

// Collects detections as COCO results: image_id, category_id, bbox (x, y, width, height; source pixels), score. Numbers
// have the digits that float and double need to come back unchanged.
class ResultsWriter {
 public:
  explicit ResultsWriter(std::vector<std::int32_t> category_ids) : category_ids_(std::move(category_ids)) {}

  void add(std::int64_t image_id, const std::vector<Detection>& detections);

  // Throws Error(kInvalidInput) if the file cannot be written.
  void write(const std::string& path) const;

 private:
  std::vector<std::int32_t> category_ids_;
  std::string rows_;
};

}  // namespace edgedet::bench
