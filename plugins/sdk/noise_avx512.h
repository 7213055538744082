// The noise of noise.h, 32, 128 or 1024 elements at a time.
#pragma once

#include "sdk/box_muller_avx512.h"
#include "sdk/normal_quantiles.h"

namespace tenon::sdk {

// sum ← c · z, or unless kFirst sum + c · z with one rounding.
template <bool kFirst>
TN_FN void put_noise(__m512 coef, __m512 z, float* sum) {
  _mm512_storeu_ps(sum, kFirst ? _mm512_mul_ps(coef, z) : _mm512_fmadd_ps(coef, z, _mm512_loadu_ps(sum)));
}

// The table of normal_table.h at h >> 4 for twice 32 elements, to the bit, from the polynomials of which it is made: a gather of 16 entries takes
// longer than they do. h's upper 12 bits are k; entry k is the quantile of 1 − x / 8192 with x = 8191 − 2 k or, with a minus, x = 1 + 2 k.
TN_FN void table_noise(const __m512i* h, __m512* out) {
  __m512i bits[4], half[4];
  __m512 t[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    constexpr int kNotOr = 0xcf, kAndOr = 0xea;  // ~a | b, (a & b) | c
    const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(h[j / 2], 2), _mm512_set1_epi16(8192));  // where k >= 2048
    const __m512i minus = _mm512_ternarylogic_epi32(_mm512_srli_epi16(h[j / 2], 3), _mm512_set1_epi16(1), _mm512_setzero_si512(), kNotOr);
    const __m512i x = _mm512_add_epi16(minus, upper);  // signed as the quantile is
    bits[j] = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(j % 2 ? _mm512_extracti64x4_epi64(x, 1) : _mm512_castsi512_si256(x))));
    half[j] = _mm512_srli_epi32(bits[j], 22);
    t[j] = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits[j], _mm512_set1_epi32(0x3fffff), _mm512_set1_epi32(0x3f800000), kAndOr)),
                         _mm512_set1_ps(1.25f));
  }
#pragma GCC unroll 6
  for (int k = 0; k < 6; ++k) {
    const __m512 first = _mm512_load_ps(kQuantileTerms[k]), second = _mm512_load_ps(kQuantileTerms[k] + 16);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512 term = _mm512_permutex2var_ps(first, half[j], second);
      out[j] = k == 0 ? term : _mm512_fmadd_ps(out[j], t[j], term);
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    constexpr int kAndXor = 0x6a;  // (a & b) ^ c
    out[j] = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(bits[j], _mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(out[j]), kAndXor));
  }
}

// Over [0, n) rounded up to 128: elements begin …, a multiple of 8.
template <bool kFirst>
TN_FN void add_table_noise(const tn_rng& key, float c, uint64_t begin, int64_t n, float* sum) {
  const Philox64 noise(key);
  const __m512 coef = _mm512_set1_ps(c);
  for (int64_t i = 0; i < n; i += 128) {
    __m512i halves[4];
    const uint64_t block = (begin + static_cast<uint64_t>(i)) >> 3;
    noise(block, halves[0], halves[1], block + 8, halves[2], halves[3]);
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      __m512 z[4];
      table_noise(halves + 2 * k, z);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) put_noise<kFirst>(coef, z[j], sum + i + 64 * k + 16 * j);
    }
  }
}

// The same of Box and Muller's numbers, n rounded up to 32.
template <bool kFirst>
TN_FN void add_normal_noise(const tn_rng& key, float c, uint64_t begin, int64_t n, float* sum) {
  const Philox64 draw(key);
  const __m512 coef = _mm512_set1_ps(c);
  for (int64_t i = 0; i < n; i += 32) {
    __m512 low, high;
    normal_32(draw, (begin + static_cast<uint64_t>(i)) >> 2, low, high);
    put_noise<kFirst>(coef, low, sum + i), put_noise<kFirst>(coef, high, sum + i + 16);
  }
}

// The same of signs: element e has bit e mod 128 of block e / 128; begin is a multiple of 128, and n is rounded up to 1024.
template <bool kFirst>
TN_FN void add_sign_noise(const tn_rng& key, float c, uint64_t begin, int64_t n, float* sum) {
  const Philox64 draw(key);
  const __m512 up = _mm512_set1_ps(c), down = _mm512_set1_ps(-c);
  for (int64_t i = 0; i < n; i += 1024) {
    __m512i bits[2];
    draw((begin + static_cast<uint64_t>(i)) >> 7, bits[0], bits[1]);
    alignas(64) uint16_t words[64];
    _mm512_store_si512(words, bits[0]), _mm512_store_si512(words + 32, bits[1]);
    for (int64_t k = 0; k < 64; ++k) {
      const __m512 z = _mm512_mask_mov_ps(down, words[k], up);
      float* const to = sum + i + 16 * k;
      _mm512_storeu_ps(to, kFirst ? z : _mm512_add_ps(_mm512_loadu_ps(to), z));
    }
  }
}

}  // namespace tenon::sdk
