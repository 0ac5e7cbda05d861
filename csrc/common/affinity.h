// How many CPUs this process may use.
#pragma once

namespace edgedet {

// CPUs in this process' affinity mask, at least 1.
int available_cpus();

}  // namespace edgedet
