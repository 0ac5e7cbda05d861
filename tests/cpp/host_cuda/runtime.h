// A CUDA runtime that runs on the CPU, for tests without a GPU: the functions of cuda_runtime_api.h that edgedet uses,
// and below what a test steers and asks. It is built to bring mistakes to light, not to be fast.
//
// Streams. Work is queued and runs only when something waits, in an order that a seeded generator picks among those
// that stream order, events and graphs allow; with half of the waits only what the wait needs runs at all. Operations
// are atomic. A host function runs in the thread that happens to wait, and may not call CUDA.
//
// Memory. A device pointer faults (SIGSEGV) on the host, and so does what lies behind an allocation, from kernels too.
// An allocation ends at an unmapped page, so it starts on 256 bytes only if its size is a multiple of 256, else on 16;
// the bytes that this leaves (up to 15 behind, up to a page before it) are checked when it is freed. Freed memory
// faults. Kernels reach the memory of their own device only; that they read ordinary host memory is not noticed.
//
// Errors. A fault of a kernel is sticky: the work queued then is dropped and every call returns it until reset(),
// though what frees or destroys still does so. Calls on handles that were destroyed return
// cudaErrorInvalidResourceHandle.
//
// Stricter than CUDA: capture is of one stream (no fork and join through events); during a capture of mode global (or
// thread-local, for its thread) no call may wait, query, allocate or free; cudaMemcpy between devices or from pageable
// memory and cudaMemset return before the device has done them; memory kinds must match the direction of a copy; a node
// of an instantiated graph takes new values, but of the same kind, devices and copy direction, and while its graph
// exists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <cuda_runtime_api.h>

namespace host_cuda {

enum Policy {
  kLazy,    // runs when something waits
  kEager,   // runs at the call
  kRandom,  // as kLazy, and now and then a few operations at a call
};

struct Traffic {
  std::size_t copies = 0;
  std::size_t bytes = 0;
};

struct Counters {
  // Alive.
  std::size_t device_allocations = 0;
  std::size_t device_bytes = 0;
  std::size_t pinned_allocations = 0;
  std::size_t pinned_bytes = 0;
  std::size_t streams = 0;
  std::size_t events = 0;
  std::size_t graphs = 0;
  std::size_t graph_execs = 0;
  std::size_t queued = 0;  // operations that have not run
  // Calls since reset().
  std::size_t device_allocation_calls = 0;
  std::size_t pinned_allocation_calls = 0;
  std::size_t kernel_launches = 0;
  std::size_t graph_launches = 0;
  std::size_t graph_instantiations = 0;
  // Executed since reset(), those of graphs included.
  std::size_t kernels_run = 0;
  Traffic host_to_host;
  Traffic host_to_device;
  Traffic device_to_host;
  Traffic device_to_device;

  bool leaks() const {
    return device_allocations + pinned_allocations + streams + events + graphs + graph_execs + queued > 0;
  }
};

Counters counters();

// Forgets all handles, memory, queues, settings and faults, not the kernels. Returns what was alive. No other thread
// may be inside CUDA.
Counters reset();

void set_seed(std::uint64_t seed);
void set_policy(Policy policy);
// 1 after reset(). With 0 every call returns cudaErrorNoDevice. Before any allocation or stream.
void set_devices(int count);
void set_memory(std::size_t total_bytes);  // of each device, 8 GiB after reset()
void set_attribute(cudaDeviceAttr attribute, int value);

// The nth call of `function` from now on (1 is the next one) does nothing but return `code`. The function "execution"
// stands for an operation that runs: the nth one fails with `code`, which is then sticky. What creates or instantiates
// "WithFlags" has that name, called with flags or without.
void fail(const char* function, int nth_call_from_now, cudaError_t code);

// What the sticky error was about; empty if there is none.
std::string last_fault();

// Whether this thread is in a function of the runtime, or in a kernel: what is allocated there is not the product's.
bool inside();

// Makes a kernel known: under `address` lies a function void(const void* body), and bodies have `body_bytes` bytes.
void register_kernel(const void* address, std::size_t body_bytes);

}  // namespace host_cuda
