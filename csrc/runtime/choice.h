// What the options of a detector mean for a bundle on this machine.
#pragma once

#include <string>

#include "edgedet/bundle.h"
#include "runtime/backend.h"

namespace edgedet {

struct Choice {
  const BackendEntry* entry = nullptr;
  ModelSpec spec;           // spec.info.max_detections is what a frame can yield with these options
  std::string model;        // path of the network
  DetectorOptions options;  // precision and max_detections resolved
};

// Reads the bundle and chooses. Throws Error on options, a bundle, or a backend or precision that is not there.
Choice choose(const std::string& bundle, const DetectorOptions& options, FileCheck check);

}  // namespace edgedet
