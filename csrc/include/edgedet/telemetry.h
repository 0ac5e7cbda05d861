// What a machine tells about itself while something runs on it: clocks, load, memory, power and energy.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace edgedet::telemetry {

struct Options {
  std::string root;                        // in front of /proc, /sys, /etc and /var: for recorded trees
  std::string nvml = "libnvidia-ml.so.1";  // NVIDIA's management library, opened when a GPU is in use
  std::string gpu;                         // PCI address of that GPU; empty: none is
  double period = 0.05;                    // seconds between samples
};

// A quantity over the samples of an interval.
struct Gauge {
  std::string name;  // its place in a report, "clocks_mhz.gpu"
  double min = 0.0;
  double mean = 0.0;
  double max = 0.0;
  std::string missing;  // why there is none of it; empty if there is
};

// The energy of an interval. Idle power is not subtracted.
struct Energy {
  std::string name;  // "board", "gpu", "cpu", "dram", or a rail's label
  double joules = 0.0;
  std::string source;   // what was read: a counter, or power that was integrated by the trapezoid rule
  std::string missing;  // why there is none; empty if there is
};

struct Record {
  double seconds = 0.0;  // from the first sample to the last
  std::size_t samples = 0;
  double busy = 0.0;                    // seconds of CPU time that taking them took
  std::vector<Gauge> gauges;            // the same names in the same order on every machine
  std::vector<Energy> energies;         // likewise: board, gpu, cpu, dram; they overlap and must not be added
  std::vector<Energy> rails;            // of a Jetson, each once
  std::vector<std::string> throttling;  // reasons that were seen for running slower than the clocks allow
  std::string throttling_missing;       // why none could have been seen; else empty
};

// Reads in a thread of its own, a few files and calls every period.
class Sampler {
 public:
  // Opens what there is. Never throws for what is not there. Throws Error(kInvalidInput) on a period that is not in
  // [0.001, 60].
  explicit Sampler(const Options& options = {});
  ~Sampler();
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;

  // Takes the first sample and begins; takes the last one and ends. Throws Error(kInvalidInput) if called out of turn.
  void start();
  Record stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// What the machine is and how it is set.
struct Fact {
  std::string name;
  std::string value;
  std::string missing;  // why there is none; empty if there is
};

// The same names in the same order on every machine: cpu, cpus, memory_mb, system, board, governor, power_mode.
std::vector<Fact> machine(const Options& options = {});

// Peak resident memory of this process, in MB (10^6 bytes).
double peak_memory_mb();

// What a log of tegrastats tells, of JetPack 4 to 7.
struct PowerLog {
  std::size_t samples = 0;
  double seconds = 0.0;  // from the first sample to the last
  Energy board;          // the total: see `rails` for what it is made of
  std::vector<Energy> rails;
};

// `interval` is the seconds between lines that tegrastats was started with. Joules by the trapezoid rule. Throws
// Error(kInvalidInput) unless there are two lines or more that tell of power, all of the same rails.
PowerLog read_tegrastats(std::string_view log, double interval);

}  // namespace edgedet::telemetry
