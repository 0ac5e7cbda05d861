// After warm-up, detect allocates nothing in our code. Allocations of OpenVINO and what it calls are told apart by the
// call stack and printed, not judged.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include <dlfcn.h>
#include <execinfo.h>

#include "check.h"
#include "edgedet/detector.h"
#include "tiny_bundle.h"

namespace {

std::atomic<bool> g_counting{false};
std::atomic<int> g_ours{0};
std::atomic<int> g_others{0};

bool ends_in(const char* path, const char* part) { return path != nullptr && std::strstr(path, part) != nullptr; }

// Whether the nearest caller of operator new outside the standard library is this program, which holds all of edgedet.
void count_allocation() {
  static thread_local bool inside = false;
  if (!g_counting || inside) {
    return;
  }
  inside = true;
  void* frames[16];
  const int depth = backtrace(frames, 16);
  Dl_info self{};
  dladdr(reinterpret_cast<void*>(&count_allocation), &self);
  bool ours = false;
  // Frame 0 is this function; operator new, which follows it, may have been inlined into its caller or not, so it is
  // looked up by name.
  for (int i = 1; i < depth; ++i) {
    Dl_info info{};
    if (dladdr(frames[i], &info) == 0 || ends_in(info.dli_fname, "libstdc++") || ends_in(info.dli_fname, "libc.so")) {
      continue;
    }
    if (info.dli_sname != nullptr && std::strncmp(info.dli_sname, "_Znw", 4) == 0) {
      continue;
    }
    ours = info.dli_fbase == self.dli_fbase;
    break;
  }
  ++(ours ? g_ours : g_others);
  inside = false;
}

}  // namespace

void* operator new(std::size_t size) {
  count_allocation();
  void* memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }

using namespace edgedet;  // NOLINT(google-build-using-namespace)

TEST(counter_counts) {
  g_ours = 0;
  g_counting = true;
  auto* volatile pointer = new std::vector<int>(1000);
  g_counting = false;
  delete pointer;
  CHECK(g_ours == 2);
}

TEST(detect_allocates_nothing) {
  if (!backends().back().available) {
    return;
  }
  const test::TemporaryFolder folder;
  write_bundle(folder, test::tiny_network());
  const std::vector<std::uint8_t> pixels = test::picture(64, 48, 0);
  std::vector<ImageView> views(3);
  for (ImageView& view : views) {
    view.data = pixels.data();
    view.width = 64;
    view.height = 48;
    view.stride = 64 * 3;
  }
  for (const PerformanceMode mode : {PerformanceMode::kLatency, PerformanceMode::kThroughput}) {
    DetectorOptions options;
    options.mode = mode;
    options.threads = 2;
    options.requests = mode == PerformanceMode::kLatency ? 1 : 2;
    const Detector detector(folder.path(), options);
    std::vector<std::vector<Detection>> out;
    StageTimes times;
    for (int i = 0; i < 10; ++i) {
      detector.detect(views.data(), views.size(), out, &times);
    }
    g_ours = 0;
    g_others = 0;
    g_counting = true;
    for (int i = 0; i < 100; ++i) {
      detector.detect(views.data(), views.size(), out, &times);
    }
    g_counting = false;
    CHECK(g_ours == 0);
    std::printf("     300 frames: %d allocations of edgedet, %d inside OpenVINO\n", g_ours.load(), g_others.load());
  }
}

int main() {
  void* warm[1];
  backtrace(warm, 1);  // loads what it needs, and allocates, on its first call
  return edgedet::test::run_tests();
}
