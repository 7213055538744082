// Element-wise work of the fast weights' own gradient step and of its adjoint.
//
// Rows of a chunk are [head, row, width] in f32: a = W0 k, b = W2 k and r = W1ᵀ v in width h; s = silu(a).
#pragma once

#include <cmath>

#include "sdk/for_each.h"
#include "sdk/mixer_kernels.h"

namespace tenon::lact {

using sdk::sigmoid, sdk::silu, sdk::silu_slope;

TN_FN float silu_curve(float x) {  // the second derivative
  const float s = sigmoid(x);
  return s * (1.0f - s) * (2.0f + x * (1.0f - 2.0f * s));
}

// u = s ⊙ b.
struct Gate {
  const float *a, *b;
  float* u;
  TN_FN void operator()(int64_t i) const { u[i] = silu(a[i]) * b[i]; }
};
// From du to da and db, in the places of a and b.
struct GateBackward {
  float *a, *b;
  const float* du;
  TN_FN void operator()(int64_t i) const {
    const float x = a[i], y = b[i], d = du[i];
    a[i] = d * y * silu_slope(x), b[i] = d * silu(x);
  }
};

// The rows whose products with v and k are the gradients: p0 = lr0 r b s′, p1 = lr1 s b, p2 = lr2 r s. lr is [head, row, 3].
struct Pull {
  int64_t width;  // h
  const float *a, *b, *r, *lr;
  float *p0, *p1, *p2;
  TN_FN void operator()(int64_t i) const {
    const float *const rate = lr + i / width * 3, s = silu(a[i]);
    p0[i] = rate[0] * r[i] * b[i] * silu_slope(a[i]);
    p1[i] = rate[1] * s * b[i];
    p2[i] = rate[2] * r[i] * s;
  }
};
// From their gradients to da, db, dr (in the places of a, b and r) and dlr. One block a row and head.
struct PullBackward {
  int64_t width;
  float *a, *b, *r;
  const float *lr, *dp0, *dp1, *dp2;
  float* d_lr;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t at = block.index * width;
    float *const pa = a + at, *const pb = b + at, *const pr = r + at;
    const float *const d0 = dp0 + at, *const d1 = dp1 + at, *const d2 = dp2 + at, *const rate = lr + block.index * 3;
    float* const to = d_lr + block.index * 3;
    const float of0 = block.sum(width, [=](int64_t i) { return d0[i] * pr[i] * pb[i] * silu_slope(pa[i]); });
    const float of1 = block.sum(width, [=](int64_t i) { return d1[i] * silu(pa[i]) * pb[i]; });
    const float of2 = block.sum(width, [=](int64_t i) { return d2[i] * pr[i] * silu(pa[i]); });
    block.each(1, [=](int64_t) { to[0] = of0, to[1] = of1, to[2] = of2; });
    const float l0 = rate[0], l1 = rate[1], l2 = rate[2];
    block.each(width, [=](int64_t i) {
      const float x = pa[i], y = pb[i], z = pr[i], s = silu(x), slope = silu_slope(x);
      const float g0 = l0 * d0[i], g1 = l1 * d1[i], g2 = l2 * d2[i];
      pa[i] = (g1 * y + g2 * z) * slope + g0 * z * y * silu_curve(x);
      pb[i] = g1 * s + g0 * z * slope;
      pr[i] = g2 * s + g0 * y * slope;
    });
  }
};

// Fast weights as numbers: W0 [head, h, d], W2 [head, h, d], W1 [head, d, h], behind one another; R rows of d, d and h numbers.
struct Layout {
  int64_t heads, d, h;
  TN_FN int64_t part() const { return heads * h * d; }
  TN_FN int64_t size() const { return 3 * part(); }
  TN_FN int64_t rows() const { return heads * (2 * h + d); }
  TN_FN int64_t row_width(int64_t row) const { return row < 2 * heads * h ? d : h; }
  TN_FN int64_t row_begin(int64_t row) const { return row < 2 * heads * h ? row * d : 2 * part() + (row - 2 * heads * h) * h; }
  TN_FN int64_t head(int64_t i) const { return i % part() / (h * d); }
};

// to = factor[head] · from.
struct ScaleHeads {
  Layout at;
  const float *from, *factor;
  float* to;
  TN_FN void operator()(int64_t i) const { to[i] = factor[at.head(i)] * from[i]; }
};
struct Add {
  const float *a, *b;
  float* to;
  TN_FN void operator()(int64_t i) const { to[i] = a[i] + b[i]; }
};
// out[head] = <a, b> over the three matrices. One block a head.
struct HeadProducts {
  Layout at;
  const float *a, *b;
  float* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = at.h * at.d, part = at.part(), first = block.index * n;
    const float *const x = a + first, *const y = b + first;
    float* const to = out + block.index;
    const float sum = block.sum(3 * n, [=](int64_t i) { return x[i / n * part + i % n] * y[i / n * part + i % n]; });
    block.each(1, [=](int64_t) { *to = sum; });
  }
};

// Every row has the length that it began with: w = raw / (|raw| + ε) · norm. One block a row.
struct RowNorms {
  Layout at;
  const float* w;
  float* norm;
  TN_FN void operator()(const sdk::Block& block) const {
    const float* const from = w + at.row_begin(block.index);
    float* const to = norm + block.index;
    const float n = std::sqrt(block.sum(at.row_width(block.index), [=](int64_t i) { return from[i] * from[i]; }));
    block.each(1, [=](int64_t) { *to = n; });
  }
};
inline constexpr float kRowFloor = 1e-5f;
struct Rescale {
  Layout at;
  const float *raw, *norm;
  float* w;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = at.row_begin(block.index), n = at.row_width(block.index);
    const float* const from = raw + begin;
    float* const to = w + begin;
    const float length = std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; })), f = norm[block.index] / (length + kRowFloor);
    block.each(n, [=](int64_t i) { to[i] = from[i] * f; });
  }
};
// d, the gradient of w, becomes that of raw; d_norm += that of the length.
struct RescaleBackward {
  Layout at;
  const float *raw, *norm;
  float *d, *d_norm;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = at.row_begin(block.index), n = at.row_width(block.index);
    const float* const from = raw + begin;
    float *const to = d + begin, *const out = d_norm + block.index;
    const float length = std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; })), r = 1 / (length + kRowFloor), f = norm[block.index] * r;
    const float along = block.sum(n, [=](int64_t i) { return to[i] * from[i]; }), pull = length > 0 ? along * r / length : 0.0f;
    block.each(1, [=](int64_t) { *out += along * r; });
    block.each(n, [=](int64_t i) { to[i] = f * (to[i] - from[i] * pull); });
  }
};
// d += d_norm · w / |w|: the lengths come from the weights at the start.
struct RowNormsBackward {
  Layout at;
  const float *w, *norm, *d_norm;
  float* d;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = at.row_begin(block.index);
    const float* const from = w + begin;
    float* const to = d + begin;
    const float length = norm[block.index], f = length > 0 ? d_norm[block.index] / length : 0.0f;
    block.each(at.row_width(block.index), [=](int64_t i) { to[i] += f * from[i]; });
  }
};

}  // namespace tenon::lact
