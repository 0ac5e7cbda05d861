#include <algorithm>
#include <cmath>
#include <string>

#include "common/validate.h"
#include "edgedet/error.h"
#include "kernels/preprocess_cuda.h"
#include "kernels/preprocess_device.h"

namespace edgedet::cuda {

namespace {

using kernel::AxisTable;

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// Several blocks of this much live on a multiprocessor; more is tried only for extreme ratios.
constexpr std::size_t kGoodShared = 28 * 1024;
constexpr std::size_t kMaxShared = 48 * 1024;  // without opting in, on every architecture

double support_of(double scale) { return scale < 1.0 ? 1.0 : scale; }

// Groups of four source positions that `outputs` neighbouring outputs can touch, those of zero weight included.
std::int32_t span(std::int32_t in, std::int32_t out, std::int32_t outputs) {
  const double scale = static_cast<double>(in) / out;
  const auto positions = static_cast<std::int64_t>((outputs - 1) * scale + 2.0 * support_of(scale)) + 3;
  return static_cast<std::int32_t>(std::min<std::int64_t>(positions / 4 + 4, kMaxImageSide));
}

std::int32_t groups_of(std::int32_t in, std::int32_t out) {
  std::int32_t groups = 1;
  for (std::int32_t index = 0; index < out; ++index) {
    const kernel::TriangleWindow window = kernel::triangle_window(index, in, out);
    groups = std::max(groups, (window.first % 4 + window.count + 3) / 4);
  }
  return groups;
}

int log2_up(std::int32_t value) {
  int log = 0;
  while ((1 << log) < value) {
    ++log;
  }
  return log;
}

std::size_t slots_for(std::size_t max_images) { return 2 * max_images + 8; }

std::size_t slot_bytes(const PreprocessSpec& spec, std::int32_t max_width, std::int32_t max_height) {
  // However many outputs there are, their windows together cover a position at most twice; each rounds up to whole
  // groups at both ends.
  const std::int32_t side = std::max(max_width, max_height);
  const std::int32_t outputs = std::max(spec.width, spec.height);
  if (spec.filter == Filter::kBilinear) {
    return AxisTable::bytes(outputs, 0);
  }
  const auto groups = static_cast<std::size_t>(side) / 2 + 3 * static_cast<std::size_t>(outputs) + 8;
  return (AxisTable::first_bytes(outputs) + groups * sizeof(kernel::TapGroup) + 255) / 256 * 256;
}

}  // namespace

Tiling choose_tiling(const ImageView& image, const Geometry& geometry) {
  const bool down_first = kernel::triangle_down_first(geometry);
  const std::int32_t channels = image.format == PixelFormat::kGray ? 1 : 3;
  constexpr int kTiles[][2] = {{5, 4}, {5, 3}, {5, 2}, {5, 1}, {5, 0}, {4, 0}, {3, 0}, {2, 0}, {1, 0}, {0, 0}};
  Tiling tiling;
  for (const std::size_t limit : {kGoodShared, kMaxShared}) {
    for (const auto& tile : kTiles) {
      const std::int32_t across = span(image.width, geometry.content_width, 1 << tile[0]);
      const std::int32_t down = span(image.height, geometry.content_height, 1 << tile[1]);
      const std::int32_t first = down_first ? down : across;
      const std::int32_t second = down_first ? across : down;
      const int log_outputs = down_first ? tile[1] : tile[0];
      tiling.log_width = tile[0];
      tiling.log_height = tile[1];
      tiling.stage_pitch = first | 1;  // odd: neighbouring lines start in different banks
      tiling.mixed_pitch = second | 1;
      // Neighbouring threads load neighbouring columns, which are lines if the second pass is the one across.
      const int most_lines = std::min(down_first ? 5 : 3, log2_up(second));
      const int least_lines = limit == kGoodShared ? std::min(2, most_lines) : 0;
      for (tiling.log_lines = most_lines; tiling.log_lines >= least_lines; --tiling.log_lines) {
        const std::size_t stage = static_cast<std::size_t>(tiling.stage_pitch) << (2 + tiling.log_lines);
        const std::size_t mixed = static_cast<std::size_t>(tiling.mixed_pitch) << log_outputs;
        tiling.shared_bytes = (stage + mixed) * static_cast<std::size_t>(channels) * sizeof(std::uint32_t);
        if (tiling.shared_bytes <= limit) {
          tiling.fits = true;
          return tiling;
        }
      }
    }
  }
  return {};
}

void check_max_batch(std::size_t max_images) {
  if (max_images < 1 || max_images > kMaxBatch) {
    refuse("max_batch: expected 1 to " + std::to_string(kMaxBatch) + " images, got " + std::to_string(max_images) +
           "; split larger batches");
  }
}

void check_limits(std::size_t max_images, std::int32_t max_width, std::int32_t max_height) {
  check_max_batch(max_images);
  if (max_width < 1 || max_height < 1 || max_width > kMaxImageSide || max_height > kMaxImageSide) {
    refuse("max_width, max_height: expected 1 to " + std::to_string(kMaxImageSide) + " pixels, got " +
           std::to_string(max_width) + "x" + std::to_string(max_height));
  }
}

Preprocessor::Preprocessor(const PreprocessSpec& spec, TensorType type, std::size_t max_images, std::int32_t max_width,
                           std::int32_t max_height)
    : spec_(spec), type_(type), max_images_(max_images), max_width_(max_width), max_height_(max_height) {
  validate(spec);
  validate(type);
  check_limits(max_images, max_width, max_height);
  slot_bytes_ = slot_bytes(spec, max_width, max_height);
  slots_.resize(slots_for(max_images));
  tables_ = make_device_buffer(slots_.size() * slot_bytes_);
}

std::size_t Preprocessor::device_bytes(const PreprocessSpec& spec, std::size_t max_images, std::int32_t max_width,
                                       std::int32_t max_height) {
  return slots_for(max_images) * slot_bytes(spec, max_width, max_height);
}

AxisTable Preprocessor::table(std::int32_t in, std::int32_t out, bool of_rows, cudaStream_t stream) {
  const bool triangle = spec_.filter == Filter::kAntialias;
  of_rows = of_rows && !triangle;  // a triangle has the same taps on both axes
  std::size_t oldest = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.in == in && slot.out == out && slot.of_rows == of_rows) {
      slot.last_use = ++uses_;
      return {reinterpret_cast<const std::int32_t*>(tables_.data() + i * slot_bytes_), out, slot.groups};
    }
    if (slot.last_use < slots_[oldest].last_use) {
      oldest = i;
    }
  }
  const std::int32_t groups = triangle ? groups_of(in, out) : 0;
  if (AxisTable::bytes(out, groups) > slot_bytes_) {
    throw Error(ErrorKind::kBackend, "expected a resize table of at most " + std::to_string(slot_bytes_) +
                                         " bytes, got " + std::to_string(AxisTable::bytes(out, groups)) + " for " +
                                         std::to_string(in) + " to " + std::to_string(out) + "; report this");
  }
  auto* const first = reinterpret_cast<std::int32_t*>(tables_.data() + oldest * slot_bytes_);
  slots_[oldest] = Slot{};  // in case the launch fails
  const unsigned blocks =
      static_cast<unsigned>((out + kernel::AxisKernel::kThreads - 1) / kernel::AxisKernel::kThreads);
  make_call(kernel::AxisKernel{first, in, out, groups, of_rows}, dim3(blocks), 0)
      .launch(stream, "compute a resize table");
  slots_[oldest] = {in, out, of_rows, groups, ++uses_};
  return {first, out, groups};
}

template <typename Out>
KernelCall Preprocessor::plan_as(const ImageView* images, std::size_t count, void* out, Geometry* geometries,
                                 cudaStream_t stream) {
  kernel::Batch<Out> batch{};
  batch.out = static_cast<Out*>(out);
  batch.width = spec_.width;
  batch.height = spec_.height;
  batch.normalisation = kernel::make_normalisation(spec_);
  batch.scale = type_.scale;
  batch.pad_level = spec_.pad_value;
  batch.bgr = spec_.channels == ChannelOrder::kBgr;
  bool fits = true;
  std::size_t shared_bytes = 0;
  std::int32_t tiles = 1;
  for (std::size_t i = 0; i < count; ++i) {
    const ImageView& image = images[i];
    const Geometry geometry = make_geometry(image.width, image.height, spec_.width, spec_.height, spec_.resize);
    geometries[i] = geometry;
    kernel::ImagePlan& plan = batch.images[i];
    plan.image = image;
    plan.content_x = geometry.content_x;
    plan.content_y = geometry.content_y;
    plan.content_width = geometry.content_width;
    plan.content_height = geometry.content_height;
    plan.across = table(image.width, geometry.content_width, false, stream);
    plan.down = table(image.height, geometry.content_height, true, stream);
    plan.down_first = kernel::triangle_down_first(geometry);
    Tiling tiling;
    if (spec_.filter == Filter::kAntialias) {
      tiling = choose_tiling(image, geometry);
      fits = fits && tiling.fits;
    }
    plan.log_width = static_cast<std::uint8_t>(tiling.log_width);
    plan.log_height = static_cast<std::uint8_t>(tiling.log_height);
    plan.log_lines = static_cast<std::uint8_t>(tiling.log_lines);
    plan.stage_pitch = static_cast<std::uint16_t>(tiling.stage_pitch);
    plan.mixed_pitch = static_cast<std::uint16_t>(tiling.mixed_pitch);
    shared_bytes = std::max(shared_bytes, tiling.shared_bytes);
  }
  for (std::size_t i = 0; i < count; ++i) {
    kernel::ImagePlan& plan = batch.images[i];
    if (!fits) {  // one thread an output, as the default tiling says
      plan.log_width = static_cast<std::uint8_t>(Tiling{}.log_width);
      plan.log_height = static_cast<std::uint8_t>(Tiling{}.log_height);
    }
    plan.tiles_x = (spec_.width + (1 << plan.log_width) - 1) >> plan.log_width;
    plan.tiles = plan.tiles_x * ((spec_.height + (1 << plan.log_height) - 1) >> plan.log_height);
    tiles = std::max(tiles, plan.tiles);
  }
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(count));
  if (spec_.filter == Filter::kBilinear) {
    return make_call(kernel::PointKernel<Out>{batch}, grid, 0);
  }
  if (!fits) {
    return make_call(kernel::DefinitionKernel<Out>{batch}, grid, 0);
  }
  return make_call(kernel::TiledKernel<Out>{batch}, grid, shared_bytes);
}

void Preprocessor::check(const ImageView* images, std::size_t count) const {
  if (count < 1 || count > max_images_) {
    refuse("expected 1 to " + std::to_string(max_images_) + " images, got " + std::to_string(count) +
           "; raise max_batch or split the batch");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const ImageView& image = images[i];
    validate(image);
    if (image.width > max_width_ || image.height > max_height_) {
      refuse("expected images of at most " + std::to_string(max_width_) + "x" + std::to_string(max_height_) +
             " pixels, got " + std::to_string(image.width) + "x" + std::to_string(image.height) +
             "; raise max_width and max_height");
    }
  }
}

KernelCall Preprocessor::plan(const ImageView* images, std::size_t count, void* out, Geometry* geometries,
                              cudaStream_t stream) {
  check(images, count);
  switch (type_.dtype) {
    case DType::kFloat16:
      return plan_as<std::uint16_t>(images, count, out, geometries, stream);
    case DType::kInt8:
      return plan_as<std::int8_t>(images, count, out, geometries, stream);
    case DType::kFloat32:
      break;
  }
  return plan_as<float>(images, count, out, geometries, stream);
}

}  // namespace edgedet::cuda
