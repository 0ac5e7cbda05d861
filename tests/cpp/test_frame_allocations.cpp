// After warm-up a frame allocates nothing: not on the heap, nor on the device, nor pinned memory.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

#include "check.h"
#include "device_frames.h"
#include "frame/frame_path.h"
#include "host_cuda/runtime.h"

namespace {

std::atomic<int> g_allocations{0};

}  // namespace

void* operator new(std::size_t size) {
  g_allocations += host_cuda::inside() ? 0 : 1;
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }

using namespace edgedet;  // NOLINT(google-build-using-namespace)
using test::DeviceFrame;
using test::Frame;

TEST(counter_counts) {
  const int before = g_allocations;
  const std::vector<int> values(10);
  CHECK(g_allocations > before);
}

TEST(frames_allocate_nothing) {
  frame::NetworkSpec spec;
  spec.preprocess.width = 32;
  spec.preprocess.height = 32;
  spec.preprocess.filter = Filter::kAntialias;
  spec.rows = 30;
  spec.classes = 4;
  frame::FrameOptions options;
  options.max_batch = 2;
  options.max_width = 128;
  options.max_height = 128;
  for (const bool graph : {true, false}) {
    options.graph = graph;
    frame::FramePool pool(spec, nullptr, options, 2);
    const Frame host[] = {{100, 60, PixelFormat::kRgb, 0}, {64, 90, PixelFormat::kNv12, 2}};
    const DeviceFrame device[] = {DeviceFrame(host[0]), DeviceFrame(host[1])};
    const ImageView host_views[] = {host[0].view, host[1].view};
    const ImageView device_views[] = {device[0].view, device[1].view};
    frame::Source readable;
    readable.memory = frame::Source::Memory::kReadable;
    std::vector<std::vector<Detection>> out(2);
    const auto round = [&] {
      for (std::size_t count = 1; count <= 2; ++count) {
        auto first = pool.submit(host_views, count, {}, 0.0);
        auto second = pool.submit(device_views, count, readable, std::numeric_limits<double>::infinity());
        first.wait(out.data());
        second.wait(out.data());
      }
    };
    round();
    round();  // either path may take either part
    const int before = g_allocations;
    const auto counters = host_cuda::counters();
    for (int repeat = 0; repeat < 5; ++repeat) {
      round();
    }
    CHECK(g_allocations == before);
    CHECK(host_cuda::counters().device_allocation_calls == counters.device_allocation_calls);
    CHECK(host_cuda::counters().pinned_allocation_calls == counters.pinned_allocation_calls);
    CHECK(host_cuda::counters().graph_instantiations == counters.graph_instantiations);
    CHECK(!out[0].empty() && !out[1].empty());
  }
}
