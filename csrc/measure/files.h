// Small files of the kernel: one number or one line each.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "measure/probe.h"

namespace edgedet::telemetry {

// The text without white space at the ends, at most 64 KiB. Nothing, and in `reason` why, if it cannot be read.
std::optional<std::string> read_text(const std::string& path, std::string& reason);

// The decimal number that the text begins with.
std::optional<double> leading_number(std::string_view text);

// The number that the file begins with.
std::optional<double> read_number(const std::string& path, std::string& reason);

// The same as a Read, times `scale`.
Read reader(std::string path, double scale = 1.0);

// Paths of the entries of a folder whose names begin and end so, sorted; empty if there is no such folder.
std::vector<std::string> list(const std::string& folder, std::string_view begin = {}, std::string_view end = {});

// The last part of a path.
std::string name_of(const std::string& path);

}  // namespace edgedet::telemetry
