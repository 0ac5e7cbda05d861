#include "common/affinity.h"

#include <algorithm>
#include <thread>

#include <sched.h>

namespace edgedet {

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return std::max(1, CPU_COUNT(&set));
  }
  // More CPUs than the fixed-size set holds.
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace edgedet
