// The noise of zeroth-order optimizers: a vector z keyed by value, never stored, equal on every backend where its table or its signs are.
//
// normal_table: z = T[h >> 4], h the element's 16 random bits, T of normal_table.h: variance 1, |z| <= 3.669, kurtosis 2.991; no
//   logarithm and no cosine, so equal everywhere to the last bit.
// rademacher: ±1, one bit an element: element e takes bit e mod 128 of block e / 128.
// normal: Box-Muller; up to 5.77, and as equal as the table.
#pragma once

#include <cmath>
#include <cstring>

#include "sdk/box_muller.h"
#include "sdk/for_each.h"
#include "sdk/normal_table.h"
#include "sdk/philox.h"
#include "sdk/stored.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/noise_avx512.h"
#endif

namespace tenon::sdk {

enum class Noise { kNormal, kNormalTable, kRademacher };

// Integer and float operations of one number: its share of a Philox block (ten rounds of ten), and logarithm, root, sine and cosine, or the
// table's polynomial.
constexpr double noise_operations(Noise kind) {
  return kind == Noise::kNormal ? 25 + 40 : kind == Noise::kNormalTable ? 12.5 + 16 : 1;
}

inline constexpr int64_t kNoiseAlign = 128;   // where a run of noise may begin
inline constexpr int64_t kNoiseChunk = 2048;  // elements of one run at most

// sum = c · z, or unless kFirst sum + c · z with one rounding, of elements [begin, begin + n): begin a multiple of kNoiseAlign, n <= kNoiseChunk. sum is shared
// memory and holds kNoiseChunk floats.
template <Noise kKind, bool kFirst>
TN_FN void add_noise([[maybe_unused]] const Block& block, const tn_rng& key, float c, [[maybe_unused]] const float* table, uint64_t begin, int64_t n, float* sum) {
  [[maybe_unused]] const auto put = [=](int64_t i, float z) {
    if constexpr (kFirst)
      sum[i] = c * z;
    else
      sum[i] = std::fma(c, z, sum[i]);
  };
  if constexpr (kKind == Noise::kNormal) {
#if !TN_GPU && defined(__AVX512BW__)
    add_normal_noise<kFirst>(key, c, begin, n, sum);
#else
    block.each((n + 3) / 4, [=](int64_t i) {
      const NormalFour z = normal_four(key, begin / 4 + static_cast<uint64_t>(i));
      put(4 * i, z.a.first), put(4 * i + 1, z.a.second), put(4 * i + 2, z.b.first), put(4 * i + 3, z.b.second);
    });
#endif
  } else if constexpr (kKind == Noise::kRademacher) {
#if !TN_GPU && defined(__AVX512BW__)
    add_sign_noise<kFirst>(key, c, begin, n, sum);
#else
    const uint64_t word = begin / 32;
    block.each((n + 31) / 32, [=](int64_t i) {
      const uint64_t at = word + static_cast<uint64_t>(i);
      const Words r = philox(key, at / 4);
      const uint32_t bits = (at & 2) ? ((at & 1) ? r.w[3] : r.w[2]) : ((at & 1) ? r.w[1] : r.w[0]);
      for (int64_t j = 0; j < 32; ++j) put(32 * i + j, bits >> j & 1 ? 1.0f : -1.0f);
    });
#endif
  } else {
#if !TN_GPU && defined(__AVX512BW__)
    add_table_noise<kFirst>(key, c, begin, n, sum);
#else
    const uint64_t counter = begin / 8;
    block.each((n + 7) / 8, [=](int64_t i) {
      const float* const t = TN_GPU ? normal_table() : table;  // a GPU has its own
      const Words r = philox(key, counter + static_cast<uint64_t>(i));
      for (int j = 0; j < 4; ++j) put(8 * i + 2 * j, t[r.w[j] >> 4 & 0xfffu]), put(8 * i + 2 * j + 1, t[r.w[j] >> 20]);
    });
#endif
  }
}

// z of element e alone.
template <Noise kKind>
TN_FN float noise_at(const tn_rng& key, const float* table, uint64_t e) {
  if constexpr (kKind == Noise::kNormal) {
    const NormalFour z = normal_four(key, e / 4);
    const NormalPair<float> pair = e & 2 ? z.b : z.a;
    return e & 1 ? pair.second : pair.first;
  }
  if constexpr (kKind == Noise::kNormalTable) return table[noise16(key, e) >> 4];
  return philox(key, e / 128).w[e % 128 / 32] >> (e % 32) & 1 ? 1.0f : -1.0f;
}

// The terms of a displacement or an update of one tensor: at most kMostTerms at a time.
struct NoiseTerms {
  static constexpr uint32_t kMost = 16;
  uint32_t n = 0;
  tn_rng keys[kMost];
  float coefs[kMost];
  // sum = Σ coef · z of elements [begin, begin + n), as add_noise.
  template <Noise kKind>
  TN_FN void add_up(const Block& block, const float* table, uint64_t begin, int64_t length, float* sum) const {
    if (n == 0) return block.each(length, [=](int64_t i) { sum[i] = 0; });
    add_noise<kKind, true>(block, keys[0], coefs[0], table, begin, length, sum);
    for (uint32_t k = 1; k < n; ++k) add_noise<kKind, false>(block, keys[k], coefs[k], table, begin, length, sum);
  }
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
  for_each_block<kNoiseChunk * sizeof(float)>(
      exec, chunks(end - start, kNoiseChunk),
      [=] TN_KERNEL(const Block& block) {
        const int64_t at = start + block.index * kNoiseChunk, first = at < begin ? begin : at;
        const int64_t last = end - at < kNoiseChunk ? end : at + kNoiseChunk;
        int64_t done = 0;  // of this chunk
#if !TN_GPU && defined(__AVX512BW__)
        if constexpr (kKind == Noise::kNormalTable)
          if (terms.n == 1 && !relative && first == at)
            done = displace_by_table(terms.keys[0], terms.coefs[0], static_cast<uint64_t>(at), last - at, from + at, to + (at - begin));
        if (first + done == last) return;
#endif
        const int64_t begun = done ? at + done : first, n = last - begun;
        float* const all = block.shared<float>();
        terms.template add_up<kKind>(block, table, static_cast<uint64_t>(at + done), last - at - done, all);
        const float* const sum = all + (begun - at - done);
        const From* const w = from + begun;
        To* const out = to + (begun - begin);
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
  for_each_block<2 * kNoiseChunk * sizeof(float)>(
      exec, chunks(n, kNoiseChunk),
      [=] TN_KERNEL(const Block& block) {
        const Chunk whole(block, n, kNoiseChunk);
        int64_t done = 0;
#if !TN_GPU && defined(__AVX512BW__)
        if constexpr (kKind == Noise::kNormalTable)
          if (terms.n == 1 && !relative) done = update_by_table(terms.keys[0], terms.coefs[0], decay, whole.begin, whole.n, weight);
        if (done == whole.n) return;
#endif
        const Chunk chunk(whole.begin + done, whole.n - done);
        float* const sum = block.shared<float>();
        terms.template add_up<kKind>(block, table, static_cast<uint64_t>(chunk.begin), chunk.n, sum);
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
