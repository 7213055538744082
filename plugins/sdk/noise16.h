// 16 random bits for each of many elements at a time: what noise16 of philox.h gives one by one.
#pragma once

#include "sdk/for_each.h"
#include "sdk/philox.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/philox_avx512.h"
#endif

namespace tenon::sdk {

// Elements [begin, begin + n) of `key`, begin a multiple of 8, into `out`, which is shared memory with room for n rounded up to 64.
TN_FN void noise16_run(const Block& block, const tn_rng& key, uint64_t begin, int64_t n, uint16_t* out) {
#if !TN_GPU && defined(__AVX512BW__)
  (void)block;
  const Philox64 draw(key);
  for (int64_t i = 0; i < n; i += 64) {
    __m512i low, high;
    draw((begin + static_cast<uint64_t>(i)) >> 3, low, high);
    _mm512_storeu_si512(out + i, low);
    _mm512_storeu_si512(out + i + 32, high);
  }
#else
  const tn_rng k = key;
  const uint64_t first = begin >> 3;
  block.each((n + 7) / 8, [=](int64_t b) {
    const Words r = philox(k, first + static_cast<uint64_t>(b));
    for (int j = 0; j < 4; ++j) {
      out[8 * b + 2 * j] = static_cast<uint16_t>(r.w[j]);
      out[8 * b + 2 * j + 1] = static_cast<uint16_t>(r.w[j] >> 16);
    }
  });
#endif
}

}  // namespace tenon::sdk
