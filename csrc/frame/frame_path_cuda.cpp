#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

#include "common/cuda_raii.h"
#include "common/validate.h"
#include "edgedet/error.h"
#include "frame/device.h"
#include "frame/frame_path.h"
#include "frame/shared_cuda.h"
#include "kernels/decode_cuda.h"
#include "kernels/preprocess_cuda.h"

namespace edgedet::frame {

namespace {

using cuda::check_cuda;
using cuda::KernelCall;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::size_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
      return 2;
    case DType::kInt8:
      break;
  }
  return 1;
}

std::size_t row_bytes(const ImageView& image) {
  const bool packed = image.format == PixelFormat::kRgb || image.format == PixelFormat::kBgr;
  return static_cast<std::size_t>(image.width) * (packed ? 3 : 1);
}

void copy_rows(const std::uint8_t* from, std::ptrdiff_t stride, std::size_t row, std::int32_t rows, unsigned char* to) {
  if (stride == static_cast<std::ptrdiff_t>(row)) {
    memcpy(to, from, row * static_cast<std::size_t>(rows));
    return;
  }
  for (std::int32_t y = 0; y < rows; ++y) {
    memcpy(to + static_cast<std::size_t>(y) * row, from + y * stride, row);
  }
}

void check_options(const NetworkSpec& spec, const FrameOptions& options) {
  validate(spec.preprocess);
  validate(spec.input);
  cuda::check_limits(options.max_batch, options.max_width, options.max_height);
  if (spec.rows < 1 || spec.classes < 1) {
    refuse("rows, classes: expected 1 or more, got " + std::to_string(spec.rows) + " and " +
           std::to_string(spec.classes));
  }
  if (spec.output == DType::kInt8) {
    refuse("output type: expected float32 or float16, got int8");
  }
}

// The parts of one allocation on the device, each aligned.
struct Layout {
  std::size_t upload = 0;  // bytes of images
  std::size_t input = 0;
  std::size_t values = 0;  // logits or scores
  std::size_t boxes = 0;
  std::size_t labels = 0;
  std::size_t results = 0;
  std::size_t staged = 0;  // pinned

  std::size_t device() const { return upload + input + values + boxes + labels + results; }

  Layout(const NetworkSpec& spec, const FrameOptions& options, bool integrated) {
    const std::size_t batch = options.max_batch;
    const auto rows = static_cast<std::size_t>(spec.rows);
    const std::size_t pixels =
        static_cast<std::size_t>(spec.preprocess.width) * static_cast<std::size_t>(spec.preprocess.height);
    const bool raw = spec.form == HeadForm::kLogits;
    staged =
        batch * aligned(3 * static_cast<std::size_t>(options.max_width) * static_cast<std::size_t>(options.max_height));
    upload = integrated ? 0 : staged;  // the device reads the pinned memory itself
    input = aligned(batch * 3 * pixels * element_bytes(spec.input.dtype));
    values = aligned(batch * rows * (raw ? static_cast<std::size_t>(spec.classes) : 1) * element_bytes(spec.output));
    boxes = aligned(batch * rows * 4 * element_bytes(spec.output));
    labels = raw ? 0 : aligned(batch * rows * (spec.wide_labels ? 8 : 4));
    results = aligned(batch * static_cast<std::size_t>(ops::result_bytes(options.decode.top_k)));
  }
};

bool is_integrated(int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, cudaDevAttrIntegrated, device), "ask for a device's properties");
  return value != 0;
}

FrameMemory memory_needed(const NetworkSpec& spec, const FrameOptions& options, const Layout& layout) {
  FrameMemory memory;
  memory.device =
      layout.device() +
      cuda::Preprocessor::device_bytes(spec.preprocess, options.max_batch, options.max_width, options.max_height) +
      cuda::Decoder::device_bytes(options.max_batch, values_of(spec));
  memory.pinned = layout.staged + layout.results;
  return memory;
}

void check_limit(const FrameOptions& options, const Layout& layout, std::size_t needed) {
  if (options.memory_limit > 0 && needed > options.memory_limit) {
    refuse("memory_limit: expected a frame path of at most " + std::to_string(options.memory_limit) +
           " bytes of device memory, got " + std::to_string(needed) + " (" + std::to_string(layout.upload) +
           " for images, " + std::to_string(layout.input) + " for the network's input, " +
           std::to_string(layout.values + layout.boxes + layout.labels) + " for its outputs, " +
           std::to_string(needed - layout.upload - layout.input - layout.values - layout.boxes - layout.labels) +
           " for tables and results); lower max_batch, max_width, max_height or the number of paths");
  }
}

}  // namespace

struct FramePath::Impl {
  // A captured frame of one batch size.
  struct Captured {
    cuda::Graph graph;  // owns the nodes
    cuda::GraphExec exec;
    cudaGraphNode_t upload = nullptr;
    cudaGraphNode_t preprocess = nullptr;
    cudaGraphNode_t decode = nullptr;
  };

  NetworkSpec spec;
  EnqueueNetwork network;
  FrameOptions options;
  bool integrated = false;
  FrameMemory memory;
  std::size_t count = 0;  // of the frame in flight; 0: none

  cuda::DeviceBuffer device;
  cuda::PinnedBuffer staging;
  cuda::PinnedBuffer results;
  unsigned char* upload = nullptr;
  unsigned char* device_results = nullptr;
  NetworkBuffers buffers;
  std::vector<ImageView> views;
  std::vector<Geometry> geometries;
  std::unique_ptr<cuda::Preprocessor> preprocessor;
  std::unique_ptr<cuda::Decoder> decoder;
  cuda::Event produced;
  cuda::Event finished;
  std::vector<Captured> captured;  // by batch size, then with upload or without
  cuda::Stream stream;             // last: everything that it may still use outlives it

  Impl(const NetworkSpec& new_spec, EnqueueNetwork&& new_network, const FrameOptions& new_options)
      : spec(new_spec), network(std::move(new_network)), options(new_options) {
    check_options(spec, options);
    const cuda::DeviceScope scope(options.device);
    integrated = is_integrated(options.device);
    const Layout layout(spec, options, integrated);
    memory = memory_needed(spec, options, layout);
    check_limit(options, layout, memory.device);
    preprocessor = std::make_unique<cuda::Preprocessor>(spec.preprocess, spec.input, options.max_batch,
                                                        options.max_width, options.max_height);
    decoder = std::make_unique<cuda::Decoder>(options.decode, options.max_batch, values_of(spec));
    device = cuda::make_device_buffer(layout.device());
    staging = cuda::make_pinned_buffer(layout.staged);
    results = cuda::make_pinned_buffer(layout.results);
    unsigned char* next = device.data();
    const auto take = [&next](std::size_t bytes) { return bytes == 0 ? nullptr : std::exchange(next, next + bytes); };
    upload = integrated ? staging.data() : take(layout.upload);
    buffers.input = take(layout.input);
    unsigned char* const values = take(layout.values);
    (spec.form == HeadForm::kLogits ? buffers.logits : buffers.scores) = values;
    buffers.boxes = take(layout.boxes);
    buffers.labels = take(layout.labels);
    device_results = take(layout.results);
    views.resize(options.max_batch);
    geometries.resize(options.max_batch);
    captured.resize(2 * options.max_batch);
    produced = cuda::make_event();
    finished = cuda::make_event();
    stream = cuda::make_stream();
    // The network runs once before it is captured: on zeros rather than on what the memory held.
    check_cuda(cudaMemsetAsync(device.data(), 0, device.bytes(), stream.get()), "clear the buffers");
    check_cuda(cudaStreamSynchronize(stream.get()), "clear the buffers");
  }

  ~Impl() {
    if (stream.get() != nullptr) {
      static_cast<void>(cudaStreamSynchronize(stream.get()));
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::size_t result_bytes() const { return static_cast<std::size_t>(ops::result_bytes(options.decode.top_k)); }

  // Copies the images to pinned memory, row by row without gaps, and says where they will be. Returns their bytes.
  std::size_t stage(const ImageView* images, std::size_t images_count) {
    std::size_t offset = 0;
    for (std::size_t i = 0; i < images_count; ++i) {
      const ImageView& image = images[i];
      const std::size_t row = row_bytes(image);
      ImageView& view = views[i];
      view = image;
      view.data = upload + offset;
      view.stride = static_cast<std::ptrdiff_t>(row);
      copy_rows(image.data, image.stride, row, image.height, staging.data() + offset);
      offset += row * static_cast<std::size_t>(image.height);
      if (image.format == PixelFormat::kNv12) {
        view.uv = upload + offset;
        view.uv_stride = static_cast<std::ptrdiff_t>(row);
        copy_rows(image.uv, image.uv_stride, row, image.height / 2, staging.data() + offset);
        offset += row * static_cast<std::size_t>(image.height / 2);
      }
      offset = aligned(offset);
    }
    return offset;
  }

  void check_readable_images(const ImageView* images, std::size_t images_count) const {
    for (std::size_t i = 0; i < images_count; ++i) {
      check_readable(images[i].data, options.device, "image");
      if (images[i].format == PixelFormat::kNv12) {
        check_readable(images[i].uv, options.device, "UV plane");
      }
    }
  }

  void run_network(std::size_t images_count) const {
    if (network) {
      network(buffers, images_count, stream.get());
    }
  }

  // The network as a graph of its own.
  cuda::Graph capture_network(std::size_t images_count) const {
    run_network(images_count);  // what a network sets up at its first run cannot be captured
    check_cuda(cudaStreamSynchronize(stream.get()), "run the network once");
    check_cuda(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "begin to capture the network");
    cudaGraph_t graph = nullptr;
    try {
      run_network(images_count);
    } catch (...) {
      if (cudaStreamEndCapture(stream.get(), &graph) == cudaSuccess) {
        const cuda::Graph dropped(graph);
      }
      static_cast<void>(cudaGetLastError());
      throw;
    }
    const cudaError_t status = cudaStreamEndCapture(stream.get(), &graph);
    if (status != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      throw Error(ErrorKind::kBackend, std::string("expected a network that can be captured as a CUDA graph, got \"") +
                                           cudaGetErrorString(status) +
                                           "\"; it must not wait or allocate while it queues, or set graph to false");
    }
    return cuda::Graph(graph);
  }

  void capture(Captured& frame, std::size_t images_count, std::size_t upload_bytes, const KernelCall& preprocess,
               const KernelCall& decode) const {
    const cuda::Graph child = capture_network(images_count);
    Captured made;
    cudaGraph_t graph = nullptr;
    check_cuda(cudaGraphCreate(&graph, 0), "create a graph");
    made.graph = cuda::Graph(graph);
    cudaGraphNode_t last = nullptr;
    if (upload_bytes > 0) {
      check_cuda(cudaGraphAddMemcpyNode1D(&made.upload, graph, nullptr, 0, upload, staging.data(), upload_bytes,
                                          cudaMemcpyHostToDevice),
                 "add the upload to a graph");
      last = made.upload;
    }
    made.preprocess = preprocess.add_to(graph, last == nullptr ? nullptr : &last, "add preprocessing to a graph");
    last = made.preprocess;
    std::size_t nodes = 0;
    check_cuda(cudaGraphGetNodes(child.get(), nullptr, &nodes), "count the nodes of the network");
    if (nodes > 0) {
      cudaGraphNode_t node = nullptr;
      check_cuda(cudaGraphAddChildGraphNode(&node, graph, &last, 1, child.get()), "add the network to a graph");
      last = node;
    }
    made.decode = decode.add_to(graph, &last, "add decoding to a graph");
    cudaGraphNode_t download = nullptr;
    check_cuda(cudaGraphAddMemcpyNode1D(&download, graph, &made.decode, 1, results.data(), device_results,
                                        images_count * result_bytes(), cudaMemcpyDeviceToHost),
               "add the download to a graph");
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaGraphInstantiateWithFlags(&exec, graph, 0), "instantiate a graph");
    made.exec = cuda::GraphExec(exec);
    frame = std::move(made);
  }

  void launch(std::size_t images_count, std::size_t upload_bytes, const KernelCall& preprocess,
              const KernelCall& decode) {
    if (!options.graph) {
      if (upload_bytes > 0) {
        check_cuda(cudaMemcpyAsync(upload, staging.data(), upload_bytes, cudaMemcpyHostToDevice, stream.get()),
                   "upload images");
      }
      preprocess.launch(stream.get(), "launch preprocessing");
      run_network(images_count);
      decode.launch(stream.get(), "launch decoding");
      check_cuda(cudaMemcpyAsync(results.data(), device_results, images_count * result_bytes(), cudaMemcpyDeviceToHost,
                                 stream.get()),
                 "download results");
      return;
    }
    Captured& frame = captured[2 * (images_count - 1) + (upload_bytes > 0 ? 1 : 0)];
    if (frame.exec.get() == nullptr) {
      capture(frame, images_count, upload_bytes, preprocess, decode);
    } else {
      if (upload_bytes > 0) {
        check_cuda(cudaGraphExecMemcpyNodeSetParams1D(frame.exec.get(), frame.upload, upload, staging.data(),
                                                      upload_bytes, cudaMemcpyHostToDevice),
                   "update the upload");
      }
      preprocess.update(frame.exec.get(), frame.preprocess, "update preprocessing");
      decode.update(frame.exec.get(), frame.decode, "update decoding");
    }
    check_cuda(cudaGraphLaunch(frame.exec.get(), stream.get()), "launch a frame");
  }

  void submit(const ImageView* images, std::size_t images_count, const Source& source) {
    if (count != 0) {
      refuse("expected no frame in flight, got one; wait for it, or use a pool with more paths");
    }
    preprocessor->check(images, images_count);
    const cuda::DeviceScope scope(options.device);
    std::size_t upload_bytes = 0;
    if (source.memory == Source::Memory::kHost) {
      upload_bytes = stage(images, images_count);
      upload_bytes = integrated ? 0 : upload_bytes;
    } else {
      check_readable_images(images, images_count);
      std::copy(images, images + images_count, views.begin());
      if (source.has_producer) {
        wait_for(stream.get(), source.producer, produced);
      }
    }
    try {
      const KernelCall preprocess =
          preprocessor->plan(views.data(), images_count, buffers.input, geometries.data(), stream.get());
      const KernelCall decode = plan_decode(*decoder, spec, buffers, geometries.data(), images_count, device_results);
      launch(images_count, upload_bytes, preprocess, decode);
      check_cuda(cudaEventRecord(finished.get(), stream.get()), "mark the end of a frame");
    } catch (...) {
      static_cast<void>(cudaStreamSynchronize(stream.get()));  // nothing may read the images after this
      throw;
    }
    count = images_count;
  }

  // Sleeps until the frame is through and returns its number of images.
  std::size_t finish() {
    if (count == 0) {
      refuse("expected a frame in flight, got none; submit one first");
    }
    const std::size_t images_count = std::exchange(count, 0);
    check_cuda(cudaEventSynchronize(finished.get()), "run a frame");
    return images_count;
  }

  PartTimes time_parts(const ImageView* images, std::size_t images_count, int calls) {
    if (count != 0) {
      refuse("expected no frame in flight, got one; wait for it first");
    }
    preprocessor->check(images, images_count);
    const cuda::DeviceScope scope(options.device);
    const std::size_t staged = stage(images, images_count);
    const std::vector<ImageView> on_device(views.begin(), views.begin() + static_cast<std::ptrdiff_t>(images_count));
    PartTimes times;
    try {
      time_on_device(images_count, integrated ? 0 : staged, calls, times);
    } catch (...) {
      static_cast<void>(cudaStreamSynchronize(stream.get()));
      throw;
    }
    std::vector<std::vector<Detection>> out(images_count);
    for (int call = -1; call < calls; ++call) {  // the first warms up
      const auto begin = Clock::now();
      submit(on_device.data(), images_count, {Source::Memory::kReadable});
      wait(out.data());
      if (call >= 0) {
        times.resident.push_back(milliseconds_since(begin));
      }
    }
    return times;
  }

  // Stages, with the images uploaded as a side effect, and the network.
  void time_on_device(std::size_t images_count, std::size_t upload_bytes, int calls, PartTimes& times) {
    const KernelCall preprocess =
        preprocessor->plan(views.data(), images_count, buffers.input, geometries.data(), stream.get());
    const KernelCall decode = plan_decode(*decoder, spec, buffers, geometries.data(), images_count, device_results);
    cuda::Graph graph;
    cuda::GraphExec replay;
    if (options.graph) {
      graph = capture_network(images_count);
      cudaGraphExec_t exec = nullptr;
      check_cuda(cudaGraphInstantiateWithFlags(&exec, graph.get(), 0), "instantiate a graph");
      replay = cuda::GraphExec(exec);
    }
    const auto run = [&] {
      if (options.graph) {
        check_cuda(cudaGraphLaunch(replay.get(), stream.get()), "launch the network");
      } else {
        run_network(images_count);
      }
    };
    std::array<cuda::Event, 6> marks;
    std::generate(marks.begin(), marks.end(), cuda::make_timer);
    const auto mark = [&](std::size_t i) {
      check_cuda(cudaEventRecord(marks[i].get(), stream.get()), "mark the time");
    };
    const auto between = [&](std::size_t i) {
      float milliseconds = 0.F;
      check_cuda(cudaEventElapsedTime(&milliseconds, marks[i].get(), marks[i + 1].get()), "take the time");
      return static_cast<double>(milliseconds);
    };
    for (int call = -1; call < calls; ++call) {  // the first warms up
      run();  // while the device is busy with it, all that follows is queued: no gap of the host is measured
      mark(0);
      if (upload_bytes > 0) {
        check_cuda(cudaMemcpyAsync(upload, staging.data(), upload_bytes, cudaMemcpyHostToDevice, stream.get()),
                   "upload images");
      }
      mark(1);
      preprocess.launch(stream.get(), "launch preprocessing");
      mark(2);
      run();
      mark(3);
      decode.launch(stream.get(), "launch decoding");
      mark(4);
      check_cuda(cudaMemcpyAsync(results.data(), device_results, images_count * result_bytes(), cudaMemcpyDeviceToHost,
                                 stream.get()),
                 "download results");
      mark(5);
      check_cuda(cudaEventSynchronize(marks[5].get()), "run a frame");
      if (call >= 0) {
        times.stages.push_back({between(1), between(2), between(3), between(0), between(4)});
      }
    }
    for (int call = 0; call < calls; ++call) {
      const auto begin = Clock::now();
      mark(0);
      run();
      mark(1);
      check_cuda(cudaEventSynchronize(marks[1].get()), "run the network");
      times.network.push_back(milliseconds_since(begin));
      times.network_device.push_back(between(0));
    }
  }

  void wait(std::vector<Detection>* out) {
    const std::size_t images_count = finish();
    for (std::size_t i = 0; i < images_count; ++i) {
      ops::read_result(results.data() + i * result_bytes(), out[i]);
    }
  }
};

FramePath::FramePath(const NetworkSpec& spec, EnqueueNetwork network, const FrameOptions& options)
    : impl_(std::make_unique<Impl>(spec, std::move(network), options)) {}
FramePath::~FramePath() = default;
FramePath::FramePath(FramePath&&) noexcept = default;
FramePath& FramePath::operator=(FramePath&&) noexcept = default;

void FramePath::submit(const ImageView* images, std::size_t count, const Source& source) {
  impl_->submit(images, count, source);
}

bool FramePath::done() const {
  if (impl_->count == 0) {
    return true;
  }
  const cudaError_t status = cudaEventQuery(impl_->finished.get());
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  return true;  // or failed, which wait() tells
}

void FramePath::wait(std::vector<Detection>* out) { impl_->wait(out); }

PartTimes FramePath::time_parts(const ImageView* images, std::size_t count, int calls) {
  return impl_->time_parts(images, count, calls);
}

void FramePath::discard() { static_cast<void>(impl_->finish()); }

FrameMemory FramePath::memory() const noexcept { return impl_->memory; }

void* FramePath::stream() const noexcept { return impl_->stream.get(); }

FrameMemory FramePath::memory_of(const NetworkSpec& spec, const FrameOptions& options) {
  check_options(spec, options);
  return memory_needed(spec, options, Layout(spec, options, is_integrated(options.device)));
}

}  // namespace edgedet::frame
