#include <array>

#include "backends/openvino/openvino_backend.h"
#include "backends/tensorrt/tensorrt_backend.h"
#include "runtime/backend.h"

namespace edgedet {
namespace {

// Every backend, fastest device first: the order "auto" tries them.
constexpr std::array<BackendEntry, 2> kBackends{{
    {"tensorrt", tensorrt::probe, tensorrt::make, tensorrt::prepare, tensorrt::prepared},
    {"openvino", openvino::probe, openvino::make, nullptr, nullptr},
}};

}  // namespace

std::vector<BackendInfo> backends() {
  std::vector<BackendInfo> infos;
  infos.reserve(kBackends.size());
  for (const BackendEntry& entry : kBackends) {
    infos.push_back(entry.probe(0));
  }
  return infos;
}

const BackendEntry& choose_backend(const std::string& name, int device) {
  std::string reasons;
  std::string names;
  for (const BackendEntry& entry : kBackends) {
    names += std::string(names.empty() ? "" : ", ") + entry.name;
    if (name != "auto" && name != entry.name) {
      continue;
    }
    const BackendInfo info = entry.probe(device);
    if (info.available) {
      return entry;
    }
    reasons += name == "auto" ? "\n  " + info.name + ": " + info.detail : " " + info.detail;
  }
  if (reasons.empty()) {
    throw Error(ErrorKind::kInvalidInput, "backend: expected auto or one of " + names + ", got \"" + name + "\"");
  }
  throw Error(
      ErrorKind::kBackend,
      (name == "auto" ? std::string("no backend is available here:") : name + " is not available here:") + reasons);
}

}  // namespace edgedet
