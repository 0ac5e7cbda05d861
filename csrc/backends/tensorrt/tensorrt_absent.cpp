// The TensorRT backend of a build without it; the entry says so instead of being missing from the table.
#include "backends/tensorrt/tensorrt_backend.h"
#include "edgedet_build_info.h"

namespace edgedet::tensorrt {

BackendInfo probe(int /*device*/) {
  return {"tensorrt", false, std::string("this edgedet was built without TensorRT: ") + build::kTensorrt, {}};
}

std::unique_ptr<Backend> make(const ModelSpec& /*spec*/, const std::string& /*model*/,
                              const DetectorOptions& /*options*/) {
  throw Error(ErrorKind::kBackend, probe(0).detail);
}

EngineInfo prepare(const ModelSpec& /*spec*/, const std::string& /*model*/, const DetectorOptions& /*options*/,
                   const BuildProgress& /*progress*/) {
  throw Error(ErrorKind::kBackend, probe(0).detail);
}

bool prepared(const ModelSpec& /*spec*/, const std::string& /*model*/, const DetectorOptions& /*options*/) {
  throw Error(ErrorKind::kBackend, probe(0).detail);
}

}  // namespace edgedet::tensorrt

void edgedet::set_library_folders(const std::vector<std::string>& /*folders*/) {}
