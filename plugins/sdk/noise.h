// The noise of zeroth-order optimizers: a vector z keyed by value, never stored, equal on every backend where its table or its signs are.
//
// normal_table: z = T[h >> 4], h the element's 16 random bits, T of normal_table.h: variance 1, |z| <= 3.669, kurtosis 2.991; no
//   logarithm and no cosine, so equal everywhere to the last bit.
// rademacher: ±1, one bit an element: element e takes bit e mod 128 of block e / 128.
// normal: Box-Muller; equal to the last bit only where the math library is.
#pragma once

#include <cmath>
#include <cstring>

#include "sdk/for_each.h"
#include "sdk/normal_table.h"
#include "sdk/philox.h"
#include "sdk/stored.h"

namespace tenon::sdk {

enum class Noise { kNormal, kNormalTable, kRademacher };

inline constexpr int64_t kNoiseAlign = 128;   // where a run of noise may begin
inline constexpr int64_t kNoiseChunk = 2048;  // elements of one run at most

// z of elements [begin, begin + n), begin a multiple of kNoiseAlign, n <= kNoiseChunk, into out, which holds kNoiseChunk floats.
template <Noise kKind>
TN_FN void noise_run(const Block& block, const tn_rng& key, const float* table, uint64_t begin, int64_t n, float* out) {
  if constexpr (kKind == Noise::kNormal) {
    block.each((n + 1) / 2, [=](int64_t i) {
      const Words r = philox(key, begin / 2 + static_cast<uint64_t>(i));
      const float u1 = (static_cast<float>(r.w[0] >> 8) + 1.0f) * 0x1p-24f, u2 = static_cast<float>(r.w[1] >> 8) * 0x1p-24f;
      const float radius = std::sqrt(-2.0f * std::log(u1)), angle = 6.28318530717958647692f * u2;
      out[2 * i] = radius * std::cos(angle), out[2 * i + 1] = radius * std::sin(angle);
    });
  } else {
    constexpr int64_t kPerBlock = kKind == Noise::kRademacher ? 128 : 8;
    alignas(64) uint32_t words[kNoiseChunk / kPerBlock * 4];
    uint32_t* const w = words;
    const uint64_t first = begin / kPerBlock;
    block.each((n + kPerBlock - 1) / kPerBlock, [=](int64_t i) {
      const Words r = philox(key, first + static_cast<uint64_t>(i));
      for (int j = 0; j < 4; ++j) w[4 * i + j] = r.w[j];
    });
    if constexpr (kKind == Noise::kRademacher) {
      block.each(n, [=](int64_t i) { out[i] = std::bit_cast<float>(0x3f800000u | (~(w[i >> 5] >> (i & 31)) & 1u) << 31); });
    } else {
      block.each(n, [=](int64_t i) { out[i] = table[w[i >> 1] >> (16 * (i & 1) + 4) & 0xfffu]; });
    }
  }
}

// Element e alone, as noise_run gives it.
template <Noise kKind>
TN_FN float noise_at(const tn_rng& key, const float* table, uint64_t e) {
  if constexpr (kKind == Noise::kNormal) return normal(key, e);
  if constexpr (kKind == Noise::kNormalTable) return table[noise16(key, e) >> 4];
  return philox(key, e / 128).w[e % 128 / 32] >> (e % 32) & 1 ? 1.0f : -1.0f;
}

// The terms of a displacement or an update of one tensor: at most kMostTerms at a time.
struct NoiseTerms {
  static constexpr uint32_t kMost = 16;
  uint32_t n = 0;
  tn_rng keys[kMost];
  float coefs[kMost];
  void add(uint64_t seed, uint32_t uid, uint32_t stream, double coef) {
    if (n == kMost) fail(TN_E_ARGUMENT, "a displacement has more than 16 terms");
    keys[n] = {seed, uid, stream}, coefs[n++] = static_cast<float>(coef);
  }
};

// to = from + Σ coef · z, element by element over [begin, end) of the tensor that `from` begins; relative: from · (1 + Σ coef · z).
// `to` is numbered from `begin`. From and To are f32 or bf16; one fused addition per term in f32, one rounding to nearest at the end.
template <Noise kKind, class From, class To>
void displace(const tn_exec* exec, const NoiseTerms& terms, const float* table, bool relative, const From* from, int64_t begin, int64_t end, To* to) {
  const int64_t start = begin / kNoiseAlign * kNoiseAlign;
  for_each_block<2 * kNoiseChunk * sizeof(float)>(
      exec, chunks(end - start, kNoiseChunk),
      [=](const Block& block) {
        const int64_t at = start + block.index * kNoiseChunk, first = at < begin ? begin : at;
        const int64_t last = end - at < kNoiseChunk ? end : at + kNoiseChunk, skip = first - at, n = last - first;
        float* const z = block.shared<float>();
        float* const sum = z + kNoiseChunk;
        for (uint32_t k = 0; k < terms.n; ++k) {
          noise_run<kKind>(block, terms.keys[k], table, static_cast<uint64_t>(at), last - at, z);
          const float c = terms.coefs[k];
          if (k == 0)
            block.each(n, [=](int64_t i) { sum[i] = c * z[skip + i]; });
          else
            block.each(n, [=](int64_t i) { sum[i] = std::fma(c, z[skip + i], sum[i]); });
        }
        if (terms.n == 0) block.each(n, [=](int64_t i) { sum[i] = 0; });
        const From* const w = from + first;
        To* const out = to + (first - begin);
        if (relative)
          block.each(n, [=](int64_t i) { out[i] = from_float<To>(std::fma(to_float(w[i]), sum[i], to_float(w[i]))); });
        else
          block.each(n, [=](int64_t i) { out[i] = from_float<To>(to_float(w[i]) + sum[i]); });
      },
      kNoiseChunk);
}

// w ← w − Σ coef · z · (relative ? w : 1) − decay · w, over a whole tensor of n elements.
template <Noise kKind>
void noise_update(const tn_exec* exec, const NoiseTerms& terms, const float* table, bool relative, float decay, int64_t n, Stored weight) {
  for_each_block<3 * kNoiseChunk * sizeof(float)>(
      exec, chunks(n, kNoiseChunk),
      [=](const Block& block) {
        const Chunk chunk(block, n, kNoiseChunk);
        float* const z = block.shared<float>();
        float* const sum = z + kNoiseChunk;
        for (uint32_t k = 0; k < terms.n; ++k) {
          noise_run<kKind>(block, terms.keys[k], table, static_cast<uint64_t>(chunk.begin), chunk.n, z);
          const float c = terms.coefs[k];
          if (k == 0)
            block.each(chunk.n, [=](int64_t i) { sum[i] = c * z[i]; });
          else
            block.each(chunk.n, [=](int64_t i) { sum[i] = std::fma(c, z[i], sum[i]); });
        }
        float* const w = weight.read(block, chunk, sum + kNoiseChunk);
        if (relative)
          block.each(chunk.n, [=](int64_t i) { w[i] -= w[i] * (sum[i] + decay); });
        else
          block.each(chunk.n, [=](int64_t i) { w[i] -= std::fma(decay, w[i], sum[i]); });
        weight.write(block, chunk, w);
      },
      kNoiseChunk);
}

}  // namespace tenon::sdk
