#include "benchmark/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include <sys/resource.h>

namespace edgedet::bench {

namespace {

double percentile(const std::vector<double>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - std::floor(place));
}

}  // namespace

Summary summarise(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  Summary summary;
  summary.p50 = percentile(values, 0.50);
  summary.p90 = percentile(values, 0.90);
  summary.p99 = percentile(values, 0.99);
  summary.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  return summary;
}

Figures measure(const Detector& detector, const std::vector<ImageView>& frames, int warmup, int calls) {
  using Clock = std::chrono::steady_clock;
  const auto batch = static_cast<std::size_t>(detector.requests());
  std::vector<ImageView> group(batch);
  std::vector<std::vector<Detection>> found;
  std::vector<double> latency;
  std::vector<double> stages[3];
  for (int call = -warmup; call < calls; ++call) {
    for (std::size_t i = 0; i < batch; ++i) {
      group[i] = frames[(static_cast<std::size_t>(call + warmup) + i) % frames.size()];
    }
    StageTimes times;
    const Clock::time_point start = Clock::now();
    detector.detect(group.data(), batch, found, &times);
    const double elapsed = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (call >= 0) {
      latency.push_back(elapsed);
      stages[0].push_back(times.preprocess);
      stages[1].push_back(times.inference);
      stages[2].push_back(times.decode);
    }
  }
  Figures figures;
  figures.fps = 1000.0 * static_cast<double>(batch) * calls / std::accumulate(latency.begin(), latency.end(), 0.0);
  figures.latency = summarise(std::move(latency));
  figures.preprocess = summarise(std::move(stages[0]));
  figures.inference = summarise(std::move(stages[1]));
  figures.decode = summarise(std::move(stages[2]));
  figures.calls = calls;
  figures.frames_per_call = static_cast<int>(batch);
  return figures;
}

double peak_memory_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return static_cast<double>(usage.ru_maxrss) / (1024.0 * 1024.0);
#else
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
#endif
}

}  // namespace edgedet::bench
