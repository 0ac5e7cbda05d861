// This version of edgedet has no TensorRT pipeline; the entry says so instead of being missing from the table.
#include "backends/tensorrt/tensorrt_backend.h"
#include "edgedet_build_info.h"

namespace edgedet::tensorrt {

BackendInfo probe() {
  return {"tensorrt",
          false,
          std::string("edgedet ") + build::kVersion + " cannot run TensorRT yet, use openvino (TensorRT " +
              build::kTensorrt + ")",
          {}};
}

std::unique_ptr<Backend> make(const ModelSpec& /*spec*/, const std::string& /*model*/,
                              const DetectorOptions& /*options*/) {
  throw Error(ErrorKind::kBackend, probe().detail);
}

}  // namespace edgedet::tensorrt
