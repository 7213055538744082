// Rotary position embedding (Su et al. 2021) over the two halves of each head, in place.
#pragma once

#include "devices/ops/view.h"
#include "sdk/vector_trig.h"

namespace tenon::ops {

inline constexpr int64_t kMaxHalfHead = 512;

// One block per token: its angles once, then all heads.
template <class T>
struct Rope {
  T* x;
  int64_t heads, half, token_stride, head_stride;
  const int32_t* positions;
  const float* inv_freq;
  float scale, sign;
  TN_FN void operator()(const sdk::Block& block) const {
    float *const c = block.shared<float>(), *const s = c + kMaxHalfHead;
    const float position = static_cast<float>(positions[block.index]), m = scale, ms = scale * sign;
    const float* const f = inv_freq;
    block.each(half, [=](int64_t j) {
      const sdk::SinCos v = sdk::vsin_cos(position * f[j]);
      c[j] = v.cos * m, s[j] = v.sin * ms;
    });
#if TN_GPU
    // All heads at once: one has too few elements for the threads of a block.
    T* const token = x + block.index * token_stride;
    const uint32_t n = static_cast<uint32_t>(half);
    const int64_t stride = head_stride;
    block.each(heads * half, [=](int64_t i) {
      const uint32_t h = static_cast<uint32_t>(i) / n, j = static_cast<uint32_t>(i) - h * n;
      T *const lo = token + h * stride + j, *const hi = lo + n;
      const float a = sdk::to_float(*lo), b = sdk::to_float(*hi);
      *lo = sdk::from_float<T>(a * c[j] - b * s[j]);
      *hi = sdk::from_float<T>(b * c[j] + a * s[j]);
    });
#else
    for (int64_t h = 0; h < heads; ++h) {
      T *const lo = x + block.index * token_stride + h * head_stride, *const hi = lo + half;
      block.each(half, [=](int64_t j) {
        const float a = sdk::to_float(lo[j]), b = sdk::to_float(hi[j]);
        lo[j] = sdk::from_float<T>(a * c[j] - b * s[j]);
        hi[j] = sdk::from_float<T>(b * c[j] + a * s[j]);
      });
    }
#endif
  }
};

inline void rope(const tn_exec& exec, const tn_tensor& x, const tn_tensor& positions, const tn_tensor& inv_freq,
                 double scale, double sign) {
  if (x.ndim != 3) fail(TN_E_ARGUMENT, "rope: x must be [tokens, heads, d] but is " + shape_text(x));
  if (x.shape[2] % 2 || x.shape[2] > 2 * kMaxHalfHead)
    fail(TN_E_UNSUPPORTED, "rope: a head of " + std::to_string(x.shape[2]) + " must be even and at most " +
                               std::to_string(2 * kMaxHalfHead));
  if (x.shape[2] > 1 && x.strides[2] != 1) fail(TN_E_UNSUPPORTED, "rope: x must have unit stride along a head");
  if (sign != 1.0 && sign != -1.0) fail(TN_E_ARGUMENT, "rope: sign must be +1 or -1");
  const int64_t half = x.shape[2] / 2;
  const auto* p = vector_of<const int32_t>(positions, x.shape[0], sdk::kI32, "rope: positions", "int32");
  const auto* f = vector_of<const float>(inv_freq, half, sdk::kF32, "rope: inv_freq", "f32");
  with_activation(x.dtype, "rope: x", [&]<class T>(T) {
    sdk::for_each_block<2 * kMaxHalfHead * sizeof(float)>(
        &exec, x.shape[0],
        Rope<T>{sdk::data<T>(x), x.shape[1], half, x.strides[0], x.strides[1], p, f, static_cast<float>(scale),
                static_cast<float>(sign)},
        x.shape[1] * x.shape[2]);
  });
}

}  // namespace tenon::ops
