// 32 bf16 at a time as two vectors of f32, in one of two orders. Natural: elements 0-15 and 16-31. Interleaved, what
// unpacking within 128-bit lanes gives and what costs least: 0-3, 8-11, 16-19, 24-27 and the others.
#pragma once

#include "sdk/dtype.h"
#include "sdk/intrinsics.h"

namespace tenon::sdk {

template <bool Interleaved>
TN_FN void widen_bf16(const bf16* from, __m512& first, __m512& second) {
  if constexpr (Interleaved) {
    const __m512i all = _mm512_loadu_si512(from), zero = _mm512_setzero_si512();
    first = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, all));
    second = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, all));
  } else {
    const auto half = [&](int at) {
      const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
      return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
    };
    first = half(0), second = half(16);
  }
}

// The upper halves of both, in the order of elements.
template <bool Interleaved>
struct UpperHalves {
  alignas(64) uint16_t at[32];
  constexpr UpperHalves() : at{} {
    for (int i = 0; i < 32; ++i) {
      const int lane = i / 8, within = i % 8;
      at[i] = static_cast<uint16_t>(!Interleaved ? 2 * i + 1 : 2 * (4 * lane + within % 4) + 1 + (within < 4 ? 0 : 32));
    }
  }
};
template <bool Interleaved>
inline constexpr UpperHalves<Interleaved> kUpperHalves{};
template <bool Interleaved>
TN_FN __m512i upper_halves(__m512i first, __m512i second) {
  return _mm512_permutex2var_epi16(first, _mm512_load_si512(kUpperHalves<Interleaved>.at), second);
}

// 64 words as bytes in their order; words below 0 become 0.
TN_FN __m512i pack_words(__m512i first, __m512i second) {
  return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi16(first, second));
}

// As from_float<bf16>, of numbers that come out of arithmetic (a NaN is quiet already). FromBf16: of arithmetic on bf16
// alone, so that a NaN's lower half is empty and rounding leaves it alone, as it leaves an infinity.
template <bool Interleaved, bool FromBf16 = false>
TN_FN void narrow_bf16(__m512 first, __m512 second, bf16* to) {
  const auto rounded = [](__m512 x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i up = _mm512_mask_mov_epi32(
        _mm512_set1_epi32(0x7fff), _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000)), _mm512_set1_epi32(0x8000));
    if constexpr (FromBf16) return _mm512_add_epi32(bits, up);
    return _mm512_mask_add_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), bits, up);
  };
  _mm512_storeu_si512(to, upper_halves<Interleaved>(rounded(first), rounded(second)));
}

// As round_stochastic_bf16 with 16 random bits an element, in the order of elements; NaN as above.
template <bool Interleaved, bool FromBf16 = false>
TN_FN void narrow_bf16(__m512 first, __m512 second, __m512i noise, bf16* to) {
  const auto rounded = [](__m512 x, __m512i bits16) {
    const __m512i bits = _mm512_castps_si512(x);
    if constexpr (FromBf16) return _mm512_add_epi32(bits, bits16);
    constexpr int kInfOrNan = 0x99;
    return _mm512_mask_add_epi32(bits, _knot_mask16(_mm512_fpclass_ps_mask(x, kInfOrNan)), bits, bits16);
  };
  __m512i low, high;
  if constexpr (Interleaved) {
    const __m512i zero = _mm512_setzero_si512();
    low = _mm512_unpacklo_epi16(noise, zero), high = _mm512_unpackhi_epi16(noise, zero);
  } else {
    low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(noise));
    high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(noise, 1));
  }
  _mm512_storeu_si512(to, upper_halves<Interleaved>(rounded(first, low), rounded(second, high)));
}

}  // namespace tenon::sdk
