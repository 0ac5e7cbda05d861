// The tests of the CUDA code on the machine's device. Exit status 77, a skip, where there is none, unless
// EDGEDET_REQUIRE names cuda.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "check.h"
#include "frame/device.h"

int main() {
  std::string reason;
  if (edgedet::frame::devices(&reason).empty()) {
    const char* required = std::getenv("EDGEDET_REQUIRE");
    std::printf("no CUDA device: %s\n", reason.c_str());
    return required != nullptr && std::strstr(required, "cuda") != nullptr ? 1 : 77;
  }
  return edgedet::test::run_tests();
}
