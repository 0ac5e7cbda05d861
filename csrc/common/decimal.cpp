#include "common/decimal.h"

#include <cmath>
#include <string>

#include <locale.h>
#include <stdlib.h>

namespace edgedet {

bool parse_decimal(std::string_view text, double& value) {
  constexpr std::string_view kDigits = "0123456789";
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != text.npos || text.front() == '+') {
    return false;
  }
  static const locale_t c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
  const std::string terminated(text);
  char* end = nullptr;
  const double parsed = strtod_l(terminated.c_str(), &end, c_locale);
  const bool nonzero = text.substr(0, text.find_first_of("eE")).find_first_of(kDigits.substr(1)) != text.npos;
  if (end != terminated.c_str() + terminated.size() || std::isinf(parsed) || (nonzero && parsed == 0.0)) {
    return false;
  }
  value = parsed;
  return true;
}

}  // namespace edgedet
