#include "measure/rails.h"

#include <algorithm>

namespace edgedet::telemetry {

std::vector<std::string> board_rails(const std::vector<std::string>& labels) {
  static const std::vector<std::vector<std::string>> totals{
      {"VIN"},
      {"VDD_IN"},
      {"POM_5V_IN"},
      {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"},
      {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"},
  };
  for (const std::vector<std::string>& total : totals) {
    if (std::all_of(total.begin(), total.end(), [&](const std::string& label) {
          return std::find(labels.begin(), labels.end(), label) != labels.end();
        })) {
      return total;
    }
  }
  return {};
}

}  // namespace edgedet::telemetry
