// What device code finds in scope without being declared, for g++ (-x c++ -include host_cuda/device.h).
//
// Threads of a block are fibers that run in a seeded random order and change at barriers, at warp operations and now
// and then at atomics; blocks run one after the other in random order, so blocks cannot wait for each other. It is a
// fault if threads do not all come to the same barrier in the same line, if some exited, and if the lanes in the mask
// of a warp operation do not all come to it, are not there, or read from a lane outside the mask. That is stricter than
// hardware. Device code must not spin on memory without an atomic.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "host_cuda/runtime.h"

// NOLINTBEGIN(readability-identifier-naming)
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;
// NOLINTEND(readability-identifier-naming)

namespace host_cuda {

// The dynamic shared memory of the block, filled with 0xA5.
unsigned char* shared_memory();

enum class Meeting {
  kNone,
  kExit,
  kSyncThreads,
  kSyncThreadsCount,
  kSyncThreadsAnd,
  kSyncThreadsOr,
  kSyncWarp,  // from here on for the lanes of a mask
  kShuffle,
  kShuffleXor,
  kShuffleUp,
  kShuffleDown,
  kBallot,
  kAdd,
  kMaxSigned,
  kMaxUnsigned,
  kMinSigned,
  kMinUnsigned,
  kAnd,
  kOr,
  kXor,
};

int meet_block(Meeting meeting, int predicate, const char* file, int line);
// `argument` and `width` are those of shuffles.
std::uint64_t meet_warp(Meeting meeting, unsigned mask, std::uint64_t value, int argument, int width, const char* file,
                        int line);
// Now and then lets other threads of the block run.
void pause();
[[noreturn]] void fault(cudaError_t code, const char* what);

template <typename To, typename From>
To bits_to(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
T shuffle(Meeting meeting, unsigned mask, T value, int argument, int width, const char* file, int line) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet_warp(meeting, mask, bits, argument, width, file, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
const T* aligned(const T* pointer) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) != 0) {
    fault(cudaErrorMisalignedAddress, "a misaligned load or store");
  }
  return pointer;
}

template <typename T, typename Change>
T change(T* at, Change&& changed) {
  pause();
  aligned(at);
  const T before = *at;
  *at = changed(before);
  return before;
}

}  // namespace host_cuda

// NOLINTBEGIN(bugprone-reserved-identifier, bugprone-macro-parentheses, readability-identifier-naming)

// The line of the caller, as a default argument.
#define HOST_CUDA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define HOST_CUDA_BLOCK(meeting, predicate) host_cuda::meet_block(host_cuda::Meeting::meeting, predicate, file, line)
#define HOST_CUDA_WARP(meeting, mask, value) \
  host_cuda::meet_warp(host_cuda::Meeting::meeting, mask, value, 0, 32, file, line)

inline void __syncthreads(HOST_CUDA_SITE) { HOST_CUDA_BLOCK(kSyncThreads, 0); }
inline int __syncthreads_count(int predicate, HOST_CUDA_SITE) { return HOST_CUDA_BLOCK(kSyncThreadsCount, predicate); }
inline int __syncthreads_and(int predicate, HOST_CUDA_SITE) { return HOST_CUDA_BLOCK(kSyncThreadsAnd, predicate); }
inline int __syncthreads_or(int predicate, HOST_CUDA_SITE) { return HOST_CUDA_BLOCK(kSyncThreadsOr, predicate); }

inline void __syncwarp(unsigned mask = 0xffffffffU, HOST_CUDA_SITE) { HOST_CUDA_WARP(kSyncWarp, mask, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return static_cast<unsigned>(HOST_CUDA_WARP(kBallot, mask, predicate != 0));
}
inline int __any_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return HOST_CUDA_WARP(kBallot, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return HOST_CUDA_WARP(kBallot, mask, predicate != 0) == mask;
}

#define HOST_CUDA_REDUCE(name, T, meeting)                                                                     \
  inline T name(unsigned mask, T value, HOST_CUDA_SITE) {                                                      \
    return static_cast<T>(static_cast<unsigned>(HOST_CUDA_WARP(meeting, mask, static_cast<unsigned>(value)))); \
  }
HOST_CUDA_REDUCE(__reduce_add_sync, int, kAdd)
HOST_CUDA_REDUCE(__reduce_add_sync, unsigned, kAdd)
HOST_CUDA_REDUCE(__reduce_max_sync, int, kMaxSigned)
HOST_CUDA_REDUCE(__reduce_max_sync, unsigned, kMaxUnsigned)
HOST_CUDA_REDUCE(__reduce_min_sync, int, kMinSigned)
HOST_CUDA_REDUCE(__reduce_min_sync, unsigned, kMinUnsigned)
HOST_CUDA_REDUCE(__reduce_and_sync, unsigned, kAnd)
HOST_CUDA_REDUCE(__reduce_or_sync, unsigned, kOr)
HOST_CUDA_REDUCE(__reduce_xor_sync, unsigned, kXor)

#define HOST_CUDA_SHUFFLE(name, T, Argument, meeting)                                                            \
  inline T name(unsigned mask, T value, Argument argument, int width = 32, HOST_CUDA_SITE) {                     \
    return host_cuda::shuffle(host_cuda::Meeting::meeting, mask, value, static_cast<int>(argument), width, file, \
                              line);                                                                             \
  }
#define HOST_CUDA_SHUFFLES(T)                                \
  HOST_CUDA_SHUFFLE(__shfl_sync, T, int, kShuffle)           \
  HOST_CUDA_SHUFFLE(__shfl_xor_sync, T, int, kShuffleXor)    \
  HOST_CUDA_SHUFFLE(__shfl_up_sync, T, unsigned, kShuffleUp) \
  HOST_CUDA_SHUFFLE(__shfl_down_sync, T, unsigned, kShuffleDown)
HOST_CUDA_SHUFFLES(int)
HOST_CUDA_SHUFFLES(unsigned)
HOST_CUDA_SHUFFLES(long)
HOST_CUDA_SHUFFLES(unsigned long)
HOST_CUDA_SHUFFLES(long long)
HOST_CUDA_SHUFFLES(unsigned long long)
HOST_CUDA_SHUFFLES(float)
HOST_CUDA_SHUFFLES(double)

#define HOST_CUDA_ATOMIC(name, T, after)                                                     \
  inline T name(T* at, T value) {                                                            \
    return host_cuda::change(at, [value]([[maybe_unused]] T before) -> T { return after; }); \
  }
#define HOST_CUDA_ATOMICS(T)                                                                    \
  HOST_CUDA_ATOMIC(atomicMax, T, before > value ? before : value)                               \
  HOST_CUDA_ATOMIC(atomicMin, T, before < value ? before : value)                               \
  HOST_CUDA_ATOMIC(atomicAnd, T, before& value)                                                 \
  HOST_CUDA_ATOMIC(atomicOr, T, before | value)                                                 \
  HOST_CUDA_ATOMIC(atomicExch, T, value)                                                        \
  inline T atomicCAS(T* at, T compare, T value) {                                               \
    return host_cuda::change(at, [=](T before) { return before == compare ? value : before; }); \
  }
HOST_CUDA_ATOMICS(int)
HOST_CUDA_ATOMICS(unsigned)
HOST_CUDA_ATOMICS(unsigned long long)
HOST_CUDA_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value)))
HOST_CUDA_ATOMIC(atomicAdd, unsigned, before + value)
HOST_CUDA_ATOMIC(atomicAdd, unsigned long long, before + value)
HOST_CUDA_ATOMIC(atomicAdd, float, before + value)
HOST_CUDA_ATOMIC(atomicExch, float, value)

#undef HOST_CUDA_ATOMICS
#undef HOST_CUDA_ATOMIC
#undef HOST_CUDA_SHUFFLES
#undef HOST_CUDA_SHUFFLE
#undef HOST_CUDA_REDUCE
#undef HOST_CUDA_WARP
#undef HOST_CUDA_BLOCK
#undef HOST_CUDA_SITE

inline void __threadfence() { host_cuda::pause(); }
inline void __threadfence_block() { host_cuda::pause(); }
[[noreturn]] inline void __trap() { host_cuda::fault(cudaErrorLaunchFailure, "__trap"); }

template <typename T>
T __ldg(const T* from) {
  return *host_cuda::aligned(from);
}
template <typename T>
T __ldcg(const T* from) {
  return *host_cuda::aligned(from);
}
template <typename T>
T __ldcs(const T* from) {
  return *host_cuda::aligned(from);
}
template <typename T>
void __stcg(T* to, T value) {
  host_cuda::aligned(to);
  *to = value;
}
template <typename T>
void __stcs(T* to, T value) {
  host_cuda::aligned(to);
  *to = value;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline unsigned __float_as_uint(float value) { return host_cuda::bits_to<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return host_cuda::bits_to<float>(value); }
inline int __float_as_int(float value) { return host_cuda::bits_to<int>(value); }
inline float __int_as_float(int value) { return host_cuda::bits_to<float>(value); }

// Saturates, NaN gives 0.
inline int __float2int_rn(float value) {
  const float limit = 2147483648.0F;
  if (!(value < limit)) {
    return value >= limit ? std::numeric_limits<int>::max() : 0;
  }
  return value < -limit ? std::numeric_limits<int>::min() : static_cast<int>(std::nearbyint(value));
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((((std::uint64_t{high} << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((std::uint64_t{high} << 32) | low) >> (shift & 31));
}

// The highest bit of a selector is undocumented (the hardware then repeats the byte's sign), so it is a fault.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selectors) {
  if ((selectors & 0x8888U) != 0) {
    host_cuda::fault(cudaErrorLaunchFailure, "__byte_perm with a selector over 7");
  }
  const std::uint64_t bytes = (std::uint64_t{high} << 32) | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>((bytes >> (8 * ((selectors >> (4 * i)) & 7U))) & 0xffU) << (8 * i);
  }
  return result;
}

inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
  for (unsigned shift = 0; shift < 32; shift += 8) {
    sum += ((a >> shift) & 0xffU) * ((b >> shift) & 0xffU);
  }
  return sum;
}
inline int __dp4a(int a, int b, int sum) {
  auto total = static_cast<unsigned>(sum);
  for (unsigned shift = 0; shift < 32; shift += 8) {
    const int left = static_cast<int>(static_cast<unsigned>(a) << (24 - shift)) >> 24;
    const int right = static_cast<int>(static_cast<unsigned>(b) << (24 - shift)) >> 24;
    total += static_cast<unsigned>(left * right);
  }
  return static_cast<int>(total);
}

// NOLINTEND(bugprone-reserved-identifier, bugprone-macro-parentheses, readability-identifier-naming)
