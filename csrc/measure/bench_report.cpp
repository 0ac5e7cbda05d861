#include "edgedet/bench_report.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <numeric>
#include <utility>

#include "common/json_text.h"
#include "edgedet_build_info.h"

namespace edgedet {
namespace {

using Members = std::vector<std::pair<std::string, std::string>>;
using json::number;
using json::quote;

// Below it, counters that move every tenth of a second are off by some percent.
constexpr double kShortSeconds = 2.0;

constexpr const char* kOnCpu = "the network runs on the CPU";

struct Stage {
  const char* name;
  double StageTimes::* time;
};
constexpr Stage kStages[] = {{"upload", &StageTimes::upload},
                             {"preprocess", &StageTimes::preprocess},
                             {"inference", &StageTimes::inference},
                             {"decode", &StageTimes::decode},
                             {"download", &StageTimes::download}};

double percentile(const std::vector<double>& sorted, double fraction) {
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - std::floor(place));
}

__attribute__((format(printf, 1, 2))) std::string format(const char* form, ...) {
  char text[1024];
  va_list values;
  va_start(values, form);
  std::vsnprintf(text, sizeof(text), form, values);
  va_end(values);
  return text;
}

std::string to_json(const Summary& times) {
  return json::object({{"p50", number(times.p50)},
                       {"p90", number(times.p90)},
                       {"p95", number(times.p95)},
                       {"p99", number(times.p99)},
                       {"max", number(times.max)},
                       {"mean", number(times.mean)}});
}

std::string row(const char* name, const Summary& times) {
  return format("%-14s %9.3f %9.3f %9.3f %9.3f %9.3f %9.3f\n", name, times.p50, times.p90, times.p95, times.p99,
                times.max, times.mean);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

// Writes both forms side by side, so that neither can tell what the other does not.
class Writer {
 public:
  Writer(const Detector& detector, const BenchRun& run)
      : detector_(detector), run_(run), frames_(run.latency.size() * static_cast<std::size_t>(run.frames_per_call)) {}

  BenchReport write() {
    times();
    memory();
    gauges();
    energy();
    state();
    circumstances();
    std::string json = "{";
    for (const auto& [key, value] : members_) {
      json += (json.size() > 1 ? ",\n  " : "\n  ") + quote(key) + ": " + value;
    }
    return {json + "\n}\n", std::move(text_)};
  }

 private:
  void add(const char* key, std::string value) { members_.emplace_back(key, std::move(value)); }
  void line(const char* name, const std::string& value) { text_ += format("%-12s ", name) + value + "\n"; }

  // The value, or null with the reason beside it.
  std::string or_null(const std::string& path, const std::string& missing, const std::string& value) {
    if (missing.empty()) {
      return value;
    }
    missing_.emplace_back(path, missing);
    return "null";
  }

  void times() {
    const Summary latency = summarise(run_.latency);
    text_ += format("%zu calls of %d frame%s, %s\n\n", run_.latency.size(), run_.frames_per_call,
                    run_.frames_per_call == 1 ? "" : "s", run_.frame_size.c_str());
    text_ += format("%-14s %9s %9s %9s %9s %9s %9s\n", "ms per call", "p50", "p90", "p95", "p99", "max", "mean");
    add("latency_ms", to_json(latency));

    const std::vector<StageTimes>& stages = run_.parts.stages.empty() ? run_.stages : run_.parts.stages;
    Members means;
    Members all;
    for (const Stage& stage : kStages) {
      std::vector<double> values;
      for (const StageTimes& times : stages) {
        values.push_back(times.*stage.time);
      }
      const Summary summary = summarise(std::move(values));
      means.emplace_back(stage.name, number(summary.mean));
      all.emplace_back(stage.name, to_json(summary));
      if (summary.max > 0.0) {
        text_ += row(stage.name, summary);
      }
    }
    add("stages_ms", json::object(means));
    add("stage_percentiles_ms", json::object(all));
    add("stages_from", quote(run_.parts.stages.empty() ? "the calls" : "calls of their own, by the device's clock"));
    text_ += row("end to end", latency);

    const Summary network = summarise(run_.parts.network);
    add("network_ms", to_json(network));
    text_ += row("network alone", network);
    optional_times("network_device_ms", "  by device", run_.parts.network_device);
    optional_times("resident_ms", "from device", run_.parts.resident);
    add("end_to_end_over_network", number(latency.p50 / network.p50));
    const bool on_cpu = run_.parts.resident.empty();
    const double resident = on_cpu ? 0.0 : summarise(run_.parts.resident).p50 / network.p50;
    add("resident_over_network", or_null("resident_over_network", on_cpu ? kOnCpu : "", number(resident)));
    const double fps =
        1000.0 * static_cast<double>(frames_) / std::accumulate(run_.latency.begin(), run_.latency.end(), 0.0);
    add("fps", number(fps));
    text_ += '\n';
    line("ratio", format("%.3f end to end / network alone (medians)", latency.p50 / network.p50));
    if (!on_cpu) {
      line("", format("%.3f from device / network alone", resident));
    }
    line("throughput", format("%.1f frames/s", fps));
  }

  void optional_times(const char* key, const char* name, const std::vector<double>& values) {
    if (values.empty()) {
      add(key, or_null(key, kOnCpu, ""));
      return;
    }
    const Summary summary = summarise(values);
    add(key, to_json(summary));
    text_ += row(name, summary);
  }

  const telemetry::Gauge& gauge(const std::string& name) const {
    const auto& all = run_.telemetry.gauges;
    return *std::find_if(all.begin(), all.end(), [&](const telemetry::Gauge& one) { return one.name == name; });
  }

  void memory() {
    const telemetry::Gauge& steady = gauge("memory_mb.process");
    const telemetry::Gauge& own = gauge("memory_mb.gpu_process");
    const telemetry::Gauge& device = gauge("memory_mb.gpu_device");
    // The kernel counts what is resident now and the peak at different moments.
    const double peak = std::max(telemetry::peak_memory_mb(), steady.max);
    add("rss_mb", number(peak));
    add("rss_steady_mb", or_null("rss_steady_mb", steady.missing, number(steady.mean)));
    add("gpu_memory_mb", or_null("gpu_memory_mb", own.missing, number(own.max)));
    add("gpu_memory_device_mb", or_null("gpu_memory_device_mb", device.missing, number(device.max)));
    line("memory", (steady.missing.empty() ? format("%.0f MB, ", steady.mean) : "") +
                       format("%.0f MB at the peak of the process", peak));
    if (own.missing.empty()) {
      line("GPU memory", format("%.0f MB at the peak of this process", own.max));
    } else if (device.missing.empty()) {
      line("GPU memory", format("%.0f MB at the peak of all processes", device.max));
    }
  }

  void gauges() {
    const auto spread = [this](const char* group, const char* label, const char* unit,
                               const std::vector<std::string>& names) {
      Members members;
      for (const std::string& name : names) {
        const std::string path = group + ("." + name);
        const telemetry::Gauge& one = gauge(path);
        members.emplace_back(
            name,
            or_null(path, one.missing,
                    json::object({{"min", number(one.min)}, {"mean", number(one.mean)}, {"max", number(one.max)}})));
        if (one.missing.empty()) {
          line(label, name + format(" %.0f %s (%.0f to %.0f)", one.mean, unit, one.min, one.max));
        }
      }
      add(group, json::object(members));
    };
    spread("clocks_mhz", "clock", "MHz", {"gpu", "gpu_memory", "cpu"});
    spread("utilisation_percent", "load", "%", {"gpu"});
    spread("temperature_c", "temperature", "C", {"gpu"});
  }

  void energy() {
    const telemetry::Record& record = run_.telemetry;
    const auto frames = static_cast<double>(frames_);
    Members power;
    Members joules;
    Members sources;
    bool any = false;
    for (const telemetry::Energy& one : record.energies) {
      power.emplace_back(one.name, or_null("power_w." + one.name, one.missing, number(one.joules / record.seconds)));
      joules.emplace_back(one.name, or_null("joules_per_frame." + one.name, one.missing, number(one.joules / frames)));
      sources.emplace_back(one.name, one.missing.empty() ? quote(one.source) : "null");
      if (one.missing.empty()) {
        any = true;
        line("energy", one.name +
                           format(" %.4g J a frame at %.2f W (", one.joules / frames, one.joules / record.seconds) +
                           one.source + ")");
      }
    }
    Members rails;
    for (const telemetry::Energy& rail : record.rails) {
      rails.emplace_back(rail.name, rail.missing.empty() ? number(rail.joules / record.seconds) : "null");
    }
    add("power_w", json::object(power));
    add("joules_per_frame", json::object(joules));
    add("energy_source", json::object(sources));
    add("rails_w", json::object(rails));
    if (any && record.seconds < kShortSeconds) {
      warnings_.push_back(
          format("energy over %.2g s is rough; measure for %.0f s or more", record.seconds, kShortSeconds));
    }
  }

  void state() {
    const telemetry::Record& record = run_.telemetry;
    std::vector<std::string> reasons;
    for (const std::string& reason : record.throttling) {
      reasons.push_back(quote(reason));
      warnings_.push_back("throttled: " + reason);
    }
    add("throttling", or_null("throttling", record.throttling_missing, json::array(reasons)));
    if (record.throttling_missing.empty()) {
      line("throttling", reasons.empty() ? "none seen" : "seen");
    }
    Members facts;
    for (const telemetry::Fact& fact : run_.machine) {
      const bool number = !fact.value.empty() && fact.value.find_first_not_of("0123456789") == std::string::npos;
      facts.emplace_back(fact.name,
                         or_null("machine." + fact.name, fact.missing, number ? fact.value : quote(fact.value)));
      if (fact.missing.empty() && fact.name == "power_mode") {
        line("power mode", fact.value);
      }
    }
    add("machine", json::object(facts));
    add("interval_s", number(record.seconds));
    add("samples", std::to_string(record.samples));
    add("sampling_share", number(record.busy / record.seconds));
    std::vector<std::string> warnings;
    for (const std::string& warning : warnings_) {
      warnings.push_back(quote(warning));
      line("warning", warning);
    }
    add("warnings", json::array(warnings));
  }

  void circumstances() {
    add("calls", std::to_string(run_.latency.size()));
    add("frames_per_call", std::to_string(run_.frames_per_call));
    add("frame_size", quote(run_.frame_size));
    add("mode", quote(run_.mode));
    add("bundle", quote(run_.bundle));
    add("name", quote(detector_.info().name));
    add("backend", quote(detector_.backend()));
    add("precision", quote(detector_.precision()));
    add("device", quote(detector_.device()));
    add("threads", std::to_string(detector_.threads()));
    add("requests", std::to_string(detector_.requests()));
    add("version", quote(build::kVersion));
    add("built_with", json::object({{"compiler", quote(build::kCompiler)},
                                    {"build_type", quote(build::kBuildType)},
                                    {"openvino", quote(build::kOpenvino)},
                                    {"cuda", quote(build::kCuda)},
                                    {"tensorrt", quote(build::kTensorrt)}}));
    add("command", quote(run_.command));
    add("date", quote(utc_now()));
    Members reasons;
    for (const auto& [path, reason] : missing_) {
      reasons.emplace_back(path, quote(reason));
    }
    add("not_available", json::object(reasons));
    tell_missing();
  }

  // One line a reason.
  void tell_missing() {
    Members lines;  // reason, what it keeps away
    for (const auto& [path, reason] : missing_) {
      if (path.compare(0, 8, "power_w.") == 0) {
        continue;  // the same as the joules
      }
      const auto same = std::find_if(lines.begin(), lines.end(), [&](const auto& one) { return one.first == reason; });
      if (same == lines.end()) {
        lines.emplace_back(reason, path);
      } else {
        same->second += ", " + path;
      }
    }
    text_ += lines.empty() ? "" : "\nnot available\n";
    for (const auto& [reason, paths] : lines) {
      text_ += "  " + paths + ": " + reason + "\n";
    }
  }

  const Detector& detector_;
  const BenchRun& run_;
  std::size_t frames_;
  Members members_;
  Members missing_;  // path, reason
  std::vector<std::string> warnings_;
  std::string text_;
};

}  // namespace

Summary summarise(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  Summary summary;
  summary.p50 = percentile(values, 0.50);
  summary.p90 = percentile(values, 0.90);
  summary.p95 = percentile(values, 0.95);
  summary.p99 = percentile(values, 0.99);
  summary.max = values.back();
  summary.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  return summary;
}

BenchReport bench_report(const Detector& detector, const BenchRun& run) {
  if (run.latency.empty() || run.stages.empty() || run.parts.network.empty() || run.frames_per_call < 1 ||
      run.telemetry.gauges.empty()) {
    throw Error(ErrorKind::kInvalidInput, "expected a run with measured calls, stages, parts and telemetry, got none");
  }
  return Writer(detector, run).write();
}

}  // namespace edgedet
