// Preprocessing on the CPU: bands of output rows in parallel; in each band a horizontal pass per source row that is
// needed, kept in a small ring, and a vertical pass per output row.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "common/thread_pool.h"
#include "edgedet/error.h"
#include "kernels/ops.h"
#include "kernels/preprocess.h"
#include "kernels/rows.h"
#if defined(__x86_64__)
#include "kernels/rows_x86.h"
#endif

namespace edgedet::ops {

namespace {

using kernel::LinearColumns;
using kernel::TriangleColumns;

// ---- the row loops of one instruction set ----

template <typename Out>
struct DownLoops {
  void (*linear)(const float*, const float*, float, std::int32_t, float, float, Out*);
  void (*triangle)(const std::uint8_t* const*, const std::int32_t*, std::int32_t, std::int32_t, float, float, Out*);
};

struct RowLoops {
  using Linear = void (*)(const std::uint8_t*, const LinearColumns&, float*);
  using Triangle = void (*)(const std::uint8_t*, const TriangleColumns&, std::uint8_t*);
  Linear linear_gray;
  Linear linear_packed;  // three bytes a pixel
  Linear linear_spaced;  // four bytes a pixel, the last one spare
  Triangle triangle_gray;
  Triangle triangle_packed;
  Triangle triangle_spaced;
  DownLoops<float> down_float;
  DownLoops<std::uint16_t> down_half;
  void (*nv12)(const std::uint8_t*, const std::uint8_t*, std::int32_t, std::uint32_t*);
};

// The table of one instruction set: portable bodies compiled under `attribute`, horizontal passes over pixels given.
#define EDGEDET_ROW_LOOPS(name, attribute, LINEAR, TRIANGLE)                                                          \
  struct name {                                                                                                       \
    attribute static void linear_gray(const std::uint8_t* row, const LinearColumns& columns, float* out) {            \
      kernel::linear_across<1, 1>(row, columns, out);                                                                 \
    }                                                                                                                 \
    template <int kStep>                                                                                              \
    attribute static void linear(const std::uint8_t* row, const LinearColumns& columns, float* out) {                 \
      LINEAR(row, columns, out);                                                                                      \
    }                                                                                                                 \
    attribute static void triangle_gray(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out) { \
      kernel::triangle_across<1, 1>(row, columns, out);                                                               \
    }                                                                                                                 \
    template <int kStep>                                                                                              \
    attribute static void triangle(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out) {      \
      TRIANGLE(row, columns, out);                                                                                    \
    }                                                                                                                 \
    template <typename Out>                                                                                           \
    attribute static void linear_down(const float* top, const float* bottom, float fraction, std::int32_t count,      \
                                      float scale, float bias, Out* out) {                                            \
      kernel::linear_down(top, bottom, fraction, count, scale, bias, out);                                            \
    }                                                                                                                 \
    template <typename Out>                                                                                           \
    attribute static void triangle_down(const std::uint8_t* const* rows, const std::int32_t* weights,                 \
                                        std::int32_t taps, std::int32_t count, float scale, float bias, Out* out) {   \
      kernel::triangle_down(rows, weights, taps, count, scale, bias, out);                                            \
    }                                                                                                                 \
    attribute static void nv12(const std::uint8_t* y, const std::uint8_t* uv, std::int32_t width,                     \
                               std::uint32_t* out) {                                                                  \
      kernel::nv12_row(y, uv, width, out);                                                                            \
    }                                                                                                                 \
    static constexpr RowLoops kTable{linear_gray,                                                                     \
                                     linear<3>,                                                                       \
                                     linear<4>,                                                                       \
                                     triangle_gray,                                                                   \
                                     triangle<3>,                                                                     \
                                     triangle<4>,                                                                     \
                                     {linear_down<float>, triangle_down<float>},                                      \
                                     {linear_down<std::uint16_t>, triangle_down<std::uint16_t>},                      \
                                     nv12};                                                                           \
  };

EDGEDET_ROW_LOOPS(Portable, , (kernel::linear_across<kStep, 3>), (kernel::triangle_across<kStep, 3>))
#if defined(__x86_64__)
EDGEDET_ROW_LOOPS(Avx2, EDGEDET_AVX2, (kernel::linear_across_avx2<kStep>), (kernel::triangle_across_avx2<kStep>))
EDGEDET_ROW_LOOPS(Avx512, EDGEDET_AVX512, (kernel::linear_across_avx512<kStep>),
                  (kernel::triangle_across_avx512<kStep>))
#endif
#undef EDGEDET_ROW_LOOPS

const RowLoops& best_row_loops() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi")) {
    return Avx512::kTable;
  }
  if (__builtin_cpu_supports("avx2")) {
    return Avx2::kTable;
  }
#endif
  return Portable::kTable;
}

// ---- tables ----

std::int32_t padded(std::int32_t count, std::int32_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Source rows (or columns) that one output row (or column) reads, and their weights.
struct Axis {
  std::int32_t in = 0;
  std::int32_t out = 0;
  Filter filter = Filter::kBilinear;
  std::int32_t step = 0;   // offsets are first taps times step
  std::int32_t count = 0;  // entries, padded
  std::int32_t taps = 0;   // weights an entry, padded
  std::vector<std::int32_t> offset;
  std::vector<std::int32_t> taps_used;
  std::vector<float> fraction;
  std::vector<std::int32_t> weights;

  void prepare(std::int32_t new_in, std::int32_t new_out, Filter new_filter, std::int32_t new_step) {
    if (in == new_in && out == new_out && filter == new_filter && step == new_step) {
      return;
    }
    in = new_in;
    out = new_out;
    filter = new_filter;
    step = new_step;
    count = padded(out, kernel::kRowPadding);
    const auto entries = static_cast<std::size_t>(count);
    offset.assign(entries, 0);
    taps_used.assign(entries, 1);
    if (filter == Filter::kBilinear) {
      fraction.assign(entries, 0.F);
      for (std::int32_t index = 0; index < out; ++index) {
        const auto at = static_cast<std::size_t>(index);
        const kernel::LinearTap tap = kernel::linear_tap(index, in, out);
        offset[at] = tap.first * step;
        fraction[at] = tap.fraction;
        taps_used[at] = tap.first + 1 < in ? 2 : 1;
      }
    } else {
      taps = padded(kernel::max_triangle_taps(in, out), 4);
      weights.assign(entries * static_cast<std::size_t>(taps), 0);
      for (std::int32_t index = 0; index < out; ++index) {
        const auto at = static_cast<std::size_t>(index);
        const kernel::TriangleWindow window = kernel::triangle_window(index, in, out);
        const double total = kernel::triangle_total(window);
        // A window at the far end begins early, with zeros, so that all `taps` entries lie in the image.
        const std::int32_t first = std::min(window.first, std::max(in - taps, 0));
        const std::int32_t skip = window.first - first;
        offset[at] = first * step;
        taps_used[at] = skip + window.count;
        for (std::int32_t tap = 0; tap < window.count; ++tap) {
          weights[at * static_cast<std::size_t>(taps) + static_cast<std::size_t>(skip + tap)] =
              kernel::fixed_weight(kernel::triangle_weight(window, tap), total);
        }
      }
    }
  }

  LinearColumns linear() const { return {offset.data(), fraction.data(), count}; }
  TriangleColumns triangle() const { return {offset.data(), weights.data(), count, taps}; }
};

// What one thread writes while it works on a band.
struct Scratch {
  std::vector<float> linear_rows;           // two row buffers
  std::vector<std::uint8_t> triangle_rows;  // as many row buffers as a vertical window has taps
  std::vector<const std::uint8_t*> window;  // the row buffers of one window, in order
  std::vector<std::uint32_t> source;        // one source row: the last of the image, or converted from NV12
};

std::int32_t pixel_step(PixelFormat format) {
  switch (format) {
    case PixelFormat::kGray:
      return 1;
    case PixelFormat::kNv12:
      return 4;
    case PixelFormat::kRgb:
    case PixelFormat::kBgr:
      break;
  }
  return 3;
}

template <typename Vector>
void grow(Vector& vector, std::size_t size) {
  if (vector.size() < size) {
    vector.resize(size);
  }
}

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

}  // namespace

struct PreprocessWorkspace::Impl {
  Axis across;
  Axis down;
  std::vector<Scratch> scratch;  // one a thread
};

PreprocessWorkspace::PreprocessWorkspace() : impl_(std::make_unique<Impl>()) {}
PreprocessWorkspace::~PreprocessWorkspace() = default;
PreprocessWorkspace::PreprocessWorkspace(PreprocessWorkspace&&) noexcept = default;
PreprocessWorkspace& PreprocessWorkspace::operator=(PreprocessWorkspace&&) noexcept = default;

void validate(const ImageView& image) {
  if (image.data == nullptr) {
    invalid("expected image data, got a null pointer; pass a non-empty image");
  }
  if (image.width < 1 || image.height < 1 || image.width > kMaxImageSide || image.height > kMaxImageSide) {
    invalid("expected image sides from 1 to " + std::to_string(kMaxImageSide) + " pixels, got " +
            std::to_string(image.width) + "x" + std::to_string(image.height) + "; crop or shrink the image first");
  }
  const bool packed = image.format == PixelFormat::kRgb || image.format == PixelFormat::kBgr;
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(image.width) * (packed ? 3 : 1);
  if (image.stride < row) {
    invalid("expected a stride of at least one row (" + std::to_string(row) + " bytes), got " +
            std::to_string(image.stride) + "; pass the distance in bytes from row to row");
  }
  if (image.format == PixelFormat::kNv12) {
    if (image.width % 2 != 0 || image.height % 2 != 0) {
      invalid("expected even NV12 sides, got " + std::to_string(image.width) + "x" + std::to_string(image.height) +
              "; crop the last column or row");
    }
    if (image.uv == nullptr) {
      invalid("expected a UV plane with an NV12 image, got a null pointer; set ImageView::uv");
    }
    if (image.uv_stride < image.width) {
      invalid("expected a UV stride of at least one row (" + std::to_string(image.width) + " bytes), got " +
              std::to_string(image.uv_stride) + "; pass the distance in bytes from row to row");
    }
  }
}

void validate(const PreprocessSpec& spec) {
  if (spec.width < 1 || spec.height < 1 || spec.width > kMaxImageSide || spec.height > kMaxImageSide) {
    invalid("expected network input sides from 1 to " + std::to_string(kMaxImageSide) + " pixels, got " +
            std::to_string(spec.width) + "x" + std::to_string(spec.height) +
            "; give the size the network was built for");
  }
  for (std::size_t c = 0; c < 3; ++c) {
    if (!std::isfinite(spec.mean[c])) {
      invalid("expected a finite mean, got " + std::to_string(spec.mean[c]) + " for channel " + std::to_string(c) +
              "; give means of pixels in [0, 1]");
    }
    if (!std::isfinite(spec.std[c]) || spec.std[c] <= 0.F) {
      invalid("expected a positive, finite std, got " + std::to_string(spec.std[c]) + " for channel " +
              std::to_string(c) + "; give deviations of pixels in [0, 1]");
    }
  }
}

namespace {

// One frame on its way through: what every band needs to know.
template <typename Out>
class Frame {
 public:
  Frame(const ImageView& image, const PreprocessSpec& spec, const Geometry& geometry, Out* out,
        PreprocessWorkspace::Impl& workspace, std::int32_t band_rows)
      : image_(image),
        spec_(spec),
        geometry_(geometry),
        out_(out),
        workspace_(workspace),
        loops_(best_row_loops()),
        band_rows_(band_rows),
        step_(pixel_step(image.format)),
        planes_(step_ == 1 ? 1 : 3),
        swapped_((image.format == PixelFormat::kBgr) != (spec.channels == ChannelOrder::kBgr)),
        normalisation_(kernel::make_normalisation(spec)) {}

  void operator()(int band, int slot) {
    Scratch& scratch = workspace_.scratch[static_cast<std::size_t>(slot)];
    const std::int32_t begin = band * band_rows_;
    const std::int32_t end = std::min(begin + band_rows_, spec_.height);
    const std::int32_t content_begin = std::clamp(geometry_.content_y, begin, end);
    const std::int32_t content_end = std::clamp(geometry_.content_y + geometry_.content_height, begin, end);
    for (std::int32_t y = begin; y < end; ++y) {
      if (y < content_begin || y >= content_end) {
        fill(y, 0, spec_.width);
      } else {
        fill(y, 0, geometry_.content_x);
        fill(y, geometry_.content_x + geometry_.content_width, spec_.width);
      }
    }
    if (spec_.filter == Filter::kBilinear) {
      linear(content_begin, content_end, scratch);
    } else {
      triangle(content_begin, content_end, scratch);
    }
  }

 private:
  Out* output(int plane, std::int32_t y) const {
    const auto row = static_cast<std::ptrdiff_t>(plane) * spec_.height + y;
    return out_ + row * spec_.width;
  }

  // The plane of a row buffer that output plane `plane` is made from.
  int source_plane(int plane) const { return planes_ == 1 ? 0 : (swapped_ ? 2 - plane : plane); }

  const DownLoops<Out>& down_loops() const {
    if constexpr (std::is_same_v<Out, float>) {
      return loops_.down_float;
    } else {
      return loops_.down_half;
    }
  }

  void fill(std::int32_t y, std::int32_t begin, std::int32_t end) const {
    if (begin >= end) {
      return;
    }
    for (int plane = 0; plane < 3; ++plane) {
      Out value{};
      kernel::put(kernel::normalised(spec_.pad_value, normalisation_.scale[plane], normalisation_.bias[plane]), &value);
      std::fill(output(plane, y) + begin, output(plane, y) + end, value);
    }
  }

  // A source row with kSourcePadding readable bytes behind it.
  const std::uint8_t* source_row(std::int32_t y, Scratch& scratch) const {
    const std::uint8_t* row = image_.data + y * image_.stride;
    if (image_.format == PixelFormat::kNv12) {
      loops_.nv12(row, image_.uv + (y / 2) * image_.uv_stride, image_.width, scratch.source.data());
    } else if ((image_.height - 1 - y) * image_.stride >= kernel::kSourcePadding) {
      return row;  // the padding lies in the rows that follow
    } else {
      memcpy(scratch.source.data(), row, static_cast<std::size_t>(image_.width) * static_cast<std::size_t>(step_));
    }
    return reinterpret_cast<const std::uint8_t*>(scratch.source.data());
  }

  void linear(std::int32_t begin, std::int32_t end, Scratch& scratch) const {
    const LinearColumns columns = workspace_.across.linear();
    const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(columns.count) * planes_;
    const auto across = step_ == 1 ? loops_.linear_gray : (step_ == 3 ? loops_.linear_packed : loops_.linear_spaced);
    std::int32_t held[2] = {-1, -1};  // the source row in each of the two row buffers
    for (std::int32_t y = begin; y < end; ++y) {
      const auto at = static_cast<std::size_t>(y - geometry_.content_y);
      const std::int32_t first = workspace_.down.offset[at];
      const std::int32_t last = first + workspace_.down.taps_used[at] - 1;
      for (std::int32_t row = first; row <= last; ++row) {
        if (held[row % 2] != row) {
          across(source_row(row, scratch), columns, scratch.linear_rows.data() + (row % 2) * row_size);
          held[row % 2] = row;
        }
      }
      const float* top = scratch.linear_rows.data() + (first % 2) * row_size;
      const float* bottom = scratch.linear_rows.data() + (last % 2) * row_size;
      for (int plane = 0; plane < 3; ++plane) {
        const std::ptrdiff_t from = static_cast<std::ptrdiff_t>(source_plane(plane)) * columns.count;
        down_loops().linear(top + from, bottom + from, workspace_.down.fraction[at], geometry_.content_width,
                            normalisation_.scale[plane], normalisation_.bias[plane],
                            output(plane, y) + geometry_.content_x);
      }
    }
  }

  void triangle(std::int32_t begin, std::int32_t end, Scratch& scratch) const {
    const TriangleColumns columns = workspace_.across.triangle();
    const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(columns.count) * planes_;
    const auto across =
        step_ == 1 ? loops_.triangle_gray : (step_ == 3 ? loops_.triangle_packed : loops_.triangle_spaced);
    const Axis& down = workspace_.down;
    std::int32_t next = 0;  // the first source row that has not been through the horizontal pass
    for (std::int32_t y = begin; y < end; ++y) {
      const auto at = static_cast<std::size_t>(y - geometry_.content_y);
      const std::int32_t first = down.offset[at];
      const std::int32_t taps = down.taps_used[at];
      for (next = std::max(next, first); next < first + taps; ++next) {
        across(source_row(next, scratch), columns, scratch.triangle_rows.data() + (next % down.taps) * row_size);
      }
      for (int plane = 0; plane < 3; ++plane) {
        const std::ptrdiff_t from = static_cast<std::ptrdiff_t>(source_plane(plane)) * columns.count;
        for (std::int32_t tap = 0; tap < taps; ++tap) {
          scratch.window[static_cast<std::size_t>(tap)] =
              scratch.triangle_rows.data() + ((first + tap) % down.taps) * row_size + from;
        }
        down_loops().triangle(scratch.window.data(), down.weights.data() + at * static_cast<std::size_t>(down.taps),
                              taps, geometry_.content_width, normalisation_.scale[plane], normalisation_.bias[plane],
                              output(plane, y) + geometry_.content_x);
      }
    }
  }

  const ImageView& image_;
  const PreprocessSpec& spec_;
  const Geometry& geometry_;
  Out* out_;
  PreprocessWorkspace::Impl& workspace_;
  const RowLoops& loops_;
  std::int32_t band_rows_;
  std::int32_t step_;
  int planes_;
  bool swapped_;
  kernel::Normalisation normalisation_;
};

template <typename Out>
void run(const ImageView& image, const PreprocessSpec& spec, const Geometry& geometry, Out* out,
         PreprocessWorkspace::Impl& workspace, ThreadPool* pool) {
  // A few bands a thread, so that one that wakes late or is interrupted holds nobody up; not more, because
  // neighbouring bands repeat the source rows that they share.
  const std::int32_t threads = pool == nullptr ? 1 : pool->threads();
  const std::int32_t bands = threads == 1 ? 1 : std::min(4 * threads, spec.height);
  const std::int32_t band_rows = (spec.height + bands - 1) / bands;
  Frame<Out> frame(image, spec, geometry, out, workspace, band_rows);
  const int count = (spec.height + band_rows - 1) / band_rows;
  if (pool == nullptr) {
    for (int band = 0; band < count; ++band) {
      frame(band, 0);
    }
  } else {
    pool->for_each(count, frame);
  }
}

}  // namespace

Geometry preprocess_cpu(const ImageView& image, const PreprocessSpec& spec, DType dtype, void* out,
                        PreprocessWorkspace& workspace, ThreadPool* pool) {
  validate(image);
  validate(spec);
  const Geometry geometry = make_geometry(image.width, image.height, spec.width, spec.height, spec.resize);
  PreprocessWorkspace::Impl& buffers = workspace.impl();
  const std::int32_t step = pixel_step(image.format);
  buffers.across.prepare(image.width, geometry.content_width, spec.filter, step);
  buffers.down.prepare(image.height, geometry.content_height, spec.filter, 1);
  grow(buffers.scratch, static_cast<std::size_t>(pool == nullptr ? 1 : pool->threads()));
  const std::size_t row_size = static_cast<std::size_t>(buffers.across.count) * (step == 1 ? 1 : 3);
  for (Scratch& scratch : buffers.scratch) {
    if (spec.filter == Filter::kBilinear) {
      grow(scratch.linear_rows, 2 * row_size);
    } else {
      grow(scratch.triangle_rows, static_cast<std::size_t>(buffers.down.taps) * row_size);
      grow(scratch.window, static_cast<std::size_t>(buffers.down.taps));
    }
    grow(scratch.source, (static_cast<std::size_t>(image.width) * static_cast<std::size_t>(step) +
                          kernel::kSourcePadding + sizeof(std::uint32_t) - 1) /
                             sizeof(std::uint32_t));
  }
  if (dtype == DType::kFloat32) {
    run(image, spec, geometry, static_cast<float*>(out), buffers, pool);
  } else {
    run(image, spec, geometry, static_cast<std::uint16_t*>(out), buffers, pool);
  }
  return geometry;
}

}  // namespace edgedet::ops
