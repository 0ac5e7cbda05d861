// Engines on the disk: built once for a network, a TensorRT, a GPU and options, whoever asks first.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace edgedet::tensorrt {

// All that decides what an engine is.
struct EngineKey {
  std::string onnx_sha256;
  std::string tensorrt;  // its version
  std::string gpu;       // its name
  std::int32_t capability_major = 0;
  std::int32_t capability_minor = 0;
  int driver_major = 0;  // of the CUDA version that the driver knows
  std::string options;   // canonical_text of BuildOptions

  // 64 hexadecimal digits.
  std::string digest() const;
};

// The engine's file in `folder`.
std::string engine_path(const EngineKey& key, const std::string& folder);

// Whether `load_or_build` would most likely find it: its file has the right beginning and size.
bool is_kept(const EngineKey& key, const std::string& folder);

// The plan in `folder`, or what `build` gives, which is then kept there. An entry that is damaged or of another key is
// built again. Threads and processes that ask for the same engine wait for the first; the empty lock file stays. An
// empty `folder` keeps nothing. Throws what `build` throws, and Error(kBackend) if the folder cannot be written to.
//
// The digest in an entry detects damage, not malice: the folder must be one that only its owner writes to.
std::vector<char> load_or_build(const EngineKey& key, const std::string& folder,
                                const std::function<std::vector<char>()>& build);

}  // namespace edgedet::tensorrt
