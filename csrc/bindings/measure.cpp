#include "bindings/measure.h"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/stl.h>

#include "edgedet/bench_report.h"
#include "edgedet/telemetry.h"

namespace py = pybind11;

namespace edgedet {

namespace {

using Times = std::tuple<double, double, double>;  // preprocess, inference, decode

// None where something is missing.
py::object joules(const telemetry::Energy& energy) {
  return energy.missing.empty() ? py::object(py::float_(energy.joules)) : py::object(py::none());
}

py::dict to_dict(const telemetry::PowerLog& log) {
  py::dict rails;
  for (const telemetry::Energy& rail : log.rails) {
    rails[py::str(rail.name)] = joules(rail);
  }
  py::dict result;
  result["samples"] = log.samples;
  result["seconds"] = log.seconds;
  result["board"] = joules(log.board);
  result["board_is"] = log.board.missing.empty() ? log.board.source : log.board.missing;
  result["rails"] = rails;
  return result;
}

telemetry::Options options(const std::string& root, const std::string& nvml, const std::string& gpu, double period) {
  return {root, nvml, gpu, period};
}

BenchRun make_run(std::vector<double> latency, const std::vector<Times>& stages, PartTimes parts,
                  telemetry::Record record, int frames_per_call, std::string frame_size, std::string mode,
                  std::string bundle, std::string command, const std::string& root) {
  BenchRun run;
  run.latency = std::move(latency);
  for (const auto& [preprocess, inference, decode] : stages) {
    run.stages.push_back({preprocess, inference, decode});
  }
  run.parts = std::move(parts);
  run.telemetry = std::move(record);
  telemetry::Options here;
  here.root = root;
  run.machine = telemetry::machine(here);
  run.frames_per_call = frames_per_call;
  run.frame_size = std::move(frame_size);
  run.mode = std::move(mode);
  run.bundle = std::move(bundle);
  run.command = std::move(command);
  return run;
}

}  // namespace

void bind_measure(py::module_& module) {
  py::class_<PartTimes>(module, "PartTimes")
      .def_readonly("network", &PartTimes::network)
      .def_readonly("network_device", &PartTimes::network_device)
      .def_readonly("resident", &PartTimes::resident);
  py::class_<telemetry::Record>(module, "TelemetryRecord")
      .def_readonly("seconds", &telemetry::Record::seconds)
      .def_readonly("samples", &telemetry::Record::samples);
  py::class_<telemetry::Sampler>(module, "Sampler")
      .def(py::init([](const std::string& root, const std::string& nvml, const std::string& gpu, double period) {
             return telemetry::Sampler(options(root, nvml, gpu, period));
           }),
           py::kw_only(), py::arg("root") = "", py::arg("nvml") = telemetry::Options().nvml, py::arg("gpu") = "",
           py::arg("period") = telemetry::Options().period)
      .def("start", &telemetry::Sampler::start, py::call_guard<py::gil_scoped_release>())
      .def("stop", &telemetry::Sampler::stop, py::call_guard<py::gil_scoped_release>());
  py::class_<BenchRun>(module, "BenchRun")
      .def(py::init(&make_run), py::kw_only(), py::arg("latency"), py::arg("stages"), py::arg("parts"),
           py::arg("telemetry"), py::arg("frames_per_call"), py::arg("frame_size"), py::arg("mode"), py::arg("bundle"),
           py::arg("command"), py::arg("root") = "");
  module.def("peak_memory_mb", &telemetry::peak_memory_mb);
  module.def(
      "read_tegrastats",
      [](const std::string& log, double interval) { return to_dict(telemetry::read_tegrastats(log, interval)); },
      py::arg("log"), py::arg("interval"));
}

}  // namespace edgedet
