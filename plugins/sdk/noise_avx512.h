// The noise of noise.h, 32, 128 or 1024 elements at a time; and tables' noise added to weights without leaving registers.
#pragma once

#include <type_traits>

#include "sdk/box_muller_avx512.h"
#include "sdk/normal_quantiles.h"
#include "sdk/stored.h"

namespace tenon::sdk {

// sum ← c · z, or unless kFirst sum + c · z with one rounding.
template <bool kFirst>
TN_FN void put_noise(__m512 coef, __m512 z, float* sum) {
  _mm512_storeu_ps(sum, kFirst ? _mm512_mul_ps(coef, z) : _mm512_fmadd_ps(coef, z, _mm512_loadu_ps(sum)));
}

// The table of normal_table.h at h >> 4 for twice 32 elements, to the bit, from the polynomials of which it is made: a gather of 16 entries takes
// longer than they do. h's upper 12 bits are k; entry k is the quantile of 1 − x / 8192 with x = 8191 − 2 k or, with a minus, x = 1 + 2 k. The order is one of
// those of bf16_avx512.h.
template <bool Interleaved>
TN_FN void table_noise(const __m512i* h, __m512* out) {
  __m512i bits[4], half[4];
  __m512 t[4];
#pragma GCC unroll 2
  for (int j = 0; j < 4; j += 2) {
    constexpr int kNotOr = 0xcf;  // ~a | b
    const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(h[j / 2], 2), _mm512_set1_epi16(8192));  // where k >= 2048
    const __m512i minus = _mm512_ternarylogic_epi32(_mm512_srli_epi16(h[j / 2], 3), _mm512_set1_epi16(1), _mm512_setzero_si512(), kNotOr);
    const __m512i x = _mm512_add_epi16(minus, upper);  // signed as the quantile is
    if constexpr (Interleaved) {
      const __m512i sign = _mm512_srai_epi16(x, 15);
      bits[j] = _mm512_unpacklo_epi16(x, sign), bits[j + 1] = _mm512_unpackhi_epi16(x, sign);
    } else {
      bits[j] = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(x)), bits[j + 1] = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(x, 1));
    }
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    constexpr int kAndOr = 0xea;  // (a & b) | c
    bits[j] = _mm512_castps_si512(_mm512_cvtepi32_ps(bits[j]));
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
      table_noise<false>(halves + 2 * k, z);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) put_noise<kFirst>(coef, z[j], sum + i + 64 * k + 16 * j);
    }
  }
}

// A product that the compiler does not fuse with the sum behind it.
TN_FN __m512 times(__m512 a, __m512 b) { return _mm512_mul_round_ps(a, b, _MM_FROUND_CUR_DIRECTION); }

inline constexpr int64_t kNoiseRun = 256;  // elements that stay in registers from their counters to the weight

// out = from + c · z, one rounding for the product and one for the sum, then one to out's type, of the first n elements rounded down to runs; begin a multiple of
// 8. Answers how many it has done.
template <class From, class To>
int64_t displace_by_table(const tn_rng& key, float c, uint64_t begin, int64_t n, const From* from, To* out) {
  constexpr bool kInterleaved = std::is_same_v<From, bf16> && std::is_same_v<To, bf16>;
  const Philox64 noise(key);
  const __m512 coef = _mm512_set1_ps(c);
  const int64_t end = n / kNoiseRun * kNoiseRun;
  for (int64_t i = 0; i < end; i += kNoiseRun) {
    __m512i halves[8];
    noise.four((begin + static_cast<uint64_t>(i)) >> 3, halves);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const int64_t at = i + 64 * k;
      __m512 z[4], w[4];
      table_noise<kInterleaved>(halves + 2 * k, z);
#pragma GCC unroll 2
      for (int j = 0; j < 4; j += 2) {
        if constexpr (std::is_same_v<From, bf16>)
          widen_bf16<kInterleaved>(from + at + 16 * j, w[j], w[j + 1]);
        else
          w[j] = _mm512_loadu_ps(from + at + 16 * j), w[j + 1] = _mm512_loadu_ps(from + at + 16 * j + 16);
        w[j] = _mm512_add_ps(w[j], times(coef, z[j])), w[j + 1] = _mm512_add_ps(w[j + 1], times(coef, z[j + 1]));
        if constexpr (std::is_same_v<To, bf16>)
          narrow_bf16<kInterleaved, kInterleaved>(w[j], w[j + 1], out + at + 16 * j);
        else
          _mm512_storeu_ps(out + at + 16 * j, w[j]), _mm512_storeu_ps(out + at + 16 * j + 16, w[j + 1]);
      }
    }
  }
  return end;
}

// w ← w − (decay · w + c · z), of the first n elements of a chunk that begins at `begin`, rounded down to runs. Answers how many it has done.
template <bool Narrow, bool Stochastic>
int64_t update_by_table(const tn_rng& key, float c, float decay, int64_t begin, int64_t n, const Stored& weight) {
  const Philox64 noise(key), rounding(weight.rng);
  const __m512 coef = _mm512_set1_ps(c), shrink = _mm512_set1_ps(decay);
  constexpr int64_t kRun = Stochastic ? kNoiseRun / 2 : kNoiseRun;  // two streams of numbers beside each other, or four runs of one
  const int64_t end = n / kRun * kRun;
  for (int64_t i = begin; i < begin + end; i += kRun) {
    __m512i halves[8], draws[4];
    const uint64_t block = static_cast<uint64_t>(i) >> 3, draw = (weight.first + static_cast<uint64_t>(i)) >> 3;
    if constexpr (Stochastic) {
      noise(block, halves[0], halves[1], block + 8, halves[2], halves[3]);
      rounding(draw, draws[0], draws[1], draw + 8, draws[2], draws[3]);
    } else {
      noise.four(block, halves);
    }
#pragma GCC unroll 4
    for (int k = 0; k < kRun / 64; ++k) {
      __m512 z[4], w[4];
      table_noise<Narrow>(halves + 2 * k, z);
#pragma GCC unroll 2
      for (int j = 0; j < 4; j += 2) {
        const int64_t at = i + 64 * k + 16 * j;
        if constexpr (Narrow)
          widen_bf16<true>(weight.b16 + at, w[j], w[j + 1]);
        else
          w[j] = _mm512_loadu_ps(weight.f32 + at), w[j + 1] = _mm512_loadu_ps(weight.f32 + at + 16);
        w[j] = _mm512_sub_ps(w[j], _mm512_fmadd_ps(shrink, w[j], times(coef, z[j])));
        w[j + 1] = _mm512_sub_ps(w[j + 1], _mm512_fmadd_ps(shrink, w[j + 1], times(coef, z[j + 1])));
        if constexpr (Stochastic)
          narrow_bf16<true, true>(w[j], w[j + 1], draws[2 * k + j / 2], weight.b16 + at);
        else if constexpr (Narrow)
          narrow_bf16<true, true>(w[j], w[j + 1], weight.b16 + at);
        else
          _mm512_storeu_ps(weight.f32 + at, w[j]), _mm512_storeu_ps(weight.f32 + at + 16, w[j + 1]);
      }
    }
  }
  return end;
}
// None where the weight has a copy.
inline int64_t update_by_table(const tn_rng& key, float c, float decay, int64_t begin, int64_t n, const Stored& weight) {
  if (weight.f32 && !weight.b16 && !weight.copy) return update_by_table<false, false>(key, c, decay, begin, n, weight);
  if (weight.f32 || weight.copy) return 0;
  return weight.stochastic ? update_by_table<true, true>(key, c, decay, begin, n, weight) : update_by_table<true, false>(key, c, decay, begin, n, weight);
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
