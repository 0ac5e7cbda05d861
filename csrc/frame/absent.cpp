// The frame path of a build without CUDA.
#include "edgedet/error.h"
#include "frame/device.h"
#include "frame/frame_path.h"
#include "frame/operators.h"

namespace edgedet::frame {

namespace {

constexpr const char* kReason = "edgedet was built without CUDA; build it where nvcc is found, or use a CPU backend";

[[noreturn]] void no_cuda() { throw Error(ErrorKind::kBackend, kReason); }

}  // namespace

int device_count(std::string* reason) {
  if (reason != nullptr) {
    *reason = kReason;
  }
  return 0;
}

std::vector<DeviceInfo> devices(std::string* reason) {
  static_cast<void>(device_count(reason));
  return {};
}

void check_readable(const void* /*pointer*/, int /*device*/, const char* /*what*/) { no_cuda(); }
std::shared_ptr<void> make_stream(int /*device*/) { no_cuda(); }
int driver_version() { return 0; }
int runtime_version() { return 0; }

struct FramePath::Impl {};
// NOLINTNEXTLINE(performance-unnecessary-value-param)
FramePath::FramePath(const NetworkSpec& /*spec*/, EnqueueNetwork /*network*/, const FrameOptions& /*options*/) {
  no_cuda();
}
FramePath::~FramePath() = default;
FramePath::FramePath(FramePath&&) noexcept = default;
FramePath& FramePath::operator=(FramePath&&) noexcept = default;
void FramePath::submit(const ImageView* /*images*/, std::size_t /*count*/, const Source& /*source*/) { no_cuda(); }
bool FramePath::done() const { no_cuda(); }
void FramePath::wait(std::vector<Detection>* /*out*/) { no_cuda(); }
void FramePath::discard() { no_cuda(); }
PartTimes FramePath::time_parts(const ImageView* /*images*/, std::size_t /*count*/, int /*calls*/) { no_cuda(); }
FrameMemory FramePath::memory() const noexcept { return {}; }
void* FramePath::stream() const noexcept { return nullptr; }
FrameMemory FramePath::memory_of(const NetworkSpec& /*spec*/, const FrameOptions& /*options*/) { no_cuda(); }

struct Preprocessor::Impl {};
Preprocessor::Preprocessor(const PreprocessSpec& /*spec*/, TensorType /*type*/, int /*device*/,
                           std::size_t /*max_batch*/, std::int32_t /*max_width*/, std::int32_t /*max_height*/) {
  no_cuda();
}
Preprocessor::~Preprocessor() = default;
void Preprocessor::run(const ImageView* /*images*/, std::size_t /*count*/, const Source& /*source*/, void* /*out*/,
                       void* /*stream*/) {
  no_cuda();
}

struct Decoder::Impl {};
Decoder::Decoder(const NetworkSpec& /*spec*/, const ops::DecodeOptions& /*options*/, int /*device*/,
                 std::size_t /*max_batch*/) {
  no_cuda();
}
Decoder::~Decoder() = default;
void Decoder::run(const NetworkBuffers& /*buffers*/, const Geometry* /*geometries*/, std::size_t /*count*/,
                  void* /*results*/, void* /*stream*/) {
  no_cuda();
}

}  // namespace edgedet::frame
