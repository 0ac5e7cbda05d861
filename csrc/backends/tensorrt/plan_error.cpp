#include "backends/tensorrt/plan_error.h"

#include <initializer_list>

namespace edgedet::tensorrt {
namespace {

bool has_any(const std::string& log, std::initializer_list<const char*> parts) {
  for (const char* part : parts) {
    if (log.find(part) != std::string::npos) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string plan_error(const std::string& source, const std::string& here, const std::string& log) {
  const std::string said = log.empty() ? "nothing" : log;
  // A build for another device is told by the compute capability, before or after a version.
  if (has_any(log, {"incompatible device", "compute capability", "expecting compute", "different device"})) {
    return source +
           ": expected an engine built on this GPU, got one of another; build it here (TensorRT says: " + said + ")";
  }
  if (has_any(log, {"Version tag", "version of TensorRT", "library version", "serializationVersion",
                    "kSERIALIZATION_VERSION", "plan file version"})) {
    return source + ": expected an engine built by TensorRT " + here +
           ", got one of another version; build it again (TensorRT says: " + said + ")";
  }
  if (has_any(log, {"out of memory", "OutOfMemory", "cudaErrorMemoryAllocation"})) {
    return source + ": expected device memory for the engine, got too little; close what else uses the GPU " +
           "(TensorRT says: " + said + ")";
  }
  return source + ": expected an engine of TensorRT " + here +
         ", got a damaged or foreign file; delete it and build it again (TensorRT says: " + said + ")";
}

}  // namespace edgedet::tensorrt
