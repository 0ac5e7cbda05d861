// Text files.
#pragma once

#include <string>
#include <string_view>

namespace edgedet::bench {

// Replaces a file. Throws Error(kInvalidInput) if it cannot be written.
void write_text(const std::string& path, std::string_view text);

}  // namespace edgedet::bench
