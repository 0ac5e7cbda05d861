#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/decimal.h"
#include "edgedet/error.h"
#include "edgedet/telemetry.h"
#include "measure/integral.h"
#include "measure/rails.h"

namespace edgedet::telemetry {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(at, begin), text.size());
    if (end > begin) {
      parts.push_back(text.substr(begin, end - begin));
    }
    begin = end + 1;
  }
  return parts;
}

// "1234/1200" (JetPack 4) or "1234mW/1200mW": now and the mean since tegrastats began. Memory, "1903/3956MB", is not
// it.
std::optional<double> milliwatts(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto number = [](std::string_view part) -> std::optional<double> {
    if (part.size() > 2 && part.substr(part.size() - 2) == "mW") {
      part.remove_suffix(2);
    }
    double value = 0.0;
    return parse_decimal(part, value) ? std::optional(value) : std::nullopt;
  };
  if (slash == std::string_view::npos || !number(text.substr(slash + 1))) {
    return std::nullopt;
  }
  return number(text.substr(0, slash));
}

using Sample = std::vector<std::pair<std::string, double>>;  // rail, milliwatts

Sample read_line(std::string_view line) {
  Sample sample;
  std::string_view before;
  for (const std::string_view word : split(line, ' ')) {
    const std::optional<double> power = milliwatts(word);
    if (power && before != "NC") {
      sample.emplace_back(before, *power);
    }
    before = word;
  }
  return sample;
}

}  // namespace

PowerLog read_tegrastats(std::string_view log, double interval) {
  if (!(interval > 0.0 && interval <= 3600.0)) {
    refuse("interval: expected seconds above 0, got " + std::to_string(interval));
  }
  PowerLog result;
  Sample first;
  std::vector<Integral> integrals;
  for (std::string_view line : split(log, '\n')) {
    if (!line.empty() && line.back() == '\r') {
      line.remove_suffix(1);
    }
    const Sample sample = read_line(line);
    if (sample.empty()) {
      continue;
    }
    if (result.samples == 0) {
      first = sample;
      integrals.resize(sample.size());
    }
    if (!std::equal(sample.begin(), sample.end(), first.begin(), first.end(),
                    [](const auto& a, const auto& b) { return a.first == b.first; })) {
      refuse("tegrastats: expected the same rails in every line, got others in \"" + std::string(line.substr(0, 200)) +
             "\"; leave out what is damaged");
    }
    for (std::size_t i = 0; i < sample.size(); ++i) {
      integrals[i].add(static_cast<double>(result.samples) * interval, sample[i].second, false, 0.0);
    }
    ++result.samples;
  }
  if (result.samples < 2) {
    refuse("tegrastats: expected two lines or more with rails such as \"VDD_IN 5064mW/5064mW\", got " +
           std::to_string(result.samples));
  }
  result.seconds = static_cast<double>(result.samples - 1) * interval;
  std::vector<std::string> labels;
  for (std::size_t i = 0; i < first.size(); ++i) {
    labels.push_back(first[i].first);
    result.rails.push_back({first[i].first, integrals[i].total() * 1e-3, "tegrastats, integrated power", ""});
  }
  result.board.name = "board";
  for (const std::string& label : board_rails(labels)) {
    const auto rail = static_cast<std::size_t>(std::find(labels.begin(), labels.end(), label) - labels.begin());
    result.board.joules += result.rails[rail].joules;
    result.board.source += (result.board.source.empty() ? "" : " + ") + label;
  }
  if (result.board.source.empty()) {
    result.board.missing = "no known total among the rails of the log";
  }
  return result;
}

}  // namespace edgedet::telemetry
