#include "measure/host.h"

#include <optional>
#include <string>
#include <string_view>

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/affinity.h"
#include "edgedet/telemetry.h"
#include "measure/files.h"
#include "measure/jetson.h"

namespace edgedet::telemetry {
namespace {

constexpr std::size_t kMostCpus = 16;  // as a sample of many

std::vector<std::string> cpu_folders(const std::string& root) {
  std::vector<std::string> folders;
  for (const std::string& path : list(root + "/sys/devices/system/cpu", "cpu")) {
    const std::string name = name_of(path);
    if (name.size() > 3 && name.find_first_not_of("0123456789", 3) == std::string::npos && folders.size() < kMostCpus) {
      folders.push_back(path);
    }
  }
  return folders;
}

// What stands behind "key" and a colon in the lines of a file.
Fact line_of(const std::string& name, const std::string& path, const std::string& key) {
  Fact fact{name, "", ""};
  const std::optional<std::string> text = read_text(path, fact.missing);
  if (!text) {
    return fact;
  }
  const std::size_t at = text->find(key);
  const std::size_t colon = at == std::string::npos ? at : text->find(':', at);
  if (colon == std::string::npos) {
    fact.missing = path + ": no line " + key;
    return fact;
  }
  const std::size_t begin = text->find_first_not_of(" \t", colon + 1);
  fact.value = text->substr(begin, text->find('\n', begin) - begin);
  return fact;
}

Fact text_of(const std::string& name, const std::string& path) {
  Fact fact{name, "", ""};
  fact.value = read_text(path, fact.missing).value_or("");
  return fact;
}

}  // namespace

Read cpu_clock(const std::string& root) {
  std::vector<Read> clocks;
  constexpr double kFromKilo = 1e-3;
  for (const std::string& folder : cpu_folders(root)) {
    clocks.push_back(reader(folder + "/cpufreq/scaling_cur_freq", kFromKilo));
  }
  return [clocks, root](std::string& reason) -> std::optional<double> {
    double sum = 0.0;
    for (const Read& clock : clocks) {
      const std::optional<double> value = clock(reason);
      if (!value) {
        return std::nullopt;
      }
      sum += *value;
    }
    if (clocks.empty()) {
      reason = root + "/sys/devices/system/cpu: no CPU";
      return std::nullopt;
    }
    return sum / static_cast<double>(clocks.size());
  };
}

Read resident_memory(const std::string& root) {
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  return [path = root + "/proc/self/statm", page](std::string& reason) -> std::optional<double> {
    const std::optional<std::string> text = read_text(path, reason);
    const std::size_t second = text ? text->find(' ') : std::string::npos;
    const std::optional<double> pages =
        second == std::string::npos ? std::nullopt : leading_number(std::string_view(*text).substr(second + 1));
    if (!pages) {
      reason = text ? path + ": expected numbers of pages" : reason;
      return std::nullopt;
    }
    return *pages * page / 1e6;
  };
}

void add_throttle_counters(const std::string& root, Probes& probes) {
  std::string reason;
  const auto add = [&](const std::string& path, const char* what) {
    Read read = reader(path);
    if (read(reason)) {
      probes.throttles.push_back({std::move(read), {}, what});
    }
  };
  for (const std::string& folder : cpu_folders(root)) {
    add(folder + "/thermal_throttle/core_throttle_count", "CPU: temperature of a core");
    add(folder + "/thermal_throttle/package_throttle_count", "CPU: temperature of the package");
  }
  for (const std::string& folder : list(root + "/sys/class/hwmon", "hwmon")) {
    for (const std::string& path : list(folder, "oc", "_event_cnt")) {
      add(path, "board: current or voltage limit");
    }
  }
}

std::vector<Fact> machine(const Options& options) {
  const std::string& root = options.root;
  std::vector<Fact> facts;
  facts.push_back(line_of("cpu", root + "/proc/cpuinfo", "model name"));
  facts.push_back({"cpus", std::to_string(available_cpus()), ""});
  Fact memory = line_of("memory_mb", root + "/proc/meminfo", "MemTotal");
  if (const std::optional<double> kibibytes = leading_number(memory.value)) {
    memory.value = std::to_string(static_cast<long long>(*kibibytes * 1024 / 1e6));
  }
  facts.push_back(std::move(memory));
  utsname system{};
  const bool known = uname(&system) == 0;
  facts.push_back({"system",
                   known ? std::string(system.sysname) + " " + static_cast<const char*>(system.release) + " " +
                               static_cast<const char*>(system.machine)
                         : "",
                   known ? "" : "the system does not tell its name"});
  facts.push_back(text_of("board", root + "/proc/device-tree/model"));
  facts.push_back(text_of("governor", root + "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  facts.push_back(power_mode(root));
  return facts;
}

double peak_memory_mb() {
  // Linux counts what a process was before it started this program, a copy of its parent, into ru_maxrss.
  if (const std::optional<double> kibibytes = leading_number(line_of("peak", "/proc/self/status", "VmHWM").value)) {
    return *kibibytes * 1024 / 1e6;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  constexpr double kUnit = 1.0;
#else
  constexpr double kUnit = 1024.0;
#endif
  return static_cast<double>(usage.ru_maxrss) * kUnit / 1e6;
}

}  // namespace edgedet::telemetry
