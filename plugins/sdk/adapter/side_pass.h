// SideNetwork: forward and backward.
#pragma once

#include "sdk/adapter/bias.h"
#include "sdk/adapter/side_network.h"

namespace tenon::sdk {

inline side::Gate SideNetwork::gate(const Region& r, const Level& level) const {
  return {contiguous<float>(&r.value(level.gate), "a gate"), s_.vector_gate ? 1 : 0, static_cast<float>(1 / s_.gate_temperature)};
}

// What the second factor reads of the first's output; null: just that.
inline tn_tensor* SideNetwork::active(const Region& r, const tn_tensor& u) const {
  if (!s_.silu) return nullptr;
  tn_tensor* a = r.alloc(s_.inner);
  if (!r.plans()) silu_forward(r.exec(), Matrix::of(u), Matrix::of(*a));
  return a;
}

// D(h). Keeps in t what its gradient needs.
inline tn_tensor* SideNetwork::down(const Region& r, const Sampler& p, const tn_tensor& h, Trace& t) const {
  tn_tensor* out = r.alloc(side_);
  if (s_.down == Down::kPool) {
    if (!r.plans()) side::pool(r.exec(), s_.reduction, Matrix::of(h), Matrix::of(*out));
  } else if (s_.down == Down::kDense) {
    r.product(1, Matrix::of(h), Matrix::of(r.value(p.first)).transposed(), 0, Matrix::of(*out));
    if (!r.plans()) add_bias(r.exec(), contiguous<float>(&r.value(p.bias), "a bias"), Matrix::of(*out));
  } else {
    t.u = r.alloc(s_.inner);
    r.product(1, Matrix::of(h), Matrix::of(r.value(p.first)).transposed(), 0, Matrix::of(*t.u));
    tn_tensor* a = active(r, *t.u);
    r.product(1, Matrix::of(a ? *a : *t.u), Matrix::of(r.value(p.second)).transposed(), 0, Matrix::of(*out));
    r.free(a);
    if (!r.saves()) r.free(t.u);
  }
  return out;
}

inline void SideNetwork::first_factor_gradient(const Region& r, const Sampler& p, const tn_tensor& h, Trace& t) const {
  if (t.du && r.grad(p.first)) r.product(1, Matrix::of(*t.du).transposed(), Matrix::of(h), 1, Matrix::of(*r.grad(p.first)));
  r.free(t.du);
}

inline void SideNetwork::down_backward(const Region& r, const Sampler& p, const tn_tensor& dd, Trace& t) const {
  if (s_.down == Down::kPool) return;
  if (s_.down == Down::kDense) {
    if (!r.plans()) add_bias_gradient(r.exec(), Matrix::of(dd), contiguous<float>(r.grad(p.bias), "a bias' gradient"));
    t.du = r.alloc(side_);
    r.axpby(1, dd, 0, *t.du);
  } else {
    tn_tensor* a = active(r, *t.u);
    r.product(1, Matrix::of(dd).transposed(), Matrix::of(a ? *a : *t.u), 1, Matrix::of(*r.grad(p.second)));
    r.free(a);
    if (s_.freeze_first) return r.free(t.u);
    t.du = r.alloc(s_.inner);
    r.product(1, Matrix::of(dd), Matrix::of(r.value(p.second)), 0, Matrix::of(*t.du));
    if (s_.silu && !r.plans()) silu_backward(r.exec(), Matrix::of(*t.du), Matrix::of(*t.u), Matrix::of(*t.du));
    r.free(t.u);
  }
  if (s_.taps == Taps::kKept) {
    first_factor_gradient(r, p, *t.h, t);
    r.free(t.h);
  }
}

inline void SideNetwork::forward(const Region& r, const tn_tensor& x, tn_tensor& y) {
  traces_.assign(levels_.size(), Trace{});
  entry_trace_ = {};
  x_ = last_ = last_rstd_ = normed_ = top_ = lifted_ = nullptr;
  const bool keep = r.saves() && needs_taps();
  if (keep) {
    tn_tensor* copy = r.alloc(r.hidden());
    r.axpby(1, x, 0, *copy);
    (s_.taps == Taps::kKept ? entry_trace_.h : x_) = copy;
  }
  tn_tensor* g = down(r, entry_, x, entry_trace_);
  tn_tensor* tap = nullptr;  // h_i, where this function frees it
  const tn_tensor* h = &x;
  for (size_t i = 0; i < levels_.size(); ++i) {
    const Level& level = levels_[i];
    tn_tensor* next = r.block(static_cast<uint32_t>(i), TN_BLOCK_WHOLE, *h, nullptr);
    r.free(tap);
    h = tap = next;
    if (level.dropped) continue;
    Trace& t = traces_[i];
    const auto through_block = [&] {
      tn_tensor* out = r.block(level.block.id, TN_BLOCK_WHOLE, *g, r.saves() ? &t.token : nullptr);
      r.free(g);
      g = out;
    };
    if (s_.gate_after) through_block();
    tn_tensor *d = down(r, level.down, *h, t), *mixed = r.alloc(side_);
    if (!r.plans()) side::mix(r.exec(), gate(r, level), Matrix::of(*g), Matrix::of(*d), Matrix::of(*mixed));
    t.g = g, t.d = d;
    if (!r.saves()) r.free(t.g), r.free(t.d);
    g = mixed;
    if (!s_.gate_after) through_block();
    if (keep && s_.taps == Taps::kKept) {  // a copy of its own: the tap itself is freed when the next block has read it
      t.h = r.alloc(r.hidden());
      r.axpby(1, *h, 0, *t.h);
    }
  }
  last_ = g, normed_ = r.alloc(side_), lifted_ = r.alloc(r.hidden());
  last_rstd_ = r.norm(*g, &r.value(norm_), *normed_);
  r.product(1, Matrix::of(*normed_), Matrix::of(r.value(up_)).transposed(), 0, Matrix::of(*lifted_));
  if (s_.mix_output) {
    top_ = r.alloc(r.hidden());
    tn_tensor* rstd = r.norm(*h, nullptr, *top_);
    r.free(rstd);
    if (!r.plans()) side::blend(r.exec(), contiguous<float>(&r.value(logit_), "the output gate"), Matrix::of(*lifted_), Matrix::of(*top_), Matrix::of(y));
  } else {
    r.axpby(1, *lifted_, 0, y);
    if (!r.plans()) add_bias(r.exec(), contiguous<float>(&r.value(up_bias_), "a bias"), Matrix::of(y));
    r.free(lifted_);
  }
  r.free(tap);
  if (r.saves()) return;
  for (tn_tensor** t : {&last_, &normed_, &lifted_, &top_}) r.free(*t);
}

inline void SideNetwork::backward(const Region& r, const tn_tensor& dy) {
  tn_tensor* d_lifted = r.alloc(r.hidden());
  if (s_.mix_output) {
    if (!r.plans())
      side::blend_backward(r.exec(), contiguous<float>(&r.value(logit_), "the output gate"), Matrix::of(dy), Matrix::of(*lifted_), Matrix::of(*top_),
                           Matrix::of(*d_lifted), contiguous<float>(r.grad(logit_), "the output gate's gradient"));
    r.free(lifted_), r.free(top_);
  } else {
    r.axpby(1, dy, 0, *d_lifted);
    if (!r.plans()) add_bias_gradient(r.exec(), Matrix::of(dy), contiguous<float>(r.grad(up_bias_), "a bias' gradient"));
  }
  r.product(1, Matrix::of(*d_lifted).transposed(), Matrix::of(*normed_), 1, Matrix::of(*r.grad(up_)));
  tn_tensor *d_normed = r.alloc(side_), *dg = r.alloc(side_);
  r.product(1, Matrix::of(*d_lifted), Matrix::of(r.value(up_)), 0, Matrix::of(*d_normed));
  r.free(d_lifted), r.free(normed_);
  r.norm_backward(*d_normed, *last_, &r.value(norm_), *last_rstd_, 0, *dg, r.grad(norm_));
  r.free(d_normed), r.free(last_), r.free(last_rstd_);
  for (size_t i = levels_.size(); i-- > 0;) {
    const Level& level = levels_[i];
    if (level.dropped) continue;
    Trace& t = traces_[i];
    if (!s_.gate_after) r.block_backward(t.token, *dg);
    tn_tensor* dd = r.alloc(side_);
    if (!r.plans())
      side::mix_backward(r.exec(), gate(r, level), Matrix::of(*dg), Matrix::of(*t.g), Matrix::of(*t.d), Matrix::of(*dd),
                         contiguous<float>(r.grad(level.gate), "a gate's gradient"));
    r.free(t.g), r.free(t.d);
    if (s_.gate_after) r.block_backward(t.token, *dg);
    down_backward(r, level.down, *dd, t);
    r.free(dd);
  }
  down_backward(r, entry_, *dg, entry_trace_);
  r.free(dg);
  if (!needs_taps() || s_.taps == Taps::kKept) return;
  // The backbone once more, forward: it draws nothing at random, so the taps are those of the first time.
  tn_tensor* h = x_;
  x_ = nullptr;
  first_factor_gradient(r, entry_, *h, entry_trace_);
  for (size_t i = 0; i < levels_.size(); ++i) {
    tn_tensor* next = r.block(static_cast<uint32_t>(i), TN_BLOCK_WHOLE, *h, nullptr);
    r.free(h);
    h = next;
    if (!levels_[i].dropped) first_factor_gradient(r, levels_[i].down, *h, traces_[i]);
  }
  r.free(h);
}

}  // namespace tenon::sdk
