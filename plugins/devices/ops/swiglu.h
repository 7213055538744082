// SwiGLU (Shazeer 2020): out = silu(gate) · up, and its gradient.
#pragma once

#include "devices/ops/view.h"
#include "sdk/vector_math.h"

namespace tenon::ops {

template <class T>
struct Swiglu {
  Grid grid;
  Rows<const T> gate, up;
  Rows<T> out;
  TN_FN void operator()(const sdk::Block& block) const {
    const Tile t = tile_of(grid, block.index);
    const T *g = gate.row(t.row) + t.begin, *u = up.row(t.row) + t.begin;
    T* o = out.row(t.row) + t.begin;
    block.each(t.size, [=](int64_t i) {
      const float x = sdk::to_float(g[i]);
      o[i] = sdk::from_float<T>(x / (1.0f + sdk::vexp(-x)) * sdk::to_float(u[i]));
    });
  }
};

// d silu(x) = s · (1 + x · (1 − s)), s = sigmoid(x).
template <class T>
struct SwigluBackward {
  Grid grid;
  Rows<const T> dout, gate, up;
  Rows<T> dgate, dup;
  TN_FN void operator()(const sdk::Block& block) const {
    const Tile t = tile_of(grid, block.index);
    const T *d = dout.row(t.row) + t.begin, *g = gate.row(t.row) + t.begin, *u = up.row(t.row) + t.begin;
    T *dg = dgate.row(t.row) + t.begin, *du = dup.row(t.row) + t.begin;
    block.each(t.size, [=](int64_t i) {
      const float x = sdk::to_float(g[i]), w = sdk::to_float(u[i]), dy = sdk::to_float(d[i]);
      const float s = 1.0f / (1.0f + sdk::vexp(-x)), silu = x * s;
      dg[i] = sdk::from_float<T>(dy * w * (s + silu * (1.0f - s)));
      du[i] = sdk::from_float<T>(dy * silu);
    });
  }
};

inline void swiglu(const tn_exec& exec, const tn_tensor& gate, const tn_tensor& up, const tn_tensor& out) {
  for (const tn_tensor* t : {&up, &out}) {
    same_shape(gate, *t, "swiglu: gate and an operand");
    expect_type(*t, gate.dtype, "swiglu: every operand", "of one type");
  }
  const bool dense = sdk::is_contiguous(gate) && sdk::is_contiguous(up) && sdk::is_contiguous(out);
  with_activation(gate.dtype, "swiglu: gate", [&]<class T>(T) {
    const auto view = [&]<class U>(const tn_tensor& t, U*) {
      const auto r = rows_of<U>(t, "swiglu: an operand");
      return dense ? flat(r) : r;
    };
    const auto g = view(gate, static_cast<const T*>(nullptr));
    const Grid grid(g.n, g.cols);
    sdk::for_each_block(
        &exec, grid.blocks(),
        Swiglu<T>{grid, g, view(up, static_cast<const T*>(nullptr)), view(out, static_cast<T*>(nullptr))},
        grid.elements());
  });
}

inline void swiglu_backward(const tn_exec& exec, const tn_tensor& dout, const tn_tensor& gate, const tn_tensor& up,
                            const tn_tensor& dgate, const tn_tensor& dup) {
  bool dense = sdk::is_contiguous(gate);
  for (const tn_tensor* t : {&dout, &up, &dgate, &dup}) {
    same_shape(gate, *t, "swiglu_backward: gate and an operand");
    expect_type(*t, gate.dtype, "swiglu_backward: every operand", "of one type");
    dense = dense && sdk::is_contiguous(*t);
  }
  with_activation(gate.dtype, "swiglu_backward: gate", [&]<class T>(T) {
    const auto view = [&]<class U>(const tn_tensor& t, U*) {
      const auto r = rows_of<U>(t, "swiglu_backward: an operand");
      return dense ? flat(r) : r;
    };
    constexpr const T* in = nullptr;
    constexpr T* out = nullptr;
    const auto g = view(gate, in);
    const Grid grid(g.n, g.cols);
    sdk::for_each_block(&exec, grid.blocks(),
                        SwigluBackward<T>{grid, view(dout, in), g, view(up, in), view(dgate, out), view(dup, out)},
                        grid.elements());
  });
}

}  // namespace tenon::ops
