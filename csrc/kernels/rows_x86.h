// Row loops for AVX2 and AVX-512, where compilers do not find them: the walk over 3-byte pixels, sums over rows.
#pragma once

#if !defined(__x86_64__)
#error "rows_x86.h is for x86-64"
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12 sees it in its own immintrin.h (its bug 105593)
#endif
#include <cstring>

#include <immintrin.h>

#include "kernels/rows.h"

#define EDGEDET_AVX2 __attribute__((target("avx2")))
#define EDGEDET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))

namespace edgedet::kernel {

EDGEDET_INLINE long long load_eight(const std::uint8_t* from) {
  long long value = 0;
  memcpy(&value, from, sizeof(value));
  return value;
}

// Two pixels (a lane each) interpolated: red, green, blue, spare. weights: of the low and of the high pixel.
template <int kStep>
EDGEDET_AVX2 EDGEDET_INLINE __m256i linear_pair(const std::uint8_t* low, const std::uint8_t* high, __m256i weights) {
  const __m128i bytes = _mm_set_epi64x(load_eight(high), load_eight(low));
  // First and second taps side by side.
  const __m128i order = kStep == 3 ? _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 8, 11, 9, 12, 10, 13, -1, -1)
                                   : _mm_setr_epi8(0, 4, 1, 5, 2, 6, -1, -1, 8, 12, 9, 13, 10, 14, -1, -1);
  const __m256i taps = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(bytes, order));
  return _mm256_srli_epi32(_mm256_madd_epi16(taps, weights), 4);
}

template <int kStep>
EDGEDET_AVX2 EDGEDET_INLINE void linear_across_avx2(const std::uint8_t* row, const LinearColumns& columns,
                                                    std::int16_t* out) {
  std::int16_t* const green = out + columns.count;
  std::int16_t* const blue = green + columns.count;
  const __m256i even_spread = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
  const __m256i odd_spread = _mm256_setr_epi32(1, 1, 1, 1, 3, 3, 3, 3);
  const __m256i by_plane = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, -1, -1, -1, -1,  //
                                            0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, -1, -1, -1, -1);
  const __m256i join = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (std::int32_t x = 0; x < columns.count; x += 4) {
    const std::int32_t* offset = columns.offset + x;
    const __m256i weights =
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(columns.weights + x)));
    const __m256i even =
        linear_pair<kStep>(row + offset[0], row + offset[2], _mm256_permutevar8x32_epi32(weights, even_spread));
    const __m256i odd =
        linear_pair<kStep>(row + offset[1], row + offset[3], _mm256_permutevar8x32_epi32(weights, odd_spread));
    const __m256i pairs = _mm256_shuffle_epi8(_mm256_packs_epi32(even, odd), by_plane);
    const __m256i planes = _mm256_permutevar8x32_epi32(pairs, join);
    const __m128i red_green = _mm256_castsi256_si128(planes);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + x), red_green);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(green + x), _mm_unpackhi_epi64(red_green, red_green));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(blue + x), _mm256_extracti128_si256(planes, 1));
  }
}

EDGEDET_AVX2 EDGEDET_INLINE void put_pixel(__m128i sum, std::uint8_t* red, std::int32_t plane) {
  const __m128i rounded = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(kWeightOne >> 1)), kWeightBits);
  const __m128i words = _mm_packus_epi32(rounded, rounded);
  const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
  red[0] = static_cast<std::uint8_t>(bytes);
  red[plane] = static_cast<std::uint8_t>(bytes >> 8);
  red[2 * static_cast<std::ptrdiff_t>(plane)] = static_cast<std::uint8_t>(bytes >> 16);
}

template <int kStep>
EDGEDET_AVX2 EDGEDET_INLINE void triangle_across_avx2(const std::uint8_t* row, const TriangleColumns& columns,
                                                      std::uint8_t* out) {
  const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  const __m128i pixels = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  for (std::int32_t x = 0; x < columns.count; ++x) {
    const std::uint8_t* from = row + columns.offset[x];
    const std::int32_t* weights = columns.weights + static_cast<std::ptrdiff_t>(x) * columns.taps;
    __m256i sums = _mm256_setzero_si256();
    for (std::int32_t tap = 0; tap < columns.longest; tap += 2) {
      __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + tap * kStep));
      if constexpr (kStep == 3) {
        bytes = _mm_shuffle_epi8(bytes, pixels);
      }
      const __m128i pair = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights + tap));
      const __m256i weight = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(pair), spread);
      sums = _mm256_add_epi32(sums, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
    }
    put_pixel(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)), out + x, columns.count);
  }
}

// Where the bytes of eight taps go: a 128-bit lane for each channel, in it four pairs of 16-bit values.
template <int kStep>
EDGEDET_AVX512 EDGEDET_INLINE __m512i triangle_order() {
  alignas(64) std::uint8_t order[64] = {};
  for (int channel = 0; channel < 3; ++channel) {
    for (int tap = 0; tap < kTapPadding; ++tap) {
      order[16 * channel + 2 * tap] = static_cast<std::uint8_t>(kStep * tap + channel);
    }
  }
  return _mm512_load_si512(order);
}

// The sums of one output column: in the lane of each channel, four to be added up.
template <int kStep>
EDGEDET_AVX512 EDGEDET_INLINE __m512i triangle_sums(const std::uint8_t* from, const std::int16_t* halves,
                                                    std::int32_t taps, __m512i order) {
  constexpr __mmask64 kLowBytes = 0x0000555555555555ULL;
  __m512i high = _mm512_setzero_si512();
  __m512i low = _mm512_setzero_si512();
  for (std::int32_t tap = 0; tap < taps; tap += kTapPadding) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + tap * kStep));
    const __m512i levels = _mm512_maskz_permutexvar_epi8(kLowBytes, order, _mm512_castsi256_si512(bytes));
    const auto* weights = reinterpret_cast<const __m128i*>(halves + 2 * static_cast<std::ptrdiff_t>(tap));
    const __m512i high_weights = _mm512_broadcast_i32x4(_mm_loadu_si128(weights));
    const __m512i low_weights = _mm512_broadcast_i32x4(_mm_loadu_si128(weights + 1));
    high = _mm512_add_epi32(high, _mm512_madd_epi16(levels, high_weights));
    low = _mm512_add_epi32(low, _mm512_madd_epi16(levels, low_weights));
  }
  return _mm512_add_epi32(_mm512_slli_epi32(high, kHalfBits), low);
}

EDGEDET_INLINE void store_four(std::uint8_t* to, int bytes) { memcpy(to, &bytes, sizeof(bytes)); }

template <int kStep>
EDGEDET_AVX512 EDGEDET_INLINE void triangle_across_avx512(const std::uint8_t* row, const TriangleColumns& columns,
                                                          std::uint8_t* out) {
  const __m512i order = triangle_order<kStep>();
  const __m512i half = _mm512_set1_epi32(kWeightOne >> 1);
  const std::int32_t taps = columns.taps;
  const std::ptrdiff_t entry = 2 * static_cast<std::ptrdiff_t>(taps);
  std::uint8_t* const green = out + columns.count;
  std::uint8_t* const blue = green + columns.count;
  for (std::int32_t x = 0; x < columns.count; x += 4) {
    const std::int32_t* offset = columns.offset + x;
    const std::int16_t* halves = columns.halves + x * entry;
    const __m512i a = triangle_sums<kStep>(row + offset[0], halves, taps, order);
    const __m512i b = triangle_sums<kStep>(row + offset[1], halves + entry, taps, order);
    const __m512i c = triangle_sums<kStep>(row + offset[2], halves + 2 * entry, taps, order);
    const __m512i d = triangle_sums<kStep>(row + offset[3], halves + 3 * entry, taps, order);
    // Adds up the four sums of each lane: the lanes then hold four columns of one channel each.
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m512i rounded = _mm512_srai_epi32(_mm512_add_epi32(sums, half), kWeightBits);
    const __m128i planes = _mm512_cvtusepi32_epi8(rounded);
    store_four(out + x, _mm_cvtsi128_si32(planes));
    store_four(green + x, _mm_extract_epi32(planes, 1));
    store_four(blue + x, _mm_extract_epi32(planes, 2));
  }
}

// Eight pixels at a time: a byte permutation gathers, widens and sorts by plane in one step.
template <int kStep>
EDGEDET_AVX512 EDGEDET_INLINE void linear_across_avx512(const std::uint8_t* row, const LinearColumns& columns,
                                                        std::int16_t* out) {
  std::int16_t* const green = out + columns.count;
  std::int16_t* const blue = green + columns.count;
  alignas(64) std::uint8_t index[64] = {};  // red, then green: first tap, zero, second tap, zero of each pixel
  for (int pixel = 0; pixel < 8; ++pixel) {
    for (int plane = 0; plane < 2; ++plane) {
      std::uint8_t* const word = index + 4 * (8 * plane + pixel);
      word[0] = static_cast<std::uint8_t>(8 * pixel + plane);
      word[2] = static_cast<std::uint8_t>(8 * pixel + plane + kStep);
    }
  }
  constexpr __mmask64 kLowBytes = 0x5555555555555555ULL;
  const __m512i red_green_index = _mm512_load_si512(index);
  const __m512i blue_index = _mm512_add_epi8(red_green_index, _mm512_set1_epi8(2));  // its first half is of use
  for (std::int32_t x = 0; x < columns.count; x += 8) {
    const std::int32_t* offset = columns.offset + x;
    const __m512i bytes =
        _mm512_set_epi64(load_eight(row + offset[7]), load_eight(row + offset[6]), load_eight(row + offset[5]),
                         load_eight(row + offset[4]), load_eight(row + offset[3]), load_eight(row + offset[2]),
                         load_eight(row + offset[1]), load_eight(row + offset[0]));
    const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns.weights + x));
    const __m512i red_green = _mm512_maskz_permutexvar_epi8(kLowBytes, red_green_index, bytes);
    const __m256i only_blue = _mm512_castsi512_si256(_mm512_maskz_permutexvar_epi8(kLowBytes, blue_index, bytes));
    const __m512i sums = _mm512_srli_epi32(_mm512_madd_epi16(red_green, _mm512_broadcast_i64x4(weights)), 4);
    const __m256i blue_sums = _mm256_srli_epi32(_mm256_madd_epi16(only_blue, weights), 4);
    const __m256i levels = _mm512_cvtepi32_epi16(sums);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), _mm256_castsi256_si128(levels));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(green + x), _mm256_extracti128_si256(levels, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(blue + x), _mm256_cvtepi32_epi16(blue_sums));
  }
}

EDGEDET_AVX2 EDGEDET_INLINE void triangle_down_avx2(const std::uint8_t* const* rows, const std::int32_t* weights,
                                                    std::int32_t taps, std::int32_t count, std::uint8_t* out) {
  const __m256i half = _mm256_set1_epi32(kWeightOne >> 1);
  for (std::int32_t x = 0; x < count; x += 32) {
    __m256i sums[4] = {half, half, half, half};
    for (std::int32_t tap = 0; tap < taps; ++tap) {
      const __m256i weight = _mm256_set1_epi32(weights[tap]);
      for (int part = 0; part < 4; ++part) {
        const auto* from = reinterpret_cast<const __m128i*>(rows[tap] + x + 8 * part);
        sums[part] =
            _mm256_add_epi32(sums[part], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from)), weight));
      }
    }
    const __m256i low =
        _mm256_packus_epi32(_mm256_srai_epi32(sums[0], kWeightBits), _mm256_srai_epi32(sums[1], kWeightBits));
    const __m256i high =
        _mm256_packus_epi32(_mm256_srai_epi32(sums[2], kWeightBits), _mm256_srai_epi32(sums[3], kWeightBits));
    const __m256i levels =
        _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), levels);
  }
}

EDGEDET_AVX512 EDGEDET_INLINE void triangle_down_avx512(const std::uint8_t* const* rows, const std::int32_t* weights,
                                                        std::int32_t taps, std::int32_t count, std::uint8_t* out) {
  const __m512i half = _mm512_set1_epi32(kWeightOne >> 1);
  for (std::int32_t x = 0; x < count; x += 64) {
    __m512i sums[4] = {half, half, half, half};
    for (std::int32_t tap = 0; tap < taps; ++tap) {
      const __m512i weight = _mm512_set1_epi32(weights[tap]);
      for (int part = 0; part < 4; ++part) {
        const auto* from = reinterpret_cast<const __m128i*>(rows[tap] + x + 16 * part);
        sums[part] =
            _mm512_add_epi32(sums[part], _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(from)), weight));
      }
    }
    for (int part = 0; part < 4; ++part) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x + 16 * part),
                       _mm512_cvtusepi32_epi8(_mm512_srai_epi32(sums[part], kWeightBits)));
    }
  }
}

}  // namespace edgedet::kernel
