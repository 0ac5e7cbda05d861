// Pieces of JSON text.
#pragma once

#include <string>
#include <string_view>

namespace edgedet::bench {

// The shortest digits that give the same double when read. `value` is finite.
std::string json_number(double value);

// In quotes, escaped.
std::string json_string(std::string_view text);

// Replaces a file. Throws Error(kInvalidInput) if it cannot be written.
void write_text(const std::string& path, std::string_view text);

}  // namespace edgedet::bench
