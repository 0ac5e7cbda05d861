#include "backends/tensorrt/float_layers.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "common/files.h"
#include "common/json.h"
#include "edgedet/error.h"

namespace edgedet::tensorrt {

std::vector<std::string> read_float_layers(const std::string& folder) {
  constexpr std::size_t kMaxBytes = std::size_t{64} << 20U;
  const std::string path = folder + "/calibration.json";
  const std::optional<std::vector<char>> data = read_file(path, kMaxBytes);
  if (!data) {
    return {};
  }
  const json::Document document(std::string_view(data->data(), data->size()), path, ErrorKind::kBundle);
  json::View here = document.root();
  for (const std::string_view key : {"half", "tensorrt", "islands"}) {
    if (!here.has(key)) {
      return {};
    }
    here = here.at(key);
  }
  std::vector<std::string> names;
  for (const auto& [name, reason] : here.items()) {
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace edgedet::tensorrt
