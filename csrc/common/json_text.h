// Pieces of JSON text.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgedet::json {

// The shortest digits that give the same double when read; "null" for what JSON has no number for.
std::string number(double value);

// In quotes, escaped.
std::string quote(std::string_view text);

// Of values that are JSON already.
std::string array(const std::vector<std::string>& values);
std::string object(const std::vector<std::pair<std::string, std::string>>& members);

}  // namespace edgedet::json
