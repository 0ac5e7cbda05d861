// Options of detectors and engines, and building engines, in the Python module.
#pragma once

#include <string>

#include <pybind11/pybind11.h>

#include "edgedet/detector.h"

namespace edgedet {

// Those that every function with options takes.
DetectorOptions detector_options(const std::string& backend, const std::string& precision, const std::string& mode,
                                 const std::string& cache_dir, const EngineOptions& engine);

pybind11::dict to_dict(const EngineInfo& info);

// Before what takes EngineOptions.
void bind_engines(pybind11::module_& module);

}  // namespace edgedet
