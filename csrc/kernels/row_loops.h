// The row loops of preprocessing for each instruction set this build knows, best first.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rows.h"

namespace edgedet::kernel {

// See rows.h for what each does.
struct RowLoops {
  using Linear = void (*)(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out);
  using Triangle = void (*)(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out);

  const char* name;
  bool (*usable)();  // on this machine

  Linear linear_gray;
  Linear linear_packed;  // three bytes a pixel
  Linear linear_spaced;  // four bytes a pixel, the last one spare
  Triangle triangle_gray;
  Triangle triangle_packed;
  Triangle triangle_spaced;
  void (*linear_down)(const std::int16_t* top, const std::int16_t* bottom, std::int32_t top_weight,
                      std::int32_t bottom_weight, std::int32_t count, std::uint8_t* out);
  void (*triangle_down)(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps,
                        std::int32_t count, std::uint8_t* out);
  void (*nv12)(const std::uint8_t* y, const std::uint8_t* uv, std::int32_t width, std::uint32_t* out);
  void (*to_float)(const std::uint8_t* levels, std::int32_t count, float scale, float bias, float* out);
  void (*to_half)(const std::uint8_t* levels, std::int32_t count, float scale, float bias, std::uint16_t* out);
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
