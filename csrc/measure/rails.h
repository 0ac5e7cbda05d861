// The power rails of a Jetson: which of them make the board's total.
#pragma once

#include <string>
#include <vector>

namespace edgedet::telemetry {

// The rails whose sum is the total of the module or board, each power counted once; empty if these are not known.
//
// VIN, VDD_IN and POM_5V_IN are the input, which feeds all others. AGX Orin measures no input: VDDQ_VDD2_1V8AO is fed
// by VIN_SYS_5V0, so the total is the three other rails. AGX Xavier's six rails are fed side by side. See "Power
// Monitor" in the Jetson Linux Developer Guide.
std::vector<std::string> board_rails(const std::vector<std::string>& labels);

}  // namespace edgedet::telemetry
