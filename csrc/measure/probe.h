// What can be read of a machine, as values the sampler goes through.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace edgedet::telemetry {

// A number, or nothing and in `reason` why.
using Read = std::function<std::optional<double>(std::string& reason)>;

// Several ways to read a quantity: the first that works is taken.
struct GaugeProbe {
  std::string name;
  std::vector<Read> ways;
  bool slow = false;  // once a second is often enough, because reading it costs
};

struct EnergyProbe {
  std::string name;  // several probes may have one: they are added
  std::string source;
  Read read;
  double unit = 1.0;  // joules of a counter's step; watts of a step of power
  bool counter = false;
  double wrap = 0.0;  // the counter's largest value, after which it begins at 0 again; 0: it does not
  bool rail = false;
};

// A mask of reasons for throttling now, or a counter of times that it happened.
struct ThrottleProbe {
  Read read;
  std::vector<std::pair<std::uint64_t, std::string>> bits;  // of the mask
  std::string counts;                                       // what the counter counts; empty: a mask
};

struct Probes {
  std::vector<GaugeProbe> gauges;
  std::vector<EnergyProbe> energies;
  std::vector<ThrottleProbe> throttles;
  std::vector<std::pair<std::string, std::string>> missing;  // of an energy's name: why there is none
  std::vector<std::string> board;                            // the rails whose sum is the board's energy
};

}  // namespace edgedet::telemetry
