// The OpenVINO backend without OpenVINO's headers.
#pragma once

#include <memory>
#include <string>

#include "runtime/backend.h"

namespace edgedet::openvino {

BackendInfo probe(int device);
std::unique_ptr<Backend> make(const ModelSpec& spec, const std::string& model, const DetectorOptions& options);

}  // namespace edgedet::openvino
