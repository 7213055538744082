// The arithmetic of two thin factors beside a linear (Hu et al. 2021): A [r, n], B [m, r].
//
//   U = dropout(X) Aᵀ,  Y += s U Bᵀ
//   dB = s dYᵀ U,  dU = s dY B,  dA = dUᵀ dropout(X),  dX += mask/(1−p) ⊙ (dU A)
//
// Of a call's parameters the first is A, the second B. Measures and computes through one Scratch.
#pragma once

#include "sdk/adapter/call.h"
#include "sdk/adapter/dropout.h"
#include "sdk/adapter/rows.h"

namespace tenon::sdk {

struct LowRank {
  enum Slot : uint32_t { kU = 0, kX = 1 };
  int64_t m, n, r;
  double scale;

  uint64_t saved_bytes(int64_t rows, tn_dtype compute) const { return aligned(static_cast<uint64_t>(rows * r * (compute.bits / 8))); }

  // Saves U and X where the call saves; y null: nothing else. call is null when measuring.
  void forward(Scratch& s, const tn_adapter_call* call, const Dropout& dropout, const Matrix& x, const Matrix* y) const {
    const uint64_t mark = s.mark();
    Matrix u = s.activations(x.rows, r);
    Matrix input = x;
    if (call ? dropout.drops(*call) : dropout.on()) {
      input = s.activations(x.rows, n);
      if (call) dropout.apply(*call, x, input, false);
    }
    if (call && (call->flags & TN_CALL_SAVE)) {
      const int64_t shape[2] = {x.rows, r};
      tn_tensor* saved = nullptr;
      check(call->saver->alloc(call->saver->self, kU, 2, shape, &x.dtype, &saved));
      check(call->saver->keep_input(call->saver->self, kX));
      u = Matrix::of(*saved);
    }
    s.product(1, input, a(call).transposed(), 0, u);
    if (y) s.product(scale * strength(call), u, b(call).transposed(), 1, *y);
    s.release(mark);
  }

  // Adds to the gradients of A and B, and to dx where it is wanted.
  void backward(Scratch& s, const tn_adapter_call* call, const Dropout& dropout, const Matrix& dy, const Matrix* dx) const {
    const uint64_t mark = s.mark();
    const int64_t rows = dy.rows;
    const bool drops = call ? dropout.drops(*call) : dropout.on();
    const double factor = scale * strength(call);
    const Matrix du = s.activations(rows, r);
    s.product(factor, dy, b(call), 0, du);
    if (!call || call->params[1]->grad) {
      const Matrix u = call ? Matrix::of(*saved(*call, kU)->tensor) : du;
      s.product(factor, dy.transposed(), u, 1, call ? Matrix::of(*call->params[1]->grad) : b(call));
    }
    if (!call || call->params[0]->grad) input_gradient(s, call, dropout, drops, du);
    if (dx) {
      if (!drops) {
        s.product(1, du, a(call), 1, *dx);
      } else {
        const Matrix wide = s.activations(rows, n);
        s.product(1, du, a(call), 0, wide);
        if (call) dropout.apply(*call, wide, *dx, true);
      }
    }
    s.release(mark);
  }

  // w (f32) += s · B[begin : begin + w.rows] · A.
  void merge(Scratch& s, const Matrix& a, const Matrix& b, int64_t begin, const Matrix& w) const {
    s.product(scale, b.row_block(begin, w.rows), a, 1, w);
  }

  static double strength(const tn_adapter_call* call) { return call ? call->scale : 1; }
  Matrix a(const tn_adapter_call* call) const { return call ? Matrix::of(*call->params[0]->value) : Matrix::dense(nullptr, r, n); }
  Matrix b(const tn_adapter_call* call) const { return call ? Matrix::of(*call->params[1]->value) : Matrix::dense(nullptr, m, r); }

 private:
  // dA += dUᵀ dropout(X), over the rows of X that were kept.
  void input_gradient(Scratch& s, const tn_adapter_call* call, const Dropout& dropout, bool drops, const Matrix& du) const {
    const uint64_t mark = s.mark();
    Matrix to = call ? Matrix::of(*call->params[0]->grad) : a(call), left = du;
    const tn_saved* kept = call ? saved(*call, kX) : nullptr;
    const Matrix gathered = s.activations(du.rows, r);
    Matrix x = kept ? Matrix::of(*kept->tensor) : Matrix::dense(nullptr, du.dtype, du.rows, n);
    const int32_t* index = nullptr;
    if (kept && kept->row_index) {
      index = contiguous<int32_t>(kept->row_index, "the index of the saved rows");
      left = gathered, left.rows = x.rows;
      gather_rows(call->exec, du, index, kept->row_weight ? contiguous<float>(kept->row_weight, "the weight of the saved rows") : nullptr, left);
    }
    if (drops) {
      Matrix wide = s.activations(du.rows, n);
      wide.rows = x.rows;
      if (call) dropout.apply(*call, x, wide, false, index);
      x = wide;
    }
    s.product(1, left.transposed(), x, 1, to);
    s.release(mark);
  }
};

}  // namespace tenon::sdk
