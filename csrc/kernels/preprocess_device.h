// The kernels of preprocess_cuda.cu: resize, colour, normalisation and padding of a batch of images in one launch.
//
// AxisKernel writes the taps of one axis of a resize, once for each pair of sizes. TiledKernel is the antialias filter:
// a block makes a tile of the network input. It reads the pixels under the tile once, in units of 4 x 4 pixels, into
// shared memory, a plane a channel, four positions of the first pass to a word; runs the first pass over them, whose
// bytes go back to shared memory with four positions of the second pass to a word; and runs that. A pass takes four
// taps of a weighted sum with three 8-bit dot products, as weights have 23 bits: sums are the integers of the
// definition in preprocess.h, whatever their order. PointKernel is the bilinear filter: four pixels an output, read
// straight from the image. DefinitionKernel is the definition itself, for ratios whose taps do not fit shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda_kernel.h"
#include "kernels/preprocess.h"

namespace edgedet::kernel {

constexpr int kWarp = 32;

// Weights of four neighbouring taps: byte i of each word is of tap i.
struct alignas(16) TapGroup {
  std::uint32_t low;     // bits 0 to 7 of the weights
  std::uint32_t middle;  // bits 8 to 15
  std::uint32_t high;    // bits 16 to 22
  std::uint32_t unused;
};

// Taps of an axis in device memory: `first` of every output, then the weights.
// Bilinear: first tap; both weights as first | second << 16, and bit 31 if the second tap is the next position and not
// the first one again, as at borders. Antialias: first group of four source positions; `groups`
// TapGroups, weights of positions outside the window zero.
struct AxisTable {
  const std::int32_t* first;
  std::int32_t outputs;
  std::int32_t groups;  // 0: bilinear

  static EDGEDET_HD std::size_t first_bytes(std::int32_t outputs) {
    return (static_cast<std::size_t>(outputs) * sizeof(std::int32_t) + 15) / 16 * 16;
  }
  static EDGEDET_HD std::size_t bytes(std::int32_t outputs, std::int32_t groups) {
    const std::size_t entry = groups == 0 ? sizeof(std::uint32_t) : static_cast<std::size_t>(groups) * sizeof(TapGroup);
    return first_bytes(outputs) + static_cast<std::size_t>(outputs) * entry;
  }
  EDGEDET_HD const void* weights() const {
    return reinterpret_cast<const unsigned char*>(first) + first_bytes(outputs);
  }
  EDGEDET_HD LinearTap linear(std::int32_t output) const {
    const std::uint32_t packed = static_cast<const std::uint32_t*>(weights())[output];
    return {first[output], first[output] + static_cast<std::int32_t>(packed >> 31),
            static_cast<std::int32_t>(packed & 0xFFFFU), static_cast<std::int32_t>((packed >> 16) & 0x7FFFU)};
  }
  EDGEDET_HD const TapGroup* triangle(std::int32_t output) const {
    return static_cast<const TapGroup*>(weights()) + static_cast<std::ptrdiff_t>(output) * groups;
  }
};

// Writes an AxisTable; a thread an output.
struct AxisKernel {
  static constexpr int kThreads = 128;
  static constexpr int kMinBlocks = 4;

  std::int32_t* first;
  std::int32_t in;
  std::int32_t out;
  std::int32_t groups;
  bool of_rows;

  __device__ void operator()() const {
    const auto index = static_cast<std::int32_t>(blockIdx.x * kThreads + threadIdx.x);
    if (index >= out) {
      return;
    }
    auto* const weights = reinterpret_cast<unsigned char*>(first) + AxisTable::first_bytes(out);
    if (groups == 0) {
      const LinearTap tap = of_rows ? linear_tap(index, in, out) : linear_column_tap(index, in, out);
      first[index] = tap.first;
      reinterpret_cast<std::uint32_t*>(weights)[index] =
          static_cast<std::uint32_t>(tap.first_weight | (tap.second_weight << 16)) |
          static_cast<std::uint32_t>(tap.second - tap.first) << 31;
      return;
    }
    const TriangleWindow window = triangle_window(index, in, out);
    const double total = triangle_total(window);
    const std::int32_t first_group = window.first / 4;
    first[index] = first_group;
    TapGroup* const entry = reinterpret_cast<TapGroup*>(weights) + static_cast<std::ptrdiff_t>(index) * groups;
    for (std::int32_t group = 0; group < groups; ++group) {
      TapGroup bytes{0, 0, 0, 0};
      for (int i = 0; i < 4; ++i) {
        const std::int32_t tap = 4 * (first_group + group) + i - window.first;
        if (tap < 0 || tap >= window.count) {
          continue;
        }
        const auto weight = static_cast<std::uint32_t>(fixed_weight(triangle_weight(window, tap), total));
        bytes.low |= (weight & 255U) << (8 * i);
        bytes.middle |= ((weight >> 8) & 255U) << (8 * i);
        bytes.high |= (weight >> 16) << (8 * i);
      }
      entry[group] = bytes;
    }
  }
};

// One image of a launch.
struct ImagePlan {
  ImageView image;  // in memory that the device can read
  std::int32_t content_x;
  std::int32_t content_y;
  std::int32_t content_width;
  std::int32_t content_height;
  AxisTable across;
  AxisTable down;
  std::int32_t tiles_x;
  std::int32_t tiles;
  std::uint8_t log_width;  // of a tile
  std::uint8_t log_height;
  std::uint8_t log_lines;  // groups of four lines that are in shared memory at a time
  bool down_first;
  std::uint16_t stage_pitch;  // words from line to line
  std::uint16_t mixed_pitch;
};

// The arguments of a launch.
template <typename Out>
struct Batch {
  ImagePlan images[cuda::kMaxBatch];
  Out* out;  // (images, 3, height, width)
  std::int32_t width;
  std::int32_t height;
  Normalisation normalisation;
  float scale;  // of int8
  std::uint8_t pad_level;
  bool bgr;  // the network's channel order

  // The plane that channel `channel` of the source (in memory order) goes to.
  __device__ int plane_of(PixelFormat format, int channel) const {
    return (format == PixelFormat::kBgr) != bgr ? 2 - channel : channel;
  }

  __device__ void store(int level, int plane, std::int32_t x, std::int32_t y) const {
    const float value = normalised(static_cast<float>(level), normalisation.scale[plane], normalisation.bias[plane]);
    const std::int64_t row = (static_cast<std::int64_t>(blockIdx.y) * 3 + plane) * height + y;
    put(value, scale, out + row * width + x);
  }
};

__device__ inline std::int32_t least(std::int32_t a, std::int32_t b) { return a < b ? a : b; }
__device__ inline std::int32_t greatest(std::int32_t a, std::int32_t b) { return a > b ? a : b; }

// kWords words of bytes from `at`, of which `valid` (any number) may be read; the others come out as zero. Whole,
// aligned words where they fit, which may include bytes just before `at`, in the same word.
template <int kWords>
__device__ inline void load_bytes(const std::uint8_t* at, std::int32_t valid, std::uint32_t (&out)[kWords]) {
  const auto shift = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(at) & 3U);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(at - shift);
  if (valid >= static_cast<std::int32_t>(4 * kWords + (shift == 0 ? 0 : 4 - shift))) {
    std::uint32_t last = __ldg(words);
    EDGEDET_UNROLL
    for (int i = 0; i < kWords - 1; ++i) {
      const std::uint32_t next = __ldg(words + i + 1);
      out[i] = __funnelshift_r(last, next, 8 * shift);
      last = next;
    }
    const std::uint32_t next = shift == 0 ? 0 : __ldg(words + kWords);
    out[kWords - 1] = __funnelshift_r(last, next, 8 * shift);
    return;
  }
  EDGEDET_UNROLL
  for (int i = 0; i < kWords; ++i) {
    out[i] = 0;
    EDGEDET_UNROLL
    for (int byte = 0; byte < 4; ++byte) {
      if (4 * i + byte < valid) {
        out[i] |= static_cast<std::uint32_t>(at[4 * i + byte]) << (8 * byte);
      }
    }
  }
}

// 4 x 4 pixels with the upper left one at (x, y), a word of neighbouring columns a channel; pixels outside the image
// are arbitrary. Grey fills the first channel only.
__device__ inline void load_pixels(const ImageView& image, std::int32_t x, std::int32_t y, std::uint32_t (&out)[4][3]) {
  const std::uint8_t* row = image.data + y * image.stride;
  const std::int32_t valid = image.width - x;
  if (image.format == PixelFormat::kGray) {
    EDGEDET_UNROLL
    for (int i = 0; i < 4; ++i) {
      std::uint32_t levels[1];
      load_bytes(row + x, y + i < image.height ? valid : 0, levels);
      out[i][0] = levels[0];
      row += image.stride;
    }
  } else if (image.format == PixelFormat::kNv12) {
    const std::uint8_t* chroma_row = image.uv + y / 2 * image.uv_stride;
    std::uint32_t chroma[1] = {0};
    EDGEDET_UNROLL
    for (int i = 0; i < 4; ++i) {
      std::uint32_t luma[1];
      load_bytes(row + x, y + i < image.height ? valid : 0, luma);
      row += image.stride;
      if (i % 2 == 0) {  // sides are even: two rows and two columns share a pair
        load_bytes(chroma_row + x, y + i < image.height ? valid : 0, chroma);
        chroma_row += image.uv_stride;
      }
      std::uint32_t rgb[4];
      EDGEDET_UNROLL
      for (int column = 0; column < 4; ++column) {
        const std::uint32_t pair = chroma[0] >> (16 * (column / 2));
        rgb[column] = yuv_to_rgb(static_cast<std::int32_t>((luma[0] >> (8 * column)) & 255U),
                                 static_cast<std::int32_t>(pair & 255U), static_cast<std::int32_t>((pair >> 8) & 255U));
      }
      const std::uint32_t red_green_01 = __byte_perm(rgb[0], rgb[1], 0x5140);  // r0 r1 g0 g1
      const std::uint32_t red_green_23 = __byte_perm(rgb[2], rgb[3], 0x5140);
      out[i][0] = __byte_perm(red_green_01, red_green_23, 0x5410);
      out[i][1] = __byte_perm(red_green_01, red_green_23, 0x7632);
      out[i][2] = __byte_perm(__byte_perm(rgb[0], rgb[1], 0x0062), __byte_perm(rgb[2], rgb[3], 0x0062), 0x5410);
    }
  } else {
    EDGEDET_UNROLL
    for (int i = 0; i < 4; ++i) {
      std::uint32_t bytes[3];  // a0 b0 c0 a1 | b1 c1 a2 b2 | c2 a3 b3 c3
      load_bytes(row + 3 * static_cast<std::ptrdiff_t>(x), y + i < image.height ? 3 * valid : 0, bytes);
      row += image.stride;
      out[i][0] = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0630), bytes[2], 0x5210);
      out[i][1] = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0741), bytes[2], 0x6210);
      out[i][2] = __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0052), bytes[2], 0x7410);
    }
  }
}

// Rows of four bytes become columns.
__device__ inline void transpose(std::uint32_t (&rows)[4]) {
  const std::uint32_t low_01 = __byte_perm(rows[0], rows[1], 0x5140);
  const std::uint32_t high_01 = __byte_perm(rows[0], rows[1], 0x7362);
  const std::uint32_t low_23 = __byte_perm(rows[2], rows[3], 0x5140);
  const std::uint32_t high_23 = __byte_perm(rows[2], rows[3], 0x7362);
  rows[0] = __byte_perm(low_01, low_23, 0x5410);
  rows[1] = __byte_perm(low_01, low_23, 0x7632);
  rows[2] = __byte_perm(high_01, high_23, 0x5410);
  rows[3] = __byte_perm(high_01, high_23, 0x7632);
}

// The three parts of a weighted sum of bytes; see TapGroup.
struct WeightedSum {
  std::uint32_t low = 0;
  std::uint32_t middle = 0;
  std::uint32_t high = 0;

  __device__ void add(std::uint32_t levels, const TapGroup& group) {
    low = __dp4a(levels, group.low, low);
    middle = __dp4a(levels, group.middle, middle);
    high = __dp4a(levels, group.high, high);
  }
  __device__ std::uint8_t level() const {
    return rounded_byte(static_cast<std::int32_t>(low + (middle << 8) + (high << 16)));
  }
};

__device__ inline TapGroup load_group(const TapGroup* group) {
  const uint4 words = __ldg(reinterpret_cast<const uint4*>(group));
  return {words.x, words.y, words.z, words.w};
}

template <typename Out>
struct TiledKernel {
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 3;
  static constexpr int kWarps = kThreads / kWarp;

  Batch<Out> batch;

  // The part of the content that a tile has, as seen by the two passes.
  struct Pass {
    AxisTable table;
    std::int32_t begin;  // first output
    std::int32_t count;  // outputs
    std::int32_t base;   // first group of source positions

    __device__ std::int32_t groups() const { return table.first[begin + count - 1] + table.groups - base; }
  };

  __device__ static Pass make_pass(const AxisTable& table, std::int32_t begin, std::int32_t end) {
    return {table, begin, end - begin, table.first[begin]};
  }

  __device__ void operator()() const {
    const ImagePlan& plan = batch.images[blockIdx.y];
    const auto tile = static_cast<std::int32_t>(blockIdx.x);
    if (tile >= plan.tiles) {
      return;
    }
    if (plan.down_first) {
      make_tile<true>(plan, tile);
    } else {
      make_tile<false>(plan, tile);
    }
  }

  template <bool kDownFirst>
  __device__ void make_tile(const ImagePlan& plan, std::int32_t tile) const {
    const std::int32_t tile_x = (tile % plan.tiles_x) << plan.log_width;
    const std::int32_t tile_y = (tile / plan.tiles_x) << plan.log_height;
    const std::int32_t x_begin = greatest(tile_x - plan.content_x, 0);
    const std::int32_t y_begin = greatest(tile_y - plan.content_y, 0);
    const std::int32_t x_end = least(tile_x + (1 << plan.log_width) - plan.content_x, plan.content_width);
    const std::int32_t y_end = least(tile_y + (1 << plan.log_height) - plan.content_y, plan.content_height);
    Pass across{};
    Pass down{};
    if (x_begin < x_end && y_begin < y_end) {
      across = make_pass(plan.across, x_begin, x_end);
      down = make_pass(plan.down, y_begin, y_end);
      if constexpr (kDownFirst) {
        first_pass<true>(plan, down, across);
      } else {
        first_pass<false>(plan, across, down);
      }
    }
    write<kDownFirst>(plan, tile_x, tile_y, across, down);
  }

  __device__ static std::uint32_t* stage() { return reinterpret_cast<std::uint32_t*>(cuda::shared_memory()); }

  __device__ static int channels(const ImagePlan& plan) { return plan.image.format == PixelFormat::kGray ? 1 : 3; }

  // After the lines of the stage: bytes of the first pass, (channel, output, group of lines).
  __device__ static std::uint32_t* mixed(const ImagePlan& plan) {
    return stage() + (static_cast<std::int32_t>(channels(plan) * plan.stage_pitch) << (2 + plan.log_lines));
  }

  template <bool kDownFirst>
  __device__ static int log_first(const ImagePlan& plan) {
    return kDownFirst ? plan.log_height : plan.log_width;
  }

  template <bool kDownFirst>
  __device__ static void load_unit(const ImagePlan& plan, std::int32_t group, std::int32_t base,
                                   std::int32_t line_group, std::int32_t line_base) {
    const std::int32_t x = 4 * (kDownFirst ? line_base + line_group : base + group);
    const std::int32_t y = 4 * (kDownFirst ? base + group : line_base + line_group);
    std::uint32_t pixels[4][3];
    load_pixels(plan.image, x, y, pixels);
    EDGEDET_UNROLL
    for (int channel = 0; channel < 3; ++channel) {
      if (channel > 0 && plan.image.format == PixelFormat::kGray) {
        return;
      }
      std::uint32_t lines[4] = {pixels[0][channel], pixels[1][channel], pixels[2][channel], pixels[3][channel]};
      if (kDownFirst) {
        transpose(lines);
      }
      const std::int32_t first_line = (channel << (2 + plan.log_lines)) + 4 * line_group;
      EDGEDET_UNROLL
      for (int line = 0; line < 4; ++line) {
        stage()[(first_line + line) * plan.stage_pitch + group] = lines[line];
      }
    }
  }

  // Fills mixed() for the tile. `lines` is the axis of the second pass: every source line under the tile passes once.
  template <bool kDownFirst>
  __device__ static void first_pass(const ImagePlan& plan, const Pass& pass, const Pass& lines) {
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    const std::int32_t warp = thread / kWarp;
    const std::int32_t lane = thread % kWarp;
    const std::int32_t groups = pass.groups();
    const std::int32_t side = kDownFirst ? plan.image.width : plan.image.height;
    const std::int32_t line_groups = least(lines.groups(), (side + 3) / 4 - lines.base);
    const std::int32_t held = 1 << plan.log_lines;
    const int log_outputs = log_first<kDownFirst>(plan);
    const std::int32_t items = channels(plan) << (log_outputs + plan.log_lines);
    for (std::int32_t begin = 0; begin < line_groups; begin += held) {
      const std::int32_t count = least(held, line_groups - begin);
      // Neighbouring threads read neighbouring pixels of a row.
      if (kDownFirst) {
        for (std::int32_t group = warp; group < groups; group += kWarps) {
          for (std::int32_t line = lane; line < count; line += kWarp) {
            load_unit<true>(plan, group, pass.base, line, lines.base + begin);
          }
        }
      } else {
        for (std::int32_t line = warp; line < count; line += kWarps) {
          for (std::int32_t group = lane; group < groups; group += kWarp) {
            load_unit<false>(plan, group, pass.base, line, lines.base + begin);
          }
        }
      }
      __syncthreads();
      for (std::int32_t item = thread; item < items; item += kThreads) {
        const std::int32_t output = item & ((1 << log_outputs) - 1);
        const std::int32_t line = (item >> log_outputs) & (held - 1);
        const std::int32_t channel = item >> (log_outputs + plan.log_lines);
        if (output < pass.count && line < count) {
          mixed(plan)[((channel << log_outputs) + output) * plan.mixed_pitch + begin + line] =
              four_lines(plan, pass, output, (channel << (2 + plan.log_lines)) + 4 * line);
        }
      }
      __syncthreads();
    }
  }

  __device__ static std::uint32_t four_lines(const ImagePlan& plan, const Pass& pass, std::int32_t output,
                                             std::int32_t first_line) {
    const std::int32_t at = pass.begin + output;
    const TapGroup* weights = pass.table.triangle(at);
    const std::uint32_t* levels = stage() + first_line * plan.stage_pitch + (pass.table.first[at] - pass.base);
    WeightedSum sums[4];
    EDGEDET_UNROLL_TWICE
    for (std::int32_t group = 0; group < pass.table.groups; ++group) {
      const TapGroup taps = load_group(weights + group);
      EDGEDET_UNROLL
      for (int line = 0; line < 4; ++line) {
        sums[line].add(levels[line * plan.stage_pitch + group], taps);
      }
    }
    std::uint32_t bytes = 0;
    EDGEDET_UNROLL
    for (int line = 0; line < 4; ++line) {
      bytes |= static_cast<std::uint32_t>(sums[line].level()) << (8 * line);
    }
    return bytes;
  }

  // The second pass, normalisation and padding.
  template <bool kDownFirst>
  __device__ void write(const ImagePlan& plan, std::int32_t tile_x, std::int32_t tile_y, const Pass& across,
                        const Pass& down) const {
    const bool gray = plan.image.format == PixelFormat::kGray;
    const Pass pass = kDownFirst ? across : down;
    const std::int32_t items = channels(plan) << (plan.log_width + plan.log_height);
    for (auto item = static_cast<std::int32_t>(threadIdx.x); item < items; item += kThreads) {
      const std::int32_t x = tile_x + (item & ((1 << plan.log_width) - 1));
      const std::int32_t y = tile_y + ((item >> plan.log_width) & ((1 << plan.log_height) - 1));
      const std::int32_t channel = item >> (plan.log_width + plan.log_height);
      if (x >= batch.width || y >= batch.height) {
        continue;
      }
      const std::int32_t column = x - plan.content_x - across.begin;
      const std::int32_t row = y - plan.content_y - down.begin;
      int level = batch.pad_level;
      if (column >= 0 && column < across.count && row >= 0 && row < down.count) {
        const std::int32_t output = (channel << log_first<kDownFirst>(plan)) + (kDownFirst ? row : column);
        const std::int32_t at = pass.begin + (kDownFirst ? column : row);
        const TapGroup* weights = pass.table.triangle(at);
        const std::uint32_t* levels = mixed(plan) + output * plan.mixed_pitch + (pass.table.first[at] - pass.base);
        WeightedSum sum;
        EDGEDET_UNROLL_TWICE
        for (std::int32_t group = 0; group < pass.table.groups; ++group) {
          sum.add(levels[group], load_group(weights + group));
        }
        level = sum.level();
      }
      if (gray) {
        for (int plane = 0; plane < 3; ++plane) {
          batch.store(level, plane, x, y);
        }
      } else {
        batch.store(level, batch.plane_of(plan.image.format, channel), x, y);
      }
    }
  }
};

// The output of a thread in kernels that compute one output a thread, in tiles of the plan's size.
struct OutputPosition {
  std::int32_t x;
  std::int32_t y;
  std::int32_t column;  // of the content
  std::int32_t row;
  bool exists;
  bool inside;  // the content

  __device__ OutputPosition(const ImagePlan& plan, std::int32_t width, std::int32_t height) {
    const auto tile = static_cast<std::int32_t>(blockIdx.x);
    const auto thread = static_cast<std::int32_t>(threadIdx.x);
    x = ((tile % plan.tiles_x) << plan.log_width) + (thread & ((1 << plan.log_width) - 1));
    y = ((tile / plan.tiles_x) << plan.log_height) + (thread >> plan.log_width);
    column = x - plan.content_x;
    row = y - plan.content_y;
    exists = tile < plan.tiles && x < width && y < height;
    inside = column >= 0 && column < plan.content_width && row >= 0 && row < plan.content_height;
  }
};

template <typename Out>
struct PointKernel {
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  Batch<Out> batch;

  // Two neighbouring pixels, the second repeated at the end of a row: three channels of each.
  __device__ static void load_pair(const ImageView& image, std::int32_t first, std::int32_t second, std::int32_t y,
                                   std::int32_t (&out)[2][3]) {
    const std::uint8_t* row = image.data + y * image.stride;
    if (image.format == PixelFormat::kGray) {
      out[0][0] = row[first];
      out[1][0] = row[second];
      return;
    }
    if (image.format == PixelFormat::kNv12) {
      const std::uint8_t* chroma = image.uv + (y / 2) * image.uv_stride;
      for (int i = 0; i < 2; ++i) {
        const std::int32_t x = i == 0 ? first : second;
        const std::uint32_t rgb = yuv_to_rgb(row[x], chroma[x / 2 * 2], chroma[x / 2 * 2 + 1]);
        for (int channel = 0; channel < 3; ++channel) {
          out[i][channel] = static_cast<std::int32_t>((rgb >> (8 * channel)) & 255U);
        }
      }
      return;
    }
    std::uint32_t bytes[2];
    load_bytes(row + 3 * static_cast<std::ptrdiff_t>(first), 3 * (image.width - first), bytes);
    const std::uint32_t next = second == first ? bytes[0] : __funnelshift_r(bytes[0], bytes[1], 24);
    for (int channel = 0; channel < 3; ++channel) {
      out[0][channel] = static_cast<std::int32_t>((bytes[0] >> (8 * channel)) & 255U);
      out[1][channel] = static_cast<std::int32_t>((next >> (8 * channel)) & 255U);
    }
  }

  __device__ void operator()() const {
    const ImagePlan& plan = batch.images[blockIdx.y];
    const OutputPosition at(plan, batch.width, batch.height);
    if (!at.exists) {
      return;
    }
    if (!at.inside) {
      for (int plane = 0; plane < 3; ++plane) {
        batch.store(batch.pad_level, plane, at.x, at.y);
      }
      return;
    }
    const ImageView& image = plan.image;
    const LinearTap across = plan.across.linear(at.column);
    const LinearTap down = plan.down.linear(at.row);
    std::int32_t above[2][3];
    std::int32_t below[2][3];
    load_pair(image, across.first, across.second, down.first, above);
    load_pair(image, across.first, across.second, down.second, below);
    const bool gray = image.format == PixelFormat::kGray;
    EDGEDET_UNROLL
    for (int channel = 0; channel < 3; ++channel) {
      const int from = gray ? 0 : channel;
      const std::int32_t upper =
          across_level(above[0][from], above[1][from], across.first_weight, across.second_weight);
      const std::int32_t lower =
          across_level(below[0][from], below[1][from], across.first_weight, across.second_weight);
      const int level = down_level(upper, lower, down.first_weight, down.second_weight);
      batch.store(level, gray ? channel : batch.plane_of(image.format, channel), at.x, at.y);
    }
  }
};

template <typename Out>
struct DefinitionKernel {
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 2;

  Batch<Out> batch;

  __device__ void operator()() const {
    const ImagePlan& plan = batch.images[blockIdx.y];
    const OutputPosition at(plan, batch.width, batch.height);
    if (!at.exists) {
      return;
    }
    Geometry geometry;
    geometry.source_width = plan.image.width;
    geometry.source_height = plan.image.height;
    geometry.content_width = plan.content_width;
    geometry.content_height = plan.content_height;
    for (int plane = 0; plane < 3; ++plane) {
      const int channel = batch.bgr ? 2 - plane : plane;
      const int level = at.inside ? antialias_level(plan.image, geometry, at.column, at.row, channel) : batch.pad_level;
      batch.store(level, plane, at.x, at.y);
    }
  }
};

}  // namespace edgedet::kernel
