// Engines: what a backend builds for the device it runs on, and keeps. Backends that build none ignore these options,
// except for a device, DLA core or calibrator that they do not have, which is an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace edgedet {

struct DetectorOptions;

// Where the int8 ranges of a float model come from; TensorRT before 11 has calibrators.
enum class Calibrator : std::uint8_t { kNone, kEntropy, kMinMax };

// What a calibrator looks at.
struct CalibrationImages {
  // Writes the next images, (N, 3, height, width) as preprocess gives and `values` numbers in all; false if fewer are
  // left. Not needed where the engine or its calibration is kept already.
  std::function<bool(float* images, std::size_t values)> next;
  std::string digest;  // of the images and how they were prepared; part of the engine's key
};

struct EngineOptions {
  int device = 0;           // index of the GPU
  int workspace_mb = 1024;  // what layers may work in while and after they are built, MiB; less where less is free
  // Images in a call of the engine; 0: as the mode says. A detector runs single images too, so min_batch is 0 or 1.
  int min_batch = 0;
  int opt_batch = 0;        // what is tuned for
  int max_batch = 0;        // more images are split
  int dla_core = -1;        // of a Jetson; -1: none
  int memory_limit_mb = 0;  // MiB of device memory that a build and, after it, a detector may take; 0: no limit
  Calibrator calibrator = Calibrator::kNone;  // for precision int8 of a float model
  CalibrationImages calibration;
};

struct EngineInfo {
  std::string path;       // empty: it is kept nowhere, or the backend builds none
  bool built = false;     // now; else it was kept
  std::size_t bytes = 0;  // of the engine
  double seconds = 0.0;   // spent on building or reading it
  int workspace_mb = 0;   // what the build worked in, MiB; 0 if it was kept
};

// A phase of a build and how many of its steps are done, `of` 0 where that is not known. False stops the build. Called
// from any thread, one call at a time.
using BuildProgress = std::function<bool(const char* phase, int step, int of)>;

struct Prepared {
  EngineInfo engine;
  std::string backend;
  std::string precision;
  std::string device;
};

// Builds and keeps what a detector with these options would build when it is made, and makes no detector. Takes
// minutes. `progress` may be null. Throws Error.
Prepared prepare(const std::string& bundle, const DetectorOptions& options, const BuildProgress& progress);

// Whether `prepare` would find everything built. Throws Error.
bool is_prepared(const std::string& bundle, const DetectorOptions& options);

// Folders to look for TensorRT's libraries in, in this order; an empty name is where the system's loader looks, which
// is the only place unless this is called. Has no effect once they are open.
void set_library_folders(const std::vector<std::string>& folders);

}  // namespace edgedet
