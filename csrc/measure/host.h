// What Linux tells of the processor and of this process.
#pragma once

#include "measure/probe.h"

namespace edgedet::telemetry {

// Mean clock of the CPUs that this process may run on, MHz.
Read cpu_clock(const std::string& root);

// Resident memory of this process now, MB (10^6 bytes).
Read resident_memory(const std::string& root);

// Adds counters of the times that a processor or board was held back.
void add_throttle_counters(const std::string& root, Probes& probes);

}  // namespace edgedet::telemetry
