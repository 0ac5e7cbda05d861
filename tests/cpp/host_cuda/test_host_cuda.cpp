// Shows that the fake runtime finds what it is there to find.
#include <algorithm>
#include <array>
#include <csignal>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "host_cuda/device.h"

namespace {

template <typename Body>
void run_body(const void* body) {
  (*static_cast<const Body*>(body))();
}

template <typename Body>
const void* address() {
  const auto kernel = reinterpret_cast<const void*>(&run_body<Body>);
  host_cuda::register_kernel(kernel, sizeof(Body));
  return kernel;
}

template <typename Body>
cudaError_t launch(const Body& body, unsigned threads, cudaStream_t stream = nullptr, std::size_t shared_bytes = 0,
                   unsigned blocks = 1) {
  void* arguments[] = {const_cast<Body*>(&body)};
  return cudaLaunchKernel(address<Body>(), dim3(blocks), dim3(threads), arguments, shared_bytes, stream);
}

// A kernel made of a lambda that captures nothing and gets one pointer.
template <typename T, typename Function>
struct On {
  T* data;
  Function function;
  void operator()() const { function(data); }
};

template <typename T, typename Function>
cudaError_t launch_on(T* data, unsigned threads, Function function, cudaStream_t stream = nullptr,
                      std::size_t shared_bytes = 0, unsigned blocks = 1) {
  return launch(On<T, Function>{data, function}, threads, stream, shared_bytes, blocks);
}

template <typename T>
T* on_device(std::size_t count) {
  void* data = nullptr;
  CHECK(cudaMalloc(&data, count * sizeof(T)) == cudaSuccess);
  return static_cast<T*>(data);
}

template <typename T>
T* pinned(std::size_t count) {
  void* data = nullptr;
  CHECK(cudaMallocHost(&data, count * sizeof(T)) == cudaSuccess);
  return static_cast<T*>(data);
}

template <typename T>
std::vector<T> fetch(const T* data, std::size_t count) {
  std::vector<T> values(count);
  CHECK(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
  return values;
}

cudaStream_t make_stream() {
  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  return stream;
}

cudaEvent_t make_event() {
  cudaEvent_t event = nullptr;
  CHECK(cudaEventCreate(&event) == cudaSuccess);
  return event;
}

struct Store {
  int value;
  int* to;
  void operator()() const { *to = value; }
};

// True if `body` dies of a memory fault.
template <typename Body>
bool faults(Body&& body) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);  // not that of a sanitizer
    close(STDERR_FILENO);      // where the thread sanitizer, which does not follow forks, sees races
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

// The fault of a kernel of 64 threads, which also must be sticky.
template <typename Function>
std::string fault_of(Function function, std::size_t shared_bytes = 0) {
  host_cuda::reset();
  int* const data = on_device<int>(64);
  CHECK(launch_on(data, 64, function, nullptr, shared_bytes) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() != cudaSuccess);
  CHECK(cudaFree(data) != cudaSuccess && cudaGetLastError() != cudaSuccess && cudaGetLastError() != cudaSuccess);
  const std::string fault = host_cuda::last_fault();
  CHECK(!host_cuda::reset().leaks());
  CHECK(cudaDeviceSynchronize() == cudaSuccess && host_cuda::last_fault().empty());
  return fault;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Results of a block that turns 64 numbers round through shared memory, over seeds.
template <bool kWaits>
std::set<std::vector<int>> turned_round() {
  std::set<std::vector<int>> results;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    host_cuda::reset();
    host_cuda::set_seed(seed);
    int* const data = on_device<int>(64);
    const auto body = [](int* out) {
      auto* const shared = reinterpret_cast<int*>(host_cuda::shared_memory());
      shared[threadIdx.x] = static_cast<int>(threadIdx.x);
      if (kWaits) {
        __syncthreads();
      }
      out[threadIdx.x] = shared[63 - threadIdx.x];
    };
    CHECK(launch_on(data, 64, body, nullptr, 64 * sizeof(int)) == cudaSuccess);
    results.insert(fetch(data, 64));
  }
  return results;
}

TEST(missing_barrier_shows_over_seeds) {
  CHECK(turned_round<true>().size() == 1);
  CHECK((*turned_round<true>().begin())[0] == 63);
  CHECK(turned_round<false>().size() > 1);
}

TEST(blocks_run_in_any_order) {
  std::set<std::vector<int>> results;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    host_cuda::reset();
    host_cuda::set_seed(seed);
    int* const data = on_device<int>(17);
    CHECK(cudaMemset(data, 0, 17 * sizeof(int)) == cudaSuccess);
    const auto body = [](int* out) { out[blockIdx.x] = atomicAdd(&out[gridDim.x], 1); };
    CHECK(launch_on(data, 1, body, nullptr, 0, 16) == cudaSuccess);
    results.insert(fetch(data, 17));
    CHECK((*results.begin())[16] == 16);
  }
  CHECK(results.size() > 1);
}

TEST(barrier_misuse_is_reported) {
  const std::string divergence = fault_of([](int*) {
    if (threadIdx.x < 40) {
      __syncthreads();
    }
  });
  CHECK(contains(divergence, "40 at __syncthreads") && contains(divergence, "24 at its end"));
  CHECK(contains(divergence, "test_host_cuda.cpp:"));
  CHECK(contains(
      fault_of([](int* out) { out[threadIdx.x] = threadIdx.x < 32 ? __syncthreads_or(1) : __syncthreads_and(1); }),
      "different barriers"));
  // The lines of a macro's arguments are one line.
  const auto two_lines = [](int*) {
    if (threadIdx.x % 2 == 0) {  // NOLINT(bugprone-branch-clone)
      __syncthreads();
    } else {
      __syncthreads();
    }
  };
  CHECK(contains(fault_of(two_lines), "different barriers"));
  CHECK(contains(fault_of([](int* out) {
                   if (threadIdx.x != 5) {
                     out[threadIdx.x] = __shfl_xor_sync(0xffffffffU, 1, 1);
                   }
                 }),
                 "31 at __shfl_xor_sync of mask 0xffffffff"));
  CHECK(contains(fault_of([](int*) { __syncwarp(0xfffffffeU); }), "outside the mask"));
  CHECK(contains(fault_of([](int* out) {
                   if (threadIdx.x % 32 < 16) {
                     out[threadIdx.x] = __shfl_sync(0xffffU, 1, 20);
                   }
                 }),
                 "reads from lane 20"));
  CHECK(contains(fault_of([](int*) {
                   if (threadIdx.x < 32) {
                     __syncwarp();
                   }
                   if (threadIdx.x != 3) {
                     __syncthreads();
                   } else {
                     __syncwarp();
                   }
                 }),
                 "63 at __syncthreads"));
  CHECK(contains(
      fault_of([](int* out) { out[threadIdx.x] = static_cast<int>(__ldg(reinterpret_cast<int2*>(out + 1)).x); }),
      "misaligned"));
}

TEST(shared_memory_is_garbage_and_guarded) {
  CHECK(contains(fault_of([](int*) { host_cuda::shared_memory()[100] = 1; }, 100), "behind the dynamic shared memory"));
  CHECK(contains(fault_of([](int*) { host_cuda::shared_memory()[-1] = 1; }, 100), "before the dynamic shared memory"));
  host_cuda::reset();
  int* const data = on_device<int>(1);
  const auto body = [](int* out) { *out = *reinterpret_cast<int*>(host_cuda::shared_memory()); };
  const std::size_t big = 100 * 1024;
  CHECK(launch_on(data, 1, body, nullptr, big) == cudaErrorInvalidValue);
  const void* const kernel = address<On<int, std::decay_t<decltype(body)>>>();
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(big)) ==
        cudaSuccess);
  CHECK(launch_on(data, 1, body, nullptr, big) == cudaSuccess);
  CHECK(fetch(data, 1)[0] == static_cast<int>(0xA5A5A5A5U));
  CHECK(launch_on(data, 1025, body) == cudaErrorInvalidConfiguration);
  CHECK(launch_on(data, 1, body, nullptr, 0, 0) == cudaErrorInvalidConfiguration);
  void* arguments[] = {data};
  CHECK(cudaLaunchKernel(data, dim3(1), dim3(1), arguments, 0, nullptr) == cudaErrorInvalidDeviceFunction);
}

TEST(warp_operations_and_votes) {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    host_cuda::reset();
    host_cuda::set_seed(seed);
    int* const failures = on_device<int>(1);
    CHECK(cudaMemset(failures, 0, sizeof(int)) == cudaSuccess);
    const auto body = [](int* count) {
      constexpr unsigned kAll = 0xffffffffU;
      const unsigned lane = threadIdx.x % 32;
      const auto self = static_cast<int>(lane);
      bool good = __shfl_sync(kAll, self, 7) == 7 && __shfl_sync(kAll, self, 9, 8) == self / 8 * 8 + 1;
      good = good && __shfl_xor_sync(kAll, 0.5F * static_cast<float>(lane), 1) == 0.5F * static_cast<float>(lane ^ 1U);
      good = good && __shfl_up_sync(kAll, lane, 3) == (lane < 3 ? lane : lane - 3);
      good =
          good && __shfl_down_sync(kAll, std::uint64_t{lane} << 40, 4, 16) >> 40 == (lane % 16 < 12 ? lane + 4 : lane);
      good = good && __ballot_sync(kAll, lane % 2 == 1) == 0xaaaaaaaaU && __any_sync(kAll, lane == 9) != 0;
      good = good && __all_sync(kAll, lane != 9) == 0 && __all_sync(kAll, 2) != 0;
      good = good && __reduce_add_sync(kAll, lane) == 496 && __reduce_max_sync(kAll, self - 40) == -9;
      good = good && __reduce_min_sync(kAll, self - 16) == -16 && __reduce_max_sync(kAll, lane - 16) == 0xffffffffU;
      if (lane < 16) {
        good = good && __reduce_add_sync(0xffffU, self) == 120;
      } else {
        good = good && __reduce_min_sync(0xffff0000U, lane) == 16;
      }
      __syncwarp();
      good = good && __syncthreads_count(threadIdx.x < 40) == 40 && __syncthreads_or(threadIdx.x == 63) != 0;
      good = good && __syncthreads_and(threadIdx.x != 63) == 0;
      if (!good) {
        atomicAdd(count, 1);
      }
    };
    CHECK(launch_on(failures, 64, body) == cudaSuccess);
    CHECK(fetch(failures, 1)[0] == 0);
    CHECK(host_cuda::last_fault().empty());
  }
}

TEST(arithmetic) {
  CHECK(__dp4a(0xff020304U, 0xff010101U, 5U) == 255U * 255U + 9U + 5U);
  CHECK(__dp4a(static_cast<int>(0xff020304U), static_cast<int>(0x80010101U), -3) == 128 + 9 - 3);
  CHECK(__byte_perm(0x33221100U, 0x77665544U, 0x7401U) == 0x77440011U);
  CHECK(__funnelshift_l(0x80000001U, 0xf0U, 4) == 0xf08U && __funnelshift_l(1, 2, 32) == 2U);
  CHECK(__funnelshift_r(0x12345678U, 0xabcdU, 8) == 0xcd123456U && __funnelshift_r(1, 2, 0) == 1U);
  CHECK(__float2int_rn(2.5F) == 2 && __float2int_rn(-3.5F) == -4 && __float2int_rn(3e9F) == 0x7fffffff);
  CHECK(__float2int_rn(std::nanf("")) == 0 && __float2int_rn(-INFINITY) == std::numeric_limits<int>::min());
  CHECK(__clz(0) == 32 && __clz(1) == 31 && __ffs(0) == 0 && __ffs(8) == 4 && __popc(0xf0U) == 4);
  CHECK(__uint_as_float(__float_as_uint(-0.0F) + 1) < 0);
}

TEST(a_missing_event_wait_shows) {
  for (const bool waits : {false, true}) {
    std::set<int> results;
    for (std::uint64_t seed = 0; seed < 16; ++seed) {
      host_cuda::reset();
      host_cuda::set_seed(seed);
      host_cuda::set_policy(seed % 2 == 0 ? host_cuda::kLazy : host_cuda::kRandom);
      cudaStream_t const first = make_stream();
      cudaStream_t const second = make_stream();
      cudaEvent_t const event = make_event();
      int* const data = on_device<int>(1);
      int* const result = pinned<int>(1);
      CHECK(launch(Store{42, data}, 1, first) == cudaSuccess);
      CHECK(cudaEventRecord(event, first) == cudaSuccess);
      CHECK(launch(Store{43, result}, 1, first) == cudaSuccess);  // after the record, so never waited for
      if (waits) {
        CHECK(cudaStreamWaitEvent(second, event, 0) == cudaSuccess);
      }
      CHECK(cudaMemcpyAsync(result, data, sizeof(int), cudaMemcpyDeviceToHost, second) == cudaSuccess);
      CHECK(cudaStreamSynchronize(second) == cudaSuccess);
      results.insert(*result);
    }
    CHECK((results.count(static_cast<int>(0xA5A5A5A5U)) == 0) == waits);
    CHECK(results.count(42) == 1);
  }
}

TEST(policies_and_queries) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  int* const data = pinned<int>(1);
  *data = 0;
  CHECK(launch(Store{1, data}, 1, stream) == cudaSuccess);
  CHECK(*data == 0 && host_cuda::counters().queued == 1);
  int queries = 1;
  while (cudaStreamQuery(stream) == cudaErrorNotReady) {
    ++queries;
  }
  CHECK(*data == 1 && queries < 100);
  host_cuda::set_policy(host_cuda::kEager);
  CHECK(launch(Store{2, data}, 1, stream) == cudaSuccess && *data == 2);
}

TEST(events) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  cudaEvent_t const begin = make_event();
  cudaEvent_t const end = make_event();
  int* const data = pinned<int>(1);
  float milliseconds = -1;
  CHECK(cudaEventSynchronize(begin) == cudaSuccess && cudaEventQuery(begin) == cudaSuccess);
  CHECK(cudaEventRecord(begin, stream) == cudaSuccess && launch(Store{1, data}, 1, stream) == cudaSuccess);
  CHECK(cudaEventRecord(end, stream) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(end) == cudaSuccess && *data == 1);
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess && milliseconds >= 0);
  CHECK(cudaEventDestroy(end) == cudaSuccess && cudaEventQuery(end) == cudaErrorInvalidResourceHandle);
  CHECK(launch(Store{2, data}, 1, stream) == cudaSuccess && cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(launch(Store{3, data}, 1, stream) == cudaErrorInvalidResourceHandle);
  CHECK(cudaDeviceSynchronize() == cudaSuccess && *data == 2);
}

TEST(the_legacy_stream_orders_blocking_streams) {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    host_cuda::reset();
    host_cuda::set_seed(seed);
    cudaStream_t stream = nullptr;
    CHECK(cudaStreamCreate(&stream) == cudaSuccess);
    int* const data = pinned<int>(1);
    CHECK(launch(Store{1, data}, 1, stream) == cudaSuccess && launch(Store{2, data}, 1) == cudaSuccess);
    CHECK(launch(Store{3, data}, 1, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(*data == 3 && host_cuda::counters().queued == 0);
  }
}

TEST(copies_read_pinned_memory_late_and_pageable_memory_at_once) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  int* const data = on_device<int>(2);
  int* const source = pinned<int>(1);
  *source = 1;
  int pageable = 1;
  CHECK(cudaMemcpyAsync(data, source, sizeof(int), cudaMemcpyHostToDevice, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(data + 1, &pageable, sizeof(int), cudaMemcpyDefault, stream) == cudaSuccess);
  *source = pageable = 2;
  std::array<int, 2> result{};
  CHECK(cudaMemcpyAsync(result.data(), data, sizeof(result), cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(result[0] == 2 && result[1] == 1);
}

TEST(memory_faults) {
  host_cuda::reset();
  int* const data = on_device<int>(64);
  CHECK(reinterpret_cast<std::uintptr_t>(data) % 256 == 0);
  CHECK(fetch(data, 64)[63] == static_cast<int>(0xA5A5A5A5U));
  CHECK(faults([&] { *data = 1; }));
  const auto run = [&](int* to) {
    static_cast<void>(launch(Store{1, to}, 1));
    static_cast<void>(cudaDeviceSynchronize());
  };
  CHECK(!faults([&] { run(data + 63); }));
  CHECK(faults([&] { run(data + 64); }));
  int* const freed = on_device<int>(64);
  CHECK(cudaFree(freed) == cudaSuccess);
  CHECK(faults([&] { run(freed); }));
  int* const host = pinned<int>(64);
  CHECK(!faults([&] { run(host); }));
  CHECK(faults([&] { host[64] = 1; }));
  CHECK(cudaFreeHost(host) == cudaSuccess);
  CHECK(faults([&] { *host = 1; }));
  auto* const odd = on_device<unsigned char>(100);
  const auto body = [](unsigned char* out) { out[100] = 1; };
  CHECK(launch_on(odd, 1, body) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaFree(odd) == cudaErrorIllegalAddress && contains(host_cuda::last_fault(), "next to an allocation"));
}

TEST(memory_belongs_to_a_device) {
  host_cuda::reset();
  host_cuda::set_devices(2);
  int* const data = on_device<int>(1);
  cudaStream_t const stream = make_stream();
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice && cudaSetDevice(1) == cudaSuccess);
  CHECK(launch(Store{1, data}, 1, stream) == cudaErrorInvalidResourceHandle);
  CHECK(faults([&] {
    static_cast<void>(launch(Store{1, data}, 1));
    static_cast<void>(cudaDeviceSynchronize());
  }));
  int* const other = on_device<int>(1);
  CHECK(launch(Store{7, other}, 1) == cudaSuccess);
  CHECK(cudaMemcpy(data, other, sizeof(int), cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess && fetch(data, 1)[0] == 7);
  cudaPointerAttributes attributes{};
  CHECK(cudaPointerGetAttributes(&attributes, data) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
  int* const host = pinned<int>(2);
  CHECK(cudaPointerGetAttributes(&attributes, host + 1) == cudaSuccess && attributes.type == cudaMemoryTypeHost);
  int local = 0;
  CHECK(cudaPointerGetAttributes(&attributes, &local) == cudaSuccess);
  CHECK(attributes.type == cudaMemoryTypeUnregistered);
  host_cuda::set_devices(0);
  int count = -1;
  CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0);
}

TEST(copies_check_their_ranges) {
  host_cuda::reset();
  int* const data = on_device<int>(4);
  std::array<int, 8> host{};
  const auto copy = [](void* to, const void* from, std::size_t count, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, count * sizeof(int), kind, nullptr);
  };
  CHECK(copy(data + 1, host.data(), 4, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(copy(data, host.data(), 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(copy(host.data(), data, 4, cudaMemcpyHostToHost) == cudaErrorInvalidValue);
  CHECK(copy(data, nullptr, 1, cudaMemcpyDefault) == cudaErrorInvalidValue);
  CHECK(cudaMemsetAsync(host.data(), 0, 4, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess);
  CHECK(cudaFree(data + 1) == cudaErrorInvalidValue && cudaFreeHost(data) == cudaErrorInvalidValue);
  CHECK(cudaFree(data) == cudaSuccess && cudaFree(data) == cudaErrorInvalidValue);
  CHECK(copy(data, host.data(), 4, cudaMemcpyDefault) == cudaErrorInvalidValue);
}

TEST(freeing_waits_for_pending_work) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  int* const data = on_device<int>(1);
  CHECK(launch(Store{1, data}, 1, stream) == cudaSuccess && cudaFree(data) == cudaSuccess);
  CHECK(host_cuda::counters().kernels_run == 1);
}

TEST(capture) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  int* const data = on_device<int>(1);
  int* const host = pinned<int>(1);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamCaptureStatus status{};
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(launch(Store{5, data}, 1, stream) == cudaSuccess);
  CHECK(cudaMemcpyAsync(host, data, sizeof(int), cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess && host_cuda::counters().kernels_run == 0);
  CHECK(cudaGraphInstantiateWithFlags(&exec, graph, 0) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess && *host == 5);

  void* memory = nullptr;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK(cudaMalloc(&memory, 4) == cudaErrorStreamCaptureUnsupported);
  CHECK(launch(Store{5, data}, 1, stream) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && graph == nullptr);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  CHECK(cudaMalloc(&memory, 4) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorIllegalState);
}

TEST(graph_parameters_are_those_at_the_launch) {
  host_cuda::reset();
  cudaStream_t const stream = make_stream();
  int* const data = on_device<int>(2);
  int* const host = pinned<int>(4);
  Store store{1, data};
  void* arguments[] = {&store};
  cudaKernelNodeParams params{};
  params.func = const_cast<void*>(address<Store>());
  params.gridDim = dim3(1);
  params.blockDim = dim3(1);
  params.kernelParams = arguments;
  cudaGraph_t graph = nullptr;
  cudaGraph_t child = nullptr;
  cudaGraphNode_t kernel = nullptr;
  cudaGraphNode_t copy = nullptr;
  cudaGraphNode_t nested = nullptr;
  cudaGraphNode_t last = nullptr;
  cudaGraphExec_t exec = nullptr;
  const std::size_t bytes = sizeof(int);
  CHECK(cudaGraphCreate(&graph, 0) == cudaSuccess && cudaGraphCreate(&child, 0) == cudaSuccess);
  CHECK(cudaGraphAddKernelNode(&kernel, graph, nullptr, 0, &params) == cudaSuccess);
  store = {3, data + 1};
  CHECK(cudaGraphAddKernelNode(&nested, child, nullptr, 0, &params) == cudaSuccess);
  CHECK(cudaGraphAddChildGraphNode(&nested, graph, &kernel, 1, child) == cudaSuccess);
  CHECK(cudaGraphAddMemcpyNode1D(&copy, graph, &nested, 1, host, data, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaGraphAddMemcpyNode1D(&last, graph, &copy, 1, host + 1, data + 1, bytes, cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaGraphInstantiateWithFlags(&exec, graph, 0) == cudaSuccess && cudaGraphUpload(exec, stream) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);

  store = {2, data};
  CHECK(cudaGraphExecKernelNodeSetParams(exec, kernel, &params) == cudaSuccess);
  CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, copy, host + 2, data, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
  cudaGraph_t changed = nullptr;
  store = {4, data + 1};
  CHECK(cudaGraphCreate(&changed, 0) == cudaSuccess);
  CHECK(cudaGraphExecChildGraphNodeSetParams(exec, nested, changed) == cudaErrorInvalidValue);
  cudaGraphNode_t unused = nullptr;
  CHECK(cudaGraphAddKernelNode(&unused, changed, nullptr, 0, &params) == cudaSuccess);
  CHECK(cudaGraphExecChildGraphNodeSetParams(exec, nested, changed) == cudaSuccess);
  CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, last, host + 3, data + 1, bytes, cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaGraphExecMemcpyNodeSetParams1D(exec, last, data, host, bytes, cudaMemcpyDefault) == cudaErrorInvalidValue);
  CHECK(cudaGraphExecKernelNodeSetParams(exec, copy, &params) == cudaErrorInvalidValue);
  CHECK(cudaGraphExecKernelNodeSetParams(exec, unused, &params) == cudaErrorInvalidValue);
  store = {9, data};  // nothing reads it any more

  cudaStream_t const other = make_stream();
  CHECK(cudaGraphLaunch(exec, other) == cudaSuccess && cudaStreamSynchronize(other) == cudaSuccess);
  CHECK(host[0] == 1 && host[1] == 3 && host[2] == 2 && host[3] == 4);
  const host_cuda::Counters counters = host_cuda::counters();
  CHECK(counters.kernels_run == 4 && counters.kernel_launches == 0 && counters.graph_launches == 2);
  CHECK(counters.device_to_host.copies == 4 && counters.device_to_host.bytes == 16);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaGraphExecKernelNodeSetParams(exec, kernel, &params) == cudaErrorInvalidValue);
}

TEST(graph_branches_run_in_any_order) {
  std::set<int> results;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    host_cuda::reset();
    host_cuda::set_seed(seed);
    auto* const data = on_device<int>(1);
    cudaGraph_t graph = nullptr;
    CHECK(cudaGraphCreate(&graph, 0) == cudaSuccess);
    for (unsigned value = 1; value <= 2; ++value) {
      cudaMemsetParams params{};
      params.dst = data;
      params.value = value;
      params.elementSize = 4;
      params.width = params.height = 1;
      cudaGraphNode_t node = nullptr;
      CHECK(cudaGraphAddMemsetNode(&node, graph, nullptr, 0, &params) == cudaSuccess);
    }
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaGraphInstantiateWithFlags(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, nullptr) == cudaSuccess);
    results.insert(fetch(data, 1)[0]);
  }
  CHECK((results == std::set<int>{1, 2}));
}

TEST(leaks_limits_and_failures) {
  host_cuda::reset();
  CHECK(!host_cuda::reset().leaks());
  host_cuda::set_memory(1024);
  int* const data = on_device<int>(200);
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 400) == cudaErrorMemoryAllocation && memory == nullptr);
  std::size_t free = 0;
  std::size_t total = 0;
  CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == 224 && total == 1024);
  static_cast<void>(pinned<char>(3));
  static_cast<void>(make_event());
  cudaStream_t const stream = make_stream();
  host_cuda::fail("cudaMemsetAsync", 2, cudaErrorUnknown);
  CHECK(cudaMemsetAsync(data, 0, 4, stream) == cudaSuccess);
  CHECK(cudaMemsetAsync(data, 0, 4, stream) == cudaErrorUnknown);
  CHECK(cudaMemsetAsync(data, 0, 4, stream) == cudaSuccess);
  host_cuda::fail("execution", 2, cudaErrorIllegalAddress);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorIllegalAddress);
  CHECK(std::string(cudaGetErrorString(cudaErrorIllegalAddress)) == "an illegal memory access was encountered");
  const host_cuda::Counters left = host_cuda::reset();
  CHECK(left.leaks() && left.device_allocations == 1 && left.device_bytes == 800 && left.pinned_allocations == 1);
  CHECK(left.pinned_bytes == 3 && left.events == 1 && left.streams == 1 && left.device_allocation_calls == 2);
  CHECK(!host_cuda::reset().leaks());
}

TEST(host_functions_may_not_call_cuda) {
  host_cuda::reset();
  static cudaError_t code = cudaSuccess;
  const auto function = [](void* data) { code = cudaGetDevice(static_cast<int*>(data)); };
  int device = 0;
  CHECK(cudaLaunchHostFunc(nullptr, function, &device) == cudaSuccess && code == cudaSuccess);
  CHECK(cudaStreamSynchronize(nullptr) == cudaSuccess && code == cudaErrorNotPermitted);
}

TEST(threads_may_call_concurrently) {
  for (const auto policy : {host_cuda::kLazy, host_cuda::kEager, host_cuda::kRandom}) {
    host_cuda::reset();
    host_cuda::set_policy(policy);
    std::array<int, 4> sums{};
    std::vector<std::thread> threads;
    for (int& sum : sums) {
      threads.emplace_back([&sum] {
        cudaStream_t stream = nullptr;
        void* memory = nullptr;
        static_cast<void>(cudaStreamCreate(&stream));
        static_cast<void>(cudaMallocHost(&memory, sizeof(int)));
        auto* const value = static_cast<int*>(memory);
        for (int i = 0; i < 50; ++i) {
          static_cast<void>(launch(Store{i, value}, 1, stream));
          static_cast<void>(cudaLaunchHostFunc(stream, [](void* data) { ++*static_cast<int*>(data); }, memory));
          if (cudaStreamSynchronize(stream) == cudaSuccess) {
            sum += *value;
          }
        }
        static_cast<void>(cudaStreamDestroy(stream));
        static_cast<void>(cudaFreeHost(memory));
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    CHECK(std::all_of(sums.begin(), sums.end(), [](int sum) { return sum == 50 * 51 / 2; }));
    CHECK(!host_cuda::reset().leaks());
  }
}

}  // namespace
