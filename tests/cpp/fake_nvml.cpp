// A stand-in for NVIDIA's management library. With EDGEDET_OLD_NVML: as an old driver has it, with fewer functions.
#include "fake_nvml.h"

#include <cstring>

#include <unistd.h>

using edgedet::test::fake::NvmlState;

namespace {

NvmlState g_state;

constexpr int kNotFound = 6;

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

EXPORT NvmlState* edgedet_fake_state() { return &g_state; }

EXPORT int nvmlInit_v2() {
  g_state.open += g_state.init == 0 ? 1 : 0;
  return g_state.init;
}

EXPORT int nvmlShutdown() {
  --g_state.open;
  return 0;
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char* pci, void** device) {
  *device = &g_state;
  return std::strcmp(pci, edgedet::test::fake::kPci) == 0 ? 0 : kNotFound;
}

EXPORT int nvmlDeviceGetClockInfo(void* device, int domain, unsigned* value) {
  const auto* state = static_cast<const NvmlState*>(device);
  *value = domain == 1 ? state->clock : state->memory_clock;
  return domain == 1 || domain == 2 ? 0 : 2;
}

EXPORT int nvmlDeviceGetPowerUsage(void* /*device*/, unsigned* value) {
  *value = g_state.milliwatts;
  return g_state.power;
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void* /*device*/, unsigned long long* mask) {
  *mask = g_state.throttle;
  return 0;
}

#ifdef EDGEDET_OLD_NVML

struct OldProcess {
  unsigned pid;
  unsigned long long used;
};

EXPORT int nvmlDeviceGetComputeRunningProcesses(void* /*device*/, unsigned* count, OldProcess* processes) {
  processes[0] = {1, 7000000};
  processes[1] = {static_cast<unsigned>(getpid()), 123000000};
  *count = 2;
  return 0;
}

#else

EXPORT const char* nvmlErrorString(int status) { return status == 3 ? "Not Supported" : "Some Error"; }

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void* device, unsigned long long* mask) {
  return g_state.events != 0 ? g_state.events : nvmlDeviceGetCurrentClocksThrottleReasons(device, mask);
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void* /*device*/, unsigned long long* value) {
  *value = g_state.millijoules;
  return g_state.energy;
}

struct Utilisation {
  unsigned gpu;
  unsigned memory;
};

EXPORT int nvmlDeviceGetUtilizationRates(void* /*device*/, Utilisation* value) {
  *value = {87, 12};
  return 0;
}

EXPORT int nvmlDeviceGetTemperature(void* /*device*/, int sensor, unsigned* value) {
  *value = 61;
  return sensor == 0 ? 0 : 2;
}

struct Memory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

EXPORT int nvmlDeviceGetMemoryInfo(void* /*device*/, Memory* value) {
  *value = {4000000000ULL, 1000000000ULL, 3000000000ULL};
  return 0;
}

struct Process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance;
  unsigned compute_instance;
};

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void* /*device*/, unsigned* count, Process* processes) {
  processes[0] = {1, 7000000, ~0U, ~0U};
  processes[1] = {g_state.lists_us ? static_cast<unsigned>(getpid()) : 2U, 456000000, ~0U, ~0U};
  *count = 2;
  return g_state.processes;
}

#endif

}  // extern "C"
