// The Python module `_core`: views in, values out.
#include <map>
#include <mutex>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/cuda.h"
#include "bindings/device_array.h"
#include "bindings/engines.h"
#include "bindings/measure.h"
#include "bindings/tiles.h"
#include "common/thread_pool.h"
#include "edgedet/bench_report.h"
#include "edgedet/bundle.h"
#include "edgedet/detector.h"
#include "edgedet_build_info.h"
#include "frame/device.h"
#include "kernels/ops.h"

namespace py = pybind11;

namespace edgedet {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

PyObject* g_error_types[5];  // by ErrorKind; owned by the module, which is never unloaded

// edgedet.`name`, also reachable as _core.`name`.
py::object add_exception(py::module_& module, const char* name, const char* doc, const py::object& bases) {
  const std::string qualified = std::string("edgedet.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, bases.ptr(), nullptr);
  if (type == nullptr) {
    throw py::error_already_set();
  }
  auto result = py::reinterpret_steal<py::object>(type);
  module.attr(name) = result;
  return result;
}

void register_exceptions(py::module_& module) {
  const auto base = add_exception(module, "Error", "Base of everything edgedet raises.",
                                  py::reinterpret_borrow<py::object>(PyExc_RuntimeError));
  const auto set = [](ErrorKind kind, py::object type) {
    g_error_types[static_cast<std::size_t>(kind)] = type.release().ptr();
  };
  set(ErrorKind::kInvalidInput,
      add_exception(module, "InvalidInputError", "An argument or an image that the caller passed.",
                    py::make_tuple(base, py::reinterpret_borrow<py::object>(PyExc_ValueError))));
  set(ErrorKind::kBundle,
      add_exception(module, "BundleError", "model.json, a file of the bundle, its sha256, its version.", base));
  set(ErrorKind::kModel, add_exception(module, "ModelError", "The network: shapes, names, NaN in its output.", base));
  set(ErrorKind::kBackend, add_exception(module, "BackendError", "A backend that is unavailable or failed.", base));
  set(ErrorKind::kImage, add_exception(module, "ImageError", "An image file that cannot be decoded.", base));
  // pybind11 gives the pointer by value. NOLINTNEXTLINE(performance-unnecessary-value-param)
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) {
        std::rethrow_exception(pointer);
      }
    } catch (const Error& error) {
      PyErr_SetString(g_error_types[static_cast<std::size_t>(error.kind())], error.what());
    }
  });
}

py::dict to_dict(const ModelSpec& spec) {
  const PreprocessSpec& preprocess = spec.info.preprocess;
  py::dict input;
  input["name"] = spec.input;
  input["width"] = preprocess.width;
  input["height"] = preprocess.height;
  input["resize"] = preprocess.resize == ResizeMode::kStretch ? "stretch" : "letterbox";
  input["filter"] = preprocess.filter == Filter::kBilinear ? "bilinear" : "antialias";
  input["channels"] = preprocess.channels == ChannelOrder::kRgb ? "rgb" : "bgr";
  input["mean"] = preprocess.mean;
  input["std"] = preprocess.std;
  input["pad_value"] = static_cast<int>(preprocess.pad_value);
  py::dict output;
  if (spec.form == OutputForm::kLogitsBoxes) {
    output["form"] = "logits_boxes";
    output["logits"] = spec.logits;
    output["boxes"] = spec.boxes;
  } else {
    output["form"] = "labels_boxes_scores";
    output["labels"] = spec.labels;
    output["boxes"] = spec.boxes;
    output["scores"] = spec.scores;
    if (!spec.size_input.empty()) {
      output["size_input"] = spec.size_input;
    }
  }
  output["top_k"] = spec.info.max_detections;
  py::dict files;
  for (const auto& [name, file] : spec.files) {
    py::dict entry;
    entry["sha256"] = file.sha256;
    entry["bytes"] = file.bytes;
    files[py::str(name)] = entry;
  }
  py::dict licence;
  licence["weights"] = spec.weights_licence;
  licence["data"] = spec.data_licence;
  py::dict result;
  result["format"] = "edgedet.bundle";
  result["version"] = 1;
  result["name"] = spec.info.name;
  result["input"] = input;
  result["output"] = output;
  result["classes"] = spec.info.classes;
  result["category_ids"] = spec.info.category_ids;
  result["models"] = spec.models;
  result["best"] = spec.best;
  result["files"] = files;
  result["licence"] = licence;
  return result;
}

py::list to_list(const std::vector<ModelPort>& ports) {
  py::list result;
  for (const ModelPort& port : ports) {
    py::list shape;
    for (const std::int64_t size : port.shape) {
      shape.append(size == kDynamic ? py::object(py::none()) : py::object(py::int_(size)));
    }
    py::dict entry;
    entry["name"] = port.name;
    entry["shape"] = port.ranked ? py::object(shape) : py::object(py::none());
    entry["dtype"] = port.dtype;
    result.append(entry);
  }
  return result;
}

// One pool for each thread count asked for, kept for the life of the process: starting threads costs more than a frame.
// Never destroyed, because workers may not outlive a fork and could not be joined then; callers do without them.
ThreadPool& kept_pool(int threads) {
  static std::mutex mutex;
  static auto& pools = *new std::map<int, ThreadPool>;
  const std::lock_guard<std::mutex> lock(mutex);
  return pools.try_emplace(threads, threads).first->second;
}

py::array preprocess(const py::object& image, std::int32_t width, std::int32_t height, const std::string& resize,
                     const std::string& filter, const std::string& channels, const std::array<float, 3>& mean,
                     const std::array<float, 3>& std, int pad_value, const std::string& dtype, float scale,
                     const std::string& format, int threads) {
  if (threads < 1 || threads > 1024) {
    refuse("threads: expected 1 to 1024, got " + std::to_string(threads));
  }
  const PreprocessSpec spec = preprocess_spec(width, height, resize, filter, channels, mean, std, pad_value);
  const TensorType type = tensor_type(dtype, scale);
  const ImageView view = image_view(image, pixel_format(format));
  edgedet::validate(view);

  py::array out(py::dtype(dtype), std::vector<py::ssize_t>{3, height, width});
  void* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    thread_local ops::PreprocessWorkspace workspace;
    ops::preprocess_cpu(view, spec, type, data, workspace, threads > 1 ? &kept_pool(threads) : nullptr);
  }
  return out;
}

std::int32_t checked_size(py::ssize_t size, const char* what) {
  constexpr py::ssize_t kMax = 1 << 24;
  if (size > kMax) {
    refuse(std::string(what) + ": expected at most " + std::to_string(kMax) + ", got " + std::to_string(size));
  }
  return static_cast<std::int32_t>(size);
}

py::tuple decode_logits(const FloatArray& logits, const FloatArray& boxes, std::int32_t width, std::int32_t height,
                        std::int32_t image_width, std::int32_t image_height, const std::string& resize,
                        std::int32_t top_k, float score_threshold) {
  if (logits.ndim() != 2 || boxes.ndim() != 2 || boxes.shape(0) != logits.shape(0) || boxes.shape(1) != 4) {
    refuse("expected logits (Q, C) and boxes (Q, 4), got " + std::string(py::str(logits.attr("shape"))) + " and " +
           std::string(py::str(boxes.attr("shape"))));
  }
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::decode_logits_cpu(logits.data(), boxes.data(), checked_size(logits.shape(0), "queries"),
                         checked_size(logits.shape(1), "classes"),
                         geometry_of(width, height, image_width, image_height, resize),
                         decode_options(top_k, score_threshold), workspace, out);
  return to_arrays(out);
}

py::tuple decode_scored(const py::array_t<std::int64_t, py::array::c_style>& labels, const FloatArray& boxes,
                        const FloatArray& scores, std::int32_t classes, std::int32_t width, std::int32_t height,
                        std::int32_t image_width, std::int32_t image_height, const std::string& resize,
                        std::int32_t top_k, float score_threshold) {
  if (labels.ndim() != 1 || scores.ndim() != 1 || boxes.ndim() != 2 || labels.shape(0) != boxes.shape(0) ||
      scores.shape(0) != boxes.shape(0) || boxes.shape(1) != 4) {
    refuse("expected labels (R,), boxes (R, 4) and scores (R,), got " + std::string(py::str(labels.attr("shape"))) +
           ", " + std::string(py::str(boxes.attr("shape"))) + " and " + std::string(py::str(scores.attr("shape"))));
  }
  if (classes < 1) {
    refuse("classes: expected 1 or more, got " + std::to_string(classes));
  }
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::decode_scored_cpu(labels.data(), boxes.data(), scores.data(), checked_size(labels.shape(0), "rows"), classes,
                         geometry_of(width, height, image_width, image_height, resize),
                         decode_options(top_k, score_threshold), workspace, out);
  return to_arrays(out);
}

class PyDetector {
 public:
  PyDetector(const std::string& bundle, const DetectorOptions& options)
      : detector_(bundle, options), spec_(load_model_spec(bundle, FileCheck::kNone)), device_(options.engine.device) {}

  const Detector& detector() const { return detector_; }
  py::dict spec() const { return to_dict(spec_); }

  py::tuple detect(const py::sequence& images, const std::string& format) const {
    // Keeps the arrays alive even if another thread changes the sequence.
    const Images read = read_images(images, format, device_, [this] { return intake(); });
    std::vector<std::vector<Detection>> out;
    StageTimes times;
    {
      const py::gil_scoped_release release;
      detector_.detect(read.views.data(), read.views.size(), out, &times, read.source);
    }
    py::list results;
    for (const auto& detections : out) {
      results.append(to_arrays(detections));
    }
    return py::make_tuple(results, py::make_tuple(times.preprocess, times.inference, times.decode));
  }

  py::tuple detect_tiled(const py::object& image, const std::string& format, const TileOptions& tiles) const {
    const Images read = read_images(py::make_tuple(image), format, device_, [this] { return intake(); });
    std::vector<Detection> out;
    StageTimes times;
    {
      const py::gil_scoped_release release;
      edgedet::detect_tiled(detector_, read.views.front(), tiles, out, &times, read.source);
    }
    return py::make_tuple(to_arrays(out), py::make_tuple(times.preprocess, times.inference, times.decode));
  }

  py::dict infer(const FloatArray& tensor) const {
    const PreprocessSpec input = detector_.info().preprocess;
    if (tensor.ndim() != 4 || tensor.shape(1) != 3 || tensor.shape(2) != input.height ||
        tensor.shape(3) != input.width || tensor.shape(0) < 1) {
      refuse("tensor: expected shape (N, 3, " + std::to_string(input.height) + ", " + std::to_string(input.width) +
             "), got " + std::string(py::str(tensor.attr("shape"))));
    }
    std::vector<Tensor> outputs;
    {
      const py::gil_scoped_release release;
      outputs = detector_.infer(tensor.data(), static_cast<std::size_t>(tensor.shape(0)));
    }
    py::dict result;
    for (const Tensor& output : outputs) {
      py::array_t<float> array(std::vector<py::ssize_t>(output.shape.begin(), output.shape.end()));
      std::copy(output.values.begin(), output.values.end(), array.mutable_data());
      result[py::str(output.name)] = array;
    }
    return result;
  }

  PartTimes time_parts(const py::sequence& images, const std::string& format, int calls) const {
    const PixelFormat pixels = pixel_format(format);
    std::vector<py::object> owners;
    std::vector<ImageView> views;
    for (const py::handle image : images) {
      owners.push_back(py::reinterpret_borrow<py::object>(image));
      views.push_back(image_view(image, pixels));
    }
    const py::gil_scoped_release release;
    return detector_.time_parts(views.data(), views.size(), calls);
  }

  py::list execution_graph() const {
    py::list nodes;
    for (const ExecutionNode& node : detector_.execution_graph()) {
      py::dict entry;
      entry["name"] = node.name;
      entry["type"] = node.type;
      entry["primitive"] = node.primitive;
      entry["precision"] = node.precision;
      entry["original"] = node.original;
      nodes.append(entry);
    }
    return nodes;
  }

 private:
  // The stream on which images in device memory are awaited. Held under the GIL.
  void* intake() const {
    if (detector_.gpu().empty()) {
      refuse("images: expected host memory, which is what " + detector_.backend() +
             " reads, got a device's; copy them to the host, or choose the backend tensorrt");
    }
    if (!intake_) {
      intake_ = frame::make_stream(device_);
    }
    return intake_.get();
  }

  Detector detector_;
  ModelSpec spec_;
  int device_;
  mutable std::shared_ptr<void> intake_;
};

std::unique_ptr<PyDetector> make_detector(const std::string& bundle, const std::string& backend,
                                          const std::string& precision, const std::string& mode, int threads,
                                          int requests, float score_threshold, int max_detections,
                                          const std::string& cache_dir, const EngineOptions& engine) {
  DetectorOptions options = detector_options(backend, precision, mode, cache_dir, engine);
  options.threads = threads;
  options.requests = requests;
  options.score_threshold = score_threshold;
  options.max_detections = max_detections;
  const py::gil_scoped_release release;
  return std::make_unique<PyDetector>(bundle, options);
}

}  // namespace
}  // namespace edgedet

PYBIND11_MODULE(_core, module) {
  using namespace edgedet;  // NOLINT(google-build-using-namespace): the body of the module is edgedet's
  module.doc() = "The compiled module of edgedet.";
  module.attr("__version__") = build::kVersion;
  register_exceptions(module);
  bind_engines(module);
  bind_measure(module);
  bind_tiles(module);

  py::class_<PyDetector>(module, "Detector")
      .def(py::init(&make_detector), py::arg("bundle"), py::kw_only(), py::arg("backend") = "auto",
           py::arg("precision") = "auto", py::arg("mode") = "latency", py::arg("threads") = 0, py::arg("requests") = 0,
           py::arg("score_threshold") = 0.F, py::arg("max_detections") = 0, py::arg("cache_dir") = "",
           py::arg("engine") = EngineOptions())
      .def_property_readonly("backend", [](const PyDetector& self) { return self.detector().backend(); })
      .def_property_readonly("precision", [](const PyDetector& self) { return self.detector().precision(); })
      .def_property_readonly("device", [](const PyDetector& self) { return self.detector().device(); })
      .def_property_readonly("threads", [](const PyDetector& self) { return self.detector().threads(); })
      .def_property_readonly("requests", [](const PyDetector& self) { return self.detector().requests(); })
      .def_property_readonly("engine",
                             [](const PyDetector& self) { return to_dict(self.detector().running()->engine); })
      .def_property_readonly("spec", &PyDetector::spec)
      .def("detect", &PyDetector::detect, py::arg("images"), py::arg("format") = "rgb")
      .def("detect_tiled", &PyDetector::detect_tiled, py::arg("image"), py::arg("format"), py::arg("tiles"))
      .def_property_readonly("gpu", [](const PyDetector& self) { return self.detector().gpu(); })
      .def("time_parts", &PyDetector::time_parts, py::arg("images"), py::arg("format"), py::arg("calls"))
      .def(
          "bench_report",
          [](const PyDetector& self, const BenchRun& measured) {
            BenchReport report = bench_report(self.detector(), measured);
            return py::make_tuple(std::move(report.json), std::move(report.text));
          },
          py::arg("measured"))
      .def("infer", &PyDetector::infer, py::arg("tensor").noconvert())
      .def("execution_graph", &PyDetector::execution_graph);

  const std::array<float, 3> zeros{0.F, 0.F, 0.F};
  const std::array<float, 3> ones{1.F, 1.F, 1.F};
  module.def("preprocess", &preprocess, py::arg("image"), py::kw_only(), py::arg("width"), py::arg("height"),
             py::arg("resize") = "stretch", py::arg("filter") = "bilinear", py::arg("channels") = "rgb",
             py::arg("mean") = zeros, py::arg("std") = ones, py::arg("pad_value") = 114, py::arg("dtype") = "float32",
             py::arg("scale") = 1.F, py::arg("format") = "rgb", py::arg("threads") = 1);
  module.def("decode_logits", &decode_logits, py::arg("logits").noconvert(), py::arg("boxes").noconvert(),
             py::kw_only(), py::arg("width"), py::arg("height"), py::arg("image_width"), py::arg("image_height"),
             py::arg("resize") = "stretch", py::arg("top_k") = 300, py::arg("score_threshold") = 0.F);
  module.def("decode_scored", &decode_scored, py::arg("labels").noconvert(), py::arg("boxes").noconvert(),
             py::arg("scores").noconvert(), py::kw_only(), py::arg("classes"), py::arg("width"), py::arg("height"),
             py::arg("image_width"), py::arg("image_height"), py::arg("resize") = "stretch", py::arg("top_k") = 300,
             py::arg("score_threshold") = 0.F);
  bind_cuda(module);
  module.def(
      "load_spec", [](const std::string& bundle) { return to_dict(load_model_spec(bundle)); }, py::arg("bundle"));
  module.def(
      "inspect_onnx",
      [](const std::string& path) {
        const ModelPorts ports = inspect_onnx(path);
        py::dict result;
        result["inputs"] = to_list(ports.inputs);
        result["outputs"] = to_list(ports.outputs);
        return result;
      },
      py::arg("path"));
  module.def("backends", [] {
    py::list result;
    for (const BackendInfo& info : backends()) {
      py::dict entry;
      entry["name"] = info.name;
      entry["available"] = info.available;
      entry["detail"] = info.detail;
      entry["precisions"] = info.precisions;
      result.append(entry);
    }
    return result;
  });
  module.def("build_info", [] {
    py::dict info;
    info["version"] = build::kVersion;
    info["compiler"] = build::kCompiler;
    info["build_type"] = build::kBuildType;
    info["openvino"] = build::kOpenvino;
    info["cuda"] = build::kCuda;
    info["tensorrt"] = build::kTensorrt;
    info["jpeg"] = build::kJpeg;
    info["png"] = build::kPng;
    return info;
  });
}
