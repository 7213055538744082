// The fast weights of one document: an MLP per head that is applied to a chunk of queries and then takes one gradient step on the chunk's
// keys and values (Test-Time Training Done Right 2025), and the adjoint of both.
//
//   f(x) = W1 (silu(W0 x) ⊙ W2 x)                                     the step ascends Σ_t v_t · f(k_t):
//   a = W0 k, b = W2 k, s = silu(a), r = W1ᵀ v        G0 = (lr0 r b s′) kᵀ,  G1 = v (lr1 s b)ᵀ,  G2 = (lr2 r s) kᵀ
//   M ← G + mean(m) M,   raw ← base + muon(M),   every row of W ← its row of raw at the length that it began with
//
// base is W, or with prenorm raw itself. The rows of a chunk are [head, row, width], so each product is
// one batch over heads.
#pragma once

#include <optional>

#include "gradient_kernels.h"
#include "muon.h"

namespace tenon::lact {

struct Rule {
  bool muon = true, momentum = true, prenorm = false;
};

class FastWeights {
 public:
  // What lies between two chunks; momentum is null without it.
  struct Boundary {
    float *raw = nullptr, *momentum = nullptr;
  };
  // Where a step begins: behind another one, or from the initial weights.
  struct Source {
    Boundary at{};
    bool stepped = false;
  };

  // chunk: rows of the longest. learns: a step is taken in this pass; moved: one has been taken before some of its rows.
  FastWeights(const sdk::MixerPass& pass, const Layout& layout, const Rule& rule, const float* initial, int64_t chunk, bool learns, bool moved, bool backward)
      : p_(pass), at_(layout), rule_(rule), initial_(initial), learns_(learns) {
    const int64_t n = chunk * at_.heads * at_.d, wide = chunk * at_.heads * at_.h;
    x = p_.floats(n), o = p_.floats(n), a_ = p_.floats(wide), b_ = p_.floats(wide), u_ = p_.floats(wide);
    if (learns) {
      v = p_.floats(n), r_ = p_.floats(wide), p0_ = p_.floats(wide), p2_ = p_.floats(wide);
      lr = p_.floats(chunk * at_.heads * 3), mean = p_.floats(at_.heads);
      if (!rule_.momentum) gradient_ = p_.floats(at_.size());
      if (rule_.muon) open_muon(backward);
    }
    if (moved) {
      w_ = p_.floats(at_.size()), norm_ = p_.floats(at_.rows());
      each_row(RowNorms{at_, initial_, norm_});
    }
    if (!backward) return;
    dx = p_.floats(n), d_o = p_.floats(n), dw = p_.zeros(at_.size());
    if (learns) {
      dv = p_.floats(n), dp0_ = p_.floats(wide), dp1_ = p_.floats(wide), dp2_ = p_.floats(wide), d_lr = p_.floats(chunk * at_.heads * 3), d_mean = p_.floats(at_.heads);
      dm_ = p_.floats(at_.size()), d_raw_ = p_.floats(at_.size()), d_momentum_ = p_.floats(at_.size()), d_norm_ = p_.zeros(at_.rows());
    }
  }

  // Rows of a chunk: queries or keys, values, outputs, rates [head, row, 3]; mean(m) [head].
  float *x, *o, *v = nullptr, *lr = nullptr, *mean = nullptr;
  float *dx = nullptr, *d_o = nullptr, *dv = nullptr, *d_lr = nullptr, *d_mean = nullptr;
  float* dw = nullptr;  // of the weights that are in use; behind a document's first chunk, of the initial ones

  // Before the first chunk of a document, forward or backward.
  void start() { w = initial_; }
  void use(const Boundary& b) {
    each_row(Rescale{at_, b.raw, norm_, w_});
    w = w_;
  }

  // o = f(x).
  void apply(int64_t rows) const {
    through(rows);
    p_.product(1, chunk(u_, rows, at_.h), w1(w).transposed(), 0, chunk(o, rows, at_.d));
  }
  // After apply() of the same rows: dx and dw += from d_o.
  void apply_backward(int64_t rows) const {
    p_.product(1, chunk(d_o, rows, at_.d).transposed(), chunk(u_, rows, at_.h), 1, w1(dw));
    p_.product(1, chunk(d_o, rows, at_.d), w1(w), 0, chunk(u_, rows, at_.h));
    each(rows * at_.heads * at_.h, GateBackward{a_, b_, u_});
    down(rows, 0);
  }

  // The step from `from` to `to`, which may be the same memory; x, v, lr and mean are the chunk's. Uses the new weights.
  void learn(int64_t rows, const Source& from, const Boundary& to) {
    pull(rows);
    float* const m = rule_.momentum ? to.momentum : gradient_;
    const bool carries = rule_.momentum && from.stepped;
    if (carries) each(at_.size(), ScaleHeads{at_, from.at.momentum, mean, m});
    gradients(rows, carries ? 1 : 0, m);
    const float* const step = rule_.muon ? orthogonal(m) : m;
    each(at_.size(), Add{rule_.prenorm && from.stepped ? from.at.raw : w, step, to.raw});
    use(to);
  }

  // Its adjoint, while the weights before it are in use: dw, the gradient of the weights after the step, becomes that of the weights before
  // it; dx, dv, d_lr and d_mean. last: no later step has told what it asks of raw and momentum.
  void learn_backward(int64_t rows, const Source& from, const Boundary& to, bool last) const {
    each_row(RescaleBackward{at_, to.raw, norm_, dw, d_norm_});
    if (!last && rule_.prenorm) each(at_.size(), Add{dw, d_raw_, dw});
    if (rule_.prenorm) p_.copy(dw, d_raw_, at_.size());
    pull(rows);
    if (rule_.muon) {
      const float* m = to.momentum;
      if (!rule_.momentum) gradients(rows, 0, gradient_), m = gradient_;
      orthogonal_backward(m, dw, dm_);
    } else {
      p_.copy(dw, dm_, at_.size());
    }
    if (rule_.momentum && !last) each(at_.size(), Add{dm_, d_momentum_, dm_});
    if (rule_.momentum && from.stepped) {
      each_head(HeadProducts{at_, dm_, from.at.momentum, d_mean});
      each(at_.size(), ScaleHeads{at_, dm_, mean, d_momentum_});
    } else if (rule_.momentum) {
      clear(d_mean, at_.heads);
    }
    if (rule_.prenorm && from.stepped) clear(dw, at_.size());  // its base were not the weights in use; those of the first step were
    const Matrices k = chunk(x, rows, at_.d), values = chunk(v, rows, at_.d), dk = chunk(dx, rows, at_.d), d_values = chunk(dv, rows, at_.d);
    const Matrices dp0 = chunk(dp0_, rows, at_.h), dp1 = chunk(dp1_, rows, at_.h), dp2 = chunk(dp2_, rows, at_.h);
    p_.product(1, values, w1(dm_), 0, dp1);
    p_.product(1, chunk(u_, rows, at_.h), w1(dm_).transposed(), 0, d_values);
    p_.product(1, k, w0(dm_).transposed(), 0, dp0);
    p_.product(1, k, w2(dm_).transposed(), 0, dp2);
    p_.product(1, chunk(p0_, rows, at_.h), w0(dm_), 0, dk);
    p_.product(1, chunk(p2_, rows, at_.h), w2(dm_), 1, dk);
    if (!p_.plans()) sdk::for_each_block(p_.exec(), rows * at_.heads, PullBackward{at_.h, a_, b_, r_, lr, dp0_, dp1_, dp2_, d_lr}, at_.h);
    down(rows, 1);
    const Matrices dr = chunk(r_, rows, at_.h);
    p_.product(1, dr, w1(w).transposed(), 1, d_values);
    p_.product(1, values.transposed(), dr, 1, w1(dw));
  }

  // total += dw of a document and what the lengths of its rows ask of the initial weights.
  void finish(float* total) const {
    each(at_.size(), Add{total, dw, total});
    clear(dw, at_.size());
  }
  // Once, behind all documents.
  void finish_norms(float* total) const {
    if (learns_) each_row(RowNormsBackward{at_, initial_, norm_, d_norm_, total});
  }

 private:
  void clear(float* to, int64_t n) const {
    if (!p_.plans()) sdk::fill_device(p_.exec(), to, 0, static_cast<uint64_t>(n) * sizeof(float));
  }
  template <class F>
  void each(int64_t n, F f) const {
    if (!p_.plans()) sdk::for_each(p_.exec(), n, f);
  }
  template <class F>
  void each_row(F f) const {
    if (!p_.plans()) sdk::for_each_block(p_.exec(), at_.rows(), f, std::max(at_.d, at_.h));
  }
  template <class F>
  void each_head(F f) const {
    if (!p_.plans()) sdk::for_each_block(p_.exec(), at_.heads, f, 3 * at_.h * at_.d);
  }

  Matrices chunk(float* of, int64_t rows, int64_t width) const { return Matrices::dense(of, at_.heads, rows, width); }
  Matrices w0(const float* of) const { return Matrices::dense(const_cast<float*>(of), at_.heads, at_.h, at_.d); }
  Matrices w2(const float* of) const { return Matrices::dense(const_cast<float*>(shift(of, at_.part())), at_.heads, at_.h, at_.d); }
  Matrices w1(const float* of) const { return Matrices::dense(const_cast<float*>(shift(of, 2 * at_.part())), at_.heads, at_.d, at_.h); }

  // a, b and u of x.
  void through(int64_t rows) const {
    p_.product(1, chunk(x, rows, at_.d), w0(w).transposed(), 0, chunk(a_, rows, at_.h));
    p_.product(1, chunk(x, rows, at_.d), w2(w).transposed(), 0, chunk(b_, rows, at_.h));
    each(rows * at_.heads * at_.h, Gate{a_, b_, u_});
  }
  // From da and db (in a and b): dx = beta · dx + …, dw += ….
  void down(int64_t rows, double beta) const {
    const Matrices in = chunk(x, rows, at_.d), to = chunk(dx, rows, at_.d), da = chunk(a_, rows, at_.h), db = chunk(b_, rows, at_.h);
    p_.product(1, da, w0(w), beta, to);
    p_.product(1, db, w2(w), 1, to);
    p_.product(1, da.transposed(), in, 1, w0(dw));
    p_.product(1, db.transposed(), in, 1, w2(dw));
  }
  // a, b, r, and p0, p1 (in u), p2.
  void pull(int64_t rows) const {
    p_.product(1, chunk(x, rows, at_.d), w0(w).transposed(), 0, chunk(a_, rows, at_.h));
    p_.product(1, chunk(x, rows, at_.d), w2(w).transposed(), 0, chunk(b_, rows, at_.h));
    p_.product(1, chunk(v, rows, at_.d), w1(w), 0, chunk(r_, rows, at_.h));
    each(rows * at_.heads * at_.h, Pull{at_.h, a_, b_, r_, lr, p0_, u_, p2_});
  }
  void gradients(int64_t rows, double beta, float* to) const {
    const Matrices k = chunk(x, rows, at_.d);
    p_.product(1, chunk(p0_, rows, at_.h).transposed(), k, beta, w0(to));
    p_.product(1, chunk(p2_, rows, at_.h).transposed(), k, beta, w2(to));
    p_.product(1, chunk(v, rows, at_.d).transposed(), chunk(u_, rows, at_.h), beta, w1(to));
  }

  // All matrices are of one shape where h = d; else W0 and W2 are the taller ones.
  void open_muon(bool keeps) {
    if (at_.h == at_.d) {
      first_.emplace(p_, 3 * at_.heads, at_.h, at_.d, keeps);
    } else {
      first_.emplace(p_, 2 * at_.heads, at_.h, at_.d, keeps);
      second_.emplace(p_, at_.heads, at_.d, at_.h, keeps);
      orthogonal_ = p_.floats(at_.size());
    }
  }
  const float* orthogonal(const float* m) const {
    const float* const of_first = first_->forward(m);
    if (!second_) return of_first;
    p_.copy(of_first, orthogonal_, 2 * at_.part());
    p_.copy(second_->forward(shift(m, 2 * at_.part())), shift(orthogonal_, 2 * at_.part()), at_.part());
    return orthogonal_;
  }
  void orthogonal_backward(const float* m, const float* d, float* dm) const {
    first_->forward(m);
    first_->backward(d, dm);
    if (!second_) return;
    second_->forward(shift(m, 2 * at_.part()));
    second_->backward(shift(d, 2 * at_.part()), shift(dm, 2 * at_.part()));
  }

  const sdk::MixerPass& p_;
  Layout at_;
  Rule rule_;
  const float* initial_;
  bool learns_;
  const float* w = nullptr;  // in use
  float *a_, *b_, *u_;
  float *r_ = nullptr, *p0_ = nullptr, *p2_ = nullptr, *w_ = nullptr, *norm_ = nullptr, *gradient_ = nullptr, *orthogonal_ = nullptr;
  float *dp0_ = nullptr, *dp1_ = nullptr, *dp2_ = nullptr, *dm_ = nullptr, *d_raw_ = nullptr, *d_momentum_ = nullptr, *d_norm_ = nullptr;
  std::optional<Muon> first_, second_;
};

}  // namespace tenon::lact
