// What a backend is: a whole pipeline, images to detections, on one device.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "edgedet/bundle.h"
#include "edgedet/detector.h"

namespace edgedet {

class Backend {
 public:
  Backend() = default;
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // As in Detector. Thread-safe. `out` has room for `count` images.
  virtual void detect(const ImageView* images, std::size_t count, const ImageSource& source,
                      std::vector<Detection>* out, StageTimes& times) = 0;
  virtual std::vector<Tensor> infer(const float* input, std::size_t batch) = 0;
  virtual PartTimes time_parts(const ImageView* images, std::size_t count, int calls) = 0;
  virtual std::string gpu() const { return {}; }
  virtual std::vector<ExecutionNode> execution_graph() const = 0;
  virtual std::string device() const = 0;
  virtual int threads() const noexcept = 0;
  virtual int requests() const noexcept = 0;
  virtual EngineInfo engine() const { return {}; }
};

// A row of the table in backends.cpp.
struct BackendEntry {
  const char* name;
  BackendInfo (*probe)(int device);
  // `model` is the path of the network, options.max_detections is resolved. Called only if probe() says available.
  std::unique_ptr<Backend> (*make)(const ModelSpec& spec, const std::string& model, const DetectorOptions& options);
  // As edgedet::prepare and is_prepared; null where no engines are built.
  EngineInfo (*prepare)(const ModelSpec& spec, const std::string& model, const DetectorOptions& options,
                        const BuildProgress& progress);
  bool (*prepared)(const ModelSpec& spec, const std::string& model, const DetectorOptions& options);
};

// The entry that `name` ("auto" or a backend's name) means here, on the device of this index. Throws Error(kBackend)
// with the reason if it cannot run.
const BackendEntry& choose_backend(const std::string& name, int device);

}  // namespace edgedet
