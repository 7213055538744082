// RMSNorm (Zhang & Sennrich 2019), forward and backward.
#pragma once

#include <cmath>

#include "devices/ops/column_sums.h"
#include "devices/ops/view.h"

namespace tenon::ops {

// One block per row: y = x · rstd · weight.
template <class T, class W>
struct RmsNorm {
  Rows<const T> x;
  const W* weight;
  float eps;
  Rows<T> y;
  float* rstd;  // or null
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = x.cols;
    const T* from = x.row(block.index);
    T* to = y.row(block.index);
    const W* w = weight;
    const float squares = block.sum(n, [=](int64_t i) {
      const float v = sdk::to_float(from[i]);
      return v * v;
    });
    const float r = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    block.each(n, [=](int64_t i) { to[i] = sdk::from_float<T>(sdk::to_float(from[i]) * r * sdk::to_float(w[i])); });
    float* const kept = rstd;
    const int64_t row = block.index;
    if (kept) block.each(1, [=](int64_t) { kept[row] = r; });
  }
};

// One block per row: dx = beta · dx + rstd · (dy·w − x · rstd² · mean(dy·w·x)).
template <class T, class W>
struct RmsNormBackward {
  Rows<const T> dy, x;
  const W* weight;
  const float* rstd;
  float beta;
  Rows<T> dx;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = x.cols;
    const T *g = dy.row(block.index), *from = x.row(block.index);
    T* to = dx.row(block.index);
    const W* w = weight;
    const float r = rstd[block.index], keep = beta;
    const float dot =
        block.sum(n, [=](int64_t i) { return sdk::to_float(g[i]) * sdk::to_float(w[i]) * sdk::to_float(from[i]); });
    const float c = r * r * r * dot / static_cast<float>(n);
    const auto gradient = [=](int64_t i) {
      return sdk::to_float(g[i]) * sdk::to_float(w[i]) * r - sdk::to_float(from[i]) * c;
    };
    if (keep == 0.0f) {
      block.each(n, [=](int64_t i) { to[i] = sdk::from_float<T>(gradient(i)); });
    } else {
      block.each(n, [=](int64_t i) { to[i] = sdk::from_float<T>(gradient(i) + keep * sdk::to_float(to[i])); });
    }
  }
};

// Summand of dweight: dy · x · rstd.
template <class T>
struct NormWeightTerm {
  Rows<const T> dy, x;
  const float* rstd;
  struct Row {
    const T *dy, *x;
    float rstd;
    TN_FN float operator()(int64_t i) const { return sdk::to_float(dy[i]) * sdk::to_float(x[i]) * rstd; }
  };
  TN_FN Row row(int64_t r) const { return {dy.row(r), x.row(r), rstd[r]}; }
};

inline void rms_norm(const tn_exec& exec, const tn_tensor& x, const tn_tensor& weight, double eps, const tn_tensor& y,
                     const tn_tensor* rstd) {
  same_shape(x, y, "rms_norm: x and y");
  expect_type(y, x.dtype, "rms_norm: y", "of the type of x");
  if (!(eps >= 0)) fail(TN_E_ARGUMENT, "rms_norm: eps must not be negative");
  with_activation(x.dtype, "rms_norm: x", [&]<class T>(T) {
    const auto in = rows_of<const T>(x, "rms_norm: x");
    float* const kept = rstd ? vector_of<float>(*rstd, in.n, sdk::kF32, "rms_norm: rstd", "f32") : nullptr;
    sdk::with_float_type(weight.dtype, "rms_norm: weight", [&]<class W>(W) {
      const W* w = vector_of<const W>(weight, in.cols, weight.dtype, "rms_norm: weight", "");
      sdk::for_each_block(&exec, in.n,
                          RmsNorm<T, W>{in, w, static_cast<float>(eps), rows_of<T>(y, "rms_norm: y"), kept}, in.cols);
    });
  });
}

inline void rms_norm_backward(const tn_exec& exec, const tn_tensor& dy, const tn_tensor& x, const tn_tensor& weight,
                              const tn_tensor& rstd, double beta, const tn_tensor& dx, const tn_tensor* dweight) {
  same_shape(x, dy, "rms_norm_backward: x and dy");
  same_shape(x, dx, "rms_norm_backward: x and dx");
  expect_type(dy, x.dtype, "rms_norm_backward: dy", "of the type of x");
  expect_type(dx, x.dtype, "rms_norm_backward: dx", "of the type of x");
  with_activation(x.dtype, "rms_norm_backward: x", [&]<class T>(T) {
    const auto g = rows_of<const T>(dy, "rms_norm_backward: dy"), in = rows_of<const T>(x, "rms_norm_backward: x");
    const float* r = vector_of<const float>(rstd, in.n, sdk::kF32, "rms_norm_backward: rstd", "f32");
    if (dweight) {
      float* const dw = vector_of<float>(*dweight, in.cols, sdk::kF32, "rms_norm_backward: dweight", "f32");
      add_column_sums(exec, in.n, in.cols, NormWeightTerm<T>{g, in, r}, dw);
    }
    sdk::with_float_type(weight.dtype, "rms_norm_backward: weight", [&]<class W>(W) {
      const W* w = vector_of<const W>(weight, in.cols, weight.dtype, "rms_norm_backward: weight", "");
      sdk::for_each_block(
          &exec, in.n,
          RmsNormBackward<T, W>{g, in, w, r, static_cast<float>(beta), rows_of<T>(dx, "rms_norm_backward: dx")},
          in.cols);
    });
  });
}

}  // namespace tenon::ops
