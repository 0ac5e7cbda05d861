/* The detector for C, and for every language that calls C. The library is libedgedet_c.so.
 *
 * Stable: a program built against this header runs with any later library of the same soname. Every struct begins with
 * its own size, which the init functions fill in; later versions add fields at the end only, and read no further than
 * the size they are given. Strings are UTF-8. Nothing throws, prints or ends the process. */
#pragma once

#include <stddef.h> /* NOLINT(modernize-deprecated-headers): also for C */
#include <stdint.h> /* NOLINT(modernize-deprecated-headers) */

#define EDGEDET_C_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct edgedet_detector edgedet_detector;

typedef enum edgedet_status {
  EDGEDET_OK = 0,
  EDGEDET_INVALID_INPUT = 1, /* an argument or an image the caller passed */
  EDGEDET_BUNDLE_ERROR = 2,  /* model.json, a file of the bundle, its sha256, its version */
  EDGEDET_MODEL_ERROR = 3,   /* the network: shapes, names, NaN in its output */
  EDGEDET_BACKEND_ERROR = 4, /* a backend that is unavailable or failed */
  EDGEDET_IMAGE_ERROR = 5,   /* an image file that cannot be decoded */
  EDGEDET_OUT_OF_MEMORY = 6,
  EDGEDET_INTERNAL_ERROR = 7
} edgedet_status;

typedef enum edgedet_format {
  EDGEDET_RGB = 0, /* 3 interleaved bytes a pixel */
  EDGEDET_BGR = 1,
  EDGEDET_GRAY = 2, /* one byte a pixel */
  EDGEDET_NV12 = 3  /* a Y plane and an interleaved UV plane of half the resolution; BT.601, limited range */
} edgedet_format;

typedef struct edgedet_options {
  size_t size;
  const char* backend;    /* "auto" or a backend's name */
  const char* precision;  /* "auto", "fp32", "bf16", "fp16" or "int8" */
  int32_t throughput;     /* 0: each frame as soon as possible; 1: several side by side */
  int32_t threads;        /* CPU threads; 0: all this process may use */
  int32_t requests;       /* frames in flight; 0: automatic */
  float score_threshold;  /* rows below it are left out, in [0, 1] */
  int32_t max_detections; /* of an image; 0: the model's own */
  const char* cache_dir;  /* where compiled networks are kept for the next start; "": nowhere */
} edgedet_options;

/* A view: the caller owns the pixels. Strides are in bytes and at least a row. */
typedef struct edgedet_image {
  size_t size;
  const uint8_t* data;
  int32_t width;
  int32_t height;
  int64_t stride;
  int32_t format;    /* edgedet_format */
  const uint8_t* uv; /* EDGEDET_NV12 only */
  int64_t uv_stride; /* EDGEDET_NV12 only */
} edgedet_image;

/* Corners in pixels of the image, clipped to it. Never changes. */
typedef struct edgedet_detection {
  float x0, y0, x1, y1;
  float score;   /* in [0, 1] */
  int32_t label; /* see edgedet_class_name */
} edgedet_detection;

/* Milliseconds by stage of one call. */
typedef struct edgedet_times {
  size_t size;
  double preprocess;
  double inference;
  double decode;
} edgedet_times;

/* Defaults, for the size of struct that the caller was built with. */
EDGEDET_C_API void edgedet_options_init(edgedet_options* options, size_t size);
EDGEDET_C_API void edgedet_image_init(edgedet_image* image, size_t size);

/* What went wrong in this thread's last failed call: expected, got, remedy. Valid until the thread's next call. */
EDGEDET_C_API const char* edgedet_last_error(void);

EDGEDET_C_API const char* edgedet_version(void);

/* Opens the bundle folder. `options` may be null. *detector is null unless EDGEDET_OK is returned. */
EDGEDET_C_API edgedet_status edgedet_open(const char* bundle, const edgedet_options* options,
                                          edgedet_detector** detector);

/* Null is allowed. No call may be using the detector. */
EDGEDET_C_API void edgedet_close(edgedet_detector* detector);

/* Finds objects in `count` images, `images[0].size` bytes apart, best first: those of image i begin at
 * found[i * capacity], and counts[i] are there. `capacity` is at least edgedet_max_detections. `times` may be null.
 * Any number of threads may share a detector. */
EDGEDET_C_API edgedet_status edgedet_detect(const edgedet_detector* detector, const edgedet_image* images, size_t count,
                                            edgedet_detection* found, size_t capacity, size_t* counts,
                                            edgedet_times* times);

/* What runs. Strings live as long as the detector; null or 0 for null and for indices out of range. */
EDGEDET_C_API const char* edgedet_backend(const edgedet_detector* detector);
EDGEDET_C_API const char* edgedet_precision(const edgedet_detector* detector);
EDGEDET_C_API const char* edgedet_device(const edgedet_detector* detector);
EDGEDET_C_API size_t edgedet_max_detections(const edgedet_detector* detector);
EDGEDET_C_API size_t edgedet_class_count(const edgedet_detector* detector);
EDGEDET_C_API const char* edgedet_class_name(const edgedet_detector* detector, size_t label);
EDGEDET_C_API int32_t edgedet_category_id(const edgedet_detector* detector, size_t label); /* the dataset's */

#ifdef __cplusplus
}
#endif
