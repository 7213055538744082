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
    Counter c = start(block);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) advance(c, round);
    finish(c, low, high);
  }

  // Two runs at once: what one waits for, the other computes.
  TN_FN void operator()(uint64_t block, __m512i& low, __m512i& high, uint64_t other, __m512i& other_low, __m512i& other_high) const {
    Counter c = start(block), d = start(other);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) advance(c, round), advance(d, round);
    finish(c, low, high), finish(d, other_low, other_high);
  }

  // Of 256 elements in eight vectors: four runs hide what one round waits for the other.
  TN_FN void four(uint64_t block, __m512i* out) const {
    Counter c[4] = {start(block), start(block + 8), start(block + 16), start(block + 24)};
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) advance(c[k], round);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) finish(c[k], out[2 * k], out[2 * k + 1]);
  }

 private:
  // A counter in each 64-bit lane, words in the lower halves (the upper hold whatever products leave there); in an order
  // from which unpacking makes consecutive ones.
  struct Counter {
    __m512i c0, c1, c2, c3;
  };
  TN_FN Counter start(uint64_t block) const {
    const __m512i c0 = _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(block)), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
    return {c0, _mm512_srli_epi64(c0, 32), _mm512_set1_epi32(static_cast<int>(uid_)), _mm512_set1_epi32(static_cast<int>(stream_))};
  }
  TN_FN void advance(Counter& c, int round) const {
    constexpr int kXor = 0x96;
    const __m512i p0 = _mm512_mul_epu32(c.c0, _mm512_set1_epi64(0xD2511F53)), p1 = _mm512_mul_epu32(c.c2, _mm512_set1_epi64(0xCD9E8D57)),
                  k0 = _mm512_set1_epi32(static_cast<int>(k0_[round])), k1 = _mm512_set1_epi32(static_cast<int>(k1_[round]));
    c.c0 = _mm512_ternarylogic_epi32(upper(p1), c.c1, k0, kXor);
    c.c2 = _mm512_ternarylogic_epi32(upper(p0), c.c3, k1, kXor);
    c.c1 = p1, c.c3 = p0;
  }
  // Upper halves in the places of the lower ones. A shuffle runs on more ports than a shift.
  static TN_FN __m512i upper(__m512i x) { return _mm512_shuffle_epi32(x, _MM_PERM_DDBB); }
  static TN_FN void finish(const Counter& c, __m512i& low, __m512i& high) {
    constexpr __mmask16 kUpper = 0xaaaa;
    const __m512i first = _mm512_mask_shuffle_epi32(c.c0, kUpper, c.c1, _MM_PERM_CCAA), second = _mm512_mask_shuffle_epi32(c.c2, kUpper, c.c3, _MM_PERM_CCAA);
    low = _mm512_unpacklo_epi64(first, second), high = _mm512_unpackhi_epi64(first, second);
  }

  uint32_t uid_, stream_, k0_[10], k1_[10];
};

}  // namespace tenon::sdk
