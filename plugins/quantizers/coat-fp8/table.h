// Decoding a group of states from its table of 32 numbers. |x| is a product: of entry e for the exponent field e, and of entry 16 + m for the
// mantissa m of a normal number, 24 + m of a subnormal one, whose exponent is that of field 1.
#pragma once

#include <bit>
#include <cstdint>

#include "sdk/base.h"
#include "sdk/intrinsics.h"

namespace tenon::coat {

inline constexpr int64_t kStateGroup = 128;
inline constexpr int kTable = 32, kExponents = 16;

TN_FN float table_value(const float* table, uint32_t code) {
  const uint32_t e = code >> 3 & 15u, m = kExponents + (code & 7u) + (e == 0 ? 8u : 0u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(table[e] * table[m]) | (code & 0x80u) << 24);
}

#if !TN_GPU
// table_value() of each of a group's codes, by permutations of registers that hold the table.
TN_FN void decode_group(const float* table, const uint8_t* codes, float* to) {
#if defined(__AVX512F__)
  const __m512 exponents = _mm512_load_ps(table), mantissas = _mm512_load_ps(table + 16);
  for (int64_t i = 0; i < kStateGroup; i += 16) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    const __mmask16 subnormal = _mm512_testn_epi32_mask(code, _mm512_set1_epi32(0x78));
    // Permutations take the low four bits of an index; bit 3 is to tell subnormal numbers from normal ones.
    const __m512i m = _mm512_and_si512(code, _mm512_set1_epi32(7)), index = _mm512_mask_or_epi32(m, subnormal, m, _mm512_set1_epi32(8));
    const __m512 x = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(code, 3), exponents), _mm512_permutexvar_ps(index, mantissas));
    constexpr int kSignOrRest = 0xea;  // (a & b) | c
    const __m512i signed_x = _mm512_ternarylogic_epi32(_mm512_slli_epi32(code, 24), _mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(x), kSignOrRest);
    _mm512_storeu_si512(to + i, signed_x);
  }
#elif defined(__AVX2__)
  const __m256 low = _mm256_load_ps(table), high = _mm256_load_ps(table + 8), normal = _mm256_load_ps(table + 16), small = _mm256_load_ps(table + 24);
  for (int64_t i = 0; i < kStateGroup; i += 8) {
    const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i))), e = _mm256_srli_epi32(code, 3);
    const __m256i subnormal = _mm256_cmpeq_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x78)), _mm256_setzero_si256());
    // Blends take the sign of the selector: the upper half of the exponents has bit 6 of the code.
    const __m256 x = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, e), _mm256_permutevar8x32_ps(high, e), _mm256_castsi256_ps(_mm256_slli_epi32(code, 25)));
    const __m256 y = _mm256_blendv_ps(_mm256_permutevar8x32_ps(normal, code), _mm256_permutevar8x32_ps(small, code), _mm256_castsi256_ps(subnormal));
    const __m256i sign = _mm256_and_si256(_mm256_slli_epi32(code, 24), _mm256_set1_epi32(INT32_MIN));
    _mm256_storeu_ps(to + i, _mm256_or_ps(_mm256_mul_ps(x, y), _mm256_castsi256_ps(sign)));
  }
#else
  for (int64_t i = 0; i < kStateGroup; ++i) to[i] = table_value(table, codes[i]);
#endif
}
#endif

}  // namespace tenon::coat
