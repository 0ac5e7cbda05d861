# What is installed for C++ and C: headers, libedgedet.a, libedgedet_c.so and the files of find_package(edgedet). In a
# wheel all of it is inside the Python package; else under the prefix.
include(CMakePackageConfigHelpers)

if(SKBUILD)
  set(include_dir edgedet/include)
  set(library_dir edgedet/lib)
  set(component python)
  # The wheel's own place for the openvino package, seen from edgedet/lib.
  set_target_properties(edgedet_c PROPERTIES INSTALL_RPATH "$ORIGIN/../../openvino/libs")
else()
  include(GNUInstallDirs)
  set(include_dir "${CMAKE_INSTALL_INCLUDEDIR}")
  set(library_dir "${CMAKE_INSTALL_LIBDIR}")
  set(component development)
  # (A wheel cannot hold the links that a versioned name needs.)
  set_target_properties(edgedet_c PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0)
  # OpenVINO is found where it was when this was built.
  if(EDGEDET_HAS_OPENVINO)
    set_target_properties(edgedet_c PROPERTIES INSTALL_RPATH "$<TARGET_FILE_DIR:openvino::runtime>")
  endif()
endif()
set(package_dir "${library_dir}/cmake/edgedet")

set_target_properties(edgedet PROPERTIES EXPORT_NAME edgedet)
set_target_properties(edgedet_c PROPERTIES EXPORT_NAME c)
install(DIRECTORY csrc/include/edgedet DESTINATION "${include_dir}" COMPONENT ${component})
install(TARGETS edgedet edgedet_c EXPORT edgedet
  ARCHIVE DESTINATION "${library_dir}" COMPONENT ${component}
  LIBRARY DESTINATION "${library_dir}" COMPONENT ${component}
  INCLUDES DESTINATION "${include_dir}")
install(EXPORT edgedet NAMESPACE edgedet:: FILE edgedetTargets.cmake DESTINATION "${package_dir}"
  COMPONENT ${component})
configure_package_config_file(cmake/edgedetConfig.cmake.in "${PROJECT_BINARY_DIR}/generated/edgedetConfig.cmake"
  INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/generated/edgedetConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion)
install(FILES
  "${PROJECT_BINARY_DIR}/generated/edgedetConfig.cmake"
  "${PROJECT_BINARY_DIR}/generated/edgedetConfigVersion.cmake"
  DESTINATION "${package_dir}" COMPONENT ${component})
