// The loop that measures a detector.
#pragma once

#include <vector>

#include "edgedet/bench_report.h"
#include "edgedet/detector.h"

namespace edgedet::bench {

// Runs `warmup`, then `calls` calls of `batch` frames, taken in turn, then each part of a call `calls` times. Fills in
// what is measured; what it was measured on is left to the caller.
BenchRun measure(const Detector& detector, const std::vector<ImageView>& frames, int batch, int warmup, int calls);

}  // namespace edgedet::bench
