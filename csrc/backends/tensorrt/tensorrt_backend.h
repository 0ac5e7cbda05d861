// The TensorRT backend without TensorRT's headers.
#pragma once

#include <memory>
#include <string>

#include "runtime/backend.h"

namespace edgedet::tensorrt {

BackendInfo probe(int device);
std::unique_ptr<Backend> make(const ModelSpec& spec, const std::string& model, const DetectorOptions& options);
EngineInfo prepare(const ModelSpec& spec, const std::string& model, const DetectorOptions& options,
                   const BuildProgress& progress);
bool prepared(const ModelSpec& spec, const std::string& model, const DetectorOptions& options);

}  // namespace edgedet::tensorrt
