// The detector: a bundle on a backend, images in, detections out.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "edgedet/engine.h"
#include "edgedet/error.h"
#include "edgedet/inspect.h"
#include "edgedet/types.h"

namespace edgedet {

// What model.json says, as far as users of a detector need it.
struct ModelInfo {
  std::string name;
  PreprocessSpec preprocess;
  std::vector<std::string> classes;
  std::vector<std::int32_t> category_ids;  // the dataset's id of each class, for COCO results
  std::int32_t max_detections = 0;         // rows a frame can yield at the most
};

enum class PerformanceMode : std::uint8_t { kLatency, kThroughput };

struct DetectorOptions {
  std::string backend = "auto";  // "auto" or a name of backends()
  // "auto": what model.json records as verified best for the backend, where this device computes in it, else "fp32"
  std::string precision = "auto";
  PerformanceMode mode = PerformanceMode::kLatency;
  int threads = 0;              // CPU threads, 0 = all this process may use
  int requests = 0;             // parallel inference requests, 0 = 1 for latency, the backend's choice for throughput
  float score_threshold = 0.F;  // rows below it are left out
  int max_detections = 0;       // 0 = the model's own
  std::string cache_dir;        // where engines that were built for this device are kept; empty: nowhere
  EngineOptions engine;
};

// What a detector runs.
struct RunInfo {
  ModelInfo model;
  std::string backend;    // the name of the one that runs
  std::string precision;  // "fp32", "bf16", "fp16" or "int8", the one that runs
  std::string device;     // device and library version, for people and reports
  int threads = 0;        // CPU threads in use
  int requests = 0;       // parallel inference requests in use
  EngineInfo engine;
};

// What a backend is and whether it can run here.
struct BackendInfo {
  std::string name;
  bool available = false;
  std::string detail;                   // version and device if available, else the reason and the remedy
  std::vector<std::string> precisions;  // what this device computes in: "fp32", "int8", and "bf16", "fp16" if native
};

// Every backend this build knows, in the order "auto" tries them.
std::vector<BackendInfo> backends();

// Thread-safe: any number of threads may call detect on one Detector. After warm-up a call allocates nothing
// beyond growing `out` to the largest batch seen.
class Detector {
 public:
  // Loads and checks the bundle (version, sha256, shapes) and prepares the backend. Throws Error.
  explicit Detector(const std::string& bundle, const DetectorOptions& options = {});
  ~Detector();
  Detector(Detector&&) noexcept;
  Detector& operator=(Detector&&) noexcept;

  // Replaces what runs by another bundle, with the options of before or others. It is made first, beside the old one,
  // and exchanged at once when it is ready: calls under way end on the old one, which is then freed. If it cannot be
  // made, an Error is thrown and the old one goes on. Swaps from several threads follow one another.
  void swap(const std::string& bundle);
  void swap(const std::string& bundle, const DetectorOptions& options);

  // What runs now: values that belong together, and stay as they are when something else is swapped in.
  std::shared_ptr<const RunInfo> running() const;

  // The same, one by one.
  ModelInfo info() const { return running()->model; }
  std::string backend() const { return running()->backend; }
  std::string precision() const { return running()->precision; }
  std::string device() const { return running()->device; }
  int threads() const { return running()->threads; }
  int requests() const { return running()->requests; }

  // out[i] holds the detections of images[i], best first. Returns what ran; `times` may be null. Images that are not in
  // the host's memory are for backends on a GPU. Throws Error.
  std::shared_ptr<const RunInfo> detect(const ImageView* images, std::size_t count,
                                        std::vector<std::vector<Detection>>& out, StageTimes* times = nullptr,
                                        const ImageSource& source = {}) const;

  // The network alone, for comparing engines: the outputs that model.json names. `input` is (batch, 3, height, width)
  // as preprocess gives.
  std::vector<Tensor> infer(const float* input, std::size_t batch) const;

  // Times the parts of a frame, `calls` times each, beside nothing else that runs. The images are as of detect.
  PartTimes time_parts(const ImageView* images, std::size_t count, int calls) const;

  // PCI address of the GPU that runs it; empty on a CPU.
  std::string gpu() const;

  // What the backend really executes, in execution order.
  std::vector<ExecutionNode> execution_graph() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace edgedet
