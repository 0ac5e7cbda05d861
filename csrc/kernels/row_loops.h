// The row loops of preprocessing for each instruction set this build knows, best first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rows.h"

namespace edgedet::kernel {

// What a row of output values is written as.
template <typename Out>
struct OutputLoops {
  void (*linear_down)(const float* top, const float* bottom, float fraction, std::int32_t count, float scale,
                      float bias, Out* out);
  void (*normalise)(const std::uint8_t* levels, std::int32_t count, float scale, float bias, Out* out);
};

// See rows.h for what each does.
struct RowLoops {
  using Linear = void (*)(const std::uint8_t* row, const LinearColumns& columns, float* out);
  using Triangle = void (*)(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out);

  const char* name;
  bool (*usable)();  // on this machine

  Linear linear_gray;
  Linear linear_packed;  // three bytes a pixel
  Linear linear_spaced;  // four bytes a pixel, the last one spare
  Triangle triangle_gray;
  Triangle triangle_packed;
  Triangle triangle_spaced;
  void (*triangle_down)(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps,
                        std::int32_t count, std::uint8_t* out);
  void (*nv12)(const std::uint8_t* y, const std::uint8_t* uv, std::int32_t width, std::uint32_t* out);
  OutputLoops<float> to_float;
  OutputLoops<std::uint16_t> to_half;
};

// All of them; the last one is usable everywhere.
struct RowLoopsTable {
  const RowLoops* begin_;
  std::size_t count;

  const RowLoops* begin() const { return begin_; }
  const RowLoops* end() const { return begin_ + count; }
};

RowLoopsTable all_row_loops();

// The first usable one.
const RowLoops& best_row_loops();

}  // namespace edgedet::kernel
