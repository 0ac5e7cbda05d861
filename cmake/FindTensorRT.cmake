# Finds TensorRT's headers; the libraries are opened when they are first needed, so none is linked. They are in the
# tar file and the Debian packages (libnvinfer-dev, libnvonnxparsers-dev; on Jetson from JetPack), not in the wheels:
# with those set TensorRT_ROOT to a folder with include/NvInfer.h of the same version.
# Hints: TensorRT_ROOT (CMake or environment). Defines TensorRT_FOUND, TensorRT_VERSION, TensorRT_INCLUDE_DIR.
set(tensorrt_places include include/x86_64-linux-gnu include/aarch64-linux-gnu targets/x86_64-linux-gnu/include
  targets/aarch64-linux-gnu/include)
find_path(TensorRT_INCLUDE_DIR NvInfer.h HINTS "${TensorRT_ROOT}" "$ENV{TensorRT_ROOT}" PATHS /usr/local/tensorrt /opt/tensorrt
  PATH_SUFFIXES ${tensorrt_places})
find_path(TensorRT_PARSER_INCLUDE_DIR NvOnnxParser.h HINTS "${TensorRT_INCLUDE_DIR}" "${TensorRT_ROOT}"
  PATH_SUFFIXES ${tensorrt_places})

if(TensorRT_INCLUDE_DIR AND EXISTS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")
  # TensorRT 8 and 9 define NV_TENSORRT_MAJOR as a number; 10 and later through TRT_MAJOR_ENTERPRISE.
  file(STRINGS "${TensorRT_INCLUDE_DIR}/NvInferVersion.h" version_lines
    REGEX "#define (NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)(_ENTERPRISE)? [0-9]+")
  set(TensorRT_VERSION "")
  foreach(part MAJOR MINOR PATCH)
    if(version_lines MATCHES "_${part}(_ENTERPRISE)? ([0-9]+)")
      list(APPEND TensorRT_VERSION "${CMAKE_MATCH_2}")
    endif()
  endforeach()
  string(REPLACE ";" "." TensorRT_VERSION "${TensorRT_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRT
  REQUIRED_VARS TensorRT_INCLUDE_DIR TensorRT_PARSER_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_PARSER_INCLUDE_DIR)
