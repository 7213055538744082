// Noise of 64 consecutive elements at a time: the half-words that noise16 gives one by one.
#pragma once

#include "sdk/intrinsics.h"
#include "sdk/philox.h"

namespace tenon::sdk {

class Philox64 {
 public:
  TN_FN explicit Philox64(const tn_rng& key) : uid_(key.uid), stream_(key.stream) {
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) k0_[round] = k0, k1_[round] = k1;
  }

  // 16 bits for each of the elements 8 · block …: `low` has those of the first 32, `high` those of the next.
  TN_FN void operator()(uint64_t block, __m512i& low, __m512i& high) const {
    const __m512i m0 = _mm512_set1_epi64(0xD2511F53), m1 = _mm512_set1_epi64(0xCD9E8D57);
    // A counter in each 64-bit lane, words in the lower halves (the upper hold whatever products leave there); in an
    // order from which unpacking makes consecutive ones.
    __m512i c0 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(block)),
                                  _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)),
            c1 = _mm512_srli_epi64(c0, 32), c2 = _mm512_set1_epi32(static_cast<int>(uid_)),
            c3 = _mm512_set1_epi32(static_cast<int>(stream_));
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      constexpr int kXor = 0x96;
      const __m512i p0 = _mm512_mul_epu32(c0, m0), p1 = _mm512_mul_epu32(c2, m1),
                    k0 = _mm512_set1_epi32(static_cast<int>(k0_[round])),
                    k1 = _mm512_set1_epi32(static_cast<int>(k1_[round]));
      c0 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), c1, k0, kXor);
      c2 = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), c3, k1, kXor);
      c1 = p1, c3 = p0;
    }
    constexpr __mmask16 kUpper = 0xaaaa;
    const __m512i first = _mm512_mask_mov_epi32(c0, kUpper, _mm512_slli_epi64(c1, 32)),
                  second = _mm512_mask_mov_epi32(c2, kUpper, _mm512_slli_epi64(c3, 32));
    low = _mm512_unpacklo_epi64(first, second), high = _mm512_unpackhi_epi64(first, second);
  }

 private:
  uint32_t uid_, stream_, k0_[10], k1_[10];
};

}  // namespace tenon::sdk
