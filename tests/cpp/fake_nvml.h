// What fake_nvml.cpp and its test share.
#pragma once

namespace edgedet::test::fake {

constexpr const char* kPci = "00000000:3b:00.0";

// What the fake answers. A status of 0 is success, 3 is NVML's "not supported".
struct NvmlState {
  int init = 0;
  int energy = 0;
  int power = 0;
  int processes = 0;
  int events = 0;  // of the name for throttling that newer drivers have
  unsigned clock = 1500;
  unsigned memory_clock = 7001;
  unsigned milliwatts = 40000;
  unsigned long long millijoules = 1000000;
  unsigned long long throttle = 0;
  bool lists_us = true;
  int open = 0;  // inits without their shutdown
};

}  // namespace edgedet::test::fake
