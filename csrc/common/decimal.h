// Decimal numbers in text, whatever the locale of the process. std::from_chars does it only from GCC 11 on, and JetPack
// 5 has GCC 9.
#pragma once

#include <string_view>

namespace edgedet {

// False, with `value` as it was, unless all of `text` is one decimal number (no '+', no space, no "inf" or "nan") that
// a double can hold; denormals it can, what rounds to infinity or, not being zero, to zero it cannot.
bool parse_decimal(std::string_view text, double& value);

}  // namespace edgedet
