// The TensorRT backend of a build without it; the entry says so instead of being missing from the table.
#include "backends/tensorrt/tensorrt_backend.h"
#include "edgedet_build_info.h"

namespace edgedet::tensorrt {

BackendInfo probe() {
  return {"tensorrt", false, std::string("this edgedet was built without TensorRT: ") + build::kTensorrt, {}};
}

std::unique_ptr<Backend> make(const ModelSpec& /*spec*/, const std::string& /*model*/,
                              const DetectorOptions& /*options*/) {
  throw Error(ErrorKind::kBackend, probe().detail);
}

}  // namespace edgedet::tensorrt
