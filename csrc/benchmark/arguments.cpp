#include "benchmark/arguments.h"

#include <charconv>
#include <string_view>
#include <type_traits>

#include "common/decimal.h"
#include "edgedet/error.h"

namespace edgedet::bench {

namespace {

[[noreturn]] void refuse(const std::string& message) {
  throw Error(ErrorKind::kInvalidInput, message + "; see edgedet-bench --help");
}

template <typename Number>
Number number(std::string_view option, std::string_view text, Number low, Number high) {
  Number value{};
  bool valid = false;
  if constexpr (std::is_floating_point_v<Number>) {
    double parsed = 0.0;
    valid = parse_decimal(text, parsed);
    value = static_cast<Number>(parsed);
  } else {
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    valid = code == std::errc() && end == text.data() + text.size();
  }
  if (!valid || !(value >= low && value <= high)) {
    refuse(std::string(option) + ": expected a number from " + std::to_string(low) + " to " + std::to_string(high) +
           ", got \"" + std::string(text) + "\"");
  }
  return value;
}

void parse_size(std::string_view text, Arguments& arguments) {
  constexpr std::int32_t kMaxSide = 16384;
  const std::size_t cross = text.find('x');
  if (cross == std::string_view::npos) {
    refuse("--synthetic: expected WIDTHxHEIGHT, got \"" + std::string(text) + "\"");
  }
  arguments.synthetic_width = number<std::int32_t>("--synthetic", text.substr(0, cross), 1, kMaxSide);
  arguments.synthetic_height = number<std::int32_t>("--synthetic", text.substr(cross + 1), 1, kMaxSide);
}

PerformanceMode parse_mode(std::string_view text) {
  if (text == "latency") {
    return PerformanceMode::kLatency;
  }
  if (text == "throughput") {
    return PerformanceMode::kThroughput;
  }
  refuse("--mode: expected latency or throughput, got \"" + std::string(text) + "\"");
}

}  // namespace

Arguments parse_arguments(int count, const char* const* values) {
  constexpr int kMost = 1'000'000;
  constexpr int kMaxBatch = 1024;
  Arguments arguments;
  for (int i = 0; i < count; ++i) {
    arguments.command.append(i == 0 ? "" : " ").append(values[i]);
  }
  bool synthetic = false;
  for (int i = 1; i < count; ++i) {
    const std::string_view option = values[i];
    if (option == "--help" || option == "-h") {
      arguments.help = true;
      return arguments;
    }
    if (option.substr(0, 1) != "-") {
      if (!arguments.bundle.empty()) {
        refuse("expected one bundle, got \"" + arguments.bundle + "\" and \"" + std::string(option) + "\"");
      }
      arguments.bundle = option;
      continue;
    }
    if (i + 1 == count) {
      refuse(std::string(option) + ": unknown option, or one that lacks its value");
    }
    const std::string_view value = values[++i];
    if (option == "--images") {
      arguments.images.emplace_back(value);
      while (i + 1 < count && values[i + 1][0] != '-') {
        arguments.images.emplace_back(values[++i]);
      }
    } else if (option == "--synthetic") {
      parse_size(value, arguments);
      synthetic = true;
    } else if (option == "--annotations") {
      arguments.annotations = value;
    } else if (option == "--iterations") {
      arguments.iterations = number<int>(option, value, 0, kMost);
    } else if (option == "--warmup") {
      arguments.warmup = number<int>(option, value, 0, kMost);
    } else if (option == "--batch") {
      arguments.batch = number<int>(option, value, 1, kMaxBatch);
    } else if (option == "--threads") {
      arguments.detector.threads = number<int>(option, value, 0, 1024);
    } else if (option == "--requests") {
      arguments.detector.requests = number<int>(option, value, 0, 1024);
    } else if (option == "--backend") {
      arguments.detector.backend = value;
    } else if (option == "--precision") {
      arguments.detector.precision = value;
    } else if (option == "--mode") {
      arguments.detector.mode = parse_mode(value);
    } else if (option == "--score-threshold") {
      arguments.detector.score_threshold = number<float>(option, value, 0.F, 1.F);
    } else if (option == "--cache-dir") {
      arguments.detector.cache_dir = value;
    } else if (option == "--device") {
      arguments.detector.engine.device = number<int>(option, value, 0, 1024);
    } else if (option == "--workspace-mb") {
      arguments.detector.engine.workspace_mb = number<int>(option, value, 1, kMost);
    } else if (option == "--memory-limit-mb") {
      arguments.detector.engine.memory_limit_mb = number<int>(option, value, 1, kMost);
    } else if (option == "--dla") {
      arguments.detector.engine.dla_core = number<int>(option, value, 0, 1024);
    } else if (option == "--detections") {
      arguments.detections = value;
    } else if (option == "--json") {
      arguments.json = value;
    } else {
      refuse(std::string(option) + ": unknown option");
    }
  }
  if (arguments.bundle.empty()) {
    refuse("expected the folder of a bundle");
  }
  if (synthetic && !arguments.images.empty()) {
    refuse("expected --images or --synthetic, got both");
  }
  if (arguments.images.empty() && (!arguments.annotations.empty() || !arguments.detections.empty())) {
    refuse("--annotations and --detections need --images");
  }
  if (arguments.iterations == 0 && !arguments.json.empty()) {
    refuse("--json needs --iterations above 0");
  }
  return arguments;
}

std::string help_text() {
  return R"(usage: edgedet-bench BUNDLE [options]

Measures a bundle on this machine without Python: from a frame in memory to its detections.
Compare figures of one machine and one moment only; docs/benchmarking.md says what each means.

  --images FILE|DIR ...   JPEG, PNG and PPM images, and folders of them (default: a synthetic frame)
  --synthetic WxH         size of the synthetic frame (default: 640x480)
  --detections FILE       write what is found in every image as COCO results
  --annotations FILE      COCO annotations that give images their ids, by file name (default: numbered from 1)
  --iterations N          measured calls (default: 200; 0 measures nothing)
  --warmup N              calls before them (default: 20)
  --batch N               frames a call (default: as many as there are requests)
  --threads N             CPU threads (default: all this process may use)
  --requests N            parallel inference requests (default: 1 for latency, the backend's choice for throughput)
  --backend NAME          default: auto
  --precision NAME        fp32, bf16, fp16, int8 or auto: the one verified as best (default: auto)
  --mode NAME             latency: one frame a call; throughput: as many as requests (default: latency)
  --score-threshold X     leave out detections with a lower score (default: 0)
  --cache-dir DIR         keep the network as it was compiled for this device, for the next start (default: nowhere: on
                          TensorRT each run builds the engine, which takes minutes; 'edgedet build' fills a folder)
  --device N              TensorRT: index of the GPU (default: 0)
  --workspace-mb N        TensorRT: MiB that layers may work in while the engine is built and run (default: 1024)
  --memory-limit-mb N     TensorRT: MiB of device memory that build and detector may take (default: no limit)
  --dla N                 TensorRT: DLA core of a Jetson (default: the GPU)
  --json FILE             write the figures as JSON
)";
}

}  // namespace edgedet::bench
