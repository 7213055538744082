// Stochastic rounding and random fill, keyed by the counter-based generator alone: equal keys give equal numbers
// whatever the tiling.
#pragma once

#include <cmath>

#include "devices/ops/view.h"
#include "sdk/philox.h"
#include "sdk/vector_trig.h"
#include "tenon/ops.h"

namespace tenon::ops {

// The generator's words for elements [begin, begin + n), `per` elements of a block of four words: one SIMD lane per
// block.
TN_FN void random_words(const sdk::Block& block, const tn_rng& rng, int64_t begin, int64_t n, int64_t per,
                        uint32_t* words) {
  const uint64_t first = static_cast<uint64_t>(begin / per);
  block.each((n + per - 1) / per, [=](int64_t i) {
    const sdk::Words w = sdk::philox(rng, first + static_cast<uint64_t>(i));
    words[4 * i] = w.w[0], words[4 * i + 1] = w.w[1], words[4 * i + 2] = w.w[2], words[4 * i + 3] = w.w[3];
  });
}

struct RoundStochastic {
  static constexpr int64_t kElements = 2048, kPerBlock = 8, kShared = kElements / kPerBlock * 16;
  const float* x;
  int64_t n;
  tn_rng rng;
  sdk::bf16* y;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kElements, size = n - begin < kElements ? n - begin : kElements;
    // Half-word e is noise16 of element e; one SIMD lane per block of the generator.
    uint16_t* const halves = block.shared<uint16_t>();
    const uint64_t first = static_cast<uint64_t>(begin / kPerBlock);
    const tn_rng key = rng;
    block.each((size + kPerBlock - 1) / kPerBlock, [=](int64_t i) {
      const sdk::Words v = sdk::philox(key, first + static_cast<uint64_t>(i));
      uint16_t* const h = halves + 8 * i;
      h[0] = static_cast<uint16_t>(v.w[0]), h[1] = static_cast<uint16_t>(v.w[0] >> 16);
      h[2] = static_cast<uint16_t>(v.w[1]), h[3] = static_cast<uint16_t>(v.w[1] >> 16);
      h[4] = static_cast<uint16_t>(v.w[2]), h[5] = static_cast<uint16_t>(v.w[2] >> 16);
      h[6] = static_cast<uint16_t>(v.w[3]), h[7] = static_cast<uint16_t>(v.w[3] >> 16);
    });
    const float* const from = x + begin;
    sdk::bf16* const to = y + begin;
    block.each(size, [=](int64_t i) { to[i].bits = sdk::round_stochastic_bf16(from[i], halves[i]); });
  }
};

template <class T>
struct FillRandom {
  static constexpr int64_t kElements = 2048;
  // A normal element takes two words (Box–Muller, as sdk::normal), a uniform one takes one.
  static constexpr int64_t kShared = kElements / 2 * 16;
  T* x;
  int64_t n;
  tn_rng rng;
  bool normal;
  float mean, std;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kElements, size = n - begin < kElements ? n - begin : kElements;
    uint32_t* const words = block.shared<uint32_t>();
    T* const to = x + begin;
    const float m = mean, s = std;
    if (normal) {
      random_words(block, rng, begin, size, 2, words);
      const auto pair = [=](int64_t i) {
        const float u1 = (static_cast<float>(words[4 * i] >> 8) + 1.0f) * 0x1p-24f,
                    u2 = static_cast<float>(words[4 * i + 1] >> 8) * 0x1p-24f;
        const float radius = std::sqrt(-2.0f * sdk::vlog(u1));
        const sdk::SinCos a = sdk::vsin_cos(6.28318530717958647692f * u2);
        return sdk::SinCos{radius * a.sin, radius * a.cos};
      };
      block.each(size / 2, [=](int64_t i) {
        const sdk::SinCos v = pair(i);
        to[2 * i] = sdk::from_float<T>(m + s * v.cos);
        to[2 * i + 1] = sdk::from_float<T>(m + s * v.sin);
      });
      block.each(size % 2, [=](int64_t) { to[size - 1] = sdk::from_float<T>(m + s * pair(size / 2).cos); });
    } else {
      random_words(block, rng, begin, size, 4, words);
      block.each(size, [=](int64_t i) {
        const float u = static_cast<float>(words[i] >> 8) * 0x1p-24f;
        to[i] = sdk::from_float<T>(m + s * (2.0f * u - 1.0f));
      });
    }
  }
};

inline void round_stochastic(const tn_exec& exec, const tn_tensor& x, const tn_rng& rng, const tn_tensor& y) {
  same_shape(x, y, "round_stochastic: x and y");
  const int64_t n = sdk::count(x);
  const auto* from = vector_of<const float>(x, n, sdk::kF32, "round_stochastic: x", "f32");
  auto* to = vector_of<sdk::bf16>(y, n, sdk::kBF16, "round_stochastic: y", "bf16");
  constexpr int64_t kElements = RoundStochastic::kElements;
  sdk::for_each_block<RoundStochastic::kShared>(&exec, (n + kElements - 1) / kElements,
                                                RoundStochastic{from, n, rng, to});
}

inline void fill_random(const tn_exec& exec, uint32_t kind, double mean, double std, const tn_rng& rng,
                        const tn_tensor& x) {
  if (kind != TN_FILL_NORMAL && kind != TN_FILL_UNIFORM)
    fail(TN_E_ARGUMENT, "fill_random: kind " + std::to_string(kind) + " is unknown");
  if (!sdk::is_contiguous(x)) fail(TN_E_UNSUPPORTED, "fill_random: x must be contiguous");
  const int64_t n = sdk::count(x);
  sdk::with_float_type(x.dtype, "fill_random: x", [&]<class T>(T) {
    constexpr int64_t kElements = FillRandom<T>::kElements;
    sdk::for_each_block<FillRandom<T>::kShared>(&exec, (n + kElements - 1) / kElements,
                                                FillRandom<T>{sdk::data<T>(x), n, rng, kind == TN_FILL_NORMAL,
                                                              static_cast<float>(mean), static_cast<float>(std)});
  });
}

}  // namespace tenon::ops
