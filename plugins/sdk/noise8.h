// A random byte for each of many elements at a time: element e has byte e mod 16 of Philox block e / 16, words from their low ends.
#pragma once

#include "sdk/for_each.h"
#include "sdk/intrinsics.h"
#include "sdk/philox.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/philox_avx512.h"
#endif

namespace tenon::sdk {

#if !TN_GPU && defined(__AVX2__) && !defined(__AVX512BW__)
// Of 128 elements, as Philox64 of philox_avx512.h: a counter in each 64-bit lane, in an order from which unpacking makes consecutive ones.
class Philox128 {
 public:
  TN_FN explicit Philox128(const tn_rng& key) : key_(key) {}
  TN_FN void operator()(uint64_t block, uint8_t* out) const {
    struct Counter {
      __m256i c0, c1, c2, c3;
    } c[2];
    for (int j = 0; j < 2; ++j) {
      c[j].c0 = _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(block) + 4 * j), _mm256_setr_epi64x(0, 2, 1, 3));
      c[j].c1 = _mm256_srli_epi64(c[j].c0, 32);
      c[j].c2 = _mm256_set1_epi32(static_cast<int>(key_.uid)), c[j].c3 = _mm256_set1_epi32(static_cast<int>(key_.stream));
    }
    uint32_t k0 = static_cast<uint32_t>(key_.seed), k1 = static_cast<uint32_t>(key_.seed >> 32);
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
      for (Counter& a : c) {
        const __m256i p0 = _mm256_mul_epu32(a.c0, _mm256_set1_epi64x(0xD2511F53)), p1 = _mm256_mul_epu32(a.c2, _mm256_set1_epi64x(0xCD9E8D57));
        a.c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_shuffle_epi32(p1, 0xf5), a.c1), _mm256_set1_epi32(static_cast<int>(k0)));
        a.c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_shuffle_epi32(p0, 0xf5), a.c3), _mm256_set1_epi32(static_cast<int>(k1)));
        a.c1 = p1, a.c3 = p0;
      }
    for (const Counter& a : c) {
      const __m256i first = _mm256_blend_epi32(a.c0, _mm256_slli_epi64(a.c1, 32), 0xaa), second = _mm256_blend_epi32(a.c2, _mm256_slli_epi64(a.c3, 32), 0xaa);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_unpacklo_epi64(first, second));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), _mm256_unpackhi_epi64(first, second));
      out += 64;
    }
  }

 private:
  tn_rng key_;
};
#endif

// Elements [begin, begin + n) of `key`, begin a multiple of 16, into `out`, which is shared memory with room for n rounded up to 512.
TN_FN void noise8_run(const Block& block, const tn_rng& key, uint64_t begin, int64_t n, uint8_t* out) {
#if !TN_GPU && defined(__AVX512BW__)
  (void)block;
  const Philox64 draw(key);
  for (int64_t i = 0; i < n; i += 512) {
    __m512i bytes[8];
    draw.four((begin + static_cast<uint64_t>(i)) >> 4, bytes);
    for (int j = 0; j < 8; ++j) _mm512_storeu_si512(out + i + 64 * j, bytes[j]);
  }
#elif !TN_GPU && defined(__AVX2__)
  (void)block;
  const Philox128 draw(key);
  for (int64_t i = 0; i < n; i += 128) draw((begin + static_cast<uint64_t>(i)) >> 4, out + i);
#else
  const tn_rng k = key;
  const uint64_t first = begin >> 4;
  block.each((n + 15) / 16, [=](int64_t b) {
    const Words r = philox(k, first + static_cast<uint64_t>(b));
    for (int j = 0; j < 16; ++j) out[16 * b + j] = static_cast<uint8_t>(r.w[j / 4] >> 8 * (j % 4));
  });
#endif
}

}  // namespace tenon::sdk
