// Latency and throughput of a detector.
#pragma once

#include <vector>

#include "edgedet/detector.h"

namespace edgedet::bench {

// Milliseconds of a call. Percentiles interpolate linearly between the two nearest calls, as NumPy does.
struct Summary {
  double p50 = 0.0;
  double p90 = 0.0;
  double p99 = 0.0;
  double mean = 0.0;
};

Summary summarise(std::vector<double> values);

struct Figures {
  Summary latency;  // end to end
  Summary preprocess;
  Summary inference;
  Summary decode;
  double fps = 0.0;
  int calls = 0;
  int frames_per_call = 1;
};

// Runs `warmup`, then `calls` calls over the frames in turn; a call holds as many frames as the detector has requests.
Figures measure(const Detector& detector, const std::vector<ImageView>& frames, int warmup, int calls);

// Peak resident memory of this process in MB.
double peak_memory_mb();

}  // namespace edgedet::bench
