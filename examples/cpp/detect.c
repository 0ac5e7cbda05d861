/* Finds objects in a binary PPM image: detect_c BUNDLE IMAGE.ppm */
#include <stdio.h>
#include <stdlib.h>

#include <edgedet/c_api.h>

static int complain(const char* what) {
  fprintf(stderr, "error: %s\n", what);
  return 2;
}

/* The pixels, or null; the caller frees them. */
static unsigned char* read_ppm(const char* path, int* width, int* height) {
  unsigned char* pixels = NULL;
  FILE* file = fopen(path, "rb");
  if (file != NULL && fscanf(file, "P6 %d %d 255", width, height) == 2 && fgetc(file) != EOF && *width > 0 &&
      *height > 0 && *width <= 16384 && *height <= 16384) {
    const size_t bytes = (size_t)3 * (size_t)*width * (size_t)*height;
    pixels = malloc(bytes);
    if (pixels != NULL && fread(pixels, 1, bytes, file) != bytes) {
      free(pixels);
      pixels = NULL;
    }
  }
  if (file != NULL) {
    fclose(file);
  }
  return pixels;
}

int main(int count, char** values) {
  edgedet_options options;
  edgedet_image image;
  edgedet_detector* detector = NULL;
  edgedet_detection* found = NULL;
  unsigned char* pixels = NULL;
  size_t rows = 0;
  int width = 0;
  int height = 0;
  int status = 0;

  if (count != 3) {
    return complain("usage: detect_c BUNDLE IMAGE.ppm");
  }
  pixels = read_ppm(values[2], &width, &height);
  if (pixels == NULL) {
    return complain("expected a binary PPM image");
  }
  edgedet_image_init(&image, sizeof image);
  image.data = pixels;
  image.width = width;
  image.height = height;
  image.stride = 3 * (int64_t)width;
  image.format = EDGEDET_RGB;

  edgedet_options_init(&options, sizeof options);
  options.score_threshold = 0.3F;
  if (edgedet_open(values[1], &options, &detector) != EDGEDET_OK) {
    status = complain(edgedet_last_error());
  } else {
    const size_t most = edgedet_max_detections(detector);
    size_t i;
    found = malloc((most > 0 ? most : 1) * sizeof *found);
    if (found == NULL || edgedet_detect(detector, &image, 1, found, most, &rows, NULL) != EDGEDET_OK) {
      status = complain(found == NULL ? "no memory" : edgedet_last_error());
      rows = 0;
    }
    for (i = 0; i < rows; ++i) {
      const edgedet_detection* object = &found[i];
      printf("%s %.3f %.1f %.1f %.1f %.1f\n", edgedet_class_name(detector, (size_t)object->label), object->score,
             object->x0, object->y0, object->x1, object->y1);
    }
  }
  free(found);
  free(pixels);
  edgedet_close(detector);
  return status;
}
