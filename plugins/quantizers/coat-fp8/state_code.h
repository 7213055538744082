// Coding a group of states: the E4M3 code of |q| = 2^t with t = k · log2|x / M| + log2 448, found without a power. Between two codes lies a
// boundary of t: in every octave at the same eight places, and below 2^-6, where codes are units of 2^-9, at eight others. A cell of t holds
// one boundary at most, and a table of cells says what has to be added to t for its code to stand in the uppermost byte.
#pragma once

#include <bit>
#include <cstdint>

#include "quantizers/coat-fp8/table.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/bf16_avx512.h"
#endif

namespace tenon::coat {

inline constexpr float kUnit = 0x1p27f;  // of t: in integers of 32 bits an eighth of an octave fills a byte
inline constexpr float kLowest = -10 * kUnit;                              // until which codes are 0
inline constexpr int32_t kLeastNormal = -6 * static_cast<int32_t>(kUnit);  // from which on they are normal

// What coding one element needs: t = k · (log2|x · inverse| - log2 1.5) + offset, t, k and offset in units.
struct Stretch {
  float k, inverse, offset;
};

// By sixteenths of an octave, and below kLeastNormal by quarters, of which four octaves have sixteen too. Eighths that begin at kEighthsBegin
// hold one boundary each.
struct Cells {
  alignas(64) uint32_t normal[16], small[16], eighths[8];
};
inline constexpr int32_t kEighthsBegin = static_cast<int32_t>(0.05f * kUnit);
constexpr Cells cells_of_codes() {
  // log2 1, 3, … 31. The boundaries are (17 + 2m) / 16 of 2^n and (2m + 1) / 2 units.
  constexpr double kLog2[16] = {0,
                                1.5849625007211562,
                                2.321928094887362,
                                2.807354922057604,
                                3.169925001442312,
                                3.459431618637297,
                                3.700439718141092,
                                3.9068905956085187,
                                4.087462841250339,
                                4.247927513443585,
                                4.392317422778761,
                                4.523561956057013,
                                4.643856189774724,
                                4.754887502163468,
                                4.857980995127572,
                                4.954196310386875};
  Cells c{};
  const auto fill = [&](uint32_t(&raise)[16], double begin, double cell_width, double per_octave, const double* log2, double above, uint32_t code) {
    int next = 0;
    for (int i = 0; i < 16; ++i) {
      const double end = begin + (i + 1) * cell_width;
      // Where a boundary is crossed the sum becomes the first of the next code; elsewhere the cell's middle becomes its code's.
      const bool crossed = next < 8 && log2[next] - above < end;
      const double from = crossed ? log2[next] - above : end - cell_width / 2;
      next += crossed;
      const int64_t place = static_cast<int64_t>(from * per_octave * 0x1p27 + 0x1p32) - (int64_t{1} << 32) + crossed;  // rounded down
      const int64_t cell = static_cast<int64_t>((begin + i * cell_width) * per_octave * 16 + 4096) & 15;
      raise[cell] = ((code + static_cast<uint32_t>(next)) << 24) + (crossed ? 0u : 1u << 23) - static_cast<uint32_t>(place);
    }
  };
  fill(c.normal, 0, 0.0625, 1, kLog2 + 8, 4, 56);
  fill(c.small, -10, 0.25, 0.25, kLog2, 10, 0);
  for (int m = 0; m < 8; ++m) c.eighths[m] = c.normal[static_cast<int>((kLog2[8 + m] - 4) * 16)];
  return c;
}
TN_TABLE(Cells, kCells, cells_of_codes());

inline constexpr float kLog2OfOneAndAHalf = 0x1.2b803ep-1f;

TN_FN float t_of(const Stretch& s, float x) {
  const uint32_t y = std::bit_cast<uint32_t>(__builtin_fabsf(x) * s.inverse);
  const float e = static_cast<float>(static_cast<int32_t>(y - 0x3f800000u) >> 23), r = std::bit_cast<float>((y & 0x7fffffu) | 0x3f800000u) - 1.5f;
  // log2(1.5 + r) - log2 1.5, |r| <= 1/2: minimax, 2.8e-7.
  float l = 0x1.efa090p-7f * r - 0x1.9b9f0ep-6f;
  l = l * r + 0x1.31a776p-5f;
  l = l * r - 0x1.212292p-4f;
  l = l * r + 0x1.23eecep-3f;
  l = l * r - 0x1.4853d8p-2f;
  l = l * r + 0x1.ec7072p-1f;
  return s.k * (l * r + e) + s.offset;
}

// The code that stands at t, with the sign of x. What is less than 2^-126 of the largest is coded as 0.
TN_FN uint8_t state_code(const Stretch& s, float x) {
  const float t = t_of(s, x);
  const int32_t whole = static_cast<int32_t>(t > kLowest ? t : kLowest);
  const bool small = whole < kLeastNormal, some = __builtin_fabsf(x) * s.inverse >= 0x1p-126f;
  const int32_t place = small ? whole >> 2 : whole, cell = place >> 23 & 15;
  const Cells& cells = TN_TABLE_OF(kCells);
  const uint32_t code = (static_cast<uint32_t>(place) + (small ? cells.small[cell] : cells.normal[cell])) >> 24;
  return static_cast<uint8_t>((some ? code : 0u) | (std::bit_cast<uint32_t>(x) >> 24 & 0x80u));
}

#if !TN_GPU
// Below this k what is less than 2^-126 of the largest could have another code than 0.
inline constexpr float kLeastStretch = 0.1875f * kUnit;

// state_code() of each of a group's elements.
TN_FN void encode_group(const Stretch& s, const float* from, uint8_t* codes) {
#if defined(__AVX2__)
  if (__builtin_expect(s.k >= kLeastStretch, 1)) {
    // In two loops, because queues in which long chains of operations wait have no room for the next element's.
    alignas(64) float t[kStateGroup];
#pragma omp simd
    for (int64_t i = 0; i < kStateGroup; ++i) t[i] = t_of(s, from[i]);
#if defined(__AVX512BW__)
    const __m512i normal = _mm512_load_si512(kCells.normal), small = _mm512_load_si512(kCells.small);
    for (int64_t i = 0; i < kStateGroup; i += 64) {
      __m512i code[4];
      for (int j = 0; j < 4; ++j) {
        const __m512i whole = _mm512_cvttps_epi32(_mm512_max_ps(_mm512_load_ps(t + i + 16 * j), _mm512_set1_ps(kLowest)));
        const __mmask16 is_small = _mm512_cmplt_epi32_mask(whole, _mm512_set1_epi32(kLeastNormal));
        const __m512i place = _mm512_mask_srai_epi32(whole, is_small, whole, 2), cell = _mm512_srli_epi32(place, 23);
        const __m512i raise = _mm512_mask_permutexvar_epi32(_mm512_permutexvar_epi32(cell, normal), is_small, cell, small);
        constexpr int kChosen = 0xd8;  // c ? b : a
        code[j] = _mm512_ternarylogic_epi32(_mm512_add_epi32(place, raise), _mm512_loadu_si512(from + i + 16 * j), _mm512_set1_epi32(INT32_MIN), kChosen);
      }
      const __m512i first = sdk::upper_halves<false>(code[0], code[1]), second = sdk::upper_halves<false>(code[2], code[3]);
      _mm512_storeu_si512(codes + i, sdk::pack_words(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8)));
    }
#else
    const auto load = [](const void* at) __attribute__((always_inline)) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); };
    for (int64_t i = 0; i < kStateGroup; i += 32) {
      __m256i code[4];
      for (int j = 0; j < 4; ++j) {
        // A permutation takes the low three bits of an index: eight cells of normal codes, of small ones twice eight, told apart by bit 3.
        const __m256i whole = _mm256_cvttps_epi32(_mm256_max_ps(_mm256_load_ps(t + i + 8 * j), _mm256_set1_ps(kLowest))), cell = _mm256_srli_epi32(whole, 25);
        const __m256i eighth = _mm256_srli_epi32(_mm256_sub_epi32(whole, _mm256_set1_epi32(kEighthsBegin)), 24);
        const __m256i normal = _mm256_add_epi32(whole, _mm256_permutevar8x32_epi32(load(kCells.eighths), eighth));
        const __m256 low = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(load(kCells.small), cell)),
                     high = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(load(kCells.small + 8), cell));
        const __m256 raise = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(whole, 3)));
        const __m256i small = _mm256_add_epi32(_mm256_srai_epi32(whole, 2), _mm256_castps_si256(raise));
        const __m256i chosen = _mm256_blendv_epi8(normal, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(kLeastNormal), whole));
        const __m256i sign = _mm256_and_si256(load(from + i + 8 * j), _mm256_set1_epi32(INT32_MIN));
        code[j] = _mm256_srai_epi32(_mm256_or_si256(chosen, sign), 24);
      }
      const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]), _mm256_packs_epi32(code[2], code[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    }
#endif
    return;
  }
#endif
  for (int64_t i = 0; i < kStateGroup; ++i) codes[i] = state_code(s, from[i]);
}
#endif

}  // namespace tenon::coat
