// RAPL: energy counters of x86 processors.
#pragma once

#include "measure/probe.h"

namespace edgedet::telemetry {

// Adds "cpu" (all packages, which hold cores and caches) and "dram".
void add_rapl(const std::string& root, Probes& probes);

}  // namespace edgedet::telemetry
