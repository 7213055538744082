// Elements of any storage type 64 at a time as four vectors of f32, and the coding of blocks that have a scale each.
#pragma once

#include <algorithm>
#include <type_traits>

#include "sdk/bf16_avx512.h"

namespace tenon::sdk {

inline constexpr int64_t kGroup = 64;

// A group in one of the orders of bf16_avx512.h; only bf16 has the interleaved one.
template <class T, bool Interleaved>
TN_FN void read_group(const T* from, __m512 (&x)[4]) {
  if constexpr (std::is_same_v<T, float>) {
    for (int k = 0; k < 4; ++k) x[k] = _mm512_loadu_ps(from + 16 * k);
  } else if constexpr (std::is_same_v<T, f16>) {
    for (int k = 0; k < 4; ++k) x[k] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 16 * k)));
  } else {
    widen_bf16<Interleaved>(from, x[0], x[1]);
    widen_bf16<Interleaved>(from + 32, x[2], x[3]);
  }
}
template <class T>
inline constexpr bool kInterleaves = std::is_same_v<T, bf16>;

// The largest magnitude of elements, 32 at a time. Bits of magnitudes order as their values do, NaN and Inf above all.
template <class T>
class LargestMagnitude {
 public:
  TN_FN void operator()(const T* from) {
    if constexpr (sizeof(T) == 4) {
      const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
      first_ = _mm512_max_epu32(first_, _mm512_and_si512(_mm512_loadu_si512(from), magnitude));
      second_ = _mm512_max_epu32(second_, _mm512_and_si512(_mm512_loadu_si512(from + 16), magnitude));
    } else {
      first_ = _mm512_max_epu16(first_, _mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi16(0x7fff)));
    }
  }
  TN_FN float value() const {
    if constexpr (sizeof(T) == 4) {
      return std::bit_cast<float>(_mm512_reduce_max_epu32(_mm512_max_epu32(first_, second_)));
    } else {
      const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(first_), _mm512_extracti64x4_epi64(first_, 1));
      const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
      const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));  // of the complements
      return to_float(T{static_cast<uint16_t>(~_mm_cvtsi128_si32(least))});
    }
  }

 private:
  __m512i first_ = _mm512_setzero_si512(), second_ = _mm512_setzero_si512();
};

// A block's elements are read twice in short loops, so that the processor asks late for what comes next: half of it is asked for while
// magnitudes are compared (Half = 0, for 32 elements), half while codes are found (1, for 64).
template <int Half, class T>
TN_FN void fetch_ahead(const T* from) {
  constexpr int64_t kAhead = 2048, kLine = 64 / static_cast<int64_t>(sizeof(T));
  const auto fetch = [from](int64_t i) __attribute__((always_inline)) { _mm_prefetch(reinterpret_cast<const char*>(from + kAhead + i), _MM_HINT_T0); };
  if constexpr (Half == 1)
    fetch(kLine), fetch(sizeof(T) == 4 ? 3 * kLine : 0);
  else if constexpr (sizeof(T) == 4)
    fetch(0);
}

// Codes the whole blocks that x[0, n) begins with and answers how many elements they are. A block is a power of two from 32 on. absmax[b]
// becomes the largest magnitude of block b. code(begin, count, factor_of): elements [begin, begin + count), whole groups; factor_of(i), of
// an element of x, is power / absmax, the reciprocal rounded before it meets the power of two. rest(b): a block whose absmax is no number,
// zero, or so small that the factor overflows; its codes are those of nonsense until then.
template <class T, class Code, class Rest>
TN_FN int64_t code_blocks(const T* x, int64_t n, int64_t blocksize, float power, float* absmax, Code code, Rest rest) {
  constexpr int64_t kRun = 1024;  // elements whose scales are found together, and their reciprocals in one division
  const int64_t step = std::max(blocksize, kGroup), whole = n / step * step;
  const int64_t together = std::clamp<int64_t>(kRun / blocksize, 1, 16);
  const int shift = std::countr_zero(static_cast<uint64_t>(blocksize));
  for (int64_t begin = 0; begin < whole; begin += together << shift) {
    const int64_t blocks = std::min(together, (whole - begin) >> shift);
    alignas(64) float largest[16] = {}, factor[16];
    for (int64_t b = 0; b < blocks; ++b) {
      LargestMagnitude<T> most;
      const T* const from = x + begin + (b << shift);
      for (int64_t i = 0; i < blocksize; i += 32) {
        most(from + i);
        fetch_ahead<0>(from + i);
      }
      largest[b] = most.value();
    }
    const __m512 a = _mm512_load_ps(largest);
    _mm512_store_ps(factor, _mm512_mul_ps(_mm512_div_ps(_mm512_set1_ps(1.0f), a), _mm512_set1_ps(power)));
    code(begin, blocks << shift, [&factor, begin, shift](int64_t i) __attribute__((always_inline)) { return _mm512_set1_ps(factor[(i - begin) >> shift]); });
    const __mmask16 lanes = static_cast<__mmask16>((1u << blocks) - 1);
    const __mmask16 plain = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, _mm512_set1_ps(0x1p-126f * power), _CMP_GE_OQ), a,
                                                    _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
    _mm512_mask_storeu_ps(absmax + (begin >> shift), lanes, a);
    for (uint32_t others = lanes & ~static_cast<uint32_t>(plain); others; others &= others - 1)
      rest((begin >> shift) + std::countr_zero(others));
  }
  return whole;
}

}  // namespace tenon::sdk
