// edgedet-bench: detections and figures of a bundle, without Python.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "benchmark/arguments.h"
#include "benchmark/coco.h"
#include "benchmark/image.h"
#include "benchmark/json_text.h"
#include "benchmark/measure.h"
#include "edgedet/detector.h"
#include "edgedet/error.h"

namespace edgedet::bench {

namespace {

// Images that are kept in memory to measure on.
constexpr std::size_t kMostFrames = 64;

std::vector<std::string> image_paths(const std::vector<std::string>& given) {
  std::vector<std::string> paths;
  for (const std::string& path : given) {
    if (std::filesystem::is_directory(path)) {
      const std::vector<std::string> inside = list_images(path);
      paths.insert(paths.end(), inside.begin(), inside.end());
    } else {
      paths.push_back(path);
    }
  }
  return paths;
}

// Coarse random patches, the same every time; an even grey would let caches look too good.
Image synthetic_frame(std::int32_t width, std::int32_t height) {
  constexpr std::int32_t kPatch = 16;
  Image image;
  image.width = width;
  image.height = height;
  image.rgb.reserve(static_cast<std::size_t>(3 * static_cast<std::int64_t>(width) * height));
  for (std::int32_t y = 0; y < height; ++y) {
    for (std::int32_t x = 0; x < width; ++x) {
      std::uint32_t hash = static_cast<std::uint32_t>(y / kPatch * 2048 + x / kPatch + 1) * 2654435761U;
      for (int channel = 0; channel < 3; ++channel) {
        hash = (hash ^ (hash >> 15U)) * 2246822519U;
        image.rgb.push_back(static_cast<std::uint8_t>(hash >> 24U));
      }
    }
  }
  return image;
}

void detect_all(const Detector& detector, const std::vector<std::string>& paths, const Arguments& arguments) {
  std::map<std::string, std::int64_t> ids;
  if (!arguments.annotations.empty()) {
    ids = read_image_ids(arguments.annotations);
  }
  ResultsWriter results(detector.info().category_ids);
  std::vector<std::vector<Detection>> found;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    auto id = static_cast<std::int64_t>(i) + 1;
    if (!arguments.annotations.empty()) {
      const auto known = ids.find(std::filesystem::path(paths[i]).filename().string());
      if (known == ids.end()) {
        throw Error(ErrorKind::kInvalidInput, paths[i] + ": expected an image that " + arguments.annotations +
                                                  " lists, got another one; leave it out or drop --annotations");
      }
      id = known->second;
    }
    const Image image = read_image(paths[i]);
    const ImageView view = image.view();
    detector.detect(&view, 1, found);
    results.add(id, found[0]);
  }
  results.write(arguments.detections);
}

std::string frame_size(const std::vector<ImageView>& frames) {
  for (const ImageView& frame : frames) {
    if (frame.width != frames[0].width || frame.height != frames[0].height) {
      return "several sizes";
    }
  }
  return std::to_string(frames[0].width) + "x" + std::to_string(frames[0].height);
}

std::string json_summary(const Summary& summary) {
  return "{\"p50\": " + json_number(summary.p50) + ", \"p90\": " + json_number(summary.p90) +
         ", \"p99\": " + json_number(summary.p99) + ", \"mean\": " + json_number(summary.mean) + "}";
}

std::string json_report(const Detector& detector, const Arguments& arguments, const Figures& figures,
                        const std::string& size) {
  const bool latency = arguments.detector.mode == PerformanceMode::kLatency;
  return "{\n  \"latency_ms\": " + json_summary(figures.latency) +
         ",\n  \"stages_ms\": {\"preprocess\": " + json_number(figures.preprocess.mean) +
         ", \"inference\": " + json_number(figures.inference.mean) +
         ", \"decode\": " + json_number(figures.decode.mean) + "}" +
         ",\n  \"stage_percentiles_ms\": {\n    \"preprocess\": " + json_summary(figures.preprocess) +
         ",\n    \"inference\": " + json_summary(figures.inference) +
         ",\n    \"decode\": " + json_summary(figures.decode) + "\n  }" + ",\n  \"fps\": " + json_number(figures.fps) +
         ",\n  \"rss_mb\": " + json_number(peak_memory_mb()) + ",\n  \"calls\": " + std::to_string(figures.calls) +
         ",\n  \"frames_per_call\": " + std::to_string(figures.frames_per_call) +
         ",\n  \"frame_size\": " + json_string(size) +
         ",\n  \"mode\": " + (latency ? "\"latency\"" : "\"throughput\"") +
         ",\n  \"bundle\": " + json_string(arguments.bundle) + ",\n  \"name\": " + json_string(detector.info().name) +
         ",\n  \"backend\": " + json_string(detector.backend()) +
         ",\n  \"precision\": " + json_string(detector.precision()) +
         ",\n  \"device\": " + json_string(detector.device()) +
         ",\n  \"threads\": " + std::to_string(detector.threads()) +
         ",\n  \"requests\": " + std::to_string(detector.requests()) + "\n}\n";
}

void print_row(const char* name, const Summary& summary) {
  std::printf("%-12s %9.3f %9.3f %9.3f %9.3f\n", name, summary.p50, summary.p90, summary.p99, summary.mean);
}

void print_report(const Figures& figures, const std::string& size) {
  std::printf("%d calls of %d frame(s), %s\n\n", figures.calls, figures.frames_per_call, size.c_str());
  std::printf("%-12s %9s %9s %9s %9s\n", "ms per call", "p50", "p90", "p99", "mean");
  print_row("preprocess", figures.preprocess);
  print_row("inference", figures.inference);
  print_row("decode", figures.decode);
  print_row("end to end", figures.latency);
  std::printf("\nthroughput   %.1f frames/s\nmemory       %.0f MB at the peak\n", figures.fps, peak_memory_mb());
}

void run(const Arguments& arguments) {
  const std::vector<std::string> paths = image_paths(arguments.images);
  const Detector detector(arguments.bundle, arguments.detector);
  std::printf("%s: %s %s, %d thread(s), %d request(s) on %s\n", detector.info().name.c_str(),
              detector.backend().c_str(), detector.precision().c_str(), detector.threads(), detector.requests(),
              detector.device().c_str());
  if (!arguments.detections.empty()) {
    detect_all(detector, paths, arguments);
    std::printf("detections of %zu image(s) are in %s\n", paths.size(), arguments.detections.c_str());
  }
  if (arguments.iterations == 0) {
    return;
  }
  std::vector<Image> images;
  if (paths.empty()) {
    images.push_back(synthetic_frame(arguments.synthetic_width, arguments.synthetic_height));
  }
  for (std::size_t i = 0; i < paths.size() && i < kMostFrames; ++i) {
    images.push_back(read_image(paths[i]));
  }
  std::vector<ImageView> frames;
  for (const Image& image : images) {
    frames.push_back(image.view());
  }
  const Figures figures = measure(detector, frames, arguments.warmup, arguments.iterations);
  const std::string size = frame_size(frames);
  print_report(figures, size);
  if (!arguments.json.empty()) {
    write_text(arguments.json, json_report(detector, arguments, figures, size));
  }
}

}  // namespace

}  // namespace edgedet::bench

int main(int count, char** values) {
  try {
    const edgedet::bench::Arguments arguments = edgedet::bench::parse_arguments(count, values);
    if (arguments.help) {
      std::fputs(edgedet::bench::help_text().c_str(), stdout);
    } else {
      edgedet::bench::run(arguments);
    }
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
