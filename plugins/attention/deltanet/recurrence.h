// The delta rule over one window of chunks, as products (Yang et al. 2024, section 3).
//
//   S_t = S_{t−1} + β_t k_t (v_t − k_tᵀ S_{t−1}),   o_t = q_t S_t
//
// A chunk of C rows with incoming state S: T = (I + tril(diag(β) K Kᵀ, −1))⁻¹, W = T diag(β) K, U = T diag(β) V, N = U − W S,
// O = Q S + tril(Q Kᵀ) N, S ← S + Kᵀ N. All but the three products with S are independent between chunks. The query heads of a group
// read one state: their rows stand below one another in Q.
#pragma once

#include "kernels.h"

namespace tenon::deltanet {

using sdk::Matrices;

struct Sizes {
  int64_t kv_heads, group, d, e;
  int64_t heads() const { return kv_heads * group; }
  int64_t state() const { return kv_heads * d * e; }  // of one document
};

using sdk::shift;

class Recurrence {
 public:
  using Window = Schedule::Window;

  Recurrence(const sdk::MixerPass& pass, const Sizes& sizes, const Schedule& schedule, int64_t chunk_rows, bool with_backward)
      : p_(pass), z_(sizes), s_(schedule), c_(chunk_rows), backward_(with_backward) {
    const int64_t m = schedule.most_chunks() * z_.kv_heads, rows = m * c_, queries = rows * z_.group, squares = rows * c_;
    q = p_.floats(queries * z_.d), k = p_.floats(rows * z_.d), v = p_.floats(rows * z_.e), beta = p_.floats(rows);
    o = p_.floats(queries * z_.e);
    inverse_ = p_.floats(squares), scaled_ = p_.floats(squares), scores_ = p_.floats(squares * z_.group), gram_ = p_.floats(squares);
    w_ = p_.floats(rows * z_.d), n_ = p_.floats(rows * z_.e);
    if (!with_backward) return;
    u_ = p_.floats(rows * z_.e), states_ = p_.floats(m * z_.d * z_.e);
    d_o = p_.floats(queries * z_.e), dq = p_.floats(queries * z_.d), dk = p_.floats(rows * z_.d), dv = p_.floats(rows * z_.e), d_beta = p_.floats(rows);
    d_scores_ = p_.floats(squares * z_.group), dn_ = p_.floats(rows * z_.e), dw_ = p_.floats(rows * z_.d), d_bk_ = p_.floats(rows * z_.d);
  }

  // Chunk layout: q [chunk, query head, row, d], k, v [chunk, key head, row, d or e], β [chunk, key head, row], o like q in width e.
  float *q, *k, *v, *beta, *o;
  float *d_o = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr, *d_beta = nullptr;

  // o from q, k, v, β and the state [document, key head, d, e], which moves on.
  void forward(const Window& w, float* state) const {
    const int64_t m = w.chunks * z_.kv_heads, rows = m * c_;
    p_.product(1, keys(m), keys(m).transposed(), 0, square(gram_, m));
    if (!p_.plans()) {
      sdk::for_each_block(p_.exec(), m, Solve{c_, gram_, beta, inverse_, scaled_}, c_ * c_ * c_ / 6);
    }
    p_.product(1, square(scaled_, m), keys(m), 0, of_d(w_, m));
    p_.product(1, square(scaled_, m), values(m), 0, of_e(n_, m));
    if (backward_) p_.copy(n_, u_, rows * z_.e);
    p_.product(1, queries(m), keys(m).transposed(), 0, scores(scores_, m));
    if (!p_.plans()) sdk::for_each(p_.exec(), rows * z_.group * c_, Lower{c_, scores_});
    each_step(w, false, [&](int64_t at, int64_t n) {
      if (backward_) p_.copy(state, shift(states_, at * z_.d * z_.e), n * z_.d * z_.e);
      p_.product(-1, of_d(w_, n, at), states(state, n), 1, of_e(n_, n, at));
      p_.product(1, rows_of_q(q, z_.d, n, at), states(state, n), 0, rows_of_q(o, z_.e, n, at));
      p_.product(1, of_d(k, n, at).transposed(), of_e(n_, n, at), 1, states(state, n));
    });
    p_.product(1, scores(scores_, m), of_e(n_, m), 1, rows_of_q(o, z_.e, m, 0));
  }

  // After forward() of the same window: dq, dk, dv and d_beta from d_o, and the gradient of the state, which moves back.
  void backward(const Window& w, float* d_state) const {
    const int64_t m = w.chunks * z_.kv_heads, rows = m * c_;
    const Matrices g = rows_of_q(d_o, z_.e, m, 0), n = of_e(n_, m), dn = of_e(dn_, m), dw = of_d(dw_, m), d_bk = of_d(d_bk_, m), d_bv = of_e(dv, m);
    p_.product(1, scores(scores_, m).transposed(), g, 0, dn);
    p_.product(1, g, n.transposed(), 0, scores(d_scores_, m));
    if (!p_.plans()) sdk::for_each(p_.exec(), rows * z_.group * c_, Lower{c_, d_scores_});
    each_step(w, true, [&](int64_t at, int64_t count) {
      const Matrices d = states(d_state, count);
      p_.product(1, of_d(k, count, at), d, 1, of_e(dn_, count, at));
      p_.product(1, of_e(n_, count, at), d.transposed(), 0, of_d(dk, count, at));
      p_.product(1, rows_of_q(q, z_.d, count, at).transposed(), rows_of_q(d_o, z_.e, count, at), 1, d);
      p_.product(-1, of_d(w_, count, at).transposed(), of_e(dn_, count, at), 1, d);
    });
    const Matrices s = states(states_, m);
    p_.product(1, g, s.transposed(), 0, rows_of_q(dq, z_.d, m, 0));
    p_.product(1, scores(d_scores_, m), keys(m), 1, rows_of_q(dq, z_.d, m, 0));
    p_.product(1, scores(d_scores_, m).transposed(), queries(m), 1, of_d(dk, m));
    p_.product(-1, dn, s.transposed(), 0, dw);
    p_.product(1, square(inverse_, m).transposed(), dn, 0, d_bv);
    p_.product(1, square(inverse_, m).transposed(), dw, 0, d_bk);
    // dA, in the memory of the Gram matrix; its scaled twin in that of T diag(β).
    p_.product(-1, d_bv, of_e(u_, m).transposed(), 0, square(gram_, m));
    p_.product(-1, d_bk, of_d(w_, m).transposed(), 1, square(gram_, m));
    if (!p_.plans()) sdk::for_each(p_.exec(), rows * c_, StrictLower{c_, beta, gram_, scaled_});
    p_.product(1, square(gram_, m), keys(m), 1, d_bk);
    p_.product(1, square(scaled_, m).transposed(), keys(m), 1, of_d(dk, m));
    if (!p_.plans()) sdk::for_each_block(p_.exec(), rows, Unscale{z_.d, z_.e, beta, k, v, d_bk_, dk, dv, d_beta}, z_.d + z_.e);
  }

 private:
  template <class Body>
  void each_step(const Window& w, bool reverse, Body body) const {
    for (int64_t i = 0; i < w.last_step - w.first_step; ++i) {
      const int64_t step = reverse ? w.last_step - 1 - i : w.first_step + i;
      body((s_.begin(step) - w.first_chunk) * z_.kv_heads, s_.count(step) * z_.kv_heads);
    }
  }
  static Matrices part(float* data, int64_t n, int64_t at, int64_t rows, int64_t columns) {
    return Matrices::dense(shift(data, at * rows * columns), n, rows, columns);
  }
  Matrices of_d(float* x, int64_t n, int64_t at = 0) const { return part(x, n, at, c_, z_.d); }
  Matrices of_e(float* x, int64_t n, int64_t at = 0) const { return part(x, n, at, c_, z_.e); }
  Matrices rows_of_q(float* x, int64_t width, int64_t n, int64_t at) const { return part(x, n, at, c_ * z_.group, width); }
  Matrices queries(int64_t n) const { return rows_of_q(q, z_.d, n, 0); }
  Matrices keys(int64_t n) const { return of_d(k, n); }
  Matrices values(int64_t n) const { return of_e(v, n); }
  Matrices square(float* x, int64_t n) const { return part(x, n, 0, c_, c_); }
  Matrices scores(float* x, int64_t n) const { return part(x, n, 0, c_ * z_.group, c_); }
  Matrices states(float* x, int64_t n) const { return part(x, n, 0, z_.d, z_.e); }

  const sdk::MixerPass& p_;
  Sizes z_;
  const Schedule& s_;
  int64_t c_;
  bool backward_;
  float *inverse_, *scaled_, *scores_, *gram_, *w_, *n_;
  float *u_ = nullptr, *states_ = nullptr, *d_scores_ = nullptr, *dn_ = nullptr, *dw_ = nullptr, *d_bk_ = nullptr;
};

}  // namespace tenon::deltanet
