// The noise of noise.h, 64 or 1024 elements at a time.
#pragma once

#include "sdk/philox_avx512.h"

namespace tenon::sdk {

// sum ← c · z, or unless kFirst sum + c · z with one rounding, over [0, n) rounded up to 64: z = table[h >> 4] of elements begin …, a multiple of 8.
template <bool kFirst>
TN_FN void add_table_noise(const tn_rng& key, float c, const float* table, uint64_t begin, int64_t n, float* sum) {
  const Philox64 draw(key);
  const __m512 coef = _mm512_set1_ps(c);
  for (int64_t i = 0; i < n; i += 64) {
    __m512i low, high;
    draw((begin + static_cast<uint64_t>(i)) >> 3, low, high);
    const auto put = [&](__m256i half, int64_t at) {
      const __m512i place = _mm512_cvtepu16_epi32(_mm256_srli_epi16(half, 4));
      const __m512 z = _mm512_i32gather_ps(place, table, 4);
      _mm512_storeu_ps(sum + at, kFirst ? _mm512_mul_ps(coef, z) : _mm512_fmadd_ps(coef, z, _mm512_loadu_ps(sum + at)));
    };
    put(_mm512_castsi512_si256(low), i), put(_mm512_extracti64x4_epi64(low, 1), i + 16);
    put(_mm512_castsi512_si256(high), i + 32), put(_mm512_extracti64x4_epi64(high, 1), i + 48);
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
