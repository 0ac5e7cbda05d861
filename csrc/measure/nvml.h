// NVIDIA's management library, opened when it is needed: what a desktop or server GPU tells about itself.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "measure/probe.h"

namespace edgedet::telemetry {

class Nvml {
 public:
  // Opens `library` and finds the GPU at the PCI address. Null, and in `reason` why, if there is none of either.
  static std::shared_ptr<const Nvml> open(const std::string& library, const std::string& pci, std::string& reason);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  std::optional<double> multiprocessor_clock(std::string& reason) const;  // MHz
  std::optional<double> memory_clock(std::string& reason) const;          // MHz
  std::optional<double> utilisation(std::string& reason) const;           // percent of the last sixth to one second
  std::optional<double> temperature(std::string& reason) const;           // Celsius
  std::optional<double> power(std::string& reason) const;                 // mW, of the whole card
  std::optional<double> energy(std::string& reason) const;                // mJ since the driver was loaded
  std::optional<double> used_memory(std::string& reason) const;           // bytes, by everyone
  std::optional<double> process_memory(std::string& reason) const;        // bytes, by this process
  std::optional<double> throttle_reasons(std::string& reason) const;      // a mask

  // Bits of the mask that mean a clock below what the GPU was asked for.
  static std::vector<std::pair<std::uint64_t, std::string>> throttle_names();

 private:
  Nvml() = default;

  std::optional<double> clock(int domain, std::string& reason) const;

  // Calls a function of the library by its name.
  template <typename... Arguments>
  bool call(std::string& reason, const char* name, Arguments... arguments) const;

  void* handle_ = nullptr;  // of dlopen
  bool initialised_ = false;
  void* device_ = nullptr;
};

}  // namespace edgedet::telemetry
