// Engines on the disk: what a backend made of a network for this device, built once, whoever asks first.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace edgedet {

// All that decides what an engine is: values under names, in the order they are added.
class EngineKey {
 public:
  EngineKey& add(std::string_view name, std::string_view value);
  EngineKey& add(std::string_view name, int value) { return add(name, std::to_string(value)); }

  // 64 hexadecimal digits.
  std::string digest() const;

 private:
  std::string text_;
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

}  // namespace edgedet
