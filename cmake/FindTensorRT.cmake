# Finds TensorRT's headers and library. Hints: TensorRT_ROOT (CMake or environment).
# Defines TensorRT_FOUND, TensorRT_VERSION and the target TensorRT::nvinfer.
find_path(TensorRT_INCLUDE_DIR NvInfer.h PATH_SUFFIXES include)
find_library(TensorRT_LIBRARY NAMES nvinfer PATH_SUFFIXES lib lib64 targets/x86_64-linux-gnu/lib)

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
  REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR
  VERSION_VAR TensorRT_VERSION)

if(TensorRT_FOUND AND NOT TARGET TensorRT::nvinfer)
  add_library(TensorRT::nvinfer UNKNOWN IMPORTED)
  set_target_properties(TensorRT::nvinfer PROPERTIES
    IMPORTED_LOCATION "${TensorRT_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY)
