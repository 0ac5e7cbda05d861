# edgedet_kernel_report(TARGET SOURCE...): the target `kernel_report` compiles each kernel for each architecture once more
# and writes registers, spills, shared memory and size as a table, <build>/kernels.md.
function(edgedet_kernel_report target)
  set(architectures "")
  foreach(arch IN LISTS CMAKE_CUDA_ARCHITECTURES)
    if(arch MATCHES "^([0-9]+)-real$")
      list(APPEND architectures "${CMAKE_MATCH_1}")
    endif()
  endforeach()
  list(TRANSFORM ARGN PREPEND "${PROJECT_SOURCE_DIR}/")
  if(NOT Python_EXECUTABLE OR NOT architectures)
    return()
  endif()
  add_custom_target(kernel_report
    COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/cmake/kernel_report.py" --nvcc "${CMAKE_CUDA_COMPILER}"
      --architectures ${architectures} --include "${PROJECT_SOURCE_DIR}/csrc" "${PROJECT_SOURCE_DIR}/csrc/include"
      --out "${PROJECT_BINARY_DIR}/kernels.md" ${ARGN}
    USES_TERMINAL VERBATIM)
endfunction()
