#include "common/json_text.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace edgedet::json {

std::string number(double value) {
  if (!std::isfinite(value)) {
    return "null";
  }
  char digits[32];
  int precision = 14;
  do {  // the shortest text that gives the same double
    std::snprintf(digits, sizeof(digits), "%.*g", ++precision, value);
  } while (precision < 17 && std::strtod(digits, nullptr) != value);
  return digits;
}

std::string quote(std::string_view text) {
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

std::string array(const std::vector<std::string>& values) {
  std::string text = "[";
  for (const std::string& value : values) {
    text += (text.size() > 1 ? ", " : "") + value;
  }
  return text + "]";
}

std::string object(const std::vector<std::pair<std::string, std::string>>& members) {
  std::string text = "{";
  for (const auto& [name, value] : members) {
    text += (text.size() > 1 ? ", " : "") + quote(name) + ": " + value;
  }
  return text + "}";
}

}  // namespace edgedet::json
