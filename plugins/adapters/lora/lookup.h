// LoRA on the embedding (PEFT's lora_embedding_A and _B): A [r, V], B [n, r], and the delta of the table is s Aᵀ Bᵀ.
//
//   U = (A[:, x])ᵀ,  Y = W[x] + s U Bᵀ
//   dB = s dYᵀ U,  dU = s dY B,  dA[:, x_t] += dU_t
//
// Nothing is dropped, as in PEFT, and nothing saved but x: U is gathered again.
#pragma once

#include "sdk/adapter/low_rank.h"

namespace tenon::lora {

using sdk::Matrix;

// u[t, k] = a[k, x[t]]
template <class T>
void gather_factor(const tn_exec* exec, const float* a, int64_t vocabulary, const int32_t* x, int64_t rows, int64_t r, T* u) {
  sdk::for_each(exec, rows * r, [=] TN_KERNEL(int64_t i) { u[i] = sdk::from_float<T>(a[i % r * vocabulary + x[i / r]]); });
}

// da[k, x[t]] += du[t, k]; a row of A has one thread, so the order of the sums is that of the tokens.
template <class T>
void scatter_factor(const tn_exec* exec, const T* du, const int32_t* x, int64_t rows, int64_t r, int64_t vocabulary, float* da) {
  sdk::for_each(exec, r, [=] TN_KERNEL(int64_t k) {
    for (int64_t t = 0; t < rows; ++t) da[k * vocabulary + x[t]] += sdk::to_float(du[t * r + k]);
  });
}

// Measures and computes through one Scratch, as LowRank; call is null when measuring.
class Lookup {
 public:
  Lookup(int64_t vocabulary, int64_t width, int64_t r, double scale) : f_{width, vocabulary, r, scale} {}

  int64_t width() const { return f_.m; }
  const sdk::LowRank& factors() const { return f_; }

  void forward(sdk::Scratch& s, const tn_adapter_call* call, const int32_t* x, int64_t rows, const Matrix* y) const {
    if (call && (call->flags & TN_CALL_SAVE)) sdk::check(call->saver->keep_input(call->saver->self, sdk::LowRank::kX));
    if (!y) return;
    const uint64_t mark = s.mark();
    s.product(f_.scale * f_.strength(call), gathered(s, call, x, rows), f_.b(call).transposed(), 1, *y);
    s.release(mark);
  }

  void backward(sdk::Scratch& s, const tn_adapter_call* call, const Matrix& dy) const {
    const uint64_t mark = s.mark();
    const double factor = f_.scale * f_.strength(call);
    const int32_t* x = call ? sdk::contiguous<int32_t>(sdk::saved(*call, sdk::LowRank::kX)->tensor, "the saved token ids") : nullptr;
    if (!call || call->params[1]->grad)
      s.product(factor, dy.transposed(), gathered(s, call, x, dy.rows), 1, call ? Matrix::of(*call->params[1]->grad) : f_.b(call));
    s.release(mark);
    if (!call || call->params[0]->grad) {
      const Matrix du = s.activations(dy.rows, f_.r);
      s.product(factor, dy, f_.b(call), 0, du);
      if (call)
        sdk::with_float_type(du.dtype, "the gradient of the embedding", [&](auto tag) {
          scatter_factor(call->exec, static_cast<const decltype(tag)*>(du.data), x, dy.rows, f_.r, f_.n,
                         sdk::contiguous<float>(call->params[0]->grad, "the gradient of lora_embedding_A"));
        });
    }
    s.release(mark);
  }

  // w[rows, n] (f32) += s · A[:, begin : begin + rows]ᵀ · Bᵀ.
  void merge(sdk::Scratch& s, const Matrix& a, const Matrix& b, int64_t begin, const Matrix& w) const {
    s.product(f_.scale, a.transposed().row_block(begin, w.rows), b.transposed(), 1, w);
  }

 private:
  Matrix gathered(sdk::Scratch& s, const tn_adapter_call* call, const int32_t* x, int64_t rows) const {
    const Matrix u = s.activations(rows, f_.r);
    if (call)
      sdk::with_float_type(u.dtype, "the embedding", [&](auto tag) {
        gather_factor(call->exec, sdk::contiguous<float>(call->params[0]->value, "lora_embedding_A"), f_.n, x, rows, f_.r,
                      static_cast<decltype(tag)*>(u.data));
      });
    return u;
  }

  sdk::LowRank f_;  // of the linear whose weight is the table's transpose
};

}  // namespace tenon::lora
