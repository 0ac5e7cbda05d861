#include "bindings/cuda.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/stl.h>

#include "bindings/arrays.h"
#include "bindings/device_array.h"
#include "frame/device.h"
#include "frame/frame_path.h"
#include "frame/operators.h"

namespace py = pybind11;

namespace edgedet {

namespace {

const char* type_string(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "<f4";
    case DType::kFloat16:
      return "<f2";
    case DType::kInt8:
      break;
  }
  return "|i1";
}

// Device memory of ours, for other libraries.
struct DeviceView {
  std::uintptr_t data;
  std::vector<py::ssize_t> shape;
  std::string type;

  py::dict interface() const {
    py::dict result;
    result["shape"] = py::tuple(py::cast(shape));
    result["typestr"] = type;
    result["data"] = py::make_tuple(data, false);
    result["version"] = 3;
    result["strides"] = py::none();
    result["stream"] = py::none();  // the network is queued on the stream that it is given
    return result;
  }
};

// A Python callable as a network. It may be dropped by a thread that does not hold the GIL.
frame::EnqueueNetwork python_network(const py::object& callable, const frame::NetworkSpec& spec) {
  if (callable.is_none()) {
    return nullptr;
  }
  const std::shared_ptr<py::object> held(new py::object(callable), [](py::object* object) {
    const py::gil_scoped_acquire acquire;
    delete object;
  });
  return [held, spec](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
    const py::gil_scoped_acquire acquire;
    const auto count = static_cast<py::ssize_t>(batch);
    const PreprocessSpec& input = spec.preprocess;
    py::dict views;
    const auto add = [&views](const char* name, void* data, std::vector<py::ssize_t> shape, const char* type) {
      if (data != nullptr) {
        views[name] = DeviceView{reinterpret_cast<std::uintptr_t>(data), std::move(shape), type};
      }
    };
    add("input", buffers.input, {count, 3, input.height, input.width}, type_string(spec.input.dtype));
    add("logits", buffers.logits, {count, spec.rows, spec.classes}, type_string(spec.output));
    add("boxes", buffers.boxes, {count, spec.rows, 4}, type_string(spec.output));
    add("labels", buffers.labels, {count, spec.rows}, spec.wide_labels ? "<i8" : "<i4");
    add("scores", buffers.scores, {count, spec.rows}, type_string(spec.output));
    (*held)(views, count, reinterpret_cast<std::uintptr_t>(stream));
  };
}

frame::NetworkSpec network_spec(const PreprocessSpec& preprocess, TensorType input, const std::string& head,
                                std::int32_t rows, std::int32_t classes, const std::string& output_dtype,
                                const std::string& label_dtype) {
  frame::NetworkSpec spec;
  spec.preprocess = preprocess;
  spec.input = input;
  spec.form = choose<frame::HeadForm>("head", head,
                                      {{"logits", frame::HeadForm::kLogits}, {"scored", frame::HeadForm::kScored}});
  spec.rows = rows;
  spec.classes = classes;
  spec.output =
      choose<DType>("output_dtype", output_dtype, {{"float32", DType::kFloat32}, {"float16", DType::kFloat16}});
  spec.wide_labels = choose<bool>("label_dtype", label_dtype, {{"int64", true}, {"int32", false}});
  if (rows < 1 || classes < 1) {
    refuse("rows, classes: expected 1 or more, got " + std::to_string(rows) + " and " + std::to_string(classes));
  }
  return spec;
}

py::list to_list(const std::vector<std::vector<Detection>>& results) {
  py::list list;
  for (const auto& detections : results) {
    list.append(to_arrays(detections));
  }
  return list;
}

class PyTicket {
 public:
  PyTicket(frame::FramePool::Ticket ticket, std::vector<py::object> owners)
      : ticket_(std::move(ticket)), owners_(std::move(owners)) {}
  PyTicket(PyTicket&&) = default;
  PyTicket& operator=(PyTicket&&) = default;

  // The device may still read the images of a frame that nobody waited for. Neither part of this throws.
  ~PyTicket() {  // NOLINT(bugprone-exception-escape)
    const py::gil_scoped_release release;
    ticket_ = {};
  }

  bool done() const { return ticket_.done(); }

  py::list result() {
    std::vector<std::vector<Detection>> out(ticket_.images());
    {
      const py::gil_scoped_release release;
      ticket_.wait(out.data());
    }
    owners_.clear();
    return to_list(out);
  }

 private:
  frame::FramePool::Ticket ticket_;
  std::vector<py::object> owners_;
};

class PyFramePool {
 public:
  PyFramePool(const py::object& network, const frame::NetworkSpec& spec, const frame::FrameOptions& options, int paths)
      : device_(options.device) {
    if (paths < 1) {
      refuse("paths: expected 1 or more, got " + std::to_string(paths));
    }
    frame::EnqueueNetwork enqueue = python_network(network, spec);
    const py::gil_scoped_release release;
    intake_ = frame::make_stream(options.device);
    pool_ = std::make_unique<frame::FramePool>(
        spec, [&enqueue]() -> frame::EnqueueNetwork { return enqueue; }, options, static_cast<std::size_t>(paths));
  }

  PyTicket submit(const py::sequence& images, const std::string& format, double timeout) {
    Images read = read_images(images, format, device_, [this] { return intake_.get(); });
    frame::FramePool::Ticket ticket;
    {
      const py::gil_scoped_release release;
      ticket = pool_->submit(read.views.data(), read.views.size(), read.source, timeout);
    }
    return {std::move(ticket), std::move(read.owners)};
  }

  py::dict memory() const {
    const frame::FrameMemory memory = pool_->memory();
    py::dict result;
    result["device"] = memory.device;
    result["pinned"] = memory.pinned;
    return result;
  }

 private:
  int device_;
  std::shared_ptr<void> intake_;
  std::unique_ptr<frame::FramePool> pool_;
};

std::unique_ptr<PyFramePool> make_pool(const py::object& network, std::int32_t width, std::int32_t height,
                                       const std::string& resize, const std::string& filter,
                                       const std::string& channels, const std::array<float, 3>& mean,
                                       const std::array<float, 3>& std, int pad_value, const std::string& input_dtype,
                                       float input_scale, const std::string& head, std::int32_t rows,
                                       std::int32_t classes, const std::string& output_dtype,
                                       const std::string& label_dtype, std::int32_t top_k, float score_threshold,
                                       int paths, std::size_t max_batch, std::int32_t max_width,
                                       std::int32_t max_height, bool graph, std::size_t memory_limit, int device) {
  const frame::NetworkSpec spec =
      network_spec(preprocess_spec(width, height, resize, filter, channels, mean, std, pad_value),
                   tensor_type(input_dtype, input_scale), head, rows, classes, output_dtype, label_dtype);
  frame::FrameOptions options;
  options.device = device;
  options.max_batch = max_batch;
  options.max_width = max_width;
  options.max_height = max_height;
  options.decode = decode_options(top_k, score_threshold);
  options.graph = graph;
  options.memory_limit = memory_limit;
  return std::make_unique<PyFramePool>(network, spec, options, paths);
}

// A tensor of another library that a kernel of ours writes or reads. Throws Error(kInvalidInput) on another size.
void* tensor_memory(const py::handle& object, const char* what, const char* type, const std::vector<py::ssize_t>& shape,
                    int device) {
  if (!py::hasattr(object, "__cuda_array_interface__")) {
    refuse(std::string(what) + ": expected an array with __cuda_array_interface__, got " +
           std::string(py::str(py::type::of(object))));
  }
  const auto interface = py::cast<py::dict>(object.attr("__cuda_array_interface__"));
  const auto found = py::cast<std::vector<py::ssize_t>>(interface["shape"]);
  const auto found_type = py::cast<std::string>(interface["typestr"]);
  const bool contiguous = !interface.contains("strides") || interface["strides"].is_none();
  if (found != shape || found_type != type || !contiguous) {
    refuse(std::string(what) + ": expected a contiguous array of type " + type + " and shape " +
           std::string(py::str(py::tuple(py::cast(shape)))) + ", got " + std::string(py::repr(interface)));
  }
  void* data = to_pointer(py::cast<std::uintptr_t>(py::cast<py::tuple>(interface["data"])[0]));
  frame::check_readable(data, device, what);
  return data;
}

class PyPreprocessor {
 public:
  PyPreprocessor(const PreprocessSpec& spec, TensorType type, std::size_t max_batch, std::int32_t max_width,
                 std::int32_t max_height, int device)
      : spec_(spec), type_(type), device_(device), operation_(spec, type, device, max_batch, max_width, max_height) {}

  void run(const py::sequence& images, const py::object& out, const std::string& format, std::uintptr_t stream) {
    const Images read = read_images(images, format, device_, [stream] { return to_pointer(stream); });
    for (const ImageView& view : read.views) {
      frame::check_readable(view.data, device_, "image");
    }
    void* const data =
        tensor_memory(out, "out", type_string(type_.dtype),
                      {static_cast<py::ssize_t>(read.views.size()), 3, spec_.height, spec_.width}, device_);
    operation_.run(read.views.data(), read.views.size(), read.source, data, to_pointer(stream));
  }

 private:
  PreprocessSpec spec_;
  TensorType type_;
  int device_;
  frame::Preprocessor operation_;
};

class PyDecoder {
 public:
  PyDecoder(const frame::NetworkSpec& spec, const ops::DecodeOptions& options, std::size_t max_batch, int device)
      : spec_(spec), top_k_(options.top_k), device_(device), operation_(spec, options, device, max_batch) {}

  py::ssize_t result_bytes() const { return static_cast<py::ssize_t>(ops::result_bytes(top_k_)); }

  void run(const py::dict& outputs, const std::vector<std::pair<std::int32_t, std::int32_t>>& sizes,
           const py::object& results, std::uintptr_t stream) {
    const auto count = static_cast<py::ssize_t>(sizes.size());
    const auto part = [&](const char* name, const char* type, std::vector<py::ssize_t> shape) -> void* {
      shape.insert(shape.begin(), count);
      if (!outputs.contains(name)) {
        refuse(std::string("outputs: expected \"") + name + "\", got " +
               std::string(py::str(py::list(outputs.attr("keys")()))));
      }
      return tensor_memory(outputs[name], name, type, shape, device_);
    };
    const char* const type = type_string(spec_.output);
    frame::NetworkBuffers buffers;
    buffers.boxes = part("boxes", type, {spec_.rows, 4});
    if (spec_.form == frame::HeadForm::kLogits) {
      buffers.logits = part("logits", type, {spec_.rows, spec_.classes});
    } else {
      buffers.labels = part("labels", spec_.wide_labels ? "<i8" : "<i4", {spec_.rows});
      buffers.scores = part("scores", type, {spec_.rows});
    }
    std::vector<Geometry> geometries;
    for (const auto& [width, height] : sizes) {
      if (width < 1 || height < 1) {
        refuse("sizes: expected (width, height) of 1 or more pixels, got (" + std::to_string(width) + ", " +
               std::to_string(height) + ")");
      }
      geometries.push_back(
          make_geometry(width, height, spec_.preprocess.width, spec_.preprocess.height, spec_.preprocess.resize));
    }
    void* const data = tensor_memory(results, "results", "|u1", {count, result_bytes()}, device_);
    operation_.run(buffers, geometries.data(), geometries.size(), data, to_pointer(stream));
  }

  py::list read(const py::array_t<std::uint8_t, py::array::c_style>& results) const {
    if (results.ndim() != 2 || results.shape(1) != result_bytes()) {
      refuse("results: expected uint8 of shape (N, " + std::to_string(result_bytes()) + "), got " +
             std::string(py::str(results.attr("shape"))));
    }
    std::vector<std::vector<Detection>> out(static_cast<std::size_t>(results.shape(0)));
    for (std::size_t i = 0; i < out.size(); ++i) {
      ops::DecodeStatus status;
      memcpy(&status, results.data(static_cast<py::ssize_t>(i), 0), sizeof(status));
      if (status.count < 0 || status.count > top_k_) {
        refuse("results: expected what run() wrote, got a count of " + std::to_string(status.count));
      }
      ops::read_result(results.data(static_cast<py::ssize_t>(i), 0), out[i]);
    }
    return to_list(out);
  }

 private:
  frame::NetworkSpec spec_;
  std::int32_t top_k_;
  int device_;
  frame::Decoder operation_;
};

}  // namespace

void bind_cuda(py::module_& module) {
  const std::array<float, 3> zeros{0.F, 0.F, 0.F};
  const std::array<float, 3> ones{1.F, 1.F, 1.F};

  py::class_<DeviceView>(module, "DeviceView")
      .def_property_readonly("__cuda_array_interface__", &DeviceView::interface)
      .def_property_readonly("shape", [](const DeviceView& self) { return py::tuple(py::cast(self.shape)); })
      .def_property_readonly("pointer", [](const DeviceView& self) { return self.data; });

  py::class_<PyTicket>(module, "FrameTicket").def("done", &PyTicket::done).def("result", &PyTicket::result);

  py::class_<PyFramePool>(module, "FramePool")
      .def(py::init(&make_pool), py::arg("network"), py::kw_only(), py::arg("width"), py::arg("height"),
           py::arg("resize") = "stretch", py::arg("filter") = "bilinear", py::arg("channels") = "rgb",
           py::arg("mean") = zeros, py::arg("std") = ones, py::arg("pad_value") = 114,
           py::arg("input_dtype") = "float32", py::arg("input_scale") = 1.F, py::arg("head") = "logits",
           py::arg("rows") = 300, py::arg("classes") = 80, py::arg("output_dtype") = "float32",
           py::arg("label_dtype") = "int64", py::arg("top_k") = 300, py::arg("score_threshold") = 0.F,
           py::arg("paths") = 1, py::arg("max_batch") = 1, py::arg("max_width") = 3840, py::arg("max_height") = 2160,
           py::arg("graph") = true, py::arg("memory_limit") = 0, py::arg("device") = 0)
      .def("submit", &PyFramePool::submit, py::arg("images"), py::arg("format") = "rgb", py::arg("timeout") = 0.0)
      .def_property_readonly("memory", &PyFramePool::memory);

  py::class_<PyPreprocessor>(module, "CudaPreprocessor")
      .def(py::init([](std::int32_t width, std::int32_t height, const std::string& resize, const std::string& filter,
                       const std::string& channels, const std::array<float, 3>& mean, const std::array<float, 3>& std,
                       int pad_value, const std::string& dtype, float scale, std::size_t max_batch,
                       std::int32_t max_width, std::int32_t max_height, int device) {
             return std::make_unique<PyPreprocessor>(
                 preprocess_spec(width, height, resize, filter, channels, mean, std, pad_value),
                 tensor_type(dtype, scale), max_batch, max_width, max_height, device);
           }),
           py::kw_only(), py::arg("width"), py::arg("height"), py::arg("resize") = "stretch",
           py::arg("filter") = "bilinear", py::arg("channels") = "rgb", py::arg("mean") = zeros, py::arg("std") = ones,
           py::arg("pad_value") = 114, py::arg("dtype") = "float32", py::arg("scale") = 1.F, py::arg("max_batch") = 1,
           py::arg("max_width") = 3840, py::arg("max_height") = 2160, py::arg("device") = 0)
      .def("run", &PyPreprocessor::run, py::arg("images"), py::arg("out"), py::kw_only(), py::arg("format") = "rgb",
           py::arg("stream") = 0);

  py::class_<PyDecoder>(module, "CudaDecoder")
      .def(
          py::init([](std::int32_t width, std::int32_t height, const std::string& resize, const std::string& head,
                      std::int32_t rows, std::int32_t classes, const std::string& dtype, const std::string& label_dtype,
                      std::int32_t top_k, float score_threshold, std::size_t max_batch, int device) {
            const PreprocessSpec preprocess =
                preprocess_spec(width, height, resize, "bilinear", "rgb", {0.F, 0.F, 0.F}, {1.F, 1.F, 1.F}, 0);
            return std::make_unique<PyDecoder>(network_spec(preprocess, {}, head, rows, classes, dtype, label_dtype),
                                               decode_options(top_k, score_threshold), max_batch, device);
          }),
          py::kw_only(), py::arg("width"), py::arg("height"), py::arg("resize") = "stretch", py::arg("head") = "logits",
          py::arg("rows") = 300, py::arg("classes") = 80, py::arg("dtype") = "float32",
          py::arg("label_dtype") = "int64", py::arg("top_k") = 300, py::arg("score_threshold") = 0.F,
          py::arg("max_batch") = 1, py::arg("device") = 0)
      .def_property_readonly("result_bytes", &PyDecoder::result_bytes)
      .def("run", &PyDecoder::run, py::arg("outputs"), py::arg("sizes"), py::arg("results"), py::kw_only(),
           py::arg("stream") = 0)
      .def("read", &PyDecoder::read, py::arg("results").noconvert());

  module.def("cuda_devices", [] {
    std::string reason;
    py::list list;
    for (const frame::DeviceInfo& info : frame::devices(&reason)) {
      py::dict entry;
      entry["index"] = info.index;
      entry["name"] = info.name;
      entry["compute_capability"] = py::make_tuple(info.major, info.minor);
      entry["multiprocessors"] = info.multiprocessors;
      entry["integrated"] = info.integrated;
      entry["free_bytes"] = info.free_bytes;
      entry["total_bytes"] = info.total_bytes;
      list.append(entry);
    }
    return py::make_tuple(list, reason);
  });
  module.def("cuda_versions", [] { return py::make_tuple(frame::driver_version(), frame::runtime_version()); });
}

}  // namespace edgedet
