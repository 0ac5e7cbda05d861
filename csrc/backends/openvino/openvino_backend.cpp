#include "backends/openvino/openvino_backend.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>

#include <openvino/frontend/manager.hpp>
#include <openvino/openvino.hpp>

#include "common/affinity.h"
#include "common/thread_pool.h"
#include "kernels/ops.h"
#include "runtime/engine_cache.h"

namespace edgedet {
namespace openvino {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

// OpenVINO's own exceptions stop here: they become Error(kind) with `what` in front. Our own pass through.
// `what` is a string or a literal; a literal costs nothing unless it is needed.
template <typename Text, typename Function>
auto guarded(ErrorKind kind, const Text& what, Function&& function) {
  try {
    return std::forward<Function>(function)();
  } catch (const Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(kind, std::string(what) + ": OpenVINO says: " + error.what());
  }
}

// One per process, never destroyed: its plugins must not be unloaded before the last static that uses them.
ov::Core& core() {
  static auto* instance = new ov::Core;
  return *instance;
}

// Only ONNX: Core::read_model would try every format OpenVINO knows, some of which print when they fail.
std::shared_ptr<ov::Model> read_onnx(const std::string& path) {
  static std::mutex mutex;
  static auto* formats = new ov::frontend::FrontEndManager;
  const std::lock_guard<std::mutex> lock(mutex);
  const ov::frontend::FrontEnd::Ptr onnx = formats->load_by_framework("onnx");
  std::shared_ptr<ov::Model> model = onnx->convert(onnx->load(path));
  if (model->outputs().empty()) {
    throw Error(ErrorKind::kModel, path + ": expected an ONNX network, got a file that holds none");
  }
  return model;
}

std::string numpy_name(const ov::element::Type& type) {
  switch (type) {
    case ov::element::f64:
      return "float64";
    case ov::element::f32:
      return "float32";
    case ov::element::f16:
      return "float16";
    case ov::element::i64:
      return "int64";
    case ov::element::i32:
      return "int32";
    case ov::element::i16:
      return "int16";
    case ov::element::i8:
      return "int8";
    case ov::element::u64:
      return "uint64";
    case ov::element::u32:
      return "uint32";
    case ov::element::u16:
      return "uint16";
    case ov::element::u8:
      return "uint8";
    case ov::element::boolean:
      return "bool";
    default:
      return type.get_type_name();
  }
}

std::string port_name(const ov::Output<const ov::Node>& port) {
  return port.get_names().empty() ? port.get_node()->get_friendly_name() : port.get_any_name();
}

std::string list_names(const std::vector<ov::Output<ov::Node>>& ports) {
  std::string names;
  for (const auto& port : ports) {
    names += (names.empty() ? "" : ", ") + port_name(port);
  }
  return names.empty() ? "none" : names;
}

// Everything one image needs on its way through, made once.
struct Request {
  ov::InferRequest infer;
  float* input = nullptr;                // (1, 3, height, width)
  const float* logits = nullptr;         // (1, Q, C)
  const std::int64_t* labels = nullptr;  // (1, R)
  const float* boxes = nullptr;          // (1, Q or R, 4)
  const float* scores = nullptr;         // (1, R)
  ops::PreprocessWorkspace preprocess;
  ops::DecodeWorkspace decode;
  Geometry geometry;
  std::size_t image = 0;    // index in the detect call under way
  Request* next = nullptr;  // in the list of free requests, or of those a detect call has in flight
};

// Requests that are not in use. Who waits longest gets the next one: it is handed over, so that a call which comes at
// that moment, or comes again and again, does not get in before.
class FreeList {
 public:
  void add(Request& request) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (longest_ == nullptr) {
      request.next = first_;
      first_ = &request;
      return;
    }
    Waiter& waiter = *std::exchange(longest_, longest_->next);
    waiter.request = &request;
    waiter.given.notify_one();  // under the lock: the waiter is gone as soon as it has that
  }

  // Waits for one.
  Request& take() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (first_ != nullptr) {
      return *std::exchange(first_, first_->next);
    }
    Waiter self;
    (longest_ == nullptr ? longest_ : latest_->next) = &self;
    latest_ = &self;
    self.given.wait(lock, [&] { return self.request != nullptr; });
    return *self.request;
  }

  // Null if there is none now, or others wait for one.
  Request* try_take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return first_ == nullptr ? nullptr : std::exchange(first_, first_->next);
  }

 private:
  struct Waiter {
    std::condition_variable given;
    Request* request = nullptr;
    Waiter* next = nullptr;
  };

  std::mutex mutex_;
  Request* first_ = nullptr;   // free ones; none while somebody waits
  Waiter* longest_ = nullptr;  // calls that wait, in their order
  Waiter* latest_ = nullptr;
};

// The requests one detect call holds, oldest first. Whatever happens they are waited for and given back.
class InFlight {
 public:
  explicit InFlight(FreeList& free) : free_(free) {}
  ~InFlight() {
    for (; first_ != nullptr; pop()) {
      try {
        first_->infer.wait();
      } catch (const std::exception&) {
        continue;  // the call already fails with its first error; the request only has to be idle
      }
    }
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  bool empty() const { return first_ == nullptr; }
  Request& oldest() { return *first_; }

  void push(Request& request) {
    request.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &request;
    last_ = &request;
  }

  void pop() {
    Request& request = *std::exchange(first_, first_->next);
    free_.add(request);
  }

 private:
  FreeList& free_;
  Request* first_ = nullptr;
  Request* last_ = nullptr;
};

class OpenvinoBackend final : public Backend {
 public:
  OpenvinoBackend(const ModelSpec& spec, const std::string& path, const DetectorOptions& options)
      : preprocess_(spec.info.preprocess),
        form_(spec.form),
        outputs_(spec.form == OutputForm::kLogitsBoxes
                     ? std::vector<std::string>{spec.logits, spec.boxes}
                     : std::vector<std::string>{spec.labels, spec.boxes, spec.scores}),
        classes_(static_cast<std::int32_t>(spec.info.classes.size())) {
    decode_.top_k = options.max_detections;
    decode_.score_threshold = options.score_threshold;
    compiled_ = options.cache_dir.empty() ? read_and_compile(spec, path, options) : load(spec, path, options);
    guarded(ErrorKind::kBackend, path, [&] { make_requests(spec, options); });
  }

  void detect(const ImageView* images, std::size_t count, const ImageSource& source, std::vector<Detection>* out,
              StageTimes& times) override {
    if (source.memory != ImageSource::Memory::kHost) {
      throw Error(ErrorKind::kInvalidInput,
                  "images: expected host memory, which is what OpenVINO reads, got a device's; copy them to the host, "
                  "or choose the backend tensorrt");
    }
    const auto begin = Clock::now();
    Clock::duration preprocessing{};
    Clock::duration decoding{};
    InFlight flying(free_);

    const auto finish = [&] {
      Request& request = flying.oldest();
      guarded(ErrorKind::kBackend, "inference failed", [&] { request.infer.wait(); });
      const auto start = Clock::now();
      decode(request, out[request.image]);
      decoding += Clock::now() - start;
      flying.pop();
    };

    for (std::size_t i = 0; i < count; ++i) {
      // A call that holds requests never waits for another call's: it finishes its own oldest first.
      Request* request = flying.empty() ? &free_.take() : free_.try_take();
      while (request == nullptr) {
        finish();
        request = flying.empty() ? &free_.take() : free_.try_take();
      }
      flying.push(*request);
      request->image = i;
      const auto start = Clock::now();
      request->geometry = ops::preprocess_cpu(images[i], preprocess_, {DType::kFloat32}, request->input,
                                              request->preprocess, pool_.get());
      preprocessing += Clock::now() - start;
      guarded(ErrorKind::kBackend, "inference failed", [&] { request->infer.start_async(); });
    }
    while (!flying.empty()) {
      finish();
    }
    times.preprocess = milliseconds(preprocessing);
    times.decode = milliseconds(decoding);
    times.inference = milliseconds(Clock::now() - begin) - times.preprocess - times.decode;
  }

  std::vector<Tensor> infer(const float* input, std::size_t batch) override {
    const std::size_t pixels =
        std::size_t{3} * static_cast<std::size_t>(preprocess_.width) * static_cast<std::size_t>(preprocess_.height);
    std::vector<Tensor> tensors;
    InFlight flying(free_);
    flying.push(free_.take());
    Request& request = flying.oldest();
    for (std::size_t i = 0; i < batch; ++i) {
      std::memcpy(request.input, input + i * pixels, pixels * sizeof(float));
      guarded(ErrorKind::kBackend, "inference failed", [&] { request.infer.infer(); });
      for (std::size_t o = 0; o < outputs_.size(); ++o) {
        const ov::Tensor output = request.infer.get_tensor(outputs_[o]);
        if (i == 0) {
          Tensor tensor;
          tensor.name = outputs_[o];
          tensor.shape.assign(output.get_shape().begin(), output.get_shape().end());
          tensor.shape.at(0) = static_cast<std::int64_t>(batch);
          tensor.values.reserve(batch * output.get_size());
          tensors.push_back(std::move(tensor));
        }
        append(output, tensors[o].values);
      }
    }
    return tensors;
  }

  PartTimes time_parts(const ImageView* images, std::size_t count, int calls) override {
    InFlight flying(free_);
    std::vector<Request*> held;
    while (held.size() < count) {
      Request* const request = held.empty() ? &free_.take() : free_.try_take();
      if (request == nullptr) {
        break;
      }
      flying.push(*request);
      ops::preprocess_cpu(images[held.size()], preprocess_, {DType::kFloat32}, request->input, request->preprocess,
                          pool_.get());
      held.push_back(request);
    }
    PartTimes times;
    for (int call = -1; call < calls; ++call) {
      const auto begin = Clock::now();
      guarded(ErrorKind::kBackend, "inference failed", [&] {
        for (std::size_t i = 0; i < count + held.size(); ++i) {
          Request& request = *held[i % held.size()];
          if (i >= held.size()) {
            request.infer.wait();
          }
          if (i < count) {
            request.infer.start_async();
          }
        }
      });
      if (call >= 0) {  // the first warms up
        times.network.push_back(milliseconds(Clock::now() - begin));
      }
    }
    return times;
  }

  std::vector<ExecutionNode> execution_graph() const override {
    return guarded(ErrorKind::kBackend, "cannot read the execution graph", [&] {
      std::vector<ExecutionNode> nodes;
      for (const auto& op : compiled_.get_runtime_model()->get_ordered_ops()) {
        const ov::RTMap& facts = op->get_rt_info();
        const auto fact = [&facts](const char* key) {
          const auto found = facts.find(key);
          return found == facts.end() ? std::string() : found->second.as<std::string>();
        };
        nodes.push_back({op->get_friendly_name(), fact("layerType"), fact("primitiveType"), fact("runtimePrecision"),
                         fact("originalLayersNames")});
      }
      return nodes;
    });
  }

  std::string device() const override {
    return guarded(ErrorKind::kBackend, "cannot read the name of the device", [] {
      return core().get_property("CPU", ov::device::full_name) + ", OpenVINO " + ov::get_openvino_version().buildNumber;
    });
  }

  int threads() const noexcept override { return threads_; }
  int requests() const noexcept override { return static_cast<int>(requests_.size()); }

 private:
  // The port called `name`, or an error that lists those there are.
  static ov::Output<ov::Node> find(const std::vector<ov::Output<ov::Node>>& ports, const std::string& name,
                                   const std::string& what, const std::string& path) {
    for (const auto& port : ports) {
      if (port.get_names().count(name) != 0) {
        return port;
      }
    }
    throw Error(ErrorKind::kModel,
                path + ": expected an " + what + " named \"" + name + "\" as in model.json, got: " + list_names(ports));
  }

  static void expect_shape(const ov::Output<ov::Node>& port, const ov::PartialShape& expected,
                           const std::string& path) {
    const ov::PartialShape& shape = port.get_partial_shape();
    if (!shape.compatible(expected)) {
      throw Error(ErrorKind::kModel, path + ": expected \"" + port_name(port) + "\" of shape " + expected.to_string() +
                                         " as in model.json, got " + shape.to_string());
    }
  }

  // Fixes every shape for one image and checks names and shapes of inputs and outputs.
  void prepare(ov::Model& model, const ModelSpec& spec, const std::string& path) const {
    const ov::PartialShape image{1, 3, preprocess_.height, preprocess_.width};
    std::map<ov::Output<ov::Node>, ov::PartialShape> shapes;
    const auto input = find(model.inputs(), spec.input, "input", path);
    expect_shape(input, image, path);
    shapes[input] = image;
    if (!spec.size_input.empty()) {
      const auto size = find(model.inputs(), spec.size_input, "input", path);
      expect_shape(size, {1, 2}, path);
      shapes[size] = {1, 2};
    }
    for (const auto& port : model.inputs()) {
      if (shapes.count(port) == 0) {
        throw Error(ErrorKind::kModel, path + ": input \"" + port_name(port) + "\" is not named in model.json");
      }
    }
    model.reshape(shapes);

    const ov::Dimension any = ov::Dimension::dynamic();
    const auto boxes = find(model.outputs(), spec.boxes, "output", path);
    expect_shape(boxes, {1, any, 4}, path);
    if (boxes.get_partial_shape().is_dynamic()) {
      throw Error(ErrorKind::kModel, path + ": \"" + spec.boxes + "\" has a shape that depends on the image, " +
                                         boxes.get_partial_shape().to_string() + "; export a fixed number of rows");
    }
    const ov::Dimension rows = boxes.get_partial_shape()[1];
    if (form_ == OutputForm::kLogitsBoxes) {
      expect_shape(find(model.outputs(), spec.logits, "output", path), {1, rows, classes_}, path);
    } else {
      expect_shape(find(model.outputs(), spec.labels, "output", path), {1, rows}, path);
      expect_shape(find(model.outputs(), spec.scores, "output", path), {1, rows}, path);
    }
  }

  // The same network with float32 and int64 at its ports, whatever the file has inside.
  static std::shared_ptr<ov::Model> with_float_ports(const std::shared_ptr<ov::Model>& model, const ModelSpec& spec) {
    ov::preprocess::PrePostProcessor ports(model);
    ports.input(spec.input).tensor().set_element_type(ov::element::f32);
    ports.output(spec.boxes).tensor().set_element_type(ov::element::f32);
    if (!spec.size_input.empty()) {
      ports.input(spec.size_input).tensor().set_element_type(ov::element::i64);
    }
    if (spec.form == OutputForm::kLogitsBoxes) {
      ports.output(spec.logits).tensor().set_element_type(ov::element::f32);
    } else {
      ports.output(spec.labels).tensor().set_element_type(ov::element::i64);
      ports.output(spec.scores).tensor().set_element_type(ov::element::f32);
    }
    return ports.build();
  }

  // From the ONNX file.
  ov::CompiledModel read_and_compile(const ModelSpec& spec, const std::string& path,
                                     const DetectorOptions& options) const {
    const auto model =
        guarded(ErrorKind::kModel, path + ": cannot be read as a network", [&] { return read_onnx(path); });
    guarded(ErrorKind::kModel, path + ": does not fit model.json", [&] { prepare(*model, spec, path); });
    return guarded(ErrorKind::kBackend, path + ": cannot be compiled for the CPU",
                   [&] { return core().compile_model(with_float_ports(model, spec), "CPU", configuration(options)); });
  }

  // What an earlier process compiled, which takes a third of the time, or from the ONNX file. A cache that fails only
  // costs that time.
  ov::CompiledModel load(const ModelSpec& spec, const std::string& path, const DetectorOptions& options) const {
    std::optional<ov::CompiledModel> compiled;
    try {
      const std::vector<char> plan = load_or_build(engine_key(spec, path, options), options.cache_dir, [&] {
        compiled = read_and_compile(spec, path, options);
        std::ostringstream stream;
        compiled->export_model(stream);
        const std::string text = stream.str();
        return std::vector<char>(text.begin(), text.end());
      });
      if (!compiled) {
        ov::Tensor bytes(ov::element::u8, {plan.size()});
        std::memcpy(bytes.data(), plan.data(), plan.size());
        compiled = core().import_model(bytes, "CPU", configuration(options));
      }
    } catch (const std::exception&) {
      if (!compiled) {
        return read_and_compile(spec, path, options);
      }
    }
    return *compiled;
  }

  EngineKey engine_key(const ModelSpec& spec, const std::string& path, const DetectorOptions& options) const {
    EngineKey key;
    key.add("onnx", model_file(spec, path).sha256).add("openvino", ov::get_openvino_version().buildNumber);
    key.add("cpu", core().get_property("CPU", ov::device::full_name));
    for (const std::string& capability : core().get_property("CPU", ov::device::capabilities)) {
      key.add("capability", capability);
    }
    // What the ports were checked against.
    key.add("input", spec.input).add("width", preprocess_.width).add("height", preprocess_.height);
    key.add("size_input", spec.size_input).add("classes", classes_);
    for (const std::string& output : outputs_) {
      key.add("output", output);
    }
    for (const auto& [name, value] : configuration(options)) {
      key.add(name, value.as<std::string>());
    }
    return key;
  }

  static ov::AnyMap configuration(const DetectorOptions& options) {
    const bool latency = options.mode == PerformanceMode::kLatency;
    const ov::element::Type type = options.precision == "bf16"   ? ov::element::bf16
                                   : options.precision == "fp16" ? ov::element::f16
                                                                 : ov::element::f32;
    const int threads = options.threads > 0 ? options.threads : available_cpus();
    ov::AnyMap config{
        ov::hint::performance_mode(latency ? ov::hint::PerformanceMode::LATENCY
                                           : ov::hint::PerformanceMode::THROUGHPUT),
        // OpenVINO would choose a half type by itself where the CPU has one, and boxes would change from one CPU to the
        // next: it is used where it was asked for, which is where it was verified.
        ov::hint::inference_precision(type),
        ov::inference_num_threads(threads),
        // Two pinned processes would share the same cores and leave others idle.
        ov::hint::enable_cpu_pinning(false),
    };
    if (latency || options.requests > 0) {
      config.insert(ov::num_streams(std::max(1, options.requests)));
    }
    return config;
  }

  void make_requests(const ModelSpec& spec, const DetectorOptions& options) {
    threads_ = compiled_.get_property(ov::inference_num_threads);
    int count = options.requests;
    if (count == 0) {
      count = options.mode == PerformanceMode::kLatency
                  ? 1
                  : static_cast<int>(compiled_.get_property(ov::optimal_number_of_infer_requests));
    }
    // With several requests the parallelism is across images.
    if (count == 1 && threads_ > 1) {
      pool_ = std::make_unique<ThreadPool>(threads_);
    }
    for (int i = 0; i < count; ++i) {
      requests_.push_back(std::make_unique<Request>());
      Request& request = *requests_.back();
      request.infer = compiled_.create_infer_request();
      request.input = request.infer.get_tensor(spec.input).data<float>();
      const ov::Tensor boxes = request.infer.get_tensor(spec.boxes);
      rows_ = static_cast<std::int32_t>(boxes.get_shape()[1]);
      request.boxes = boxes.data<float>();
      if (!spec.size_input.empty()) {
        auto* size = request.infer.get_tensor(spec.size_input).data<std::int64_t>();
        size[0] = preprocess_.width;
        size[1] = preprocess_.height;
      }
      if (form_ == OutputForm::kLogitsBoxes) {
        request.logits = request.infer.get_tensor(spec.logits).data<float>();
      } else {
        request.labels = request.infer.get_tensor(spec.labels).data<std::int64_t>();
        request.scores = request.infer.get_tensor(spec.scores).data<float>();
      }
      free_.add(request);
    }
  }

  void decode(Request& request, std::vector<Detection>& out) const {
    if (form_ == OutputForm::kLogitsBoxes) {
      ops::decode_logits_cpu(request.logits, request.boxes, rows_, classes_, request.geometry, decode_, request.decode,
                             out);
    } else {
      ops::decode_scored_cpu(request.labels, request.boxes, request.scores, rows_, classes_, request.geometry, decode_,
                             request.decode, out);
    }
  }

  static void append(const ov::Tensor& tensor, std::vector<float>& values) {
    if (tensor.get_element_type() == ov::element::i64) {
      const auto* data = tensor.data<std::int64_t>();
      std::transform(data, data + tensor.get_size(), std::back_inserter(values),
                     [](std::int64_t value) { return static_cast<float>(value); });
    } else {
      const auto* data = tensor.data<float>();
      values.insert(values.end(), data, data + tensor.get_size());
    }
  }

  PreprocessSpec preprocess_;
  OutputForm form_;
  std::vector<std::string> outputs_;  // names, in the order of the form
  std::int32_t classes_;
  std::int32_t rows_ = 0;
  ops::DecodeOptions decode_;
  int threads_ = 1;
  ov::CompiledModel compiled_;
  std::unique_ptr<ThreadPool> pool_;
  std::vector<std::unique_ptr<Request>> requests_;
  FreeList free_;
};

ModelPort describe(const ov::Output<const ov::Node>& port) {
  ModelPort result;
  result.name = port_name(port);
  result.dtype = numpy_name(port.get_element_type());
  const ov::PartialShape& shape = port.get_partial_shape();
  result.ranked = shape.rank().is_static();
  if (result.ranked) {
    for (const ov::Dimension& side : shape) {
      result.shape.push_back(side.is_static() ? side.get_length() : kDynamic);
    }
  }
  return result;
}

}  // namespace

BackendInfo probe(int /*device*/) {
  try {
    BackendInfo info{"openvino",
                     true,
                     "OpenVINO " + std::string(ov::get_openvino_version().buildNumber) + " on " +
                         core().get_property("CPU", ov::device::full_name),
                     {"fp32", "int8"}};
    const std::vector<std::string> native = core().get_property("CPU", ov::device::capabilities);
    for (const auto& [capability, precision] : {std::pair{"BF16", "bf16"}, std::pair{"FP16", "fp16"}}) {
      if (std::find(native.begin(), native.end(), capability) != native.end()) {
        info.precisions.emplace_back(precision);
      }
    }
    return info;
  } catch (const std::exception& error) {
    return {"openvino", false, std::string("OpenVINO cannot use this CPU: ") + error.what(), {}};
  }
}

std::unique_ptr<Backend> make(const ModelSpec& spec, const std::string& model, const DetectorOptions& options) {
  return std::make_unique<OpenvinoBackend>(spec, model, options);
}

}  // namespace openvino

ModelPorts inspect_onnx(const std::string& path) {
  return openvino::guarded(ErrorKind::kModel, path + ": cannot be read as an ONNX model", [&] {
    const std::shared_ptr<const ov::Model> model = openvino::read_onnx(path);
    ModelPorts ports;
    for (const auto& port : model->inputs()) {
      ports.inputs.push_back(openvino::describe(port));
    }
    for (const auto& port : model->outputs()) {
      ports.outputs.push_back(openvino::describe(port));
    }
    return ports;
  });
}

}  // namespace edgedet
