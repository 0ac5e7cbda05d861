// Preprocessing on the CPU: bands of output rows in parallel; in each band a horizontal pass per source row that is
// needed, kept in a small ring, and a vertical pass per output row.
#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/preprocess.h"
#include "kernels/row_loops.h"

namespace edgedet::ops {

namespace {

using kernel::LinearColumns;
using kernel::TriangleColumns;

std::int32_t padded(std::int32_t count, std::int32_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Source rows (or columns) that one output row (or column) reads, and their weights.
struct Axis {
  explicit Axis(bool rows) : of_rows(rows) {}

  bool of_rows;
  std::int32_t in = 0;
  std::int32_t out = 0;
  Filter filter = Filter::kBilinear;
  std::int32_t step = 0;     // offsets are first taps times step
  std::int32_t count = 0;    // entries, padded
  std::int32_t longest = 0;  // taps of the longest window
  std::int32_t taps = 0;     // weights an entry, padded
  std::vector<std::int32_t> offset;
  std::vector<std::int32_t> taps_used;
  std::vector<std::uint32_t> linear_weights;  // of the first tap | of the second << 16
  std::vector<std::int32_t> weights;          // `taps` of each entry
  std::vector<std::int16_t> halves;           // see kernel::TriangleColumns

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
      linear_weights.assign(entries, kernel::kLinearOne);
      for (std::int32_t index = 0; index < out; ++index) {
        const auto at = static_cast<std::size_t>(index);
        const kernel::LinearTap tap =
            of_rows ? kernel::linear_tap(index, in, out) : kernel::linear_column_tap(index, in, out);
        offset[at] = tap.first * step;
        linear_weights[at] = static_cast<std::uint32_t>(tap.first_weight | (tap.second_weight << 16));
        taps_used[at] = tap.second - tap.first + 1;
      }
    } else {
      longest = 0;
      for (std::int32_t index = 0; index < out; ++index) {
        longest = std::max(longest, kernel::triangle_window(index, in, out).count);
      }
      taps = padded(longest, kernel::kTapPadding);
      weights.assign(entries * static_cast<std::size_t>(taps), 0);
      for (std::int32_t index = 0; index < out; ++index) {
        const auto at = static_cast<std::size_t>(index);
        const kernel::TriangleWindow window = kernel::triangle_window(index, in, out);
        const double total = kernel::triangle_total(window);
        // A window at the far end begins early, with zeros, so that `longest` entries lie in the image.
        const std::int32_t first = std::min(window.first, std::max(in - longest, 0));
        const std::int32_t skip = window.first - first;
        offset[at] = first * step;
        taps_used[at] = skip + window.count;
        for (std::int32_t tap = 0; tap < window.count; ++tap) {
          weights[at * static_cast<std::size_t>(taps) + static_cast<std::size_t>(skip + tap)] =
              kernel::fixed_weight(kernel::triangle_weight(window, tap), total);
        }
      }
      split_weights();
    }
  }

  void split_weights() {
    halves.resize(2 * weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const std::size_t group = i / kernel::kTapPadding;
      const std::size_t at = 2 * kernel::kTapPadding * group + i % kernel::kTapPadding;
      halves[at] = static_cast<std::int16_t>(weights[i] >> kernel::kHalfBits);
      halves[at + kernel::kTapPadding] = static_cast<std::int16_t>(weights[i] & ((1 << kernel::kHalfBits) - 1));
    }
  }

  LinearColumns linear() const { return {offset.data(), linear_weights.data(), count}; }
  TriangleColumns triangle() const { return {offset.data(), weights.data(), halves.data(), count, longest, taps}; }
};

// What one thread writes while it works on a band.
struct Scratch {
  std::vector<std::uint32_t> source;         // source rows that are converted from NV12 or lie at the image's end
  std::vector<std::int16_t> linear_rows;     // two row buffers
  std::vector<std::uint8_t> triangle_rows;   // row buffers of the source rows in a vertical window
  std::vector<std::uint8_t> triangle_mixed;  // a row after the first of the two passes, where that is the vertical one
  std::vector<std::uint8_t> levels;          // a row after both passes
  std::vector<const std::uint8_t*> ring;     // rows that a window has had, by row number modulo the longest window
  std::vector<const std::uint8_t*> window;   // the rows in a vertical window, in order
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

}  // namespace

struct PreprocessWorkspace::Impl {
  Axis across{false};
  Axis down{true};
  std::vector<Scratch> scratch;  // one a thread
  std::int32_t source_slots = 1;
  std::size_t source_words = 0;  // of one slot

  // Makes room for one frame on `threads` threads.
  void prepare(const ImageView& image, const Geometry& geometry, Filter filter, std::int32_t threads) {
    const std::int32_t step = pixel_step(image.format);
    const std::int32_t row_bytes = image.width * step;
    across.prepare(image.width, geometry.content_width, filter, step);
    down.prepare(image.height, geometry.content_height, filter, 1);
    const bool triangle = filter == Filter::kAntialias;
    const bool down_first = triangle && kernel::triangle_down_first(geometry);
    source_slots = 1;
    if (down_first) {
      // The rows of a window are held together. Without conversion only the last few of the image are copied.
      const std::int32_t copied = kernel::kSourcePadding / row_bytes + 1;
      source_slots = image.format == PixelFormat::kNv12 ? down.taps : copied;
    }
    source_words = static_cast<std::size_t>(padded(row_bytes + kernel::kSourcePadding, 4)) / sizeof(std::uint32_t);
    const std::size_t row_size = static_cast<std::size_t>(across.count) * (step == 1 ? 1 : 3);
    const auto taps = static_cast<std::size_t>(down.taps);
    grow(scratch, static_cast<std::size_t>(threads));
    for (Scratch& own : scratch) {
      grow(own.source, static_cast<std::size_t>(source_slots) * source_words);
      grow(own.levels, row_size);
      if (!triangle) {
        grow(own.linear_rows, 2 * row_size);
        continue;
      }
      grow(own.ring, taps);
      grow(own.window, taps);
      if (down_first) {
        grow(own.triangle_mixed,
             static_cast<std::size_t>(padded(row_bytes, kernel::kRowPadding)) + kernel::kSourcePadding);
      } else {
        grow(own.triangle_rows, taps * row_size);
      }
    }
  }
};

PreprocessWorkspace::PreprocessWorkspace() : impl_(std::make_unique<Impl>()) {}
PreprocessWorkspace::~PreprocessWorkspace() = default;
PreprocessWorkspace::PreprocessWorkspace(PreprocessWorkspace&&) noexcept = default;
PreprocessWorkspace& PreprocessWorkspace::operator=(PreprocessWorkspace&&) noexcept = default;

namespace {

// One frame on its way through: what every band needs to know.
template <typename Out>
class Frame {
 public:
  Frame(const ImageView& image, const PreprocessSpec& spec, const Geometry& geometry, float scale, Out* out,
        PreprocessWorkspace::Impl& buffers, std::int32_t band_rows)
      : image_(image),
        spec_(spec),
        geometry_(geometry),
        scale_(scale),
        out_(out),
        buffers_(buffers),
        loops_(kernel::best_row_loops()),
        band_rows_(band_rows),
        step_(pixel_step(image.format)),
        planes_(step_ == 1 ? 1 : 3),
        swapped_((image.format == PixelFormat::kBgr) != (spec.channels == ChannelOrder::kBgr)),
        normalisation_(kernel::make_normalisation(spec)) {}

  void operator()(int band, int slot) {
    Scratch& scratch = buffers_.scratch[static_cast<std::size_t>(slot)];
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

  // Writes one row of the network input from a row of levels, plane by plane.
  void write(const std::uint8_t* levels, std::int32_t y) const {
    for (int plane = 0; plane < 3; ++plane) {
      const std::uint8_t* from = levels + static_cast<std::ptrdiff_t>(source_plane(plane)) * buffers_.across.count;
      const float scale = normalisation_.scale[plane];
      const float bias = normalisation_.bias[plane];
      Out* const to = output(plane, y) + geometry_.content_x;
      if constexpr (std::is_same_v<Out, float>) {
        loops_.to_float(from, geometry_.content_width, scale, bias, to);
      } else if constexpr (std::is_same_v<Out, std::uint16_t>) {
        loops_.to_half(from, geometry_.content_width, scale, bias, to);
      } else {
        for (std::int32_t x = 0; x < geometry_.content_width; ++x) {
          kernel::put(kernel::normalised(from[x], scale, bias), scale_, to + x);
        }
      }
    }
  }

  void fill(std::int32_t y, std::int32_t begin, std::int32_t end) const {
    if (begin >= end) {
      return;
    }
    for (int plane = 0; plane < 3; ++plane) {
      Out value{};
      kernel::put(kernel::normalised(spec_.pad_value, normalisation_.scale[plane], normalisation_.bias[plane]), scale_,
                  &value);
      std::fill(output(plane, y) + begin, output(plane, y) + end, value);
    }
  }

  // A source row with kSourcePadding readable bytes behind it. Stays valid for as many rows as
  // PreprocessWorkspace::Impl::source_slots.
  const std::uint8_t* source_row(std::int32_t y, Scratch& scratch) const {
    const std::uint8_t* row = image_.data + y * image_.stride;
    std::uint32_t* const copy =
        scratch.source.data() + static_cast<std::size_t>(y % buffers_.source_slots) * buffers_.source_words;
    if (image_.format == PixelFormat::kNv12) {
      loops_.nv12(row, image_.uv + (y / 2) * image_.uv_stride, image_.width, copy);
    } else if ((image_.height - 1 - y) * image_.stride >= kernel::kSourcePadding) {
      return row;  // the padding lies in the rows that follow
    } else {
      memcpy(copy, row, static_cast<std::size_t>(image_.width) * static_cast<std::size_t>(step_));
    }
    return reinterpret_cast<const std::uint8_t*>(copy);
  }

  void linear(std::int32_t begin, std::int32_t end, Scratch& scratch) const {
    const LinearColumns columns = buffers_.across.linear();
    const std::ptrdiff_t row_size = static_cast<std::ptrdiff_t>(columns.count) * planes_;
    const auto across = step_ == 1 ? loops_.linear_gray : (step_ == 3 ? loops_.linear_packed : loops_.linear_spaced);
    std::int32_t held[2] = {-1, -1};  // the source row in each of the two row buffers
    for (std::int32_t y = begin; y < end; ++y) {
      const auto at = static_cast<std::size_t>(y - geometry_.content_y);
      const std::int32_t first = buffers_.down.offset[at];
      const std::int32_t last = first + buffers_.down.taps_used[at] - 1;
      for (std::int32_t row = first; row <= last; ++row) {
        if (held[row % 2] != row) {
          across(source_row(row, scratch), columns, scratch.linear_rows.data() + (row % 2) * row_size);
          held[row % 2] = row;
        }
      }
      const std::int16_t* top = scratch.linear_rows.data() + (first % 2) * row_size;
      const std::int16_t* bottom = scratch.linear_rows.data() + (last % 2) * row_size;
      const std::uint32_t weights = buffers_.down.linear_weights[at];
      loops_.linear_down(top, bottom, static_cast<std::int32_t>(weights & 0xFFFFU),
                         static_cast<std::int32_t>(weights >> 16), static_cast<std::int32_t>(row_size),
                         scratch.levels.data());
      write(scratch.levels.data(), y);
    }
  }

  void triangle(std::int32_t begin, std::int32_t end, Scratch& scratch) const {
    const TriangleColumns columns = buffers_.across.triangle();
    const std::int32_t row_size = columns.count * planes_;
    const auto across =
        step_ == 1 ? loops_.triangle_gray : (step_ == 3 ? loops_.triangle_packed : loops_.triangle_spaced);
    const bool down_first = kernel::triangle_down_first(geometry_);
    const Axis& down = buffers_.down;
    std::uint8_t* const levels = scratch.levels.data();
    std::int32_t next = 0;  // the first source row that no window has had yet
    for (std::int32_t y = begin; y < end; ++y) {
      const auto at = static_cast<std::size_t>(y - geometry_.content_y);
      const std::int32_t* weights = down.weights.data() + at * static_cast<std::size_t>(down.taps);
      const std::int32_t first = down.offset[at];
      const std::int32_t taps = down.taps_used[at];
      const auto slot = [&](std::int32_t row) { return static_cast<std::size_t>(row % down.taps); };
      for (next = std::max(next, first); next < first + taps; ++next) {
        const std::uint8_t* row = source_row(next, scratch);
        if (!down_first) {
          std::uint8_t* const passed = scratch.triangle_rows.data() + slot(next) * static_cast<std::size_t>(row_size);
          across(row, columns, passed);
          row = passed;
        }
        scratch.ring[slot(next)] = row;
      }
      for (std::int32_t tap = 0; tap < taps; ++tap) {
        scratch.window[static_cast<std::size_t>(tap)] = scratch.ring[slot(first + tap)];
      }
      if (down_first) {
        loops_.triangle_down(scratch.window.data(), weights, taps, image_.width * step_, scratch.triangle_mixed.data());
        across(scratch.triangle_mixed.data(), columns, levels);
      } else {
        loops_.triangle_down(scratch.window.data(), weights, taps, row_size, levels);
      }
      write(levels, y);
    }
  }

  const ImageView& image_;
  const PreprocessSpec& spec_;
  const Geometry& geometry_;
  float scale_;  // of int8
  Out* out_;
  PreprocessWorkspace::Impl& buffers_;
  const kernel::RowLoops& loops_;
  std::int32_t band_rows_;
  std::int32_t step_;
  int planes_;
  bool swapped_;
  kernel::Normalisation normalisation_;
};

template <typename Out>
void run(const ImageView& image, const PreprocessSpec& spec, const Geometry& geometry, float scale, Out* out,
         PreprocessWorkspace::Impl& workspace, ThreadPool* pool) {
  // A few bands a thread, so that one that wakes late or is interrupted holds nobody up; not more, because
  // neighbouring bands repeat the source rows that they share.
  const std::int32_t threads = pool == nullptr ? 1 : pool->threads();
  const std::int32_t bands = threads == 1 ? 1 : std::min(4 * threads, spec.height);
  const std::int32_t band_rows = (spec.height + bands - 1) / bands;
  Frame<Out> frame(image, spec, geometry, scale, out, workspace, band_rows);
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

Geometry preprocess_cpu(const ImageView& image, const PreprocessSpec& spec, TensorType type, void* out,
                        PreprocessWorkspace& workspace, ThreadPool* pool) {
  validate(image);
  validate(spec);
  validate(type);
  const Geometry geometry = make_geometry(image.width, image.height, spec.width, spec.height, spec.resize);
  PreprocessWorkspace::Impl& buffers = workspace.impl();
  buffers.prepare(image, geometry, spec.filter, pool == nullptr ? 1 : pool->threads());
  switch (type.dtype) {
    case DType::kFloat32:
      run(image, spec, geometry, type.scale, static_cast<float*>(out), buffers, pool);
      break;
    case DType::kFloat16:
      run(image, spec, geometry, type.scale, static_cast<std::uint16_t*>(out), buffers, pool);
      break;
    case DType::kInt8:
      run(image, spec, geometry, type.scale, static_cast<std::int8_t*>(out), buffers, pool);
      break;
  }
  return geometry;
}

}  // namespace edgedet::ops
