// edgedet-bench: detections and figures of a bundle, without Python.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "benchmark/arguments.h"
#include "benchmark/coco.h"
#include "benchmark/image.h"
#include "benchmark/measure.h"
#include "benchmark/synthetic.h"
#include "benchmark/write_text.h"
#include "edgedet/bench_report.h"
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

// "640x480", or how many sizes there are, as `edgedet bench` says it.
std::string frame_size(const std::vector<ImageView>& frames) {
  std::set<std::pair<std::int32_t, std::int32_t>> sizes;
  for (const ImageView& frame : frames) {
    sizes.emplace(frame.width, frame.height);
  }
  return sizes.size() == 1 ? std::to_string(frames[0].width) + "x" + std::to_string(frames[0].height)
                           : std::to_string(sizes.size()) + " sizes";
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
  const int batch = arguments.batch > 0 ? arguments.batch : detector.requests();
  BenchRun measured = measure(detector, frames, batch, arguments.warmup, arguments.iterations);
  measured.frame_size = frame_size(frames);
  measured.mode = arguments.detector.mode == PerformanceMode::kLatency ? "latency" : "throughput";
  measured.bundle = arguments.bundle;
  measured.command = arguments.command;
  const BenchReport report = bench_report(detector, measured);
  std::fputs(report.text.c_str(), stdout);
  if (!arguments.json.empty()) {
    write_text(arguments.json, report.json);
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
