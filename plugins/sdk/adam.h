// Adam, shared by every rule built on it (Kingma and Ba 2014; Loshchilov and Hutter 2019).
//
// m ← β1 m + (1 − β1) g, v ← β2 v + (1 − β2) g², and the direction, with c1 = 1 − β1^t and c2 = 1 − β2^t, is
//   exact: (m / c1) / (√(v / c2) + ε)           hf: (√c2 / c1) · m / (√v + ε), as in Hugging Face's first AdamW
// Decay multiplies the weight by 1 − lr · weight_decay before (pre) or after (post) the step.
#pragma once

#include "sdk/adam_rule.h"
#include "sdk/parameters.h"
#include "sdk/plugin.h"
#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/adam_avx512.h"
#endif

namespace tenon::sdk {

// One update of a parameter with its averages m and v, and with `vmax` (AMSGrad: the largest v so far stands in the
// root) if Max.
template <bool Max>
void adam_update(const tn_exec* exec, const AdamNumbers& a, int64_t n, Stored grad, Stored weight, Stored m, Stored v,
                 Stored vmax) {
  for_each_block<5 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        Chunk chunk(block, n);
#if !TN_GPU && defined(__AVX512BW__)
        const int64_t whole = adam_groups<Max>(a, chunk, grad, weight, m, v, vmax);
        chunk = {chunk.begin + whole, chunk.n - whole};
#endif
        float* stage = block.shared<float>();
        const float* g = grad.read(block, chunk, stage);
        float* w = weight.read(block, chunk, stage + kChunk);
        float* pm = m.read(block, chunk, stage + 2 * kChunk);
        float* pv = v.read(block, chunk, stage + 3 * kChunk);
        float* px = Max ? vmax.read(block, chunk, stage + 4 * kChunk) : nullptr;
        block.each(chunk.n, [=](int64_t i) {
          const float x = g[i] * a.grad_scale;
          const float mi = decayed(a.a1, pm[i], x);
          const float vi = decayed(a.a2, pv[i], x * x);
          pm[i] = mi, pv[i] = vi;
          float root = vi;
          if constexpr (Max) px[i] = root = px[i] > vi ? px[i] : vi;
          w[i] = stepped(a, w[i], adam_ratio(a, mi, root));
        });
        weight.write(block, chunk, w);
        m.write(block, chunk, pm);
        v.write(block, chunk, pv);
        if constexpr (Max) vmax.write(block, chunk, px);
      },
      kChunk);
}

// Adam whose states are whole values in slots `first`, `first` + 1 (and + 2 for AMSGrad).
inline void adam_update(const tn_exec* exec, const AdamSettings& s, const tn_item& item, bool amsgrad,
                        uint32_t first = 0) {
  const int64_t n = count(*item.param);
  const AdamNumbers a(s, item);
  const Stored g = gradient_of(item), w = weight_of(item), m = state_of(item, first, n),
               v = state_of(item, first + 1, n);
  if (amsgrad)
    adam_update<true>(exec, a, n, g, w, m, v, state_of(item, first + 2, n));
  else
    adam_update<false>(exec, a, n, g, w, m, v, {});
}

// The direction alone: u (in: the gradient) becomes m / denominator; the caller's step is lr · a.direction.
inline void adam_direction(const tn_exec* exec, const AdamNumbers& a, int64_t n, float* u, Stored m, Stored v) {
  for_each_block<2 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        float* stage = block.shared<float>();
        float *pm = m.read(block, chunk, stage), *pv = v.read(block, chunk, stage + kChunk), *pu = u + chunk.begin;
        block.each(chunk.n, [=](int64_t i) {
          const float x = pu[i] * a.grad_scale;
          pm[i] = decayed(a.a1, pm[i], x), pv[i] = decayed(a.a2, pv[i], x * x);
          pu[i] = adam_ratio(a, pm[i], pv[i]);
        });
        m.write(block, chunk, pm);
        v.write(block, chunk, pv);
      },
      kChunk);
}

// What a method for matrices leaves to AdamW, in the states of adam_declare.
inline void adam_declare(const tn_state_sink& sink, const tn_param& p, tn_dtype dtype = kF32) {
  declare_like(sink, "exp_avg", dtype, p);
  declare_like(sink, "exp_avg_sq", dtype, p);
}
inline void adam_estimate(const Parameters::Entry& e, tn_estimate& out, tn_dtype dtype = kF32) {
  const double n = static_cast<double>(e.n);
  out.state_bytes = 2 * static_cast<uint64_t>(e.n) * dtype.bits / 8;
  out.flops = 14 * n;
  out.bytes_moved = 2 * static_cast<double>(out.state_bytes) + 3 * n * e.info.dtype.bits / 8;
}

// Schema entries that the family shares.
inline constexpr tn_hyper_info kHyperBeta1 =
    real("beta1", "0.9", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "decay of the gradient's average");
inline constexpr tn_hyper_info kHyperBeta2 =
    real("beta2", "0.999", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "decay of the squared gradient's average");
constexpr tn_hyper_info hyper_eps(const char* fallback) {
  return real("eps", fallback, 0, kInfinity, TN_RANGE_OPEN_MAX, nullptr, "added to the root");
}
constexpr tn_hyper_info hyper_weight_decay(const char* fallback) {
  return real("weight_decay", fallback, 0, kInfinity, TN_RANGE_OPEN_MAX, "1/lr",
              "decoupled: the weight shrinks by lr * weight_decay a step");
}
constexpr tn_hyper_info hyper_decay(const char* fallback) {
  return choice("decay", fallback, "pre|post", "weight decay before or after the step");
}

}  // namespace tenon::sdk
