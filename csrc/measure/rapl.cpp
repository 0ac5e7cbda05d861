#include "measure/rapl.h"

#include "measure/files.h"

namespace edgedet::telemetry {
namespace {

void add_zone(const std::string& name, const std::string& folder, Probes& probes) {
  std::string reason;
  EnergyProbe probe;
  probe.name = name;
  probe.source = "RAPL counter";
  probe.read = reader(folder + "/energy_uj");
  probe.unit = 1e-6;
  probe.counter = true;
  probe.wrap = read_number(folder + "/max_energy_range_uj", reason).value_or(0.0);
  if (!probe.read(reason)) {
    probes.missing.emplace_back(name, reason + "; only root may read it unless its mode is changed");
    return;
  }
  probes.energies.push_back(probe);
}

}  // namespace

void add_rapl(const std::string& root, Probes& probes) {
  const std::string folder = root + "/sys/class/powercap";
  std::string reason;
  bool packages = false;
  bool memory = false;
  // "intel-rapl:0" is a package and "intel-rapl:0:1" a part of it, for AMD's processors, too. The same counters appear
  // again as intel-rapl-mmio, and in "psys", which holds the packages: neither is counted.
  for (const std::string& zone : list(folder, "intel-rapl:")) {
    const std::string name = read_text(zone + "/name", reason).value_or("");
    if (name.compare(0, 7, "package") == 0) {
      packages = true;
      add_zone("cpu", zone, probes);
    } else if (name == "dram") {
      memory = true;
      add_zone("dram", zone, probes);
    }
  }
  if (!packages) {
    probes.missing.emplace_back("cpu", folder + ": no RAPL counter of a processor");
  }
  if (!memory) {
    probes.missing.emplace_back("dram", folder + ": no RAPL counter of memory");
  }
}

}  // namespace edgedet::telemetry
