#include "benchmark/measure.h"

#include <chrono>

#include "edgedet/telemetry.h"

namespace edgedet::bench {

BenchRun measure(const Detector& detector, const std::vector<ImageView>& frames, int batch, int warmup, int calls) {
  using Clock = std::chrono::steady_clock;
  const auto count = static_cast<std::size_t>(batch);
  telemetry::Options options;
  options.gpu = detector.gpu();
  telemetry::Sampler sampler(options);
  std::vector<ImageView> group(count);
  std::vector<std::vector<Detection>> found;
  BenchRun run;
  run.latency.reserve(static_cast<std::size_t>(calls));
  run.stages.reserve(static_cast<std::size_t>(calls));
  for (int call = -warmup; call < calls; ++call) {
    for (std::size_t i = 0; i < count; ++i) {
      group[i] = frames[(static_cast<std::size_t>(call + warmup) + i) % frames.size()];
    }
    if (call == 0) {
      sampler.start();
    }
    StageTimes times;
    const Clock::time_point start = Clock::now();
    detector.detect(group.data(), count, found, &times);
    const double elapsed = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (call >= 0) {
      run.latency.push_back(elapsed);
      run.stages.push_back(times);
    }
  }
  run.telemetry = sampler.stop();
  run.parts = detector.time_parts(group.data(), count, calls);
  run.machine = telemetry::machine(options);
  run.frames_per_call = batch;
  return run;
}

}  // namespace edgedet::bench
