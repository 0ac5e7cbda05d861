#include "bindings/engines.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/arrays.h"

namespace py = pybind11;

namespace edgedet {
namespace {

// A Python function that may be copied, and go, where the GIL is not held.
std::shared_ptr<py::function> shared_function(const py::object& function) {
  return {new py::function(function), [](py::function* owned) {
            const py::gil_scoped_acquire acquire;
            delete owned;
          }};
}

EngineOptions engine_options(int device, int workspace_mb, const std::tuple<int, int, int>& batch, int dla_core,
                             int memory_limit_mb, const std::string& calibrator, const std::string& calibration_digest,
                             const py::object& next_images) {
  EngineOptions options;
  options.device = device;
  options.workspace_mb = workspace_mb;
  std::tie(options.min_batch, options.opt_batch, options.max_batch) = batch;
  options.dla_core = dla_core;
  options.memory_limit_mb = memory_limit_mb;
  options.calibrator = choose<Calibrator>(
      "calibrator", calibrator,
      {{"none", Calibrator::kNone}, {"entropy", Calibrator::kEntropy}, {"minmax", Calibrator::kMinMax}});
  options.calibration.digest = calibration_digest;
  if (!next_images.is_none()) {
    options.calibration.next = [next = shared_function(next_images)](float* images, std::size_t values) {
      const py::gil_scoped_acquire acquire;
      const py::object given = (*next)(values);
      if (given.is_none()) {
        return false;
      }
      const auto array = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(given);
      if (!array || static_cast<std::size_t>(array.size()) != values) {
        PyErr_Clear();
        refuse("next_images: expected an array of " + std::to_string(values) + " numbers, got " +
               (array ? std::to_string(array.size()) : std::string("something else")));
      }
      std::copy(array.data(), array.data() + values, images);
      return true;
    };
  }
  return options;
}

BuildProgress build_progress(const py::object& progress) {
  if (progress.is_none()) {
    return nullptr;
  }
  return [call = shared_function(progress)](const char* phase, int step, int of) {
    const py::gil_scoped_acquire acquire;
    return py::cast<bool>((*call)(phase, step, of));
  };
}

py::dict prepare_engine(const std::string& bundle, const std::string& backend, const std::string& precision,
                        const std::string& mode, const std::string& cache_dir, const EngineOptions& engine,
                        const py::object& progress) {
  const DetectorOptions options = detector_options(backend, precision, mode, cache_dir, engine);
  const BuildProgress report = build_progress(progress);
  Prepared prepared;
  {
    const py::gil_scoped_release release;
    prepared = prepare(bundle, options, report);
  }
  py::dict result = to_dict(prepared.engine);
  result["backend"] = prepared.backend;
  result["precision"] = prepared.precision;
  result["device"] = prepared.device;
  return result;
}

bool has_engine(const std::string& bundle, const std::string& backend, const std::string& precision,
                const std::string& mode, const std::string& cache_dir, const EngineOptions& engine) {
  const DetectorOptions options = detector_options(backend, precision, mode, cache_dir, engine);
  const py::gil_scoped_release release;
  return is_prepared(bundle, options);
}

}  // namespace

DetectorOptions detector_options(const std::string& backend, const std::string& precision, const std::string& mode,
                                 const std::string& cache_dir, const EngineOptions& engine) {
  DetectorOptions options;
  options.backend = backend;
  options.precision = precision;
  options.mode = choose<PerformanceMode>(
      "mode", mode, {{"latency", PerformanceMode::kLatency}, {"throughput", PerformanceMode::kThroughput}});
  options.cache_dir = cache_dir;
  options.engine = engine;
  return options;
}

py::dict to_dict(const EngineInfo& info) {
  py::dict result;
  result["path"] = info.path;
  result["built"] = info.built;
  result["bytes"] = info.bytes;
  result["seconds"] = info.seconds;
  result["workspace_mb"] = info.workspace_mb;
  return result;
}

void bind_engines(py::module_& module) {
  const EngineOptions defaults;
  py::class_<EngineOptions>(module, "EngineOptions")
      .def(py::init(&engine_options), py::kw_only(), py::arg("device") = defaults.device,
           py::arg("workspace_mb") = defaults.workspace_mb, py::arg("batch") = std::tuple<int, int, int>{0, 0, 0},
           py::arg("dla_core") = defaults.dla_core, py::arg("memory_limit_mb") = defaults.memory_limit_mb,
           py::arg("calibrator") = "none", py::arg("calibration_digest") = "", py::arg("next_images") = py::none());
  module.def("prepare", &prepare_engine, py::arg("bundle"), py::kw_only(), py::arg("backend") = "auto",
             py::arg("precision") = "auto", py::arg("mode") = "latency", py::arg("cache_dir") = "",
             py::arg("engine") = defaults, py::arg("progress") = py::none());
  module.def("is_prepared", &has_engine, py::arg("bundle"), py::kw_only(), py::arg("backend") = "auto",
             py::arg("precision") = "auto", py::arg("mode") = "latency", py::arg("cache_dir") = "",
             py::arg("engine") = defaults);
  module.def("set_library_folders", &set_library_folders, py::arg("folders"));
}

}  // namespace edgedet
