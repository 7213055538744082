// The update of adam8.h in AVX-512: blocks of whole groups of 64 elements, in two passes over each block that stays in
// the first-level cache. The first decodes the moments, advances and uses them; the second, which needs the block's
// maxima, codes them. The same operations in the same order as adam8_chunk: equal to the last bit.
#pragma once

#include "sdk/adam.h"
#include "sdk/bf16_avx512.h"
#include "sdk/dynamic_codec.h"
#include "sdk/philox_avx512.h"

namespace tenon::sdk {

inline constexpr int64_t kGroup = 64;

// Where gradients come from and what becomes of the direction, 64 elements at a time.
template <class T, bool Interleaved>
TN_FN void read_group(const T* from, __m512 (&x)[4]) {
  if constexpr (std::is_same_v<T, float>) {
    for (int k = 0; k < 4; ++k) x[k] = _mm512_loadu_ps(from + 16 * k);
  } else {
    widen_bf16<Interleaved>(from, x[0], x[1]);
    widen_bf16<Interleaved>(from + 32, x[2], x[3]);
  }
}

enum class Rounding { kNone, kNearest, kStochastic };

// The weights of an update: f32 in place, or (Rounding) f32 alone in bf16.
template <Rounding R, bool Interleaved>
struct WeightGroups {
  using Element = std::conditional_t<R == Rounding::kNone, float, bf16>;
  Element* w;
  const Philox64* noise;
  uint64_t first;  // element of the noise's plane

  TN_FN void step(int64_t at, const AdamNumbers& a, const __m512 (&u)[4], const __mmask16 (&usable)[4]) const {
    __m512 x[4];
    read_group<Element, Interleaved>(w + at, x);
    for (int k = 0; k < 4; ++k) {
      const __m512 s = _mm512_mul_ps(_mm512_set1_ps(a.step), u[k]),
                   decay = _mm512_maskz_mov_ps(usable[k], _mm512_set1_ps(a.decay));
      x[k] = _mm512_sub_ps(
          x[k], _mm512_fmadd_ps(decay, _mm512_fnmadd_ps(_mm512_set1_ps(a.after), s, x[k]), s));
    }
    if constexpr (R == Rounding::kNone) {
      for (int k = 0; k < 4; ++k) _mm512_storeu_ps(w + at + 16 * k, x[k]);
    } else if constexpr (R == Rounding::kNearest) {
      narrow_bf16<Interleaved>(x[0], x[1], w + at);
      narrow_bf16<Interleaved>(x[2], x[3], w + at + 32);
    } else {
      __m512i low, high;
      (*noise)((first + static_cast<uint64_t>(at)) >> 3, low, high);
      narrow_bf16<Interleaved>(x[0], x[1], low, w + at);
      narrow_bf16<Interleaved>(x[2], x[3], high, w + at + 32);
    }
  }
};

// The direction itself, in the order of elements.
struct DirectionGroups {
  float* to;
  TN_FN void step(int64_t at, const AdamNumbers&, const __m512 (&u)[4], const __mmask16 (&)[4]) const {
    for (int k = 0; k < 4; ++k) _mm512_storeu_ps(to + at + 16 * k, u[k]);
  }
};

// Elements [begin, begin + n) of a parameter; begin is a multiple of the block's size and n of 64. scratch: four blocks
// of floats. A block is coded after the next one was advanced: its maxima are long known then, and the processor has
// both at hand.
template <bool Interleaved, class Grad, class Target>
class Adam8Groups {
 public:
  TN_FN Adam8Groups(const AdamNumbers& a, const DynamicEncoder<true>& first, const DynamicEncoder<false>& second,
                    const Adam8States& states, const Grad* g, const Target& target)
      : a_(a), code_m_(first), code_v_(second), s_(states), g_(g), target_(target) {}

  TN_FN void run(int64_t begin, int64_t n, float* scratch) {
    const int64_t size = s_.blocksize, last = begin + n;
    const auto end_of = [=](int64_t block) { return block + size < last ? block + size : last; };
    for (int64_t block = begin; block < last; block += size) {
      advance(block, end_of(block), scratch + block / size % 2 * 2 * size);
      if (block > begin) code(block - size, block, scratch + (block / size - 1) % 2 * 2 * size);
    }
    const int64_t block = (last - 1) / size * size;
    code(block, last, scratch + block / size % 2 * 2 * size);
  }

 private:
  static TN_FN __m256i load_32(const uint8_t* codes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  }

  TN_FN void advance(int64_t begin, int64_t end, float* scratch) const {
    const AdamNumbers& a = a_;
    const __m512 unit_m = _mm512_set1_ps(s_.m_max[begin / s_.blocksize]),
                 unit_v = _mm512_set1_ps(s_.v_max[begin / s_.blocksize]), a1 = _mm512_set1_ps(a.a1),
                 a2 = _mm512_set1_ps(a.a2), zero = _mm512_setzero_ps();
    __m512 most_m = zero, most_v = zero;
    float *m = scratch, *v = scratch + s_.blocksize;
    for (int64_t i = begin; i < end; i += kGroup, m += kGroup, v += kGroup) {
      __m512 x[4], old_m[4], old_v[4];
      __mmask16 usable[4];
      read_group<Grad, Interleaved>(g_ + i, x);
      for (int k = 0; k < 4; k += 2) {
        decode_32<Interleaved>(values_m_, load_32(s_.m + i + 16 * k), old_m[k], old_m[k + 1]);
        decode_32<Interleaved>(values_v_, load_32(s_.v + i + 16 * k), old_v[k], old_v[k + 1]);
      }
      for (int k = 0; k < 4; ++k) {
        const __m512 raw = _mm512_mul_ps(x[k], _mm512_set1_ps(a.grad_scale)), raw2 = _mm512_mul_ps(raw, raw);
        usable[k] = _mm512_cmp_ps_mask(raw2, _mm512_set1_ps(kLargestSquare), _CMP_LE_OQ);
        const __m512 clean = _mm512_maskz_mov_ps(usable[k], raw), clean2 = _mm512_maskz_mov_ps(usable[k], raw2);
        const __m512 mi = _mm512_maskz_mul_ps(usable[k], old_m[k], unit_m),
                     vi = _mm512_maskz_mul_ps(usable[k], old_v[k], unit_v);
        const __m512 new_m = _mm512_fmadd_ps(a1, clean, _mm512_fnmadd_ps(a1, mi, mi)),
                     new_v = _mm512_fmadd_ps(a2, clean2, _mm512_fnmadd_ps(a2, vi, vi));
        _mm512_store_ps(m + 16 * k, new_m), _mm512_store_ps(v + 16 * k, new_v);
        constexpr int kLargerMagnitude = 0xb;
        most_m = _mm512_range_ps(most_m, new_m, kLargerMagnitude), most_v = _mm512_max_ps(most_v, new_v);
        const __m512 d = _mm512_fmadd_ps(_mm512_sqrt_ps(new_v), _mm512_set1_ps(a.root), _mm512_set1_ps(a.eps));
        x[k] = _mm512_div_ps(new_m, _mm512_mask_mov_ps(_mm512_set1_ps(__builtin_inff()),
                                                       _mm512_cmp_ps_mask(d, zero, _CMP_GT_OQ), d));
      }
      target_.step(i, a, x, usable);
    }
    s_.m_max[begin / s_.blocksize] = _mm512_reduce_max_ps(most_m);
    s_.v_max[begin / s_.blocksize] = _mm512_reduce_max_ps(most_v);
  }

  TN_FN void code(int64_t begin, int64_t end, const float* scratch) const {
    // A block of zeros is coded as zeros; a small negative value keeps its sign.
    const float most_m = s_.m_max[begin / s_.blocksize], most_v = s_.v_max[begin / s_.blocksize],
                unit_m = most_m > 0 ? most_m : 1.0f, unit_v = most_v > 0 ? most_v : 1.0f;
    const float *m = scratch, *v = scratch + s_.blocksize;
    for (int64_t i = begin; i < end; i += 32, m += 32, v += 32) {
      const __m256i cm = pack_codes<Interleaved>(code_m_(_mm512_load_ps(m), unit_m),
                                                 code_m_(_mm512_load_ps(m + 16), unit_m)),
                    cv = pack_codes<Interleaved>(code_v_(_mm512_load_ps(v), unit_v),
                                                 code_v_(_mm512_load_ps(v + 16), unit_v));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(s_.m + i), cm);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(s_.v + i), cv);
    }
  }

  const AdamNumbers a_;
  const DynamicValues<true> values_m_;
  const DynamicValues<false> values_v_;
  const DynamicCodes<true, true> code_m_;
  const DynamicCodes<false, false> code_v_;
  const Adam8States s_;
  const Grad* const g_;
  const Target target_;
};

}  // namespace tenon::sdk
