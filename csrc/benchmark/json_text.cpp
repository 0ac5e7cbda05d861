#include "benchmark/json_text.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "edgedet/error.h"

namespace edgedet::bench {

std::string json_number(double value) {
  char digits[32];
  int precision = 14;
  do {  // the shortest text that gives the same double
    std::snprintf(digits, sizeof(digits), "%.*g", ++precision, value);
  } while (precision < 17 && std::strtod(digits, nullptr) != value);
  return digits;
}

std::string json_string(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20) {
      quoted += "\\u00";
      quoted += kHex[byte >> 4U];
      quoted += kHex[byte & 15U];
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

void write_text(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file) {
    throw Error(ErrorKind::kInvalidInput, path + ": the file cannot be written; check the folder and the free space");
  }
}

}  // namespace edgedet::bench
