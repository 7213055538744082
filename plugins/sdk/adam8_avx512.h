// The update of adam8.h in AVX-512: blocks of whole groups of 64 elements, in three passes over each block that stays in the first-level
// cache. The first decodes the moments and advances them, the second uses them, the third, which needs the block's maxima, codes them. The
// same operations in the same order as adam8_chunk: equal to the last bit.
#pragma once

#include "sdk/adam.h"
#include "sdk/bf16_avx512.h"
#include "sdk/dynamic_codec.h"
#include "sdk/philox_avx512.h"
#include "sdk/prefetch.h"
#include "sdk/stored_avx512.h"

namespace tenon::sdk {

enum class Rounding { kNone, kNearest, kStochastic };

// What becomes of the direction, 64 elements at a time: of the weights of an update, f32 in place or (Rounding) alone in bf16. Usable: all
// elements are.
template <Rounding R, bool Interleaved>
struct WeightGroups {
  using Element = std::conditional_t<R == Rounding::kNone, float, bf16>;
  Element* w;
  const Philox64* noise;
  uint64_t first;  // element of the noise's plane

  // Random bits of a block, 16 an element.
  TN_FN void draw(int64_t begin, int64_t end, uint16_t* bits) const {
    if constexpr (R == Rounding::kStochastic) {
      for (int64_t i = begin; i < end; i += kGroup, bits += kGroup) {
        __m512i low, high;
        (*noise)((first + static_cast<uint64_t>(i)) >> 3, low, high);
        _mm512_store_si512(bits, low), _mm512_store_si512(bits + 32, high);
      }
    }
  }
  TN_FN void fetch(int64_t at) const {
    prefetch(w + at, kGroup);
  }
  template <bool Usable>
  TN_FN void step(int64_t at, const AdamNumbers& a, const __m512 (&u)[4], const __mmask16* usable, const uint16_t* bits) const {
    __m512 x[4];
    read_group<Element, Interleaved>(w + at, x);
    for (int k = 0; k < 4; ++k) {
      const __m512 s = _mm512_mul_ps(_mm512_set1_ps(a.step), u[k]),
                   decay = Usable ? _mm512_set1_ps(a.decay) : _mm512_maskz_mov_ps(usable[k], _mm512_set1_ps(a.decay));
      x[k] = _mm512_sub_ps(x[k], _mm512_fmadd_ps(decay, _mm512_fnmadd_ps(_mm512_set1_ps(a.after), s, x[k]), s));
    }
    if constexpr (R == Rounding::kNone) {
      for (int k = 0; k < 4; ++k) _mm512_storeu_ps(w + at + 16 * k, x[k]);
    } else if constexpr (R == Rounding::kNearest) {
      narrow_bf16<Interleaved>(x[0], x[1], w + at);
      narrow_bf16<Interleaved>(x[2], x[3], w + at + 32);
    } else {
      narrow_bf16<Interleaved>(x[0], x[1], _mm512_load_si512(bits), w + at);
      narrow_bf16<Interleaved>(x[2], x[3], _mm512_load_si512(bits + 32), w + at + 32);
    }
  }
};

// The direction itself, in the order of elements.
struct DirectionGroups {
  float* to;
  TN_FN void draw(int64_t, int64_t, uint16_t*) const {}
  TN_FN void fetch(int64_t) const {}
  template <bool>
  TN_FN void step(int64_t at, const AdamNumbers&, const __m512 (&u)[4], const __mmask16*, const uint16_t*) const {
    for (int k = 0; k < 4; ++k) _mm512_storeu_ps(to + at + 16 * k, u[k]);
  }
};

// Updates with ε > 0 of elements [begin, begin + n) of a parameter; begin is a multiple of the block's size and n
// of 64. scratch: two blocks of floats.
template <bool Interleaved, bool Vbmi, class Grad, class Target>
class Adam8Groups {
 public:
  TN_FN Adam8Groups(const AdamNumbers& a, const DynamicEncoder<true>& first, const DynamicEncoder<false>& second,
                    const Adam8States& states, const Grad* g, const Target& target)
      : a_(a), code_m_(first), code_v_(second), s_(states), g_(g), target_(target) {}

  // Three short loops over a block: the processor looks some two hundred operations ahead, which is less than one
  // element takes from its code to its code.
  TN_FN void run(int64_t begin, int64_t n, float* scratch) const {
    const int64_t size = s_.blocksize, last = begin + n;
    for (int64_t block = begin; block < last; block += size) {
      const int64_t end = block + size < last ? block + size : last;
      alignas(64) __mmask16 usable[kLargestBlocksize / 16];
      float* const v = scratch + size;
      if (__builtin_expect(advance<true>(block, end, scratch, v, usable), 1)) {
        use<true>(block, end, scratch, v, usable);
      } else {
        advance<false>(block, end, scratch, v, usable);
        use<false>(block, end, scratch, v, usable);
      }
      code(block, end, scratch, v);
    }
  }

 private:
  // What a group of the next block needs comes while this one is computed.
  TN_FN void fetch(int64_t i) const {
    prefetch(s_.m + i, kGroup), prefetch(s_.v + i, kGroup), prefetch(g_ + i, kGroup);
    target_.fetch(i);
  }

  // Moments into m and v, the block's maxima into the states. Usable: for blocks whose gradients are all usable; where they are not,
  // nothing is changed and false answered.
  template <bool Usable>
  TN_FN bool advance(int64_t begin, int64_t end, float* m, float* v, __mmask16* usable) const {
    float *const m_max = s_.m_max + begin / s_.blocksize, *const v_max = s_.v_max + begin / s_.blocksize;
    const __m512 unit_m = _mm512_set1_ps(*m_max), unit_v = _mm512_set1_ps(*v_max), a1 = _mm512_set1_ps(a_.a1), a2 = _mm512_set1_ps(a_.a2),
                 scale = _mm512_set1_ps(a_.grad_scale);
    __m512 most_m = _mm512_setzero_ps();
    __m512i most_v = _mm512_setzero_si512();  // bits, among which Inf and NaN are the largest
    for (int64_t i = begin; i < end; i += kGroup, m += kGroup, v += kGroup, usable += kGroup / 16) {
      __m512 g[4], old_m[4], old_v[4];
      read_group<Grad, Interleaved>(g_ + i, g);
      decode_64<Interleaved, Vbmi, true>(s_.m + i, old_m);
      decode_64<Interleaved, Vbmi, false>(s_.v + i, old_v);
      for (int k = 0; k < 4; ++k) {
        __m512 x = _mm512_mul_ps(g[k], scale), x2 = _mm512_mul_ps(x, x), mi, vi;
        if constexpr (Usable) {
          mi = _mm512_mul_ps(old_m[k], unit_m), vi = _mm512_mul_ps(old_v[k], unit_v);
        } else {
          const __mmask16 good = usable[k] = _mm512_cmp_ps_mask(x2, _mm512_set1_ps(kLargestSquare), _CMP_LE_OQ);
          mi = _mm512_maskz_mul_ps(good, old_m[k], unit_m), vi = _mm512_maskz_mul_ps(good, old_v[k], unit_v);
          x = _mm512_maskz_mov_ps(good, x), x2 = _mm512_maskz_mov_ps(good, x2);
        }
        const __m512 new_m = _mm512_fmadd_ps(a1, x, _mm512_fnmadd_ps(a1, mi, mi)), new_v = _mm512_fmadd_ps(a2, x2, _mm512_fnmadd_ps(a2, vi, vi));
        _mm512_store_ps(m + 16 * k, new_m), _mm512_store_ps(v + 16 * k, new_v);
        constexpr int kLargerMagnitude = 0xb;
        most_m = _mm512_range_ps(most_m, new_m, kLargerMagnitude), most_v = _mm512_max_epu32(most_v, _mm512_castps_si512(new_v));
      }
    }
    const uint32_t largest = _mm512_reduce_max_epu32(most_v);
    if (Usable && largest > std::bit_cast<uint32_t>(kLargestSquare)) return false;
    *m_max = _mm512_reduce_max_ps(most_m), *v_max = std::bit_cast<float>(largest);
    return true;
  }

  template <bool Usable>
  TN_FN void use(int64_t begin, int64_t end, const float* m, const float* v, const __mmask16* usable) const {
    const __m512 root = _mm512_set1_ps(a_.root), eps = _mm512_set1_ps(a_.eps);
    alignas(64) uint16_t noise[kLargestBlocksize];
    target_.draw(begin, end, noise);
    const uint16_t* bits = noise;
    for (int64_t i = begin; i < end; i += kGroup, m += kGroup, v += kGroup, usable += kGroup / 16, bits += kGroup) {
      fetch(i + s_.blocksize);
      __m512 u[4];
      for (int k = 0; k < 4; ++k)
        u[k] = _mm512_div_ps(_mm512_load_ps(m + 16 * k), _mm512_fmadd_ps(_mm512_sqrt_ps(_mm512_load_ps(v + 16 * k)), root, eps));
      target_.template step<Usable>(i, a_, u, usable, bits);
    }
  }

  TN_FN void code(int64_t begin, int64_t end, const float* m, const float* v) const {
    // A small negative value keeps its sign.
    code_block(code_m_, m, s_.m_max[begin / s_.blocksize], end - begin, s_.m + begin);
    code_block(code_v_, v, s_.v_max[begin / s_.blocksize], end - begin, s_.v + begin);
  }
  template <class Codes>
  static TN_FN void code_block(const Codes& code_of, const float* values, float largest, int64_t n, uint8_t* to) {
    const __m512 factor = _mm512_set1_ps(adam8_factor(largest));
    encode_groups<Interleaved>(
        code_of, n,
        [values](int64_t i, __m512(&x)[4]) __attribute__((always_inline)) {
          for (int k = 0; k < 4; ++k) x[k] = _mm512_load_ps(values + i + 16 * k);
        },
        [factor](int64_t) __attribute__((always_inline)) { return factor; }, to);
  }

  const AdamNumbers a_;
  const DynamicCodes<true, true> code_m_;
  const DynamicCodes<false, false> code_v_;
  const Adam8States s_;
  const Grad* const g_;
  const Target target_;
};

inline bool adam8_fits_groups(const Chunk& chunk, const AdamNumbers& a, const Stored& weight) {
  return chunk.n % kGroup == 0 && a.eps > 0 && !weight.copy && !(weight.f32 && weight.b16);
}
template <bool Interleaved, class Grad, class Target>
void adam8_groups(const AdamNumbers& a, const Adam8Coder& coder, const Adam8States& s, const Chunk& chunk,
                  const Grad* g, const Target& target, float* scratch) {
  if (has_vbmi())
    Adam8Groups<Interleaved, true, Grad, Target>(a, coder.first, coder.second, s, g, target)
        .run(chunk.begin, chunk.n, scratch);
  else
    Adam8Groups<Interleaved, false, Grad, Target>(a, coder.first, coder.second, s, g, target)
        .run(chunk.begin, chunk.n, scratch);
}

// The same with gradients and weights as they are stored.
inline void adam8_groups(const AdamNumbers& a, const Adam8Coder& coder, const Adam8States& s, const Chunk& chunk,
                         const Stored& grad, const Stored& weight, float* scratch) {
  const Philox64 noise(weight.rng);
  const auto with_weight = [&]<Rounding R>(std::integral_constant<Rounding, R>, auto* w) {
    constexpr bool kBothHalf = R != Rounding::kNone;
    if (grad.f32)
      adam8_groups<false>(a, coder, s, chunk, grad.f32, WeightGroups<R, false>{w, &noise, weight.first}, scratch);
    else
      adam8_groups<kBothHalf>(a, coder, s, chunk, grad.b16, WeightGroups<R, kBothHalf>{w, &noise, weight.first},
                              scratch);
  };
  if (weight.f32)
    with_weight(std::integral_constant<Rounding, Rounding::kNone>{}, weight.f32);
  else if (weight.stochastic)
    with_weight(std::integral_constant<Rounding, Rounding::kStochastic>{}, weight.b16);
  else
    with_weight(std::integral_constant<Rounding, Rounding::kNearest>{}, weight.b16);
}

}  // namespace tenon::sdk
