#include <algorithm>
#include <limits>
#include <string>

#include "edgedet/error.h"
#include "kernels/deformable_attention_cuda.h"
#include "kernels/deformable_attention_device.h"

namespace edgedet::cuda {

namespace {

static_assert(kMaxDeformableLevels == kernel::kMaxLevels);

void expect(std::int64_t value, std::int64_t low, std::int64_t high, const char* what) {
  if (value < low || value > high) {
    throw Error(ErrorKind::kInvalidInput, std::string("deformable attention: expected ") + std::to_string(low) +
                                              " to " + std::to_string(high) + " " + what + ", got " +
                                              std::to_string(value) + "; use another form of sampling");
  }
}

std::int64_t cells_of(const DeformableSpec& spec) {
  std::int64_t cells = 0;
  for (const DeformableLevel& level : spec.levels) {
    cells += static_cast<std::int64_t>(level.height) * level.width;
  }
  return cells;
}

template <typename T, int kWidth>
KernelCall plan_width(const DeformableSpec& spec, const DeformableTensors& tensors, std::size_t images,
                      std::size_t queries) {
  using Kernel = kernel::DeformableKernel<T, kWidth>;
  Kernel body{};
  body.projection = static_cast<const T*>(tensors.projection);
  body.boxes = tensors.boxes;
  body.values = static_cast<const T*>(tensors.values);
  body.out = static_cast<T*>(tensors.out);
  std::int32_t cell = 0;
  std::int32_t point = 0;
  for (std::size_t i = 0; i < spec.levels.size(); ++i) {
    const DeformableLevel& level = spec.levels[i];
    point += level.points;
    body.levels[i] = {level.width, level.height, cell, point};
    cell += level.height * level.width;
  }
  body.queries = static_cast<std::int32_t>(queries);
  body.heads = spec.heads;
  body.points = point;
  body.channels = spec.channels;
  body.layers = spec.layers;
  body.layer = spec.layer;
  body.image_values = spec.rows() * spec.channels;
  // Queries that keep the threads busy, and fit what every device has of shared memory.
  const std::int32_t threads = spec.dim() / kWidth * Kernel::kSplit;
  body.tile = std::max(1, std::min(Kernel::kThreads / threads, kMaxDeformableRays / spec.rays()));
  const auto tile = static_cast<std::size_t>(body.tile);
  const dim3 grid(static_cast<unsigned>((queries + tile - 1) / tile), static_cast<unsigned>(images));
  return make_call(body, grid, Kernel::shared_bytes(body.tile * spec.rays()));
}

template <typename T>
KernelCall plan_type(const DeformableSpec& spec, const DeformableTensors& tensors, std::size_t images,
                     std::size_t queries) {
  const auto fits = [&](std::size_t bytes) {
    const auto places =
        reinterpret_cast<std::uintptr_t>(tensors.values) | reinterpret_cast<std::uintptr_t>(tensors.out);
    return (places | static_cast<std::size_t>(spec.channels) * sizeof(T)) % bytes == 0;
  };
  if (fits(16)) {
    return plan_width<T, 16 / sizeof(T)>(spec, tensors, images, queries);
  }
  if (fits(8)) {
    return plan_width<T, 8 / sizeof(T)>(spec, tensors, images, queries);
  }
  return plan_width<T, 1>(spec, tensors, images, queries);
}

}  // namespace

std::int32_t DeformableSpec::points() const {
  std::int32_t sum = 0;
  for (const DeformableLevel& level : levels) {
    sum += level.points;
  }
  return sum;
}

std::int32_t DeformableSpec::rows() const { return static_cast<std::int32_t>(cells_of(*this) * layers * heads); }

void check_spec(const DeformableSpec& spec) {
  expect(spec.heads, 1, kMaxDeformableRays, "heads");
  expect(spec.channels, 1, kMaxDeformableChannels, "channels of a head");
  expect(spec.layers, 1, kMaxDeformableLayers, "layers");
  expect(spec.layer, 0, spec.layers - 1, "as the layer");
  expect(static_cast<std::int64_t>(spec.levels.size()), 1, kMaxDeformableLevels, "levels");
  for (const DeformableLevel& level : spec.levels) {
    expect(level.height, 1, kMaxDeformableSide, "rows of a map");
    expect(level.width, 1, kMaxDeformableSide, "columns of a map");
    expect(level.points, 1, kMaxDeformableRays, "points of a level");
  }
  expect(static_cast<std::int64_t>(spec.heads) * spec.points(), 1, kMaxDeformableRays, "points of all heads");
  // Checked step by step, so that nothing overflows.
  const std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const std::int64_t rows = cells_of(spec) * spec.layers * spec.heads;
  expect(rows, 1, most, "rows of values");
  expect(rows * spec.channels, 1, most, "values");
}

KernelCall plan_deformable(const DeformableSpec& spec, const DeformableTensors& tensors, std::size_t images,
                           std::size_t queries, DType dtype) {
  check_spec(spec);
  constexpr std::int64_t kMaxImages = 65535;  // of a grid's second side
  constexpr std::int64_t kMaxQueries = std::int64_t{1} << 20;
  expect(static_cast<std::int64_t>(std::min<std::size_t>(images, kMaxImages + 1)), 1, kMaxImages, "images");
  expect(static_cast<std::int64_t>(std::min<std::size_t>(queries, kMaxQueries + 1)), 1, kMaxQueries, "queries");
  if (dtype == DType::kInt8) {
    throw Error(ErrorKind::kInvalidInput, "deformable attention: expected float32 or float16, got int8; cast it");
  }
  return dtype == DType::kFloat16 ? plan_type<std::uint16_t>(spec, tensors, images, queries)
                                  : plan_type<float>(spec, tensors, images, queries);
}

}  // namespace edgedet::cuda
