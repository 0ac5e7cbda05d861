#include "backends/tensorrt/plugin_state.h"

#include <cstring>
#include <string>

#include "edgedet/error.h"

namespace edgedet::tensorrt {
namespace {

constexpr std::int32_t kVersion = 1;  // of the words and of what the kernel makes of them
constexpr std::size_t kHeader = 6;
constexpr std::size_t kPerLevel = 3;

[[noreturn]] void refuse(const std::string& got) {
  throw Error(ErrorKind::kBackend, "expected a plan with deformable attention of version " + std::to_string(kVersion) +
                                       ", got " + got + "; build the engine again");
}

}  // namespace

std::vector<std::int32_t> write_state(const cuda::DeformableSpec& spec) {
  std::vector<std::int32_t> words = {kVersion,    spec.heads, spec.channels,
                                     spec.layers, spec.layer, static_cast<std::int32_t>(spec.levels.size())};
  for (const cuda::DeformableLevel& level : spec.levels) {
    words.insert(words.end(), {level.height, level.width, level.points});
  }
  return words;
}

cuda::DeformableSpec read_state(const void* data, std::size_t bytes) {
  constexpr std::size_t kMost = kHeader + kPerLevel * cuda::kMaxDeformableLevels;
  const std::size_t count = bytes / sizeof(std::int32_t);
  if (data == nullptr || bytes % sizeof(std::int32_t) != 0 || count < kHeader || count > kMost) {
    refuse(std::to_string(bytes) + " bytes");
  }
  std::vector<std::int32_t> words(count);
  memcpy(words.data(), data, bytes);
  if (words[0] != kVersion) {
    refuse("version " + std::to_string(words[0]));
  }
  cuda::DeformableSpec spec;
  spec.heads = words[1];
  spec.channels = words[2];
  spec.layers = words[3];
  spec.layer = words[4];
  if (words[5] < 0 || count != kHeader + kPerLevel * static_cast<std::size_t>(words[5])) {
    refuse(std::to_string(words[5]) + " levels in " + std::to_string(bytes) + " bytes");
  }
  for (std::size_t i = kHeader; i < count; i += kPerLevel) {
    spec.levels.push_back({words[i], words[i + 1], words[i + 2]});
  }
  try {
    cuda::check_spec(spec);
  } catch (const Error& error) {
    refuse(error.what());
  }
  return spec;
}

}  // namespace edgedet::tensorrt
