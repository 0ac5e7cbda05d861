# Cross-builds for 64-bit Arm boards with Debian's and Ubuntu's crossbuild-essential-arm64. See docs/edge.md.
#
# EDGEDET_SYSROOT  root file system to build against: a copy of the board's, or what cmake/aarch64_sysroot.sh makes.
#                  Empty: the compiler's own, in which there is no JPEG, PNG or Python.
# EDGEDET_CPU      -march or -mcpu: by default -march=armv8-a, which all boards run. -mcpu=cortex-a57 (Nano, TX2),
#                  -march=armv8.2-a (Xavier, whose processor GCC has no name for), -mcpu=cortex-a78ae (Orin).
set(EDGEDET_SYSROOT "" CACHE PATH "Root file system to build against")
set(EDGEDET_CPU "-march=armv8-a" CACHE STRING "Instruction set and tuning")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGEDET_SYSROOT EDGEDET_CPU)

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++ CACHE FILEPATH "Compiler")
set(CMAKE_SYSROOT "${EDGEDET_SYSROOT}")
set(CMAKE_CXX_FLAGS_INIT "${EDGEDET_CPU}")

# Programs run here; what is linked is the board's, so this machine's packages must not be found.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

# What is built runs in emulation, ctest included. The Nano's processor: the oldest, and an emulated one with vectors
# longer than NEON's takes several times as long.
find_program(EDGEDET_QEMU qemu-aarch64-static)
if(EDGEDET_QEMU AND EDGEDET_SYSROOT)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${EDGEDET_QEMU};-cpu;cortex-a57;-L;${EDGEDET_SYSROOT}")
elseif(EDGEDET_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${EDGEDET_QEMU};-cpu;cortex-a57;-L;/usr/aarch64-linux-gnu")
endif()
