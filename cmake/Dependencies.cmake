# Decides what goes in. Every EDGEDET_<X> option is AUTO (use it if found), ON (fail without it) or OFF.
# For each: EDGEDET_HAS_<X> is TRUE or FALSE and EDGEDET_<X>_NOTE says what was used, or why not and how to get it.
# Nothing is downloaded and no Python package is imported.

macro(edgedet_absent name note)
  set(EDGEDET_HAS_${name} FALSE)
  set(EDGEDET_${name}_NOTE "${note}")
  if(EDGEDET_${name} STREQUAL "ON")
    message(FATAL_ERROR "EDGEDET_${name}=ON, but: ${note}")
  endif()
endmacro()

macro(edgedet_present name note)
  set(EDGEDET_HAS_${name} TRUE)
  set(EDGEDET_${name}_NOTE "${note}")
endmacro()

# Folder of an installed Python package, or empty. find_spec does not run the package's own code.
function(edgedet_python_package_dir package out)
  set(dir "")
  if(Python_EXECUTABLE)
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
        "import importlib.util as u; s = u.find_spec('${package}'); print(s.submodule_search_locations[0] if s and s.submodule_search_locations else '', end='')"
      OUTPUT_VARIABLE dir ERROR_QUIET)
  endif()
  set(${out} "${dir}" PARENT_SCOPE)
endfunction()

# Python and pybind11: the bindings.
find_package(Python 3.10 QUIET COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)
set(EDGEDET_HAS_BINDINGS FALSE)
if(NOT EDGEDET_BINDINGS)
  set(EDGEDET_BINDINGS_NOTE "switched off (EDGEDET_BINDINGS=OFF)")
elseif(NOT Python_Development.Module_FOUND)
  set(EDGEDET_BINDINGS_NOTE "no Python >= 3.10 with its headers found; set Python_EXECUTABLE or install python3-dev")
else()
  edgedet_python_package_dir(pybind11 pybind11_package)
  find_package(pybind11 2.12 CONFIG QUIET HINTS "${pybind11_package}/share/cmake/pybind11")
  if(pybind11_FOUND)
    set(EDGEDET_HAS_BINDINGS TRUE)
    set(EDGEDET_BINDINGS_NOTE "Python ${Python_VERSION}, pybind11 ${pybind11_VERSION}")
  else()
    set(EDGEDET_BINDINGS_NOTE "pybind11 not found; pip install pybind11")
  endif()
endif()
if(SKBUILD AND NOT EDGEDET_HAS_BINDINGS)
  message(FATAL_ERROR "the Python package needs its bindings: ${EDGEDET_BINDINGS_NOTE}")
endif()

# OpenVINO, from its wheel or from OpenVINO_DIR.
if(EDGEDET_OPENVINO STREQUAL "OFF")
  edgedet_absent(OPENVINO "switched off in this build (EDGEDET_OPENVINO=OFF)")
else()
  edgedet_python_package_dir(openvino openvino_package)
  find_package(OpenVINO QUIET CONFIG COMPONENTS Runtime HINTS "${openvino_package}/cmake")
  if(TARGET openvino::runtime)
    edgedet_present(OPENVINO "${OpenVINO_VERSION}")
  else()
    edgedet_absent(OPENVINO "not found when edgedet was built; pip install openvino==2026.4.1 and build edgedet again")
  endif()
endif()

# CUDA kernels.
if(EDGEDET_CUDA STREQUAL "OFF")
  edgedet_absent(CUDA "switched off in this build (EDGEDET_CUDA=OFF)")
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # One binary for Volta (Xavier) to Blackwell, and PTX of the last for what comes after; only what this nvcc knows.
      execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE nvcc_archs ERROR_QUIET)
      set(CMAKE_CUDA_ARCHITECTURES "")
      foreach(arch 72 75 80 86 87 89 90 110 120)
        if(nvcc_archs MATCHES "compute_${arch}\n")
          list(APPEND CMAKE_CUDA_ARCHITECTURES "${arch}-real")
          set(newest "${arch}")
        endif()
      endforeach()
      list(APPEND CMAKE_CUDA_ARCHITECTURES "${newest}-virtual")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    string(REPLACE ";" " " archs "${CMAKE_CUDA_ARCHITECTURES}")
    edgedet_present(CUDA "${CMAKE_CUDA_COMPILER_VERSION} for ${archs}")
  else()
    edgedet_absent(CUDA "no nvcc found when edgedet was built; install a CUDA toolkit (or set CUDACXX) and build edgedet again")
  endif()
endif()

# CUDA's headers, for tests that run the CUDA sources on the CPU: from the toolkit, whether kernels are built or not.
find_package(CUDAToolkit QUIET)
set(EDGEDET_CUDA_INCLUDE_DIR "${CUDAToolkit_INCLUDE_DIRS}")

# TensorRT.
if(EDGEDET_TENSORRT STREQUAL "OFF")
  edgedet_absent(TENSORRT "switched off in this build (EDGEDET_TENSORRT=OFF)")
else()
  find_package(TensorRT QUIET)
  if(TensorRT_FOUND)
    edgedet_present(TENSORRT "${TensorRT_VERSION} (headers and library found)")
  else()
    edgedet_absent(TENSORRT "headers or library not found when edgedet was built; set TensorRT_ROOT and build edgedet again")
  endif()
endif()

# JPEG and PNG readers of edgedet-bench.
find_package(JPEG QUIET)
find_package(PNG QUIET)
set(EDGEDET_JPEG_NOTE "libjpeg, ABI ${JPEG_VERSION}")
if(NOT JPEG_FOUND)
  set(EDGEDET_JPEG_NOTE "not found; edgedet-bench cannot read JPEG (libjpeg-turbo8-dev or libjpeg62-turbo-dev)")
endif()
set(EDGEDET_PNG_NOTE "libpng ${PNG_VERSION_STRING}")
if(NOT PNG_FOUND)
  set(EDGEDET_PNG_NOTE "not found; edgedet-bench cannot read PNG (libpng-dev)")
endif()
