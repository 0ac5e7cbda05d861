// The C functions over edgedet::Detector: no exception leaves them, and no struct is read beyond its stated size.
#include "edgedet/c_api.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "edgedet/detector.h"
#include "edgedet/error.h"
#include "edgedet_build_info.h"

struct edgedet_detector {
  edgedet::Detector detector;
  std::string device;
};

namespace {

using edgedet::Error;
using edgedet::ErrorKind;

static_assert(sizeof(edgedet_detection) == sizeof(edgedet::Detection), "the layouts are the same");
static_assert(offsetof(edgedet_detection, label) == offsetof(edgedet::Detection, label), "the layouts are the same");

// The first versions of the structs; a smaller one was never filled in.
constexpr std::size_t kLeastOptions = sizeof(edgedet_options);
constexpr std::size_t kLeastImage = sizeof(edgedet_image);
constexpr std::size_t kLeastTimes = sizeof(edgedet_times);

std::string& last_error() {
  thread_local std::string message;
  return message;
}

edgedet_status fail(edgedet_status status, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (const std::exception&) {
    last_error().clear();  // no memory for the words
  }
  return status;
}

edgedet_status status_of(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kInvalidInput:
      return EDGEDET_INVALID_INPUT;
    case ErrorKind::kBundle:
      return EDGEDET_BUNDLE_ERROR;
    case ErrorKind::kModel:
      return EDGEDET_MODEL_ERROR;
    case ErrorKind::kBackend:
      return EDGEDET_BACKEND_ERROR;
    case ErrorKind::kImage:
      return EDGEDET_IMAGE_ERROR;
  }
  return EDGEDET_INTERNAL_ERROR;
}

template <typename Body>
edgedet_status guarded(Body&& body) noexcept {
  try {
    body();
    return EDGEDET_OK;
  } catch (const Error& error) {
    return fail(status_of(error.kind()), error.what());
  } catch (const std::bad_alloc&) {
    return fail(EDGEDET_OUT_OF_MEMORY, "expected enough memory, got none; close other programs");
  } catch (const std::exception& error) {
    return fail(EDGEDET_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(EDGEDET_INTERNAL_ERROR, "unknown");
  }
}

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

void expect(bool holds, const char* message) {
  if (!holds) {
    refuse(message);
  }
}

void expect_size(std::size_t size, std::size_t least, const char* what) {
  if (size < least) {
    refuse(std::string(what) + ".size: expected at least " + std::to_string(least) + ", got " + std::to_string(size) +
           "; fill the struct in with its init function");
  }
}

std::string text(const char* given, const char* what) {
  if (given == nullptr) {
    refuse(std::string(what) + ": expected a string, got null");
  }
  return given;
}

edgedet::DetectorOptions options_of(const edgedet_options* given) {
  edgedet::DetectorOptions options;
  if (given == nullptr) {
    return options;
  }
  expect_size(given->size, kLeastOptions, "options");
  expect(given->throughput == 0 || given->throughput == 1, "options.throughput: expected 0 or 1");
  options.backend = text(given->backend, "options.backend");
  options.precision = text(given->precision, "options.precision");
  options.mode = given->throughput == 1 ? edgedet::PerformanceMode::kThroughput : edgedet::PerformanceMode::kLatency;
  options.threads = given->threads;
  options.requests = given->requests;
  options.score_threshold = given->score_threshold;
  options.max_detections = given->max_detections;
  options.cache_dir = text(given->cache_dir, "options.cache_dir");
  return options;
}

edgedet::ImageView view_of(const edgedet_image& image) {
  expect_size(image.size, kLeastImage, "image");
  expect(image.size % alignof(edgedet_image) == 0, "image.size: expected the size of a struct, got another number");
  expect(image.format >= EDGEDET_RGB && image.format <= EDGEDET_NV12,
         "image.format: expected a value of edgedet_format");
  edgedet::ImageView view;
  view.data = image.data;
  view.width = image.width;
  view.height = image.height;
  view.stride = static_cast<std::ptrdiff_t>(image.stride);
  view.format = static_cast<edgedet::PixelFormat>(image.format);
  view.uv = image.uv;
  view.uv_stride = static_cast<std::ptrdiff_t>(image.uv_stride);
  return view;
}

// Copies what both sides know of a struct.
template <typename Struct>
void fill_in(Struct* target, std::size_t size, Struct defaults) {
  if (target != nullptr && size >= sizeof defaults.size) {
    std::memset(target, 0, size);
    defaults.size = size;
    std::memcpy(target, &defaults, std::min(size, sizeof defaults));
  }
}

// What a thread keeps between frames, so that nothing is allocated after the first.
struct Scratch {
  std::vector<edgedet::ImageView> views;
  std::vector<std::vector<edgedet::Detection>> found;
};

}  // namespace

void edgedet_options_init(edgedet_options* options, size_t size) {
  edgedet_options defaults{};
  defaults.backend = "auto";
  defaults.precision = "auto";
  defaults.cache_dir = "";
  fill_in(options, size, defaults);
}

void edgedet_image_init(edgedet_image* image, size_t size) { fill_in(image, size, edgedet_image{}); }

const char* edgedet_last_error(void) { return last_error().c_str(); }

const char* edgedet_version(void) { return edgedet::build::kVersion; }

edgedet_status edgedet_open(const char* bundle, const edgedet_options* options, edgedet_detector** detector) {
  return guarded([&] {
    expect(detector != nullptr, "detector: expected a place for the pointer, got null");
    *detector = nullptr;
    auto opened = std::make_unique<edgedet_detector>(
        edgedet_detector{edgedet::Detector(text(bundle, "bundle"), options_of(options)), {}});
    opened->device = opened->detector.device();
    *detector = opened.release();
  });
}

void edgedet_close(edgedet_detector* detector) { delete detector; }

edgedet_status edgedet_detect(const edgedet_detector* detector, const edgedet_image* images, size_t count,
                              edgedet_detection* found, size_t capacity, size_t* counts, edgedet_times* times) {
  return guarded([&] {
    expect(detector != nullptr, "detector: expected one from edgedet_open, got null");
    if (times != nullptr) {
      expect_size(times->size, kLeastTimes, "times");
    }
    const auto most = static_cast<std::size_t>(detector->detector.info().max_detections);
    if (count > 0) {
      expect(images != nullptr && found != nullptr && counts != nullptr,
             "images, found, counts: expected pointers, got null");
      if (capacity < most) {
        refuse("capacity: expected at least " + std::to_string(most) + " rows an image, got " +
               std::to_string(capacity));
      }
    }
    thread_local Scratch scratch;
    scratch.views.clear();
    const auto* at = reinterpret_cast<const unsigned char*>(images);
    for (std::size_t i = 0; i < count; ++i, at += images->size) {
      scratch.views.push_back(view_of(*reinterpret_cast<const edgedet_image*>(at)));
    }
    edgedet::StageTimes spent;
    detector->detector.detect(scratch.views.data(), count, scratch.found, &spent);
    for (std::size_t i = 0; i < count; ++i) {
      const std::vector<edgedet::Detection>& rows = scratch.found[i];
      counts[i] = rows.size();
      if (!rows.empty()) {
        std::memcpy(found + i * capacity, rows.data(), rows.size() * sizeof(edgedet_detection));
      }
    }
    if (times != nullptr) {
      times->preprocess = spent.preprocess;
      times->inference = spent.inference;
      times->decode = spent.decode;
    }
  });
}

const char* edgedet_backend(const edgedet_detector* detector) {
  return detector == nullptr ? nullptr : detector->detector.backend().c_str();
}

const char* edgedet_precision(const edgedet_detector* detector) {
  return detector == nullptr ? nullptr : detector->detector.precision().c_str();
}

const char* edgedet_device(const edgedet_detector* detector) {
  return detector == nullptr ? nullptr : detector->device.c_str();
}

size_t edgedet_max_detections(const edgedet_detector* detector) {
  return detector == nullptr ? 0 : static_cast<size_t>(detector->detector.info().max_detections);
}

size_t edgedet_class_count(const edgedet_detector* detector) {
  return detector == nullptr ? 0 : detector->detector.info().classes.size();
}

const char* edgedet_class_name(const edgedet_detector* detector, size_t label) {
  return label < edgedet_class_count(detector) ? detector->detector.info().classes[label].c_str() : nullptr;
}

int32_t edgedet_category_id(const edgedet_detector* detector, size_t label) {
  return label < edgedet_class_count(detector) ? detector->detector.info().category_ids[label] : 0;
}
