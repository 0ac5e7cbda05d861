// Compiles the row loops once for each instruction set.
#include "kernels/row_loops.h"

#if defined(__x86_64__)
#include "kernels/rows_x86.h"
#endif

namespace edgedet::kernel {

namespace {

// A class of static functions, all compiled under `attribute`: portable bodies, but for the three passes given.
// An attribute cannot stand in parentheses. NOLINTBEGIN(bugprone-macro-parentheses)
#define EDGEDET_ROW_LOOPS(Name, attribute, ACROSS_LINEAR, ACROSS_TRIANGLE, DOWN_TRIANGLE)                             \
  struct Name {                                                                                                       \
    static bool usable();                                                                                             \
    attribute static void linear_gray(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {     \
      linear_across<1, 1>(row, columns, out);                                                                         \
    }                                                                                                                 \
    template <int kStep>                                                                                              \
    attribute static void linear(const std::uint8_t* row, const LinearColumns& columns, std::int16_t* out) {          \
      ACROSS_LINEAR(row, columns, out);                                                                               \
    }                                                                                                                 \
    attribute static void triangle_gray(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out) { \
      triangle_across<1, 1>(row, columns, out);                                                                       \
    }                                                                                                                 \
    template <int kStep>                                                                                              \
    attribute static void triangle(const std::uint8_t* row, const TriangleColumns& columns, std::uint8_t* out) {      \
      ACROSS_TRIANGLE(row, columns, out);                                                                             \
    }                                                                                                                 \
    attribute static void down(const std::uint8_t* const* rows, const std::int32_t* weights, std::int32_t taps,       \
                               std::int32_t count, std::uint8_t* out) {                                               \
      DOWN_TRIANGLE(rows, weights, taps, count, out);                                                                 \
    }                                                                                                                 \
    attribute static void nv12(const std::uint8_t* y, const std::uint8_t* uv, std::int32_t width,                     \
                               std::uint32_t* out) {                                                                  \
      nv12_row(y, uv, width, out);                                                                                    \
    }                                                                                                                 \
    attribute static void between(const std::int16_t* top, const std::int16_t* bottom, std::int32_t top_weight,       \
                                  std::int32_t bottom_weight, std::int32_t count, std::uint8_t* out) {                \
      linear_down(top, bottom, top_weight, bottom_weight, count, out);                                                \
    }                                                                                                                 \
    template <typename Out>                                                                                           \
    attribute static void levels(const std::uint8_t* from, std::int32_t count, float scale, float bias, Out* out) {   \
      normalise(from, count, scale, bias, out);                                                                       \
    }                                                                                                                 \
    static constexpr RowLoops table(const char* name) {                                                               \
      return {name,        usable,  linear_gray, linear<3>, linear<4>,     triangle_gray,        triangle<3>,         \
              triangle<4>, between, down,        nv12,      levels<float>, levels<std::uint16_t>};                    \
    }                                                                                                                 \
  };

#if defined(__x86_64__)
EDGEDET_ROW_LOOPS(Avx512, EDGEDET_AVX512, linear_across_avx512<kStep>, triangle_across_avx512<kStep>,
                  triangle_down_avx512)
EDGEDET_ROW_LOOPS(Avx2, EDGEDET_AVX2, linear_across_avx2<kStep>, triangle_across_avx2<kStep>, triangle_down_avx2)

bool Avx512::usable() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi");
}

bool Avx2::usable() { return __builtin_cpu_supports("avx2"); }
#endif

EDGEDET_ROW_LOOPS(Portable, , (linear_across<kStep, 3>), (triangle_across<kStep, 3>), kernel::triangle_down)

bool Portable::usable() { return true; }

#undef EDGEDET_ROW_LOOPS
// NOLINTEND(bugprone-macro-parentheses)

constexpr RowLoops kTable[] = {
#if defined(__x86_64__)
    Avx512::table("avx512"),
    Avx2::table("avx2"),
#endif
    Portable::table("portable"),
};

}  // namespace

RowLoopsTable all_row_loops() { return {kTable, sizeof(kTable) / sizeof(kTable[0])}; }

const RowLoops& best_row_loops() {
  static const RowLoops* const best = [] {
    const RowLoops* loops = kTable;
    while (!loops->usable()) {
      ++loops;
    }
    return loops;
  }();
  return *best;
}

}  // namespace edgedet::kernel
