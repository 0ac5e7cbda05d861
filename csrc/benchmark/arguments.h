// The command line of edgedet-bench.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "edgedet/detector.h"

namespace edgedet::bench {

struct Arguments {
  bool help = false;
  std::string bundle;
  std::vector<std::string> images;  // files and folders; none: a synthetic frame
  std::int32_t synthetic_width = 640;
  std::int32_t synthetic_height = 480;
  std::string annotations;  // COCO instances file that gives images their ids
  int iterations = 200;     // measured calls
  int warmup = 20;          // calls before them
  int batch = 0;            // frames a call; 0: as many as there are requests
  DetectorOptions detector;
  std::string detections;  // COCO results file to write
  std::string json;        // report to write
  std::string command;     // all of the command line
};

// Throws Error(kInvalidInput) on anything unknown, missing or out of range.
Arguments parse_arguments(int count, const char* const* values);

std::string help_text();

}  // namespace edgedet::bench
