#include "benchmark/write_text.h"

#include <fstream>

#include "edgedet/error.h"

namespace edgedet::bench {

void write_text(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file) {
    throw Error(ErrorKind::kInvalidInput, path + ": the file cannot be written; check the folder and the free space");
  }
}

}  // namespace edgedet::bench
