// What a Jetson tells in sysfs: power rails, load and clocks of its GPU, power mode.
#pragma once

#include "edgedet/telemetry.h"
#include "measure/probe.h"

namespace edgedet::telemetry {

// Adds each rail of its INA3221 and INA238, and which of them are the board.
void add_jetson_rails(const std::string& root, Probes& probes);

// Ways to read the GPU of a Jetson; none elsewhere.
struct JetsonGpu {
  std::vector<Read> clock;         // MHz
  std::vector<Read> memory_clock;  // MHz
  std::vector<Read> load;          // percent
  std::vector<Read> temperature;   // Celsius
};
JetsonGpu jetson_gpu(const std::string& root);

// Name of the power mode that nvpmodel is in.
Fact power_mode(const std::string& root);

}  // namespace edgedet::telemetry
