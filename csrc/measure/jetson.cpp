#include "measure/jetson.h"

#include <algorithm>
#include <charconv>

#include "measure/files.h"
#include "measure/rails.h"

namespace edgedet::telemetry {
namespace {

constexpr double kMicro = 1e-6;
constexpr double kMilli = 1e-3;

// A rail that cannot be read is left out: with it goes the total that it belongs to.
void add_rail(const std::string& label, Read read, double unit, Probes& probes) {
  std::string reason;
  if (!read(reason)) {
    return;
  }
  EnergyProbe probe;
  probe.name = label;
  probe.source = "integrated power of a sensor";
  probe.read = std::move(read);
  probe.unit = unit;
  probe.rail = true;
  probes.energies.push_back(std::move(probe));
}

// JetPack 4: iio:device0/rail_name_0 and in_power0_input, in milliwatts.
void add_iio(const std::string& folder, Probes& probes) {
  std::string reason;
  for (const std::string& path : list(folder, "rail_name_")) {
    const std::string channel = path.substr(path.rfind('_') + 1);
    const std::string label = read_text(path, reason).value_or("");
    if (!label.empty()) {
      add_rail(label, reader(folder + "/in_power" + channel + "_input"), kMilli, probes);
    }
  }
}

// Since JetPack 5: hwmon3/in1_label, in1_input in millivolts and curr1_input in milliamperes. What has no current of
// its own is a sum of others. An INA238 has power1_input in microwatts, and is soldered to the input.
void add_hwmon(const std::string& folder, Probes& probes) {
  std::string reason;
  if (read_text(folder + "/name", reason).value_or("") == "ina238") {
    add_rail(read_text(folder + "/in1_label", reason).value_or("VIN"), reader(folder + "/power1_input"), kMicro,
             probes);
    return;
  }
  for (const std::string& path : list(folder, "in", "_label")) {
    const std::string name = name_of(path);
    const std::string channel = name.substr(2, name.size() - 2 - 6);
    const std::string label = read_text(path, reason).value_or("");
    const std::string current = folder + "/curr" + channel + "_input";
    if (label.empty() || label == "NC" || label.find("sum") != std::string::npos || !read_text(current, reason)) {
      continue;
    }
    add_rail(
        label,
        [volts = reader(folder + "/in" + channel + "_input"), amperes = reader(current)](std::string& why) {
          const std::optional<double> voltage = volts(why);
          const std::optional<double> flow = amperes(why);
          return voltage && flow ? std::optional<double>(*voltage * *flow) : std::nullopt;
        },
        kMicro, probes);
  }
}

bool contains_any(const std::string& text, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return text.find(part) != std::string::npos; });
}

}  // namespace

void add_jetson_rails(const std::string& root, Probes& probes) {
  const std::string drivers = root + "/sys/bus/i2c/drivers";
  for (const char* driver : {"ina3221x", "ina3221", "ina238"}) {
    for (const std::string& device : list(drivers + "/" + driver)) {
      for (const std::string& folder : list(device, "iio:device")) {
        add_iio(folder, probes);
      }
      for (const std::string& folder : list(device + "/hwmon", "hwmon")) {
        add_hwmon(folder, probes);
      }
    }
  }
  std::vector<std::string> labels;
  std::string all;
  for (const EnergyProbe& probe : probes.energies) {
    if (probe.rail) {
      labels.push_back(probe.name);
      all += (all.empty() ? "" : ", ") + probe.name;
    }
  }
  probes.board = board_rails(labels);
  if (probes.board.empty()) {
    probes.missing.emplace_back(
        "board", labels.empty() ? drivers + ": no INA3221 power sensor" : "no known total among the rails " + all);
  }
}

JetsonGpu jetson_gpu(const std::string& root) {
  JetsonGpu gpu;
  constexpr double kMega = 1e-6;
  for (const std::string& folder : list(root + "/sys/class/devfreq")) {
    const std::string name = name_of(folder);
    if (contains_any(name, {"gpu", "gm20b", "gp10b", "gv11b", "ga10b", "gb10b"})) {
      gpu.clock.push_back(reader(folder + "/cur_freq", kMega));
      gpu.load.push_back(reader(folder + "/device/load", 0.1));  // it is in thousandths
    } else if (contains_any(name, {"emc"})) {
      gpu.memory_clock.push_back(reader(folder + "/cur_freq", kMega));
    }
  }
  for (const char* path : {"/sys/devices/gpu.0/load", "/sys/devices/platform/gpu.0/load",
                           "/sys/devices/platform/bus@0/17000000.gpu/load"}) {
    gpu.load.push_back(reader(root + path, 0.1));
  }
  for (const char* path : {"/sys/kernel/debug/bpmp/debug/clk/emc/rate", "/sys/kernel/debug/clk/emc/clk_rate"}) {
    gpu.memory_clock.push_back(reader(root + path, kMega));
  }
  std::string reason;
  for (const std::string& zone : list(root + "/sys/class/thermal", "thermal_zone")) {
    if (contains_any(read_text(zone + "/type", reason).value_or(""), {"GPU", "gpu"})) {
      gpu.temperature.push_back(reader(zone + "/temp", kMilli));
    }
  }
  return gpu;
}

// The status is "pmode:0002 fmode:fanNULL", the table has lines "< POWER_MODEL ID=2 NAME=MODE_15W >".
Fact power_mode(const std::string& root) {
  Fact fact{"power_mode", "", ""};
  const std::optional<std::string> status = read_text(root + "/var/lib/nvpmodel/status", fact.missing);
  const std::optional<std::string> table = status ? read_text(root + "/etc/nvpmodel.conf", fact.missing) : std::nullopt;
  if (!table) {
    return fact;
  }
  constexpr std::string_view kMode = "pmode:";
  int mode = -1;
  if (status->compare(0, kMode.size(), kMode) == 0) {
    std::from_chars(status->data() + kMode.size(), status->data() + status->size(), mode);
  }
  const std::string entry = "POWER_MODEL ID=" + std::to_string(mode) + " NAME=";
  const std::size_t at = table->find(entry);
  if (mode < 0 || at == std::string::npos) {
    fact.missing = "nvpmodel's table has no mode for its status \"" + status->substr(0, 40) + "\"";
    return fact;
  }
  const std::size_t begin = at + entry.size();
  fact.value = table->substr(begin, table->find_first_of(" \t\r\n>", begin) - begin);
  return fact;
}

}  // namespace edgedet::telemetry
