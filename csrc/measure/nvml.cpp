#include "measure/nvml.h"

#include <dlfcn.h>
#include <unistd.h>

namespace edgedet::telemetry {
namespace {

// The library's C interface, as its documentation describes it.
constexpr int kSuccess = 0;
constexpr int kMultiprocessorClock = 1;
constexpr int kMemoryClock = 2;
constexpr int kTemperatureGpu = 0;
constexpr unsigned long long kNotAvailable = ~0ULL;

struct Utilisation {
  unsigned gpu;
  unsigned memory;
};

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct Process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance;
  unsigned compute_instance;
};

// Up to driver 460.
struct OldProcess {
  unsigned pid;
  unsigned long long used;
};

}  // namespace

template <typename... Arguments>
bool Nvml::call(std::string& reason, const char* name, Arguments... arguments) const {
  void* const found = dlsym(handle_, name);
  if (found == nullptr) {
    reason = std::string("NVML has no ") + name;
    return false;
  }
  const int status = reinterpret_cast<int (*)(Arguments...)>(found)(arguments...);
  if (status == kSuccess) {
    return true;
  }
  reason = std::string(name) + ": ";
  void* const text = dlsym(handle_, "nvmlErrorString");
  const char* const said = text == nullptr ? nullptr : reinterpret_cast<const char* (*)(int)>(text)(status);
  reason += said == nullptr ? "error " + std::to_string(status) : std::string(said);
  return false;
}

std::shared_ptr<const Nvml> Nvml::open(const std::string& library, const std::string& pci, std::string& reason) {
  std::shared_ptr<Nvml> nvml(new Nvml);
  nvml->handle_ = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (nvml->handle_ == nullptr) {
    const char* const said = dlerror();
    reason = said == nullptr ? library + ": cannot be opened" : std::string(said);
    return nullptr;
  }
  nvml->initialised_ = nvml->call(reason, "nvmlInit_v2");
  if (!nvml->initialised_ || !nvml->call(reason, "nvmlDeviceGetHandleByPciBusId_v2", pci.c_str(), &nvml->device_)) {
    return nullptr;
  }
  return nvml;
}

Nvml::~Nvml() {
  std::string reason;
  if (initialised_) {
    static_cast<void>(call(reason, "nvmlShutdown"));
  }
  if (handle_ != nullptr) {
    static_cast<void>(dlclose(handle_));
  }
}

std::optional<double> Nvml::clock(int domain, std::string& reason) const {
  unsigned value = 0;
  return call(reason, "nvmlDeviceGetClockInfo", device_, domain, &value) ? std::optional<double>(value) : std::nullopt;
}

std::optional<double> Nvml::multiprocessor_clock(std::string& reason) const {
  return clock(kMultiprocessorClock, reason);
}

std::optional<double> Nvml::memory_clock(std::string& reason) const { return clock(kMemoryClock, reason); }

std::optional<double> Nvml::utilisation(std::string& reason) const {
  Utilisation value{};
  return call(reason, "nvmlDeviceGetUtilizationRates", device_, &value) ? std::optional<double>(value.gpu)
                                                                        : std::nullopt;
}

std::optional<double> Nvml::temperature(std::string& reason) const {
  unsigned value = 0;
  return call(reason, "nvmlDeviceGetTemperature", device_, kTemperatureGpu, &value) ? std::optional<double>(value)
                                                                                    : std::nullopt;
}

std::optional<double> Nvml::power(std::string& reason) const {
  unsigned value = 0;
  return call(reason, "nvmlDeviceGetPowerUsage", device_, &value) ? std::optional<double>(value) : std::nullopt;
}

std::optional<double> Nvml::energy(std::string& reason) const {
  unsigned long long value = 0;
  return call(reason, "nvmlDeviceGetTotalEnergyConsumption", device_, &value)
             ? std::optional<double>(static_cast<double>(value))
             : std::nullopt;
}

std::optional<double> Nvml::used_memory(std::string& reason) const {
  Memory value{};
  return call(reason, "nvmlDeviceGetMemoryInfo", device_, &value)
             ? std::optional<double>(static_cast<double>(value.used))
             : std::nullopt;
}

std::optional<double> Nvml::process_memory(std::string& reason) const {
  constexpr unsigned kMost = 512;
  const auto own = static_cast<unsigned>(getpid());
  const auto find = [&](const char* name, auto element) -> std::optional<double> {
    std::vector<decltype(element)> processes(kMost);
    unsigned count = kMost;
    if (!call(reason, name, device_, &count, processes.data())) {
      return std::nullopt;
    }
    for (unsigned i = 0; i < count && i < kMost; ++i) {
      if (processes[i].pid == own) {
        reason = "NVML does not tell the memory of a process here";
        return processes[i].used == kNotAvailable ? std::nullopt
                                                  : std::optional<double>(static_cast<double>(processes[i].used));
      }
    }
    reason = "NVML lists no process " + std::to_string(own) + "; in a container processes have other numbers";
    return std::nullopt;
  };
  for (const char* name : {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"}) {
    if (dlsym(handle_, name) != nullptr) {
      return find(name, Process{});
    }
  }
  return find("nvmlDeviceGetComputeRunningProcesses", OldProcess{});
}

std::optional<double> Nvml::throttle_reasons(std::string& reason) const {
  unsigned long long mask = 0;
  // Newer drivers call throttling an event.
  return call(reason, "nvmlDeviceGetCurrentClocksEventReasons", device_, &mask) ||
                 call(reason, "nvmlDeviceGetCurrentClocksThrottleReasons", device_, &mask)
             ? std::optional<double>(static_cast<double>(mask))
             : std::nullopt;
}

std::vector<std::pair<std::uint64_t, std::string>> Nvml::throttle_names() {
  return {{0x04, "GPU: power cap"},
          {0x08, "GPU: hardware slowdown"},
          {0x20, "GPU: temperature, by software"},
          {0x40, "GPU: temperature, by hardware"},
          {0x80, "GPU: power brake"}};
}

}  // namespace edgedet::telemetry
