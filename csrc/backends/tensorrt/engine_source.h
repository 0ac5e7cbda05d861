// Where a detector's engine comes from: the cache folder, or a build.
#pragma once

#include <string>
#include <vector>

#include "backends/tensorrt/build_options.h"
#include "backends/tensorrt/gpu.h"
#include "edgedet/bundle.h"
#include "runtime/engine_cache.h"

namespace edgedet::tensorrt {

class EngineSource {
 public:
  // Opens TensorRT's library. Throws Error on options that this TensorRT or bundle cannot serve.
  EngineSource(const ModelSpec& spec, const std::string& model, const DetectorOptions& options, const Gpu& gpu);

  // Whether the engine lies in the cache folder, as far as its file's size and first bytes tell.
  bool kept() const;

  // The engine's plan, and in `info` where it came from. Builds it if need be; `progress` may be null. Throws Error.
  std::vector<char> plan(EngineInfo& info, const BuildProgress& progress) const;

 private:
  std::string model_;
  std::string folder_;
  BuildOptions options_;
  EngineKey key_;
};

}  // namespace edgedet::tensorrt
