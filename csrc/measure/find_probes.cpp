#include "measure/find_probes.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "measure/host.h"
#include "measure/jetson.h"
#include "measure/nvml.h"
#include "measure/rapl.h"

namespace edgedet::telemetry {
namespace {

// One of its functions as a Read.
Read of(const std::shared_ptr<const Nvml>& nvml, std::optional<double> (Nvml::*function)(std::string&) const,
        double scale = 1.0) {
  return [nvml, function, scale](std::string& reason) {
    std::optional<double> value = ((*nvml).*function)(reason);
    if (value) {
      *value *= scale;
    }
    return value;
  };
}

// A way that does not work, for this reason.
Read nothing(const std::string& why) {
  return [why](std::string& reason) -> std::optional<double> {
    reason = why;
    return std::nullopt;
  };
}

}  // namespace

Probes find_probes(const Options& options) {
  constexpr double kMega = 1e-6;
  constexpr double kMilli = 1e-3;
  Probes probes;
  std::vector<Read> clock;
  std::vector<Read> memory_clock;
  std::vector<Read> load;
  std::vector<Read> temperature;
  std::vector<Read> own;
  std::vector<Read> used;
  std::string reason;
  const std::shared_ptr<const Nvml> nvml =
      options.gpu.empty() ? nullptr : Nvml::open(options.nvml, options.gpu, reason);
  if (nvml) {
    clock.push_back(of(nvml, &Nvml::multiprocessor_clock));
    memory_clock.push_back(of(nvml, &Nvml::memory_clock));
    load.push_back(of(nvml, &Nvml::utilisation));
    temperature.push_back(of(nvml, &Nvml::temperature));
    own.push_back(of(nvml, &Nvml::process_memory, kMega));
    used.push_back(of(nvml, &Nvml::used_memory, kMega));
    const Read counter = of(nvml, &Nvml::energy);
    const Read power = of(nvml, &Nvml::power);
    if (counter(reason)) {
      probes.energies.push_back({"gpu", "NVML counter", counter, kMilli, true});
    } else if (power(reason)) {
      probes.energies.push_back({"gpu", "NVML, integrated power", power, kMilli});
    } else {
      probes.missing.emplace_back("gpu", reason);
    }
    const Read mask = of(nvml, &Nvml::throttle_reasons);
    if (mask(reason)) {
      probes.throttles.push_back({mask, Nvml::throttle_names(), ""});
    }
  } else {
    reason = options.gpu.empty() ? "no GPU is in use" : reason;
    for (std::vector<Read>* ways : {&clock, &memory_clock, &load, &temperature, &own, &used}) {
      ways->push_back(nothing(reason));
    }
    probes.missing.emplace_back("gpu", reason);
  }
  if (!options.gpu.empty()) {
    JetsonGpu jetson = jetson_gpu(options.root);
    const auto append = [](std::vector<Read>& ways, std::vector<Read>& more) {
      ways.insert(ways.end(), more.begin(), more.end());
    };
    append(clock, jetson.clock);
    append(memory_clock, jetson.memory_clock);
    append(load, jetson.load);
    append(temperature, jetson.temperature);
  }
  probes.gauges.push_back({"clocks_mhz.gpu", std::move(clock)});
  probes.gauges.push_back({"clocks_mhz.gpu_memory", std::move(memory_clock)});
  probes.gauges.push_back({"clocks_mhz.cpu", {cpu_clock(options.root)}, true});
  probes.gauges.push_back({"utilisation_percent.gpu", std::move(load)});
  probes.gauges.push_back({"temperature_c.gpu", std::move(temperature)});
  probes.gauges.push_back({"memory_mb.process", {resident_memory(options.root)}});
  probes.gauges.push_back({"memory_mb.gpu_process", std::move(own), true});
  probes.gauges.push_back({"memory_mb.gpu_device", std::move(used), true});
  add_jetson_rails(options.root, probes);
  add_rapl(options.root, probes);
  add_throttle_counters(options.root, probes);
  return probes;
}

}  // namespace edgedet::telemetry
