// The normal numbers of box_muller.h, 32 at a time.
#pragma once

#include "sdk/box_muller.h"
#include "sdk/philox_avx512.h"

namespace tenon::sdk {

struct SixteenLanes {
  using Float = __m512;
  using Int = __m512i;
  TN_FN static __m512 real(float x) { return _mm512_set1_ps(x); }
  TN_FN static __m512i whole(int32_t x) { return _mm512_set1_epi32(x); }
  TN_FN static __m512 fused(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  TN_FN static __m512 times(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
  TN_FN static __m512 plus(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  TN_FN static __m512 root(__m512 x) { return _mm512_sqrt_ps(x); }
  TN_FN static __m512 to_real(__m512i x) { return _mm512_cvtepi32_ps(x); }
  TN_FN static __m512 as_real(__m512i x) { return _mm512_castsi512_ps(x); }
  TN_FN static __m512i bits(__m512 x) { return _mm512_castps_si512(x); }
  TN_FN static __m512i add(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
  TN_FN static __m512i subtract(__m512i a, __m512i b) { return _mm512_sub_epi32(a, b); }
  template <int kBy>
  TN_FN static __m512i left(__m512i x) {
    return _mm512_slli_epi32(x, kBy);
  }
  template <int kBy>
  TN_FN static __m512i right(__m512i x) {
    return _mm512_srli_epi32(x, kBy);
  }
  template <int kBy>
  TN_FN static __m512i right_signed(__m512i x) {
    return _mm512_srai_epi32(x, kBy);
  }
  TN_FN static __m512 by_low_bit(__m512i x, __m512 odd, __m512 even) {
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(x, _mm512_set1_epi32(1)), even, odd);
  }
  TN_FN static __m512 signed_by_bit_1(__m512i x, __m512 v) {
    constexpr int kAndThenXor = 0x6a;
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_slli_epi32(x, 30), _mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(v), kAndThenXor));
  }
};

// The numbers of the eight Philox blocks from `block` on.
TN_FN void normal_32(const Philox64& draw, uint64_t block, __m512& low, __m512& high) {
  __m512i a, b;
  draw(block, a, b);
  // Within 128 bits: the first words of pairs, and the second ones; unpacking undoes it.
  const __m512 fa = _mm512_castsi512_ps(a), fb = _mm512_castsi512_ps(b);
  const auto z =
      normal_pair<SixteenLanes>(_mm512_castps_si512(_mm512_shuffle_ps(fa, fb, 0x88)), _mm512_castps_si512(_mm512_shuffle_ps(fa, fb, 0xdd)));
  low = _mm512_unpacklo_ps(z.first, z.second), high = _mm512_unpackhi_ps(z.first, z.second);
}

}  // namespace tenon::sdk
