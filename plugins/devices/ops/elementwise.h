// y = alpha · x + beta · y with conversion, bias and its gradient.
#pragma once

#include "devices/ops/column_sums.h"
#include "devices/ops/view.h"

namespace tenon::ops {

template <class X, class Y>
struct Axpby {
  Grid grid;
  float alpha, beta;
  Rows<const X> x;
  Rows<Y> y;
  TN_FN void operator()(const sdk::Block& block) const {
    const Tile t = tile_of(grid, block.index);
    const X* from = x.row(t.row) + t.begin;
    Y* to = y.row(t.row) + t.begin;
    const float a = alpha, b = beta;
    if (b == 0.0f) {
      block.each(t.size, [=](int64_t i) { to[i] = sdk::from_float<Y>(a * sdk::to_float(from[i])); });
    } else {
      block.each(t.size,
                 [=](int64_t i) { to[i] = sdk::from_float<Y>(a * sdk::to_float(from[i]) + b * sdk::to_float(to[i])); });
    }
  }
};

template <class B, class T>
struct BiasAdd {
  Grid grid;
  const B* bias;
  Rows<T> y;
  TN_FN void operator()(const sdk::Block& block) const {
    const Tile t = tile_of(grid, block.index);
    T* to = y.row(t.row) + t.begin;
    const B* b = bias + t.begin;
    block.each(t.size, [=](int64_t i) { to[i] = sdk::from_float<T>(sdk::to_float(to[i]) + sdk::to_float(b[i])); });
  }
};

template <class T>
struct RowTerm {
  Rows<const T> x;
  struct Row {
    const T* x;
    TN_FN float operator()(int64_t i) const { return sdk::to_float(x[i]); }
  };
  TN_FN Row row(int64_t r) const { return {x.row(r)}; }
};

inline void axpby(const tn_exec& exec, double alpha, const tn_tensor& x, double beta, const tn_tensor& y) {
  same_shape(x, y, "axpby: x and y");
  const bool dense = sdk::is_contiguous(x) && sdk::is_contiguous(y);
  sdk::with_float_type(x.dtype, "axpby: x", [&]<class X>(X) {
    sdk::with_float_type(y.dtype, "axpby: y", [&]<class Y>(Y) {
      auto from = rows_of<const X>(x, "axpby: x");
      auto to = rows_of<Y>(y, "axpby: y");
      if (dense) from = flat(from), to = flat(to);
      const Grid grid(to.n, to.cols);
      sdk::for_each_block(&exec, grid.blocks(),
                          Axpby<X, Y>{grid, static_cast<float>(alpha), static_cast<float>(beta), from, to},
                          grid.elements());
    });
  });
}

inline void bias_add(const tn_exec& exec, const tn_tensor& bias, const tn_tensor& y) {
  with_activation(y.dtype, "bias_add: y", [&]<class T>(T) {
    const auto to = rows_of<T>(y, "bias_add: y");
    sdk::with_float_type(bias.dtype, "bias_add: bias", [&]<class B>(B) {
      const B* b = vector_of<const B>(bias, to.cols, bias.dtype, "bias_add: bias", "");
      const Grid grid(to.n, to.cols);
      sdk::for_each_block(&exec, grid.blocks(), BiasAdd<B, T>{grid, b, to}, grid.elements());
    });
  });
}

inline void bias_backward(const tn_exec& exec, const tn_tensor& dy, const tn_tensor& dbias) {
  with_activation(dy.dtype, "bias_backward: dy", [&]<class T>(T) {
    const auto from = rows_of<const T>(dy, "bias_backward: dy");
    float* const to = vector_of<float>(dbias, from.cols, sdk::kF32, "bias_backward: dbias", "f32");
    add_column_sums(exec, from.n, from.cols, RowTerm<T>{from}, to);
  });
}

}  // namespace tenon::ops
