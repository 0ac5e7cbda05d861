#include "host_cuda/device.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <sstream>
#include <tuple>

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "host_cuda/grid.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace host_cuda {

namespace {

constexpr std::size_t kWarp = 32;
constexpr std::size_t kGuardBytes = 4096;
constexpr unsigned char kGuard = 0x5C;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kStackBytes = 256 * 1024;
#else
constexpr std::size_t kStackBytes = 64 * 1024;
#endif

#if defined(__x86_64__)
// Saves what a function must keep on the stack, swaps stacks, and returns into the other one. swapcontext would also
// change the signal mask, by a system call.
extern "C" void host_cuda_swap(void** save, void* load);
asm(R"(
.pushsection .text
.hidden host_cuda_swap
.globl host_cuda_swap
.type host_cuda_swap, @function
host_cuda_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_cuda_swap, .-host_cuda_swap
.popsection
)");

struct Registers {
  void* top = nullptr;

  void start(unsigned char* stack, void (*entry)()) {
    auto** const words = reinterpret_cast<void**>(stack + kStackBytes);
    std::fill(words - 8, words, nullptr);
    words[-2] = reinterpret_cast<void*>(entry);  // above it, a return address that ends backtraces
    top = static_cast<void*>(words - 8);
  }
  static void swap(Registers& from, Registers& to) { host_cuda_swap(&from.top, to.top); }
};
#else
struct Registers {
  ucontext_t context;

  void start(unsigned char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void swap(Registers& from, Registers& to) { swapcontext(&from.context, &to.context); }
};
#endif

// A point of execution, told to the sanitizers.
struct Context {
  Registers registers;
  bool started = false;
  const void* stack = nullptr;
  std::size_t stack_bytes = kStackBytes;
  void* sanitizer = nullptr;

  // Returns when `to` swaps back.
  static void swap(Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.sanitizer, to.stack, to.stack_bytes);
#elif defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
    Registers::swap(from.registers, to.registers);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.sanitizer, &to.stack, &to.stack_bytes);
#endif
  }
};

struct Fiber {
  std::unique_ptr<Context> context;  // null before its first instruction and after its last
  Meeting meeting = Meeting::kNone;
  unsigned mask = 0;
  std::uint64_t value = 0;  // goes into the meeting, and the result comes out
  int argument = 0;
  int width = 0;
  const char* file = nullptr;
  int line = 0;

  bool meets(const Fiber& other) const {
    return std::tie(meeting, mask, file, line) == std::tie(other.meeting, other.mask, other.file, other.line);
  }
};

const char* name_of(Meeting meeting) {
  static constexpr const char* kNames[] = {
      "nothing",           "its end",           "__syncthreads",     "__syncthreads_count",
      "__syncthreads_and", "__syncthreads_or",  "__syncwarp",        "__shfl_sync",
      "__shfl_xor_sync",   "__shfl_up_sync",    "__shfl_down_sync",  "a vote",
      "__reduce_add_sync", "__reduce_max_sync", "__reduce_max_sync", "__reduce_min_sync",
      "__reduce_min_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  return kNames[static_cast<std::size_t>(meeting)];
}

class Executor {
 public:
  Executor() {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = (kMaxShared + 2 * kGuardBytes + page - 1) / page * page;
    shared_ = map(bytes) + kGuardBytes;
  }

  Fault run(void (*kernel)(const void*), const void* body, dim3 grid, dim3 block, std::size_t shared_bytes,
            Random& random) {
    kernel_ = kernel;
    body_ = body;
    random_ = &random;
    shared_bytes_ = shared_bytes;
    gridDim = grid;
    blockDim = block;
    fault_ = {};
    std::vector<std::size_t> blocks(std::size_t{grid.x} * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), std::size_t{0});
    while (!blocks.empty() && fault_.code == cudaSuccess) {
      const std::size_t at = random.take(blocks);
      blockIdx = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                  static_cast<unsigned>(at / grid.x / grid.y)};
      run_block(std::size_t{block.x} * block.y * block.z);
    }
    random_ = nullptr;
    return fault_;
  }

  unsigned char* shared() { return shared_; }

  bool running() const { return current_ != nullptr; }
  bool chance(std::size_t one_in) { return random_->below(one_in) == 0; }

  // Ends the turn of the current thread.
  void leave(Meeting meeting, unsigned mask, std::uint64_t value, int argument, int width, const char* file, int line) {
    if (current_ == nullptr) {
      std::fprintf(stderr, "host_cuda: a device function was called outside a kernel\n");
      std::abort();
    }
    Fiber& fiber = *current_;
    fiber.meeting = meeting;
    fiber.mask = mask;
    fiber.value = value;
    fiber.argument = argument;
    fiber.width = width;
    fiber.file = file;
    fiber.line = line;
    Context::swap(*fiber.context, scheduler_);
  }

  std::uint64_t met() const { return current_->value; }

  void set_fault(cudaError_t code, const std::string& what) {
    if (fault_.code == cudaSuccess) {
      std::ostringstream message;
      message << what << " (block " << blockIdx.x << ' ' << blockIdx.y << ' ' << blockIdx.z << " of " << gridDim.x
              << 'x' << gridDim.y << 'x' << gridDim.z;
      if (current_ != nullptr) {
        message << ", thread " << threadIdx.x << ' ' << threadIdx.y << ' ' << threadIdx.z;
      }
      message << ')';
      fault_ = {code, message.str()};
    }
  }

 private:
  static unsigned char* map(std::size_t bytes) {
    void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
      throw std::bad_alloc();
    }
    return static_cast<unsigned char*>(at);
  }

  static void enter();

  void run_block(std::size_t threads) {
    std::fill_n(shared_, shared_bytes_, kGarbage);
    std::fill_n(shared_ - kGuardBytes, kGuardBytes, kGuard);
    std::fill_n(shared_ + shared_bytes_, kGuardBytes, kGuard);
    fibers_.resize(threads);
    for (Fiber& fiber : fibers_) {
      fiber.meeting = Meeting::kNone;
    }
    ready_.resize(threads);
    std::iota(ready_.begin(), ready_.end(), std::size_t{0});
    std::size_t exited = 0;
    std::size_t at_barrier = 0;
    while (!ready_.empty() && fault_.code == cudaSuccess) {
      const std::size_t at = random_->take(ready_);
      resume(at);
      const Meeting meeting = fibers_[at].meeting;
      if (meeting == Meeting::kNone) {
        ready_.push_back(at);
      } else if (meeting == Meeting::kExit) {
        ++exited;
        contexts_.push_back(std::move(fibers_[at].context));
      } else if (meeting >= Meeting::kSyncWarp) {
        meet_warp(at);
      } else if (++at_barrier == threads) {
        meet_block();
        at_barrier = 0;
      }
    }
    if (fault_.code == cudaSuccess && exited != threads) {
      set_fault(cudaErrorLaunchFailure, "threads wait for ever: " + whereabouts());
    }
    check_guard(shared_ - kGuardBytes, "before");
    check_guard(shared_ + shared_bytes_, "behind");
    for (Fiber& fiber : fibers_) {
      abandon(fiber);
    }
  }

  void resume(std::size_t at) {
    Fiber& fiber = fibers_[at];
    current_ = &fiber;
    threadIdx = {static_cast<unsigned>(at % blockDim.x), static_cast<unsigned>(at / blockDim.x % blockDim.y),
                 static_cast<unsigned>(at / blockDim.x / blockDim.y)};
    if (fiber.context == nullptr) {
      if (contexts_.empty()) {
        add_context();
      }
      // The one used last, still in the cache: without barriers one stack serves all threads.
      fiber.context = std::move(contexts_.back());
      contexts_.pop_back();
      if (!fiber.context->started) {
        start(*fiber.context);
      }
    }
#if defined(__SANITIZE_THREAD__)
    scheduler_.sanitizer = __tsan_get_current_fiber();
#endif
    Context::swap(scheduler_, *fiber.context);
    current_ = nullptr;
  }

  static void start(Context& context) {
    auto* const stack = const_cast<unsigned char*>(static_cast<const unsigned char*>(context.stack));
    context.registers.start(stack, &Executor::enter);
    context.started = true;
    context.sanitizer = nullptr;
#if defined(__SANITIZE_THREAD__)
    context.sanitizer = __tsan_create_fiber(0);
#endif
  }

  void add_context() {
    auto context = std::make_unique<Context>();
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    unsigned char* const bottom = map(kStackBytes + page);
    mprotect(bottom, page, PROT_NONE);
    context->stack = bottom + page;
    contexts_.push_back(std::move(context));
  }

  // Takes the stack of a thread that a fault stopped. Kernels own nothing that would have to be destroyed.
  void abandon(Fiber& fiber) {
    if (fiber.context != nullptr) {
#if defined(__SANITIZE_ADDRESS__)
      __asan_unpoison_memory_region(fiber.context->stack, kStackBytes);
#elif defined(__SANITIZE_THREAD__)
      __tsan_destroy_fiber(fiber.context->sanitizer);
#endif
      fiber.context->started = false;
      contexts_.push_back(std::move(fiber.context));
    }
  }

  void check_guard(const unsigned char* guard, const char* where) {
    if (!std::all_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte == kGuard; })) {
      set_fault(cudaErrorIllegalAddress, std::string("a write ") + where + " the dynamic shared memory of " +
                                             std::to_string(shared_bytes_) + " bytes");
    }
  }

  void meet_block() {
    std::uint64_t set = 0;
    for (const Fiber& fiber : fibers_) {
      if (!fiber.meets(fibers_[0])) {
        set_fault(cudaErrorLaunchFailure, "threads wait at different barriers: " + whereabouts());
        return;
      }
      set += fiber.value;
    }
    const Meeting meeting = fibers_[0].meeting;
    for (std::size_t at = 0; at < fibers_.size(); ++at) {
      fibers_[at].value = meeting == Meeting::kSyncThreadsAnd  ? set == fibers_.size()
                          : meeting == Meeting::kSyncThreadsOr ? set != 0
                                                               : set;
      fibers_[at].meeting = Meeting::kNone;
      ready_.push_back(at);
    }
  }

  // Lets the lanes go that thread `at` waits for, if it came last.
  void meet_warp(std::size_t at) {
    const std::size_t first = at / kWarp * kWarp;
    const Fiber& last = fibers_[at];
    const unsigned mask = last.mask;
    if ((mask >> (at - first) & 1U) == 0) {
      set_fault(cudaErrorLaunchFailure, "a lane outside the mask of its own " + describe(last));
      return;
    }
    for (std::size_t lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1U) != 0 && (first + lane >= fibers_.size() || !fibers_[first + lane].meets(last))) {
        return;  // it may still come; if not, nothing will be ready in the end
      }
    }
    std::uint64_t values[kWarp] = {};
    for (std::size_t lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1U) != 0) {
        values[lane] = fibers_[first + lane].value;
      }
    }
    for (std::size_t lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1U) != 0) {
        Fiber& fiber = fibers_[first + lane];
        fiber.value = fiber.meeting <= Meeting::kShuffleDown ? shuffled(fiber, lane, values)
                                                             : reduced(fiber.meeting, mask, values);
        fiber.meeting = Meeting::kNone;
        ready_.push_back(first + lane);
      }
    }
  }

  std::uint64_t shuffled(const Fiber& fiber, std::size_t lane, const std::uint64_t (&values)[kWarp]) {
    const int self = static_cast<int>(lane);
    if (fiber.meeting != Meeting::kShuffle && (fiber.argument < 0 || fiber.argument >= static_cast<int>(kWarp))) {
      set_fault(cudaErrorLaunchFailure, "distance " + std::to_string(fiber.argument) + " at " + describe(fiber));
      return 0;
    }
    const int width = fiber.width;
    const int begin = self / width * width;
    int from = self;
    if (fiber.meeting == Meeting::kShuffle) {
      from = begin + (fiber.argument & (width - 1));
    } else if (fiber.meeting == Meeting::kShuffleXor) {
      // As the hardware does: also from a segment before, not from one behind.
      from = (self ^ fiber.argument) < begin + width ? self ^ fiber.argument : self;
    } else if (fiber.meeting == Meeting::kShuffleUp) {
      from = fiber.argument <= self - begin ? self - fiber.argument : self;
    } else if (fiber.meeting == Meeting::kShuffleDown) {
      from = fiber.argument < begin + width - self ? self + fiber.argument : self;
    }
    if ((fiber.mask >> from & 1U) == 0) {
      set_fault(cudaErrorLaunchFailure, "lane " + std::to_string(self) + " reads from lane " + std::to_string(from) +
                                            " outside the mask of " + describe(fiber));
      return 0;
    }
    return values[from];
  }

  static std::uint64_t reduced(Meeting meeting, unsigned mask, const std::uint64_t (&values)[kWarp]) {
    bool first = true;
    unsigned result = 0;
    for (std::size_t lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1U) == 0) {
        continue;
      }
      const auto value = static_cast<unsigned>(values[lane]);
      if (meeting == Meeting::kBallot) {
        result |= value << lane;
      } else if (first) {
        result = value;
      } else if (meeting == Meeting::kAdd) {
        result += value;
      } else if (meeting == Meeting::kMaxUnsigned) {
        result = std::max(result, value);
      } else if (meeting == Meeting::kMinUnsigned) {
        result = std::min(result, value);
      } else if (meeting == Meeting::kMaxSigned) {
        result = static_cast<unsigned>(std::max(static_cast<int>(result), static_cast<int>(value)));
      } else if (meeting == Meeting::kMinSigned) {
        result = static_cast<unsigned>(std::min(static_cast<int>(result), static_cast<int>(value)));
      } else {
        result = meeting == Meeting::kAnd ? result & value : meeting == Meeting::kOr ? result | value : result ^ value;
      }
      first = false;
    }
    return result;
  }

  static std::string describe(const Fiber& fiber) {
    std::ostringstream text;
    text << name_of(fiber.meeting);
    if (fiber.meeting >= Meeting::kSyncWarp) {
      text << " of mask 0x" << std::hex << fiber.mask << std::dec;
    }
    if (fiber.meeting != Meeting::kExit) {
      text << " in " << fiber.file << ':' << fiber.line;
    }
    return text.str();
  }

  std::string whereabouts() const {
    std::map<std::string, std::size_t> counts;
    for (const Fiber& fiber : fibers_) {
      ++counts[describe(fiber)];
    }
    std::string text;
    for (const auto& [place, count] : counts) {
      text += (text.empty() ? "" : ", ") + std::to_string(count) + " at " + place;
    }
    return text;
  }

  void (*kernel_)(const void*) = nullptr;
  const void* body_ = nullptr;
  Random* random_ = nullptr;
  std::size_t shared_bytes_ = 0;
  unsigned char* shared_ = nullptr;
  Fault fault_;
  std::vector<Fiber> fibers_;
  std::vector<std::size_t> ready_;
  std::vector<std::unique_ptr<Context>> contexts_;  // free ones
  Context scheduler_;
  Fiber* current_ = nullptr;
};

Executor& executor() {
  static Executor& executor = *new Executor;  // never destroyed: a thread may still run work at exit
  return executor;
}

void Executor::enter() {
  Executor& self = executor();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self.scheduler_.stack, &self.scheduler_.stack_bytes);
#endif
  while (true) {               // one thread of a kernel after the other
    self.kernel_(self.body_);  // NOLINT(clang-analyzer-core.CallAndMessage): run() has set it
    self.leave(Meeting::kExit, 0, 0, 0, 0, nullptr, 0);
  }
}

}  // namespace

Fault run_grid(void (*kernel)(const void*), const void* body, dim3 grid, dim3 block, std::size_t shared_bytes,
               Random& random) {
  return executor().run(kernel, body, grid, block, shared_bytes, random);
}

unsigned char* shared_memory() { return executor().shared(); }

int meet_block(Meeting meeting, int predicate, const char* file, int line) {
  executor().leave(meeting, 0, predicate != 0, 0, 0, file, line);
  return static_cast<int>(executor().met());
}

std::uint64_t meet_warp(Meeting meeting, unsigned mask, std::uint64_t value, int argument, int width, const char* file,
                        int line) {
  if (width != 1 && width != 2 && width != 4 && width != 8 && width != 16 && width != 32) {
    fault(cudaErrorLaunchFailure, "a shuffle width that is no power of two up to 32");
  }
  executor().leave(meeting, mask, value, argument, width, file, line);
  return executor().met();
}

void pause() {
  constexpr std::size_t kSeldom = 8;
  if (executor().running() && executor().chance(kSeldom)) {
    executor().leave(Meeting::kNone, 0, 0, 0, 0, nullptr, 0);
  }
}

void fault(cudaError_t code, const char* what) {
  executor().set_fault(code, what);
  executor().leave(Meeting::kNone, 0, 0, 0, 0, nullptr, 0);
  std::abort();  // not resumed after a fault
}

}  // namespace host_cuda
