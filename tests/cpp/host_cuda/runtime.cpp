#include "host_cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "host_cuda/simulator.h"

namespace host_cuda {

namespace {

thread_local int g_depth = 0;

struct Inside {
  Inside() { ++g_depth; }
  ~Inside() { --g_depth; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

// Frames a function of the API, which `body(lock)` is.
template <typename Body>
cudaError_t call(const char* function, Body&& body, bool despite_fault = false) {
  const Inside here;
  Runtime& cuda = runtime();
  Lock lock(cuda.mutex);
  cudaError_t code = cuda.injected(function);
  if (Runtime::in_host_function()) {
    code = cudaErrorNotPermitted;
  } else if (cuda.state.devices == 0) {
    code = cudaErrorNoDevice;
  } else if (code == cudaSuccess) {
    if (cuda.state.sticky.code == cudaSuccess || despite_fault) {
      code = body(lock);
    }
    code = cuda.state.sticky.code != cudaSuccess ? cuda.state.sticky.code : code;
    cuda.open(kNoDevice);
  }
  if (code != cudaSuccess) {
    cuda.thread().last_error = code;
  }
  return code;
}

// As call(), but what it releases is released after a fault too.
template <typename Body>
cudaError_t release(const char* function, Body&& body) {
  return call(function, std::forward<Body>(body), true);
}

template <typename Value>
Value* find(std::map<Id, Value>& values, const void* handle) {
  const auto found = values.find(reinterpret_cast<Id>(handle));
  return found == values.end() ? nullptr : &found->second;
}

template <typename Value, typename Handle>
Value& create(std::map<Id, Value>& values, Handle* out, Id id = runtime().new_id()) {
  *out = reinterpret_cast<Handle>(id);  // NOLINT(performance-no-int-to-ptr)
  return values[id];
}

template <typename Value>
cudaError_t destroy(const char* function, std::map<Id, Value>& values, const void* handle, cudaError_t unknown) {
  return release(function,
                 [&](Lock&) { return values.erase(reinterpret_cast<Id>(handle)) != 0 ? cudaSuccess : unknown; });
}

cudaError_t make_kernel(const cudaKernelNodeParams& params, Work* work) {
  Runtime& cuda = runtime();
  const auto kernel = cuda.kernels.find(params.func);
  if (kernel == cuda.kernels.end()) {
    return cudaErrorInvalidDeviceFunction;
  }
  const dim3& grid = params.gridDim;
  const dim3& block = params.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535 ||
      block.x == 0 || block.y == 0 || block.z == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      block.x * block.y * block.z > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  const auto set = kernel->second.max_shared.find(cuda.device());
  const std::size_t max_shared = set == kernel->second.max_shared.end() ? 48 * 1024 : set->second;
  if (params.kernelParams == nullptr || params.kernelParams[0] == nullptr || params.sharedMemBytes > max_shared) {
    return cudaErrorInvalidValue;
  }
  work->kind = Work::Kind::kKernel;
  work->device = cuda.device();
  work->kernel = params;
  const auto* const body = static_cast<const unsigned char*>(params.kernelParams[0]);
  work->bytes.assign(body, body + kernel->second.body_bytes);
  return cudaSuccess;
}

cudaError_t make_copy(void* to, const void* from, std::size_t count, cudaMemcpyKind kind, Work* work) {
  static constexpr cudaMemcpyKind kKinds[2][2] = {{cudaMemcpyHostToHost, cudaMemcpyHostToDevice},
                                                  {cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice}};
  const Place target = runtime().place(to, count);
  const Place source = runtime().place(from, count);
  work->kind = Work::Kind::kCopy;
  work->to = to;
  work->from = from;
  work->count = count;
  work->direction = kKinds[source.kind == Place::kDevice][target.kind == Place::kDevice];
  work->to_device = target.kind == Place::kDevice ? target.device : kNoDevice;
  work->from_device = source.kind == Place::kDevice ? source.device : kNoDevice;
  const bool valid = target.kind != Place::kNowhere && source.kind != Place::kNowhere && count > 0;
  return valid && (kind == cudaMemcpyDefault || kind == work->direction) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t make_fill(const cudaMemsetParams& fill, Work* work) {
  const std::size_t row = fill.width * fill.elementSize;
  const std::size_t bytes = fill.height == 0 ? 0 : fill.pitch * (fill.height - 1) + row;
  const bool sized = fill.elementSize == 1 || fill.elementSize == 2 || fill.elementSize == 4;
  const Place place = runtime().place(fill.dst, bytes);
  if (!sized || (fill.height > 1 && fill.pitch < row) || place.kind != Place::kDevice) {
    return cudaErrorInvalidValue;
  }
  work->device = place.device;
  work->kind = Work::Kind::kFill;
  work->fill = fill;
  return cudaSuccess;
}

// `waits`: as cudaMemcpy, which returns when the bytes have left or reached the host.
cudaError_t copy(Lock& lock, Stream* stream, void* to, const void* from, std::size_t count, cudaMemcpyKind kind,
                 bool waits) {
  if (stream == nullptr || count == 0) {
    return stream == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
  }
  Work work;
  if (const cudaError_t code = make_copy(to, from, count, kind, &work)) {
    return code;
  }
  const bool to_pageable = runtime().place(to, count).kind == Place::kPageable;
  const bool from_pageable = runtime().place(from, count).kind == Place::kPageable;
  const bool staged = work.direction == cudaMemcpyHostToDevice && from_pageable;
  if (stream->capture || (waits && (staged || work.direction == cudaMemcpyDeviceToDevice))) {
    waits = false;
  } else if (to_pageable || (work.direction == cudaMemcpyHostToHost && from_pageable)) {
    waits = true;
  }
  if (!stream->capture && staged) {
    work.bytes.assign(static_cast<const unsigned char*>(from), static_cast<const unsigned char*>(from) + count);
  }
  DonePtr done;
  const cudaError_t code = runtime().submit(lock, *stream, std::move(work), &done);
  if (code == cudaSuccess && waits) {
    runtime().wait(lock, {done});
  }
  return code;
}

cudaError_t fill(Lock& lock, Stream* stream, void* at, int value, std::size_t count) {
  if (stream == nullptr) {
    return cudaErrorInvalidResourceHandle;
  }
  if (count == 0) {
    return cudaSuccess;
  }
  cudaMemsetParams params{};
  params.dst = at;
  params.value = static_cast<unsigned char>(value);
  params.elementSize = 1;
  params.width = count;
  params.height = 1;
  Work work;
  const cudaError_t code = make_fill(params, &work);
  return code != cudaSuccess ? code : runtime().submit(lock, *stream, std::move(work));
}

cudaError_t add_node(cudaGraphNode_t* out, cudaGraph_t graph, const cudaGraphNode_t* after, std::size_t count,
                     Work work, Nodes child = {}) {
  Runtime& cuda = runtime();
  Nodes* const nodes = find(cuda.state.graphs, graph);
  if (out == nullptr || nodes == nullptr || (after == nullptr && count > 0)) {
    return cudaErrorInvalidValue;
  }
  Node node{cuda.new_id(), std::move(work), {}, std::move(child)};
  for (std::size_t i = 0; i < count; ++i) {
    const auto before = std::find_if(nodes->begin(), nodes->end(),
                                     [&](const Node& other) { return other.id == reinterpret_cast<Id>(after[i]); });
    const auto index = static_cast<std::size_t>(before - nodes->begin());
    if (before == nodes->end() || std::count(node.after.begin(), node.after.end(), index) > 0) {
      return cudaErrorInvalidValue;
    }
    node.after.push_back(index);
  }
  *out = reinterpret_cast<cudaGraphNode_t>(node.id);  // NOLINT(performance-no-int-to-ptr)
  nodes->push_back(std::move(node));
  return cudaSuccess;
}

// An update may change values, not the kind of work nor where it happens.
bool updates(const Work& before, const Work& work) {
  return before.kind == work.kind && before.device == work.device && before.direction == work.direction &&
         before.from_device == work.from_device && before.to_device == work.to_device;
}

bool updates(const Nodes& before, const Nodes& nodes) {
  return std::equal(before.begin(), before.end(), nodes.begin(), nodes.end(), [](const Node& a, const Node& b) {
    return updates(a.work, b.work) && a.after == b.after && updates(a.child, b.child);
  });
}

// Null unless the node belongs to the graph of `exec`, which must still exist.
Node* find_node(cudaGraphExec_t exec, cudaGraphNode_t handle) {
  State& state = runtime().state;
  Exec* const found = find(state.execs, exec);
  const auto is_node = [&](const Node& node) { return node.id == reinterpret_cast<Id>(handle); };
  const bool exists = std::any_of(state.graphs.begin(), state.graphs.end(), [&](const auto& graph) {
    return std::any_of(graph.second.begin(), graph.second.end(), is_node);
  });
  if (found == nullptr || !exists) {
    return nullptr;
  }
  const auto node = std::find_if(found->nodes.begin(), found->nodes.end(), is_node);
  return node == found->nodes.end() ? nullptr : &*node;
}

cudaError_t allocate(const char* function, void** out, std::size_t bytes, bool pinned) {
  return call(function, [&](Lock&) {
    return runtime().forbidden() ? cudaErrorStreamCaptureUnsupported : runtime().allocate(out, bytes, pinned);
  });
}

cudaError_t free_memory(const char* function, void* at, bool pinned) {
  return release(function, [&](Lock& lock) {
    return runtime().forbidden() ? cudaErrorStreamCaptureUnsupported : runtime().free(lock, at, pinned);
  });
}

// The stream or event that has `target` may go or get another one meanwhile: by value.
cudaError_t wait_or_ask(Lock& lock, bool waits, DonePtr target) {  // NOLINT(performance-unnecessary-value-param)
  if (!waits) {
    runtime().run_some(lock);
  } else if (target != nullptr) {
    runtime().wait(lock, {target});
  }
  return target == nullptr || target->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t wait_or_ask_stream(const char* function, cudaStream_t handle, bool waits) {
  return call(function, [&](Lock& lock) {
    Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
    if (const cudaError_t code = runtime().legacy_conflict(*stream)) {
      return code;
    }
    if (stream->capture) {
      stream->capture->invalid = true;
    }
    if (runtime().forbidden() || stream->capture) {
      return cudaErrorStreamCaptureUnsupported;
    }
    return wait_or_ask(lock, waits, stream->last);
  });
}

cudaError_t wait_or_ask_event(const char* function, cudaEvent_t handle, bool waits) {
  return call(function, [&](Lock& lock) {
    const Event* const event = find(runtime().state.events, handle);
    if (event == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
    if (runtime().forbidden()) {
      return cudaErrorStreamCaptureUnsupported;
    }
    return event->captured_in != 0 ? cudaErrorCapturedEvent : wait_or_ask(lock, waits, event->latest);
  });
}

// `make(Work*)` checks the parameters.
template <typename Make>
cudaError_t add(const char* function, cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                std::size_t count, Make&& make) {
  return call(function, [&](Lock&) {
    Work work;
    const cudaError_t code = make(&work);
    return code != cudaSuccess ? code : add_node(node, graph, after, count, std::move(work));
  });
}

template <typename Make>
cudaError_t update(const char* function, cudaGraphExec_t exec, cudaGraphNode_t handle, Make&& make) {
  return call(function, [&](Lock&) {
    Work work;
    Node* const node = find_node(exec, handle);
    const cudaError_t code = make(&work);
    if (code != cudaSuccess || node == nullptr || !updates(node->work, work)) {
      return code != cudaSuccess ? code : cudaErrorInvalidValue;
    }
    node->work = std::move(work);
    return cudaSuccess;
  });
}

struct Name {
  cudaError_t code;
  const char* name;
  const char* text;
};

const Name& name_of(cudaError_t code) {
#define HOST_CUDA_NAME(name, text) \
  {                                \
    name, #name, text              \
  }
  static constexpr Name kNames[] = {
      HOST_CUDA_NAME(cudaErrorUnknown, "unknown error"),
      HOST_CUDA_NAME(cudaSuccess, "no error"),
      HOST_CUDA_NAME(cudaErrorInvalidValue, "invalid argument"),
      HOST_CUDA_NAME(cudaErrorMemoryAllocation, "out of memory"),
      HOST_CUDA_NAME(cudaErrorInitializationError, "initialization error"),
      HOST_CUDA_NAME(cudaErrorInvalidConfiguration, "invalid configuration argument"),
      HOST_CUDA_NAME(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
      HOST_CUDA_NAME(cudaErrorInvalidDeviceFunction, "invalid device function"),
      HOST_CUDA_NAME(cudaErrorNoDevice, "no CUDA-capable device is detected"),
      HOST_CUDA_NAME(cudaErrorInvalidDevice, "invalid device ordinal"),
      HOST_CUDA_NAME(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
      HOST_CUDA_NAME(cudaErrorInvalidResourceHandle, "invalid resource handle"),
      HOST_CUDA_NAME(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
      HOST_CUDA_NAME(cudaErrorNotReady, "device not ready"),
      HOST_CUDA_NAME(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
      HOST_CUDA_NAME(cudaErrorMisalignedAddress, "misaligned address"),
      HOST_CUDA_NAME(cudaErrorLaunchFailure, "unspecified launch failure"),
      HOST_CUDA_NAME(cudaErrorNotPermitted, "operation not permitted"),
      HOST_CUDA_NAME(cudaErrorNotSupported, "operation not supported"),
      HOST_CUDA_NAME(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
      HOST_CUDA_NAME(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
      HOST_CUDA_NAME(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
      HOST_CUDA_NAME(cudaErrorStreamCaptureImplicit,
                     "operation would make the legacy stream depend on a capturing blocking stream"),
      HOST_CUDA_NAME(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a capturing stream"),
      HOST_CUDA_NAME(cudaErrorStreamCaptureWrongThread,
                     "attempt to terminate a thread-local capture sequence from another thread"),
  };
#undef HOST_CUDA_NAME
  const auto* const found =
      std::find_if(std::begin(kNames), std::end(kNames), [&](const Name& name) { return name.code == code; });
  return found == std::end(kNames) ? kNames[0] : *found;
}

}  // namespace

Counters counters() {
  const Lock lock(runtime().mutex);
  return runtime().count();
}

Counters reset() {
  const Lock lock(runtime().mutex);
  const Counters left = runtime().count();
  runtime().clear();
  return left;
}

void set_seed(std::uint64_t seed) {
  const Lock lock(runtime().mutex);
  runtime().random.seed(seed);
}

void set_policy(Policy policy) {
  const Lock lock(runtime().mutex);
  runtime().state.policy = policy;
}

void set_devices(int count) {
  const Lock lock(runtime().mutex);
  runtime().state.devices = count;
}

void set_memory(std::size_t total_bytes) {
  const Lock lock(runtime().mutex);
  runtime().state.memory = total_bytes;
}

void set_attribute(cudaDeviceAttr attribute, int value) {
  const Lock lock(runtime().mutex);
  runtime().state.attributes[attribute] = value;
}

void fail(const char* function, int nth_call_from_now, cudaError_t code) {
  const Lock lock(runtime().mutex);
  runtime().state.failures.push_back({function, nth_call_from_now, code});
}

std::string last_fault() {
  const Lock lock(runtime().mutex);
  return runtime().state.sticky.message;
}

bool inside() { return g_depth > 0; }

void register_kernel(const void* address, std::size_t body_bytes) {
  const Inside here;
  const Lock lock(runtime().mutex);
  runtime().kernels[address].body_bytes = body_bytes;
}

}  // namespace host_cuda

using namespace host_cuda;  // NOLINT(google-build-using-namespace)

extern "C" {

// Devices and errors.

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  return call(__func__, [&](Lock&) {
    *count = runtime().state.devices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return call(__func__, [&](Lock&) {
    *device = runtime().device();
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call(__func__, [&](Lock&) {
    if (device < 0 || device >= runtime().state.devices) {
      return cudaErrorInvalidDevice;
    }
    runtime().thread().device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return call(__func__, [&](Lock&) {
    if (device < 0 || device >= runtime().state.devices) {
      return cudaErrorInvalidDevice;
    }
    const auto& attributes = runtime().state.attributes;
    const auto found = attributes.find(attribute);
    *value = found == attributes.end() ? 0 : found->second;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call(__func__, [&](Lock& lock) {
    if (runtime().forbidden()) {
      return cudaErrorStreamCaptureUnsupported;
    }
    runtime().wait(lock, runtime().all_of_device(runtime().device()));
    return cudaSuccess;
  });
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() {
  const Lock lock(runtime().mutex);
  const cudaError_t sticky = runtime().state.sticky.code;
  return sticky != cudaSuccess ? sticky : runtime().thread().last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t code = cudaPeekAtLastError();
  const Lock lock(runtime().mutex);
  runtime().thread().last_error = cudaSuccess;
  return code;
}

const char* cudaGetErrorName(cudaError_t code) { return name_of(code).name; }
const char* cudaGetErrorString(cudaError_t code) { return name_of(code).text; }

// Memory.

cudaError_t cudaMalloc(void** out, std::size_t bytes) { return allocate(__func__, out, bytes, false); }
cudaError_t cudaMallocHost(void** out, std::size_t bytes) { return allocate(__func__, out, bytes, true); }
cudaError_t cudaHostAlloc(void** out, std::size_t bytes, unsigned) { return allocate(__func__, out, bytes, true); }
cudaError_t cudaFree(void* at) { return free_memory(__func__, at, false); }
cudaError_t cudaFreeHost(void* at) { return free_memory(__func__, at, true); }

// The name alone.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call(__func__, [&](Lock&) {
    if (device < 0 || device >= runtime().state.devices) {
      return cudaErrorInvalidDevice;
    }
    *properties = cudaDeviceProp{};
    std::strncpy(properties->name, "simulated", sizeof(properties->name) - 1);
    return cudaSuccess;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call(__func__, [&](Lock&) {
    *total = runtime().state.memory;
    *free = *total - std::min(*total, runtime().used(runtime().device()));
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* at) {
  return call(__func__, [&](Lock&) {
    const Place place = runtime().place(at, 1);
    const bool known = place.kind == Place::kDevice || place.kind == Place::kPinned;
    *attributes = {};
    attributes->type = place.kind == Place::kDevice   ? cudaMemoryTypeDevice
                       : place.kind == Place::kPinned ? cudaMemoryTypeHost
                                                      : cudaMemoryTypeUnregistered;
    attributes->device = known ? place.device : -2;
    attributes->devicePointer = known ? const_cast<void*>(at) : nullptr;
    attributes->hostPointer = place.kind == Place::kDevice ? nullptr : const_cast<void*>(at);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t count, cudaMemcpyKind kind) {
  return call(__func__, [&](Lock& lock) {
    Stream* const legacy = runtime().find_stream(nullptr);
    if (const cudaError_t code = runtime().legacy_conflict(*legacy)) {
      return code;
    }
    return runtime().forbidden() ? cudaErrorStreamCaptureUnsupported : copy(lock, legacy, to, from, count, kind, true);
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t count, cudaMemcpyKind kind, cudaStream_t stream) {
  return call(__func__,
              [&](Lock& lock) { return copy(lock, runtime().find_stream(stream), to, from, count, kind, false); });
}

cudaError_t cudaMemset(void* at, int value, std::size_t count) {
  return call(__func__, [&](Lock& lock) { return fill(lock, runtime().find_stream(nullptr), at, value, count); });
}

cudaError_t cudaMemsetAsync(void* at, int value, std::size_t count, cudaStream_t stream) {
  return call(__func__, [&](Lock& lock) { return fill(lock, runtime().find_stream(stream), at, value, count); });
}

// Streams and events.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  return call(__func__, [&](Lock&) {
    if (out == nullptr || flags > cudaStreamNonBlocking) {
      return cudaErrorInvalidValue;
    }
    Stream& stream = create(runtime().state.streams, out);
    stream.id = reinterpret_cast<Id>(*out);
    stream.device = runtime().device();
    stream.blocking = flags == cudaStreamDefault;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }

// What is queued still runs.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return release(__func__, [&](Lock&) {
    Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr || runtime().is_legacy(*stream)) {
      return cudaErrorInvalidResourceHandle;
    }
    stream->capture.reset();
    stream->destroyed = true;
    if (stream->queue.empty() && !stream->busy) {
      runtime().state.streams.erase(stream->id);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return wait_or_ask_stream(__func__, stream, true); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return wait_or_ask_stream(__func__, stream, false); }

cudaError_t cudaEventSynchronize(cudaEvent_t event) { return wait_or_ask_event(__func__, event, true); }
cudaError_t cudaEventQuery(cudaEvent_t event) { return wait_or_ask_event(__func__, event, false); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  return call(__func__, [&](Lock&) {
    if (out == nullptr || flags > 7) {
      return cudaErrorInvalidValue;
    }
    create(runtime().state.events, out) = {runtime().device(), (flags & cudaEventDisableTiming) == 0, nullptr, 0};
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return destroy(__func__, runtime().state.events, event, cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  return call(__func__, [&](Lock& lock) {
    Event* const event = find(runtime().state.events, handle);
    Stream* const stream = runtime().find_stream(stream_handle);
    if (event == nullptr || stream == nullptr || event->device != stream->device) {
      return cudaErrorInvalidResourceHandle;
    }
    event->captured_in = stream->capture ? stream->id : 0;
    if (stream->capture) {
      return stream->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    }
    return runtime().submit(lock, *stream, Work{}, &event->latest);
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  return call(__func__, [&](Lock& lock) {
    const Event* const event = find(runtime().state.events, handle);
    Stream* const stream = runtime().find_stream(stream_handle);
    if (event == nullptr || stream == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
    if (stream->capture) {
      if (event->captured_in == stream->id) {
        return stream->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
      }
      stream->capture->invalid = true;
      return event->captured_in != 0 ? cudaErrorStreamCaptureUnsupported : cudaErrorStreamCaptureIsolation;
    }
    if (event->captured_in != 0) {
      return cudaErrorCapturedEvent;
    }
    return runtime().submit(lock, *stream, Work{}, nullptr, event->latest);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  return call(__func__, [&](Lock&) {
    const Event* const first = find(runtime().state.events, start);
    const Event* const second = find(runtime().state.events, end);
    if (first == nullptr || second == nullptr || !first->timed || !second->timed || first->latest == nullptr ||
        second->latest == nullptr || first->device != second->device) {
      return cudaErrorInvalidResourceHandle;
    }
    if (!first->latest->done || !second->latest->done) {
      return cudaErrorNotReady;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(second->latest->when - first->latest->when).count();
    return cudaSuccess;
  });
}

// Work.

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared_bytes,
                             cudaStream_t handle) {
  return call(__func__, [&](Lock& lock) {
    Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr || stream->device != runtime().device()) {
      return cudaErrorInvalidResourceHandle;
    }
    Work work;
    if (const cudaError_t code = make_kernel(
            {const_cast<void*>(kernel), grid, block, static_cast<unsigned>(shared_bytes), arguments, nullptr}, &work)) {
      return code;
    }
    ++runtime().state.counted.kernel_launches;
    return runtime().submit(lock, *stream, std::move(work));
  });
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return call(__func__, [&](Lock&) {
    const auto found = runtime().kernels.find(kernel);
    if (found == runtime().kernels.end()) {
      return cudaErrorInvalidDeviceFunction;
    }
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
      if (value < 0 || value > runtime().state.attributes[cudaDevAttrMaxSharedMemoryPerBlockOptin]) {
        return cudaErrorInvalidValue;
      }
      found->second.max_shared[runtime().device()] = static_cast<std::size_t>(value);
    }
    return cudaSuccess;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* user_data) {
  return call(__func__, [&](Lock& lock) {
    Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr || function == nullptr) {
      return stream == nullptr ? cudaErrorInvalidResourceHandle : cudaErrorInvalidValue;
    }
    Work work;
    work.kind = Work::Kind::kHost;
    work.function = function;
    work.user_data = user_data;
    return runtime().submit(lock, *stream, std::move(work));
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  return call(__func__, [&](Lock&) {
    Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
    if (runtime().is_legacy(*stream) || stream->capture) {
      return stream->capture ? cudaErrorIllegalState : cudaErrorStreamCaptureUnsupported;
    }
    stream->capture = Capture{mode, std::this_thread::get_id(), {}, false};
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* out) {
  return call(__func__, [&](Lock&) {
    Stream* const stream = runtime().find_stream(handle);
    *out = nullptr;
    if (stream == nullptr || !stream->capture) {
      return stream == nullptr ? cudaErrorInvalidResourceHandle : cudaErrorIllegalState;
    }
    if (stream->capture->mode != cudaStreamCaptureModeRelaxed &&
        stream->capture->thread != std::this_thread::get_id()) {
      return cudaErrorStreamCaptureWrongThread;
    }
    const Capture capture = *std::exchange(stream->capture, std::nullopt);
    if (capture.invalid) {
      return cudaErrorStreamCaptureInvalidated;
    }
    create(runtime().state.graphs, out) = capture.nodes;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  return call(__func__, [&](Lock&) {
    const Stream* const stream = runtime().find_stream(handle);
    if (stream == nullptr) {
      return cudaErrorInvalidResourceHandle;
    }
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
  });
}

// Graphs.

cudaError_t cudaGraphCreate(cudaGraph_t* out, unsigned flags) {
  return call(__func__, [&](Lock&) {
    if (out == nullptr || flags != 0) {
      return cudaErrorInvalidValue;
    }
    create(runtime().state.graphs, out);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return destroy(__func__, runtime().state.graphs, graph, cudaErrorInvalidValue);
}

// Only how many there are.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* out, std::size_t* count) {
  return call(__func__, [&](Lock&) {
    const Nodes* const nodes = find(runtime().state.graphs, graph);
    if (nodes == nullptr || count == nullptr || out != nullptr) {
      return nodes == nullptr || count == nullptr ? cudaErrorInvalidValue : cudaErrorNotSupported;
    }
    *count = nodes->size();
    return cudaSuccess;
  });
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                     std::size_t count, void* to, const void* from, std::size_t bytes,
                                     cudaMemcpyKind kind) {
  return add(__func__, node, graph, after, count, [&](Work* work) { return make_copy(to, from, bytes, kind, work); });
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                   std::size_t count, const cudaKernelNodeParams* params) {
  return add(__func__, node, graph, after, count, [&](Work* work) { return make_kernel(*params, work); });
}

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                   std::size_t count, const cudaMemsetParams* params) {
  return add(__func__, node, graph, after, count, [&](Work* work) { return make_fill(*params, work); });
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                                       std::size_t count, cudaGraph_t child) {
  return call(__func__, [&](Lock&) {
    const Nodes* const nodes = find(runtime().state.graphs, child);
    if (nodes == nullptr || child == graph) {
      return cudaErrorInvalidValue;
    }
    Work work;
    work.kind = Work::Kind::kChild;
    return add_node(node, graph, after, count, work, *nodes);
  });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return call(__func__, [&](Lock&) {
    const Nodes* const nodes = find(runtime().state.graphs, graph);
    if (out == nullptr || nodes == nullptr || flags > 15) {
      return cudaErrorInvalidValue;
    }
    ++runtime().state.counted.graph_instantiations;
    create(runtime().state.execs, out).nodes = *nodes;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiateWithFlags(out, graph, flags);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return destroy(__func__, runtime().state.execs, exec, cudaErrorInvalidValue);
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaKernelNodeParams* params) {
  return update(__func__, exec, node, [&](Work* work) { return make_kernel(*params, work); });
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t exec, cudaGraphNode_t node, void* to, const void* from,
                                               std::size_t bytes, cudaMemcpyKind kind) {
  return update(__func__, exec, node, [&](Work* work) { return make_copy(to, from, bytes, kind, work); });
}

cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t node,
                                             const cudaMemsetParams* params) {
  return update(__func__, exec, node, [&](Work* work) { return make_fill(*params, work); });
}

cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t exec, cudaGraphNode_t handle, cudaGraph_t child) {
  return call(__func__, [&](Lock&) {
    Node* const node = find_node(exec, handle);
    const Nodes* const nodes = find(runtime().state.graphs, child);
    if (node == nullptr || nodes == nullptr || node->work.kind != Work::Kind::kChild || !updates(node->child, *nodes)) {
      return cudaErrorInvalidValue;
    }
    node->child = *nodes;
    return cudaSuccess;
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream) {
  return call(__func__, [&](Lock&) {
    if (find(runtime().state.execs, exec) == nullptr) {
      return cudaErrorInvalidValue;
    }
    return runtime().find_stream(stream) == nullptr ? cudaErrorInvalidResourceHandle : cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  return call(__func__, [&](Lock& lock) {
    Runtime& cuda = runtime();
    Exec* const exec = find(cuda.state.execs, handle);
    Stream* const stream = cuda.find_stream(stream_handle);
    if (exec == nullptr || stream == nullptr) {
      return exec == nullptr ? cudaErrorInvalidValue : cudaErrorInvalidResourceHandle;
    }
    ++cuda.state.counted.graph_launches;
    if (stream->capture) {
      Work work;
      work.kind = Work::Kind::kChild;
      return cuda.record(*stream->capture, std::move(work), exec->nodes);
    }
    if (const cudaError_t code = cuda.legacy_conflict(*stream)) {
      return code;
    }
    std::vector<Work> works;
    cuda.expand(exec->nodes, works);
    cuda.enqueue(*stream, Work{}, exec->last);
    for (Work& work : works) {
      cuda.enqueue(*stream, std::move(work));
    }
    exec->last = stream->last;
    cuda.after_call(lock);
    return cudaSuccess;
  });
}

}  // extern "C"
