// Counter-based noise: Philox4x32-10 (Salmon et al. 2011), the only source of randomness in a plugin.
//
// key = seed (64 bit), counter = (block low, block high, uid, stream): equal keys give equal numbers on every backend, after a
// restart and on replay. A block of four words serves eight half-words; element e uses half-word e mod 8 of block e / 8.
#pragma once

#include <bit>
#include <cmath>

#include "sdk/base.h"
#include "tenon/tensor.h"

namespace tenon::sdk {

struct Words {
  uint32_t w[4];
};

TN_FN Words philox(const tn_rng& key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = key.uid, c3 = key.stream;
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1), c3 = static_cast<uint32_t>(p0), c0 = n0, c2 = n2;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// 16 random bits of element e.
TN_FN uint32_t noise16(const tn_rng& key, uint64_t e) {
  const Words r = philox(key, e >> 3);
  const uint32_t half = static_cast<uint32_t>(e & 7);
  return r.w[half >> 1] >> (16 * (half & 1)) & 0xffffu;
}

// Uniform in [0, 1), 24 bits: element e uses word e mod 4 of block e / 4.
TN_FN float uniform(const tn_rng& key, uint64_t e) { return static_cast<float>(philox(key, e >> 2).w[e & 3] >> 8) * 0x1p-24f; }

// Standard normal by Box-Muller: elements 2i and 2i+1 share a block. Equal to the last bit only where the math library is.
TN_FN float normal(const tn_rng& key, uint64_t e) {
  const Words r = philox(key, e >> 1);
  const float u1 = (static_cast<float>(r.w[0] >> 8) + 1.0f) * 0x1p-24f, u2 = static_cast<float>(r.w[1] >> 8) * 0x1p-24f;
  const float radius = std::sqrt(-2.0f * std::log(u1)), angle = 6.28318530717958647692f * u2;
  return radius * ((e & 1) ? std::sin(angle) : std::cos(angle));
}

// f32 -> bf16 with stochastic rounding: adds 16 random bits below the cut. Inf and NaN pass through.
TN_FN uint16_t round_stochastic_bf16(float x, uint32_t bits16) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7f800000u) == 0x7f800000u) return static_cast<uint16_t>((u >> 16) | ((u & 0x7fffffu) ? 0x40u : 0u));
  return static_cast<uint16_t>((u + bits16) >> 16);
}

}  // namespace tenon::sdk
