// All that can be read of this machine.
#pragma once

#include "edgedet/telemetry.h"
#include "measure/probe.h"

namespace edgedet::telemetry {

// The gauges are the same on every machine, and those that cannot be read say why when they are tried.
Probes find_probes(const Options& options);

}  // namespace edgedet::telemetry
