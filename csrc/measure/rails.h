// The power rails of a Jetson: which of them make the board's total.
#pragma once

#include <string>
#include <vector>

namespace edgedet::telemetry {

// The rails whose sum is the total of the module or board, each power counted once; empty if these are not known.
//
// VIN, VDD_IN and POM_5V_IN are the input, which feeds all others. AGX Xavier's six rails are fed side by side
// (NVIDIA's forum, threads 73608 and 81016). AGX Orin measures no input: VDDQ_VDD2_1V8AO is taken to be fed by
// VIN_SYS_5V0, as its name says, so the total is the three other rails; not confirmed on a board.
std::vector<std::string> board_rails(const std::vector<std::string>& labels);

}  // namespace edgedet::telemetry
