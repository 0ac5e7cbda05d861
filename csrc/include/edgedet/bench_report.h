// What a benchmark tells: one text and one JSON, from whichever loop measured.
#pragma once

#include <string>
#include <vector>

#include "edgedet/detector.h"
#include "edgedet/telemetry.h"

namespace edgedet {

// Milliseconds. Percentiles interpolate linearly between the two nearest values, as NumPy does.
struct Summary {
  double p50 = 0.0;
  double p90 = 0.0;
  double p95 = 0.0;
  double p99 = 0.0;
  double max = 0.0;
  double mean = 0.0;
};

// Of one value or more.
Summary summarise(std::vector<double> values);

struct BenchRun {
  std::vector<double> latency;     // milliseconds of each call, end to end
  std::vector<StageTimes> stages;  // of the same calls, as detect told them
  PartTimes parts;
  telemetry::Record telemetry;  // of the same calls
  std::vector<telemetry::Fact> machine;
  int frames_per_call = 1;
  std::string frame_size;  // "640x480"
  std::string mode;        // "latency" or "throughput"
  std::string bundle;
  std::string command;  // what was run
};

struct BenchReport {
  std::string json;  // an object; its keys are the same on every machine, what is not available is null
  std::string text;
};

// Throws Error(kInvalidInput) if nothing was measured.
BenchReport bench_report(const Detector& detector, const BenchRun& run);

}  // namespace edgedet
