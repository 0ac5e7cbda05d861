// What the backend says in a build without OpenVINO.
#include "backends/openvino/openvino_backend.h"
#include "edgedet_build_info.h"

namespace edgedet {
namespace openvino {

BackendInfo probe(int /*device*/) { return {"openvino", false, std::string("OpenVINO ") + build::kOpenvino, {}}; }

std::unique_ptr<Backend> make(const ModelSpec& /*spec*/, const std::string& /*model*/,
                              const DetectorOptions& /*options*/) {
  throw Error(ErrorKind::kBackend, probe(0).detail);
}

}  // namespace openvino

ModelPorts inspect_onnx(const std::string& /*path*/) {
  throw Error(ErrorKind::kBackend, "reading an ONNX file needs OpenVINO, which is " + std::string(build::kOpenvino));
}

}  // namespace edgedet
