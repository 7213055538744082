// Stored bf16 elements 64 at a time in registers: what a rule reads and writes chunk by chunk through Stored, without f32
// copies on the way.
#pragma once

#include "sdk/groups_avx512.h"
#include "sdk/stored.h"

namespace tenon::sdk {

// Groups lie in the order of bf16_avx512.h that costs least. Arithmetic on them alone leaves NaN as FromBf16 has them.
class StoredGroups {
 public:
  explicit StoredGroups(const Stored& s) : s_(s), noise_(s.rng) {}

  // The group from element `begin` on, a multiple of 8.
  TN_FN void read(int64_t begin, __m512 (&x)[4]) const {
    widen_bf16<true>(s_.b16 + begin, x[0], x[1]);
    widen_bf16<true>(s_.b16 + begin + 32, x[2], x[3]);
  }
  // What the rounding of a group takes of the generator: 16 bits an element, where it is stochastic.
  struct Noise {
    __m512i low, high;
  };
  // Of two groups, the second behind the first.
  TN_FN void draw(int64_t begin, Noise (&noise)[2]) const {
    for (Noise& n : noise) n = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    if (!s_.stochastic) return;
    const uint64_t block = (s_.first + static_cast<uint64_t>(begin)) >> 3;
    noise_(block, noise[0].low, noise[0].high, block + kGroup / 8, noise[1].low, noise[1].high);
    if (s_.crossed)
      for (Noise& n : noise) n = crossed(n);
  }
  // Of two vectors of elements that have the same key, and mostly the same plane.
  static TN_FN void draw(int64_t begin, const StoredGroups& a, Noise (&of_a)[2], const StoredGroups& b, Noise (&of_b)[2]) {
    a.draw(begin, of_a);
    if (a.s_.stochastic && b.s_.stochastic && a.s_.first == b.s_.first && a.s_.crossed != b.s_.crossed)
      for (int i = 0; i < 2; ++i) of_b[i] = crossed(of_a[i]);
    else
      b.draw(begin, of_b);
  }

  TN_FN void write(int64_t begin, const __m512 (&x)[4], const Noise& noise) const {
    bf16* const to = s_.b16 + begin;
    if (s_.stochastic) {
      narrow_bf16<true, true>(x[0], x[1], noise.low, to);
      narrow_bf16<true, true>(x[2], x[3], noise.high, to + 32);
    } else {
      narrow_bf16<true, true>(x[0], x[1], to);
      narrow_bf16<true, true>(x[2], x[3], to + 32);
    }
  }

 private:
  static TN_FN Noise crossed(const Noise& n) { return {_mm512_rol_epi32(n.low, 16), _mm512_rol_epi32(n.high, 16)}; }

  const Stored s_;
  const Philox64 noise_;
};

// Whether all of them are kept in bf16 alone.
template <class... S>
bool all_bf16(const S&... stored) {
  return ((stored.b16 && !stored.f32 && !stored.copy) && ...);
}

}  // namespace tenon::sdk
