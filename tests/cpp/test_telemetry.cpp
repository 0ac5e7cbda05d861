// Telemetry on recorded trees of sysfs, on logs of tegrastats and on fake_nvml.cpp.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <unistd.h>

#include "check.h"
#include "edgedet/telemetry.h"
#include "fake_nvml.h"
#include "measure/integral.h"
#include "tiny_bundle.h"

using namespace edgedet;             // NOLINT(google-build-using-namespace)
using namespace edgedet::telemetry;  // NOLINT(google-build-using-namespace)
using test::fake::NvmlState;

namespace {

// Files of a machine; folders are made as they are needed.
class Tree : public test::TemporaryFolder {
 public:
  void add(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(path() + name).parent_path());
    // By renaming, so that a sampler sees no file that is half written.
    write("new", content + "\n");
    std::filesystem::rename(path() + "/new", path() + name);
  }
  Options options() const {
    Options options;
    options.root = path();
    options.period = 0.01;
    return options;
  }
};

bool near(double value, double expected, double relative) { return std::abs(value - expected) <= relative * expected; }

template <typename Item>
Item named(const std::vector<Item>& items, const std::string& name) {
  for (const Item& item : items) {
    if (item.name == name) {
      return item;
    }
  }
  throw Error(ErrorKind::kInvalidInput, "nothing is called " + name);
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <typename Meanwhile>
Record sampled(const Options& options, Meanwhile&& meanwhile) {
  Sampler sampler(options);
  sampler.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  meanwhile();
  return sampler.stop();
}

Record sampled(const Options& options) {
  return sampled(options, [] {});
}

// A sensor of JetPack 5 and later: label, millivolts, milliamperes.
void add_sensor(const Tree& tree, const std::string& folder,
                const std::vector<std::tuple<std::string, int, int>>& rails) {
  int channel = 0;
  for (const auto& [label, volts, amperes] : rails) {
    const std::string number = std::to_string(++channel);
    tree.add(folder + "/in" + number + "_label", label);
    tree.add(folder + "/in" + number + "_input", std::to_string(volts));
    tree.add(folder + "/curr" + number + "_input", std::to_string(amperes));
  }
  // The sum of the shunts, which is a voltage and no rail.
  tree.add(folder + "/in7_label", "sum of shunt voltages");
  tree.add(folder + "/in7_input", "3400");
}

constexpr const char* kOld = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0";
constexpr const char* kNew = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1";
constexpr const char* kNewSecond = "/sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2";

NvmlState& state(const char* library) {
  static std::vector<void*> handles;  // kept, or the state would go with the last Nvml
  handles.push_back(dlopen(library, RTLD_LAZY));
  auto& fake = *reinterpret_cast<NvmlState* (*)()>(dlsym(handles.back(), "edgedet_fake_state"))();
  fake = {};
  return fake;
}

Options with_gpu(const Tree& tree, const char* library) {
  Options options = tree.options();
  options.nvml = library;
  options.gpu = test::fake::kPci;
  return options;
}

}  // namespace

TEST(power_is_integrated_by_the_trapezoid_rule) {
  Integral power;
  power.add(10.0, 2.0, false, 0.0);
  CHECK(power.total() == 0.0);
  power.add(10.5, 4.0, false, 0.0);  // 1.5
  power.add(12.5, 4.0, false, 0.0);  // 8
  power.add(13.5, 0.0, false, 0.0);  // 2
  CHECK(near(power.total(), 11.5, 1e-12));
}

TEST(counters_begin_again) {
  Integral counter;
  for (const double value : {900.0, 990.0, 20.0, 20.0, 40.0}) {  // 90, 30, 0, 20
    counter.add(0.0, value, true, 1000.0);
  }
  CHECK(counter.total() == 140.0);
}

TEST(a_machine_that_tells_nothing) {
  const Tree tree;
  Options options = tree.options();
  const Record record = sampled(options);
  CHECK(record.seconds >= 0.05 && record.samples >= 2 && record.busy >= 0.0);
  CHECK(record.gauges.size() == 8 && record.energies.size() == 4 && record.rails.empty());
  for (const Gauge& gauge : record.gauges) {
    CHECK(!gauge.missing.empty());
  }
  for (const Energy& energy : record.energies) {
    CHECK(!energy.missing.empty() && energy.joules == 0.0);
  }
  CHECK(named(record.energies, "gpu").missing == "no GPU is in use");
  CHECK(contains(named(record.energies, "board").missing, "no INA3221"));
  CHECK(contains(named(record.energies, "cpu").missing, "powercap: no RAPL counter"));
  CHECK(!record.throttling_missing.empty() && record.throttling.empty());
  for (const Fact& fact : machine(options)) {
    const bool known = fact.name == "cpus" || fact.name == "system";
    CHECK(fact.missing.empty() == known && fact.value.empty() != known);
  }
  options.gpu = test::fake::kPci;
  options.nvml = tree.path() + "/libnothing.so";
  CHECK(contains(named(sampled(options).energies, "gpu").missing, "libnothing.so"));
}

TEST(samplers_are_started_and_stopped_in_turn) {
  const Tree tree;
  Options options = tree.options();
  Sampler sampler(options);
  CHECK_THROWS(ErrorKind::kInvalidInput, "start it first", sampler.stop());
  sampler.start();
  CHECK_THROWS(ErrorKind::kInvalidInput, "stop it first", sampler.start());
  CHECK(sampler.stop().samples >= 2);
  sampler.start();  // again, and gone while it runs
  for (const double period : {0.0, -1.0, std::nan(""), 61.0}) {
    options.period = period;
    CHECK_THROWS(ErrorKind::kInvalidInput, "period", Sampler{options});
  }
}

TEST(rapl) {
  const Tree tree;
  const std::string folder = "/sys/class/powercap/";
  const auto zone = [&](const std::string& name, const std::string& what, const char* energy) {
    tree.add(folder + name + "/name", what);
    tree.add(folder + name + "/max_energy_range_uj", "262143328850");
    tree.add(folder + name + "/energy_uj", energy);
  };
  zone("intel-rapl:0", "package-0", "262143000000");
  zone("intel-rapl:0:0", "core", "1");
  zone("intel-rapl:0:1", "dram", "5000000");
  zone("intel-rapl:1", "package-1", "1000000");
  zone("intel-rapl:2", "psys", "7");
  zone("intel-rapl-mmio:0", "package-0", "262143000000");
  const Record record = sampled(tree.options(), [&] {
    tree.add(folder + "intel-rapl:0/energy_uj", "1671150");  // wrapped: 328850 + 1671150 = 2 J
    tree.add(folder + "intel-rapl:0:0/energy_uj", "999999999");
    tree.add(folder + "intel-rapl:0:1/energy_uj", "5500000");
    tree.add(folder + "intel-rapl:1/energy_uj", "2500000");
    tree.add(folder + "intel-rapl:2/energy_uj", "999999999");
    tree.add(folder + "intel-rapl-mmio:0/energy_uj", "262153000000");
  });
  const Energy& cpu = named(record.energies, "cpu");
  CHECK(cpu.missing.empty() && near(cpu.joules, 3.5, 1e-9) && contains(cpu.source, "RAPL"));
  CHECK(near(named(record.energies, "dram").joules, 0.5, 1e-9));

  // A counter that stands still has told nothing.
  CHECK(contains(named(sampled(tree.options()).energies, "cpu").missing, "did not move"));

  const std::string file = tree.path() + folder + "intel-rapl:1/energy_uj";
  std::filesystem::permissions(file, std::filesystem::perms::none);
  if (geteuid() == 0) {  // who may read everything: another error of the same kind
    std::filesystem::remove(file);
    std::filesystem::create_directory(file);
  }
  const Energy& refused = named(sampled(tree.options()).energies, "cpu");
  CHECK(contains(refused.missing, "intel-rapl:1/energy_uj: ") && contains(refused.missing, "only root"));
}

TEST(energy_that_is_lost_on_the_way_is_told) {
  const Tree tree;
  tree.add("/sys/class/powercap/intel-rapl:0/name", "package-0");
  tree.add("/sys/class/powercap/intel-rapl:0/energy_uj", "1");
  const Record record = sampled(tree.options(), [&] { tree.add("/sys/class/powercap/intel-rapl:0/energy_uj", "?"); });
  CHECK(contains(named(record.energies, "cpu").missing, "lost while it was measured: "));
}

TEST(rails_of_jetpack_4) {
  const Tree tree;
  const std::vector<std::pair<std::string, int>> rails{{"POM_5V_IN", 4000}, {"POM_5V_GPU", 1000}, {"POM_5V_CPU", 500}};
  for (std::size_t i = 0; i < rails.size(); ++i) {
    const std::string number = std::to_string(i);
    tree.add(std::string(kOld) + "/rail_name_" + number, rails[i].first);
    tree.add(std::string(kOld) + "/in_power" + number + "_input", std::to_string(rails[i].second));
    tree.add(std::string(kOld) + "/in_current" + number + "_input", "1");
  }
  const Record record = sampled(tree.options());
  // The input feeds the others: 4 W, not 5.5.
  const Energy& board = named(record.energies, "board");
  CHECK(board.missing.empty() && near(board.joules, 4.0 * record.seconds, 1e-6));
  CHECK(contains(board.source, "POM_5V_IN") && !contains(board.source, "+"));
  CHECK(record.rails.size() == 3);
  CHECK(near(named(record.rails, "POM_5V_GPU").joules, 1.0 * record.seconds, 1e-6));
}

TEST(rails_of_jetpack_5_and_6) {
  const Tree tree;
  add_sensor(tree, kNew, {{"VDD_IN", 5000, 1200}, {"VDD_CPU_GPU_CV", 5000, 400}, {"VDD_SOC", 5000, 200}});
  const Record record = sampled(tree.options());
  CHECK(near(named(record.energies, "board").joules, 6.0 * record.seconds, 1e-6));
  CHECK(record.rails.size() == 3 && near(named(record.rails, "VDD_CPU_GPU_CV").joules, 2.0 * record.seconds, 1e-6));
  CHECK(!contains(named(record.energies, "board").source, "VDD_SOC"));
}

TEST(a_change_of_power_is_seen) {
  const Tree tree;
  add_sensor(tree, kNew, {{"VDD_IN", 5000, 1000}});
  Sampler sampler(tree.options());
  sampler.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  tree.add(std::string(kNew) + "/curr1_input", "3000");
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const Record record = sampler.stop();
  const double watts = named(record.energies, "board").joules / record.seconds;
  CHECK(watts > 6.0 && watts < 14.0);  // of 5 and 15
}

TEST(rails_of_agx) {
  const Tree orin;
  add_sensor(orin, kNew, {{"VDD_GPU_SOC", 19000, 200}, {"VDD_CPU_CV", 19000, 100}, {"VIN_SYS_5V0", 5000, 1000}});
  add_sensor(orin, kNewSecond, {{"NC", 0, 0}, {"VDDQ_VDD2_1V8AO", 5000, 300}, {"NC", 0, 0}});
  Record record = sampled(orin.options());
  CHECK(near(named(record.energies, "board").joules, (3.8 + 1.9 + 5.0) * record.seconds, 1e-6));
  CHECK(record.rails.size() == 4);

  const Tree xavier;
  add_sensor(xavier, kNew, {{"GPU", 1000, 100}, {"CPU", 1000, 200}, {"SOC", 1000, 300}});
  add_sensor(xavier, kNewSecond, {{"CV", 1000, 400}, {"VDDRQ", 1000, 500}, {"SYS5V", 1000, 600}});
  record = sampled(xavier.options());
  CHECK(near(named(record.energies, "board").joules, 2.1 * record.seconds, 1e-6));

  const Tree thor;
  add_sensor(thor, kNew, {{"VDD_GPU", 1000, 100}, {"VDD_CPU_SOC_MSS", 1000, 200}, {"VIN_SYS_5V0", 5000, 300}});
  const std::string input = "/sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon4";
  thor.add(input + "/name", "ina238");
  thor.add(input + "/power1_input", "21890000");
  record = sampled(thor.options());
  CHECK(near(named(record.energies, "board").joules, 21.89 * record.seconds, 1e-6));

  const Tree unknown;
  add_sensor(unknown, kNew, {{"VDD_A", 1000, 100}});
  record = sampled(unknown.options());
  CHECK(contains(named(record.energies, "board").missing, "no known total among the rails VDD_A"));
  CHECK(record.rails.size() == 1 && record.rails[0].missing.empty());
}

TEST(clocks_of_a_jetson) {
  const Tree tree;
  tree.add("/sys/class/devfreq/17000000.gpu/cur_freq", "624750000");
  tree.add("/sys/devices/platform/gpu.0/load", "875");
  tree.add("/sys/kernel/debug/bpmp/debug/clk/emc/rate", "2133000000");
  tree.add("/sys/class/thermal/thermal_zone0/type", "CPU-therm");
  tree.add("/sys/class/thermal/thermal_zone0/temp", "1000");
  tree.add("/sys/class/thermal/thermal_zone1/type", "GPU-therm");
  tree.add("/sys/class/thermal/thermal_zone1/temp", "47500");
  tree.add("/sys/class/hwmon/hwmon3/oc2_event_cnt", "4");
  Options options = with_gpu(tree, "libnothing.so");
  Record record = sampled(options, [&] { tree.add("/sys/class/devfreq/17000000.gpu/cur_freq", "306000000"); });
  const Gauge& clock = named(record.gauges, "clocks_mhz.gpu");
  CHECK(clock.missing.empty() && clock.max == 624.75 && clock.min == 306.0 && clock.mean < clock.max);
  CHECK(near(named(record.gauges, "clocks_mhz.gpu_memory").mean, 2133.0, 1e-9));
  CHECK(near(named(record.gauges, "utilisation_percent.gpu").mean, 87.5, 1e-9));
  CHECK(near(named(record.gauges, "temperature_c.gpu").mean, 47.5, 1e-9));
  CHECK(!named(record.gauges, "memory_mb.gpu_process").missing.empty());
  CHECK(record.throttling.empty() && record.throttling_missing.empty());

  record = sampled(options, [&] { tree.add("/sys/class/hwmon/hwmon3/oc2_event_cnt", "5"); });
  CHECK(record.throttling == std::vector<std::string>{"board: current or voltage limit"});
  options.gpu = "";  // a detector on the CPU of that Jetson
  CHECK(named(sampled(options).gauges, "clocks_mhz.gpu").missing == "no GPU is in use");
}

TEST(power_mode) {
  const Tree tree;
  tree.add("/etc/nvpmodel.conf",
           "# < POWER_MODEL ID=ID_NUM NAME=mode_name >\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
           "< POWER_MODEL ID=1 NAME=MODE_15W >\n< PM_CONFIG DEFAULT=1 >");
  const auto mode = [&] { return named(machine(tree.options()), "power_mode"); };
  tree.add("/var/lib/nvpmodel/status", "pmode:0001 fmode:fanNULL");
  CHECK(mode().value == "MODE_15W" && mode().missing.empty());
  tree.add("/var/lib/nvpmodel/status", "pmode:0000");
  CHECK(mode().value == "MAXN");
  for (const char* broken : {"pmode:0007", "pmode:", "", "mode 1", "pmode:-1"}) {
    tree.add("/var/lib/nvpmodel/status", broken);
    CHECK(mode().value.empty() && contains(mode().missing, "no mode for its status"));
  }
}

TEST(processor) {
  const Tree tree;
  const std::string cpu = "/sys/devices/system/cpu/cpu";
  tree.add(cpu + "0/cpufreq/scaling_cur_freq", "2000000");
  tree.add(cpu + "0/cpufreq/scaling_governor", "performance");
  tree.add(cpu + "0/thermal_throttle/package_throttle_count", "10");
  tree.add(cpu + "1/cpufreq/scaling_cur_freq", "3000000");
  tree.add("/sys/devices/system/cpu/cpufreq/boost", "1");
  tree.add("/proc/self/statm", "5000 1000 300 1 0 900 0");
  tree.add("/proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nprocessor\t: 1");
  tree.add("/proc/meminfo", "MemTotal:        4000000 kB\nMemFree: 1 kB");
  const Record record =
      sampled(tree.options(), [&] { tree.add(cpu + "0/thermal_throttle/package_throttle_count", "11"); });
  CHECK(named(record.gauges, "clocks_mhz.cpu").mean == 2500.0);
  CHECK(near(named(record.gauges, "memory_mb.process").max, 1000.0 * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6,
             1e-9));
  CHECK(record.throttling == std::vector<std::string>{"CPU: temperature of the package"});
  const std::vector<Fact> facts = machine(tree.options());
  CHECK(named(facts, "cpu").value == "A CPU @ 2 GHz" && named(facts, "governor").value == "performance");
  CHECK(named(facts, "memory_mb").value == "4096");
  CHECK(peak_memory_mb() > 1.0 && peak_memory_mb() < 1e5);
}

TEST(nvml) {
  const Tree tree;
  NvmlState& fake = state(EDGEDET_FAKE_NVML);
  const Options options = with_gpu(tree, EDGEDET_FAKE_NVML);
  Record record = sampled(options, [&] {
    fake.millijoules += 2500;
    fake.clock = 300;
    fake.throttle = 0x4 | 0x40 | 0x1;  // and idle, which is no throttling
  });
  const Energy gpu = named(record.energies, "gpu");
  CHECK(gpu.missing.empty() && near(gpu.joules, 2.5, 1e-9) && gpu.source == "NVML counter");
  CHECK(named(record.gauges, "clocks_mhz.gpu").max == 1500.0 && named(record.gauges, "clocks_mhz.gpu").min == 300.0);
  CHECK(named(record.gauges, "clocks_mhz.gpu_memory").mean == 7001.0);
  CHECK(named(record.gauges, "utilisation_percent.gpu").mean == 87.0);
  CHECK(named(record.gauges, "temperature_c.gpu").mean == 61.0);
  CHECK(named(record.gauges, "memory_mb.gpu_process").max == 456.0);
  CHECK(named(record.gauges, "memory_mb.gpu_device").max == 3000.0);
  CHECK((record.throttling == std::vector<std::string>{"GPU: power cap", "GPU: temperature, by hardware"}));
  CHECK(fake.open == 0);

  // No counter: power is integrated.
  fake = {};
  fake.energy = 3;
  record = sampled(options);
  CHECK(near(named(record.energies, "gpu").joules, 40.0 * record.seconds, 1e-6));
  CHECK(contains(named(record.energies, "gpu").source, "integrated"));

  // No power either, and a function that fails.
  fake.power = 3;
  fake.processes = 999;
  record = sampled(options);
  CHECK(named(record.energies, "gpu").missing == "nvmlDeviceGetPowerUsage: Not Supported");
  CHECK(contains(named(record.gauges, "memory_mb.gpu_process").missing, "Some Error"));

  fake = {};
  fake.lists_us = false;
  CHECK(contains(named(sampled(options).gauges, "memory_mb.gpu_process").missing, "in a container"));

  fake.init = 9;
  CHECK(named(sampled(options).energies, "gpu").missing == "nvmlInit_v2: Some Error" && fake.open == 0);
  fake = {};
  Options other = options;
  other.gpu = "00000000:00:00.0";
  CHECK(contains(named(sampled(other).energies, "gpu").missing, "nvmlDeviceGetHandleByPciBusId_v2: "));
  CHECK(fake.open == 0);
}

TEST(an_old_nvml_lacks_functions) {
  const Tree tree;
  NvmlState& fake = state(EDGEDET_OLD_NVML);
  fake.throttle = 0x20;
  const Record record = sampled(with_gpu(tree, EDGEDET_OLD_NVML));
  CHECK(named(record.gauges, "memory_mb.gpu_process").max == 123.0);
  CHECK(named(record.gauges, "temperature_c.gpu").missing == "NVML has no nvmlDeviceGetTemperature");
  CHECK(near(named(record.energies, "gpu").joules, 40.0 * record.seconds, 1e-6));
  CHECK(record.throttling == std::vector<std::string>{"GPU: temperature, by software"});
  fake.init = 9;
  CHECK(named(sampled(with_gpu(tree, EDGEDET_OLD_NVML)).energies, "gpu").missing == "nvmlInit_v2: error 9");
}

TEST(logs_of_tegrastats) {
  // Jetson Nano, JetPack 4: no units. 2, 4 and 3 W half a second apart are (2 + 4) / 4 + (4 + 3) / 4 = 3.25 J.
  PowerLog log = read_tegrastats(
      "RAM 1903/3956MB (lfb 2x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [14%@1479,9%@1479,off,off] "
      "EMC_FREQ 2%@1600 GR3D_FREQ 0%@76 APE 25 PLL@32C CPU@35.5C GPU@34C thermal@35C POM_5V_IN 2000/2000 POM_5V_GPU "
      "40/40 POM_5V_CPU 400/400\n"
      "RAM 1903/3956MB SWAP 0/1978MB IRAM 0/252kB CPU [14%@1479] POM_5V_IN 4000/3000 POM_5V_GPU 80/60 POM_5V_CPU "
      "400/400\n"
      "RAM 1903/3956MB SWAP 0/1978MB IRAM 0/252kB CPU [14%@1479] POM_5V_IN 3000/3000 POM_5V_GPU 40/53 POM_5V_CPU "
      "400/400\n",
      0.5);
  CHECK(log.samples == 3 && log.seconds == 1.0 && near(log.board.joules, 3.25, 1e-12));
  CHECK(log.board.source == "POM_5V_IN" && log.rails.size() == 3);
  CHECK(near(named(log.rails, "POM_5V_GPU").joules, 0.06, 1e-12));

  // Orin NX, JetPack 5. 5 W and 7 W a second apart are 6 J.
  log = read_tegrastats(
      "05-19-2023 10:11:12 RAM 2462/15480MB (lfb 2792x4MB) SWAP 0/7740MB (cached 0MB) CPU [0%@729,off,off] EMC_FREQ "
      "0%@2133 GR3D_FREQ 0%@[306] CPU@47.6C VDD_IN 5000mW/5000mW VDD_CPU_GPU_CV 529mW/529mW VDD_SOC 1451mW/1451mW\r\n"
      "05-19-2023 10:11:13 RAM 2462/15480MB (lfb 2792x4MB) SWAP 0/7740MB (cached 0MB) CPU [0%@729,off,off] EMC_FREQ "
      "0%@2133 GR3D_FREQ 99%@[918] CPU@47.6C VDD_IN 7000mW/6000mW VDD_CPU_GPU_CV 1529mW/1029mW VDD_SOC "
      "1451mW/1451mW\r\n",
      1.0);
  CHECK(near(log.board.joules, 6.0, 1e-12) && near(named(log.rails, "VDD_CPU_GPU_CV").joules, 1.029, 1e-12));

  // AGX Orin, JetPack 6. VDDQ is in VIN_SYS_5V0: 2 + 1 + 4 = 7 W for 0.1 s.
  const std::string line =
      "03-01-2024 09:00:00 RAM 3051/62841MB (lfb 57x4MB) SWAP 0/31421MB (cached 0MB) CPU [2%@729,1%@729] GR3D_FREQ 0% "
      "cpu@48.1C tboard@37C soc2@44.5C gpu@43.8C VDD_GPU_SOC 2000mW/2000mW VDD_CPU_CV 1000mW/1000mW VIN_SYS_5V0 "
      "4000mW/4000mW NC 0mW/0mW VDDQ_VDD2_1V8AO 900mW/900mW NC 0mW/0mW\n";
  log = read_tegrastats(line + line, 0.1);
  CHECK(near(log.board.joules, 0.7, 1e-12) && log.rails.size() == 4);
  CHECK(log.board.source == "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0");

  log = read_tegrastats("A 1000mW/1mW\n\nA 1000mW/1mW", 2.0);
  CHECK(contains(log.board.missing, "no known total") && near(log.rails[0].joules, 2.0, 1e-12));
}

TEST(damaged_logs_of_tegrastats) {
  const std::string line = "VDD_IN 5000mW/5000mW VDD_SOC 1451mW/1451mW\n";
  for (const std::string& text : {std::string(), std::string("RAM 1/2MB\n"), line, std::string(5000, ' '),
                                  std::string("VDD_IN 5000mW/\nVDD_IN /5\nVDD_IN infmW/1mW\nVDD_IN 1e999/1\n")}) {
    CHECK_THROWS(ErrorKind::kInvalidInput, "two lines or more", read_tegrastats(text, 1.0));
  }
  CHECK_THROWS(ErrorKind::kInvalidInput, "same rails", read_tegrastats(line + "VDD_IN 5000mW/5000mW\n", 1.0));
  for (const double interval : {0.0, -1.0, std::nan(""), 1e9}) {
    CHECK_THROWS(ErrorKind::kInvalidInput, "interval", read_tegrastats(line + line, interval));
  }
}
