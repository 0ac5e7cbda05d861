// The frame path on host_cuda, whose streams run late and in any order that they may.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "device_frames.h"
#include "frame/device.h"
#include "frame/frame_path.h"
#include "frame/operators.h"
#include "kernels/cuda_kernel.h"
#include "simulated.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using frame::FrameOptions;
using frame::FramePath;
using frame::FramePool;
using frame::NetworkSpec;
using frame::Source;
using test::DeviceFrame;
using test::Frame;

namespace {

constexpr int kRows = 20;
constexpr int kClasses = 5;
constexpr double kForEver = std::numeric_limits<double>::infinity();

// A network whose boxes and logits are made of pixels, so that a frame that is mixed up with another one shows.
struct ToyNetwork {
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 1;

  const float* input;
  float* logits;
  float* boxes;
  int pixels;  // of an image, all planes

  static EDGEDET_HD float logit(const float* image, int pixels, int index) {
    return 4.F * image[index * 7 % pixels] - 2.F;
  }
  static EDGEDET_HD float box(const float* image, int pixels, int index) { return image[(index * 11 + 3) % pixels]; }

  __device__ void operator()() const {
    const auto image = static_cast<int>(blockIdx.x);
    const float* from = input + image * pixels;
    for (auto i = static_cast<int>(threadIdx.x); i < kRows * kClasses; i += kThreads) {
      logits[image * kRows * kClasses + i] = logit(from, pixels, i);
    }
    for (auto i = static_cast<int>(threadIdx.x); i < kRows * 4; i += kThreads) {
      boxes[image * kRows * 4 + i] = box(from, pixels, i);
    }
  }
};

NetworkSpec make_spec() {
  NetworkSpec spec;
  spec.preprocess.width = 24;
  spec.preprocess.height = 16;
  spec.preprocess.filter = Filter::kAntialias;
  spec.preprocess.resize = ResizeMode::kLetterbox;
  spec.rows = kRows;
  spec.classes = kClasses;
  return spec;
}

FrameOptions make_options(std::size_t max_batch) {
  FrameOptions options;
  options.max_batch = max_batch;
  options.max_width = 100;
  options.max_height = 100;
  options.decode.top_k = 12;
  return options;
}

frame::EnqueueNetwork toy(const NetworkSpec& spec) {
  const int pixels = 3 * spec.preprocess.width * spec.preprocess.height;
  return [pixels](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
    const ToyNetwork body{static_cast<const float*>(buffers.input), static_cast<float*>(buffers.logits),
                          static_cast<float*>(buffers.boxes), pixels};
    cuda::make_call(body, dim3(static_cast<unsigned>(batch)), 0).launch(static_cast<cudaStream_t>(stream), "launch");
  };
}

// The same on the CPU.
std::vector<Detection> expected(const Frame& frame, const NetworkSpec& spec, const ops::DecodeOptions& options) {
  const int pixels = 3 * spec.preprocess.width * spec.preprocess.height;
  std::vector<float> input(static_cast<std::size_t>(pixels));
  ops::PreprocessWorkspace preprocess;
  const Geometry geometry =
      ops::preprocess_cpu(frame.view, spec.preprocess, spec.input, input.data(), preprocess, nullptr);
  std::vector<float> logits;
  std::vector<float> boxes;
  for (int i = 0; i < kRows * kClasses; ++i) {
    logits.push_back(ToyNetwork::logit(input.data(), pixels, i));
  }
  for (int i = 0; i < kRows * 4; ++i) {
    boxes.push_back(ToyNetwork::box(input.data(), pixels, i));
  }
  ops::DecodeWorkspace workspace;
  std::vector<Detection> out;
  ops::decode_logits_cpu(logits.data(), boxes.data(), kRows, kClasses, geometry, options, workspace, out);
  return out;
}

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
  return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(Detection)) == 0);
}

std::vector<Frame> frames_of(int number) {
  constexpr PixelFormat kFormats[] = {PixelFormat::kRgb, PixelFormat::kBgr, PixelFormat::kGray, PixelFormat::kNv12};
  std::vector<Frame> frames;
  for (int i = 0; i < number; ++i) {
    frames.emplace_back(20 + 2 * (i % 37), 90 - 2 * (i % 31), kFormats[i % 4], i % 3);
    for (std::uint8_t& pixel : frames.back().pixels) {
      pixel = static_cast<std::uint8_t>(pixel + 31 * i);
    }
  }
  return frames;
}

double sum(const StageTimes& times) {
  return times.upload + times.preprocess + times.inference + times.decode + times.download;
}

void check_frames(FramePath& path, const NetworkSpec& spec, const FrameOptions& options, const Source& source) {
  const std::vector<Frame> frames = frames_of(24);
  std::vector<DeviceFrame> uploaded;
  for (const Frame& frame : frames) {
    uploaded.emplace_back(frame);
  }
  std::vector<std::vector<Detection>> out(options.max_batch);
  std::size_t turn = 0;
  for (std::size_t begin = 0; begin < frames.size();) {
    const std::size_t count = std::min(1 + turn++ % options.max_batch, frames.size() - begin);
    std::vector<ImageView> views;
    for (std::size_t i = begin; i < begin + count; ++i) {
      views.push_back(source.memory == Source::Memory::kHost ? frames[i].view : uploaded[i].view);
    }
    path.submit(views.data(), count, source);
    path.wait(out.data());
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(same(out[i], expected(frames[begin + i], spec, options.decode)));
    }
    begin += count;
  }
}

}  // namespace

TEST(frames_of_any_size_and_format) {
  for (const bool graph : {true, false}) {
    for (const auto memory : {Source::Memory::kHost, Source::Memory::kReadable}) {
      for (std::uint64_t seed = 1; seed < 5; ++seed) {
        host_cuda::set_seed(seed);
        const NetworkSpec spec = make_spec();
        FrameOptions options = make_options(3);
        options.graph = graph;
        Source source;
        source.memory = memory;
        const std::size_t before = host_cuda::counters().graph_instantiations;
        FramePath path(spec, toy(spec), options);
        check_frames(path, spec, options, source);
        // One graph a batch size, whatever the sizes and formats of the images.
        CHECK(host_cuda::counters().graph_instantiations - before == (graph ? 3 : 0) || !kSimulated);
      }
    }
  }
}

TEST(frames_release_everything) {
  const auto before = host_cuda::counters();
  {
    const NetworkSpec spec = make_spec();
    const FrameOptions options = make_options(2);
    FramePath path(spec, toy(spec), options);
    const auto made = host_cuda::counters();
    CHECK(made.device_bytes - before.device_bytes == path.memory().device || !kSimulated);
    CHECK(made.pinned_bytes - before.pinned_bytes == path.memory().pinned || !kSimulated);
    CHECK(FramePath::memory_of(spec, options).device == path.memory().device);
    CHECK(FramePath::memory_of(spec, options).pinned == path.memory().pinned);
    check_frames(path, spec, options, {});
    const auto warm = host_cuda::counters();
    check_frames(path, spec, options, {});
    const auto after = host_cuda::counters();
    CHECK(after.device_bytes == made.device_bytes && after.pinned_bytes == made.pinned_bytes);
    CHECK(after.pinned_allocation_calls == warm.pinned_allocation_calls);
    CHECK(after.graph_instantiations == warm.graph_instantiations);
    const Frame last(50, 50, PixelFormat::kRgb, 0);
    path.submit(&last.view, 1, {});  // in flight at the end
  }
  const auto after = host_cuda::counters();
  CHECK(after.device_allocations == before.device_allocations && after.pinned_allocations == before.pinned_allocations);
  CHECK(after.streams == before.streams && after.events == before.events);
  CHECK(after.graphs == before.graphs && after.graph_execs == before.graph_execs);
}

TEST(frames_wait_for_their_producer) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  FramePath path(spec, toy(spec), options);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  const cuda::Stream producer = cuda::make_stream();
  const cuda::PinnedBuffer pinned = cuda::make_pinned_buffer(frame.pixels.size());
  memcpy(pinned.data(), frame.pixels.data(), frame.pixels.size());
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    host_cuda::set_seed(seed);
    const cuda::DeviceBuffer image = cuda::make_device_buffer(frame.pixels.size());
    cuda::check_cuda(
        cudaMemcpyAsync(image.data(), pinned.data(), image.bytes(), cudaMemcpyHostToDevice, producer.get()), "copy");
    ImageView view = frame.view;
    view.data = image.data();
    Source source;
    source.memory = Source::Memory::kReadable;
    source.has_producer = true;
    source.producer = producer.get();
    std::vector<Detection> out;
    path.submit(&view, 1, source);
    path.wait(&out);
    CHECK(same(out, expected(frame, spec, options.decode)));
  }
}

TEST(frames_read_pinned_memory_in_place) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  FramePath path(spec, toy(spec), options);
  const Frame frame(60, 40, PixelFormat::kBgr, 4);
  const cuda::PinnedBuffer pinned = cuda::make_pinned_buffer(frame.pixels.size());
  memcpy(pinned.data(), frame.pixels.data(), frame.pixels.size());
  ImageView view = frame.view;
  view.data = pinned.data();
  Source source;
  source.memory = Source::Memory::kReadable;
  std::vector<Detection> out;
  path.submit(&view, 1, source);
  path.wait(&out);
  CHECK(same(out, expected(frame, spec, options.decode)));
}

TEST(frames_of_host_memory_are_copied_at_once) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  FramePath path(spec, toy(spec), options);
  for (int repeat = 0; repeat < 3; ++repeat) {
    Frame frame(60, 40, PixelFormat::kNv12, 4);
    const std::vector<Detection> right = expected(frame, spec, options.decode);
    path.submit(&frame.view, 1, {});
    std::fill(frame.pixels.begin(), frame.pixels.end(), std::uint8_t{0});
    std::fill(frame.chroma.begin(), frame.chroma.end(), std::uint8_t{0});
    std::vector<Detection> out;
    path.wait(&out);
    CHECK(same(out, right));
  }
}

TEST(frames_refused) {
  const NetworkSpec spec = make_spec();
  FrameOptions options = make_options(2);
  FramePath path(spec, toy(spec), options);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  const Frame large(102, 40, PixelFormat::kRgb, 0);
  std::vector<std::vector<Detection>> out(2);
  CHECK_THROWS(ErrorKind::kInvalidInput, "none", path.wait(out.data()));
  CHECK_THROWS(ErrorKind::kInvalidInput, "at most 100x100", path.submit(&large.view, 1, {}));
  CHECK_THROWS(ErrorKind::kInvalidInput, "1 to 2 images", path.submit(&frame.view, 0, {}));
  CHECK_THROWS(ErrorKind::kInvalidInput, "1 to 2 images", path.submit(&frame.view, 3, {}));
  Source readable;
  readable.memory = Source::Memory::kReadable;
  CHECK_THROWS(ErrorKind::kInvalidInput, "host memory", path.submit(&frame.view, 1, readable));
  path.submit(&frame.view, 1, {});
  CHECK_THROWS(ErrorKind::kInvalidInput, "in flight", path.submit(&frame.view, 1, {}));
  path.wait(out.data());
  CHECK(same(out[0], expected(frame, spec, options.decode)));

  const std::size_t needed = path.memory().device;
  options.memory_limit = needed;
  const FramePath fits(spec, toy(spec), options);
  options.memory_limit = needed - 1;
  CHECK_THROWS(ErrorKind::kInvalidInput, std::to_string(needed), FramePath(spec, toy(spec), options));
  options = make_options(33);
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_batch", FramePath(spec, toy(spec), options));
  options = make_options(1);
  options.max_width = 0;
  CHECK_THROWS(ErrorKind::kInvalidInput, "max_width", FramePath(spec, toy(spec), options));
}

#if !defined(__CUDACC__)

TEST(memory_of_another_device_is_refused) {
  host_cuda::set_devices(2);
  cudaSetDevice(1);
  const cuda::DeviceBuffer other = cuda::make_device_buffer(64);
  CHECK(frame::devices(nullptr).size() == 2);
  int current = 0;
  cudaGetDevice(&current);
  CHECK(current == 1);  // as it was
  cudaSetDevice(0);
  CHECK_THROWS(ErrorKind::kInvalidInput, "device 1", frame::check_readable(other.data(), 0, "image"));
  frame::check_readable(other.data(), 1, "image");
}

// After a failure the path works again, unless the device is lost.
TEST(failures_are_told) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  std::vector<Detection> out;
  for (const char* function :
       {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"}) {
    const auto before = host_cuda::counters();
    host_cuda::fail(function, 1, cudaErrorMemoryAllocation);
    CHECK_THROWS(ErrorKind::kBackend, "CUDA failed to", FramePath(spec, toy(spec), options));
    CHECK(host_cuda::counters().device_allocations == before.device_allocations);
    CHECK(host_cuda::counters().pinned_allocations == before.pinned_allocations);
  }
  for (const char* function :
       {"cudaGraphCreate", "cudaGraphAddMemcpyNode1D", "cudaGraphAddKernelNode", "cudaGraphInstantiateWithFlags",
        "cudaGraphLaunch", "cudaEventRecord", "cudaStreamBeginCapture", "cudaLaunchKernel"}) {
    const auto before = host_cuda::counters();
    {
      FramePath path(spec, toy(spec), options);
      host_cuda::fail(function, 1, cudaErrorUnknown);
      CHECK_THROWS(ErrorKind::kBackend, "CUDA failed to", path.submit(&frame.view, 1, {}));
      path.submit(&frame.view, 1, {});
      path.wait(&out);
      CHECK(same(out, expected(frame, spec, options.decode)));
    }
    CHECK(host_cuda::counters().graphs == before.graphs && host_cuda::counters().graph_execs == before.graph_execs);
  }
  // Updating a graph that was captured before.
  for (const char* function : {"cudaGraphExecKernelNodeSetParams", "cudaGraphExecMemcpyNodeSetParams1D"}) {
    FramePath path(spec, toy(spec), options);
    path.submit(&frame.view, 1, {});
    path.wait(&out);
    host_cuda::fail(function, 1, cudaErrorUnknown);
    CHECK_THROWS(ErrorKind::kBackend, "CUDA failed to update", path.submit(&frame.view, 1, {}));
    path.submit(&frame.view, 1, {});
    path.wait(&out);
    CHECK(same(out, expected(frame, spec, options.decode)));
  }
}

#endif

TEST(a_network_that_cannot_be_captured) {
  const NetworkSpec spec = make_spec();
  FrameOptions options = make_options(1);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  std::vector<Detection> out;
  const auto waiting = [&](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
    toy(spec)(buffers, batch, stream);
    static_cast<void>(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  };
  FramePath path(spec, waiting, options);
  CHECK_THROWS(ErrorKind::kBackend, "set graph to false", path.submit(&frame.view, 1, {}));
  options.graph = false;
  FramePath direct(spec, waiting, options);
  direct.submit(&frame.view, 1, {});
  direct.wait(&out);
  CHECK(same(out, expected(frame, spec, options.decode)));

  int calls = 0;
  const auto throwing = [&](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
    if (++calls == 2) {  // the one that is captured
      throw Error(ErrorKind::kModel, "expected a network, got a failure");
    }
    toy(spec)(buffers, batch, stream);
  };
  options.graph = true;
  FramePath broken(spec, throwing, options);
  CHECK_THROWS(ErrorKind::kModel, "got a failure", broken.submit(&frame.view, 1, {}));
  broken.submit(&frame.view, 1, {});
  broken.wait(&out);
  CHECK(same(out, expected(frame, spec, options.decode)));
}

TEST(an_empty_network) {
  NetworkSpec spec = make_spec();
  spec.output = DType::kFloat16;
  FrameOptions options = make_options(2);
  options.decode.score_threshold = 0.6F;
  FramePath path(spec, nullptr, options);
  const std::vector<Frame> frames = frames_of(2);
  const ImageView views[] = {frames[0].view, frames[1].view};
  std::vector<std::vector<Detection>> out(2);
  path.submit(views, 2, {});
  path.wait(out.data());
  CHECK(out[0].empty() && out[1].empty());  // all logits are zero
}

TEST(broken_outputs_are_errors) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  bool broken = true;
  const auto network = [&](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
    toy(spec)(buffers, batch, stream);
    if (broken) {
      cudaMemsetAsync(buffers.logits, 0xFF, 4, static_cast<cudaStream_t>(stream));  // NaN
    }
  };
  FrameOptions direct = options;
  direct.graph = false;
  FramePath path(spec, network, direct);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  std::vector<Detection> out;
  path.submit(&frame.view, 1, {});
  CHECK_THROWS(ErrorKind::kModel, "NaN", path.wait(&out));
  broken = false;
  path.submit(&frame.view, 1, {});
  path.wait(&out);
  CHECK(same(out, expected(frame, spec, options.decode)));
}

TEST(scored_heads) {
  NetworkSpec spec = make_spec();
  spec.form = frame::HeadForm::kScored;
  const FrameOptions options = make_options(1);
  std::vector<std::int64_t> labels;
  std::vector<float> boxes;
  std::vector<float> scores;
  for (int i = 0; i < kRows; ++i) {
    labels.push_back(i % kClasses);
    scores.push_back(static_cast<float>(i * 7 % kRows) / kRows);
    for (int side = 0; side < 4; ++side) {
      boxes.push_back(static_cast<float>((i * 5 + side * 3) % 16));
    }
  }
  const cuda::DeviceBuffer device_labels = test::upload(labels);
  const cuda::DeviceBuffer device_boxes = test::upload(boxes);
  const cuda::DeviceBuffer device_scores = test::upload(scores);
  const auto network = [&](const frame::NetworkBuffers& buffers, std::size_t /*batch*/, void* stream) {
    auto* const queue = static_cast<cudaStream_t>(stream);
    const auto copy = [queue](void* to, const cuda::DeviceBuffer& from) {
      cudaMemcpyAsync(to, from.data(), from.bytes(), cudaMemcpyDeviceToDevice, queue);
    };
    copy(buffers.labels, device_labels);
    copy(buffers.boxes, device_boxes);
    copy(buffers.scores, device_scores);
  };
  FramePath path(spec, network, options);
  const Frame frame(60, 40, PixelFormat::kRgb, 0);
  std::vector<Detection> out;
  path.submit(&frame.view, 1, {});
  path.wait(&out);
  ops::DecodeWorkspace workspace;
  std::vector<Detection> right;
  ops::decode_scored_cpu(labels.data(), boxes.data(), scores.data(), kRows, kClasses,
                         make_geometry(60, 40, 24, 16, ResizeMode::kLetterbox), options.decode, workspace, right);
  CHECK(same(out, right));
}

TEST(a_pool_serves_threads) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  FramePool pool(spec, [&] { return toy(spec); }, options, 3);
  CHECK(pool.paths() == 3 && pool.memory().device == 3 * FramePath::memory_of(spec, options).device);
  const std::vector<Frame> frames = frames_of(16);
  std::vector<std::vector<Detection>> right;
  for (const Frame& frame : frames) {
    right.push_back(expected(frame, spec, options.decode));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 5; ++thread) {
    threads.emplace_back([&, thread] {
      std::vector<Detection> out;
      for (std::size_t i = 0; i < frames.size(); ++i) {
        const std::size_t at = (i + 3 * static_cast<std::size_t>(thread)) % frames.size();
        FramePool::Ticket ticket = pool.submit(&frames[at].view, 1, {}, kForEver);
        if (i % 4 == 3) {
          continue;  // nobody waits for it
        }
        ticket.wait(&out);
        wrong += same(out, right[at]) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

TEST(tickets) {
  const NetworkSpec spec = make_spec();
  const FrameOptions options = make_options(1);
  const std::vector<Frame> frames = frames_of(2);
  std::vector<Detection> out;
  FramePool::Ticket outlives;
  {
    FramePool pool(spec, [&] { return toy(spec); }, options, 2);
    outlives = pool.submit(&frames[0].view, 1, {}, 0.0);
    FramePool::Ticket second = pool.submit(&frames[1].view, 1, {}, 0.0);
    CHECK_THROWS(ErrorKind::kBackend, "2 in flight", pool.submit(&frames[1].view, 1, {}, 0.01));
    CHECK(!pool.try_submit(&frames[1].view, 1, {}));
    while (!second.done()) {
    }
    second.wait(&out);
    CHECK(same(out, expected(frames[1], spec, options.decode)));
    CHECK(second.done());
    CHECK_THROWS(ErrorKind::kInvalidInput, "images", pool.try_submit(&frames[1].view, 2, {}));
    auto third = pool.try_submit(&frames[1].view, 1, {});  // the path of the refused one was given back
    CHECK(third.has_value());
    third->wait(&out);
    CHECK(same(out, expected(frames[1], spec, options.decode)));
    CHECK_THROWS(ErrorKind::kInvalidInput, "waited for already", second.wait(&out));
    CHECK_THROWS(ErrorKind::kInvalidInput, "paths", FramePool(spec, nullptr, options, 0));
    FrameOptions limited = options;
    limited.memory_limit = 3 * FramePath::memory_of(spec, options).device;
    const FramePool three(spec, nullptr, limited, 3);
    CHECK_THROWS(ErrorKind::kInvalidInput, "memory_limit", FramePool(spec, nullptr, limited, 4));
  }
  outlives.wait(&out);
  CHECK(same(out, expected(frames[0], spec, options.decode)));
}

TEST(operators_on_streams_of_others) {
  const NetworkSpec spec = make_spec();
  const Frame frame(60, 40, PixelFormat::kRgb, 1);
  const DeviceFrame uploaded(frame);
  const std::size_t count = 3 * 24 * 16;
  const cuda::DeviceBuffer out = cuda::make_device_buffer(count * sizeof(float));
  const cuda::Stream stream = cuda::make_stream();
  frame::Preprocessor preprocessor(spec.preprocess, spec.input, 0, 1, 100, 100);
  preprocessor.run(&uploaded.view, 1, {}, out.data(), stream.get());
  cudaStreamSynchronize(stream.get());
  std::vector<float> found(count);
  cudaMemcpy(found.data(), out.data(), out.bytes(), cudaMemcpyDeviceToHost);
  std::vector<float> right(count);
  ops::PreprocessWorkspace workspace;
  const Geometry geometry =
      ops::preprocess_cpu(frame.view, spec.preprocess, spec.input, right.data(), workspace, nullptr);
  CHECK(found == right);

  const cuda::DeviceBuffer logits = test::upload(std::vector<float>(kRows * kClasses, 1.F));
  const cuda::DeviceBuffer boxes = test::upload(std::vector<float>(kRows * 4, 0.5F));
  frame::NetworkBuffers buffers;
  buffers.logits = logits.data();
  buffers.boxes = boxes.data();
  ops::DecodeOptions options;
  options.top_k = 7;
  frame::Decoder decoder(spec, options, 0, 1);
  const cuda::PinnedBuffer results = cuda::make_pinned_buffer(static_cast<std::size_t>(ops::result_bytes(7)));
  decoder.run(buffers, &geometry, 1, results.data(), stream.get());
  cudaStreamSynchronize(stream.get());
  std::vector<Detection> rows;
  ops::read_result(results.data(), rows);
  CHECK(rows.size() == 7 && rows[6].label == 1 && rows[0].score == rows[6].score);
}

TEST(parts_of_a_frame_are_timed_and_leave_the_path_as_it_was) {
  const NetworkSpec spec = make_spec();
  for (const bool graph : {true, false}) {
    FrameOptions options = make_options(3);
    options.graph = graph;
    FramePath path(spec, toy(spec), options);
    const std::vector<Frame> frames = frames_of(3);
    const std::vector<ImageView> views{frames[0].view, frames[1].view, frames[2].view};
    std::vector<std::vector<Detection>> out(3);
    constexpr int kCalls = 5;
    const PartTimes times = path.time_parts(views.data(), 3, kCalls);
    CHECK(times.network.size() == kCalls && times.network_device.size() == kCalls);
    CHECK(times.stages.size() == kCalls && times.resident.size() == kCalls);
    for (std::size_t i = 0; i < kCalls; ++i) {
      CHECK(times.network[i] > 0 && times.network_device[i] >= 0 && times.network_device[i] <= times.network[i]);
      const StageTimes& stages = times.stages[i];
      CHECK(stages.upload >= 0 && stages.preprocess >= 0 && stages.inference > 0 && stages.decode > 0);
      CHECK(stages.download >= 0 && sum(stages) > 0 && times.resident[i] > 0);
    }
    path.submit(views.data(), 3, {});
    CHECK_THROWS(ErrorKind::kInvalidInput, "in flight", path.time_parts(views.data(), 3, 1));
    path.wait(out.data());
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(same(out[i], expected(frames[i], spec, options.decode)));
    }
    CHECK_THROWS(ErrorKind::kInvalidInput, "4", path.time_parts(views.data(), 4, 1));
  }
}

TEST(a_network_that_fails_while_it_is_timed_leaves_a_path_that_works) {
  const NetworkSpec spec = make_spec();
  int fails_at = 4;
  const frame::EnqueueNetwork network = toy(spec);
  FrameOptions options = make_options(1);
  options.graph = false;
  FramePath path(
      spec,
      [&](const frame::NetworkBuffers& buffers, std::size_t batch, void* stream) {
        if (--fails_at == 0) {
          throw Error(ErrorKind::kBackend, "no");
        }
        network(buffers, batch, stream);
      },
      options);
  const std::vector<Frame> frames = frames_of(1);
  CHECK_THROWS(ErrorKind::kBackend, "no", path.time_parts(&frames[0].view, 1, 9));
  std::vector<Detection> out;
  path.submit(&frames[0].view, 1, {});
  path.wait(&out);
  CHECK(same(out, expected(frames[0], spec, options.decode)));
}

#if !defined(__CUDACC__)

TEST(no_device) {
  host_cuda::reset();
  host_cuda::set_devices(0);
  std::string reason;
  CHECK(frame::devices(&reason).empty() && !reason.empty());
  const NetworkSpec spec = make_spec();
  CHECK_THROWS(ErrorKind::kBackend, "CUDA failed to", FramePath(spec, nullptr, make_options(1)));
}

#endif
