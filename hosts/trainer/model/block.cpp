#include "hosts/trainer/model/block.h"

#include <algorithm>

namespace tenon::trainer {
namespace {

Tensor activation(Engine& e, int64_t rows, int64_t width) { return e.empty(Category::kActivations, e.compute(), {rows, width}); }

}  // namespace

LinearCall TransformerBlock::call_at(const Pass& pass, int64_t row_begin, bool save) const {
  LinearCall c = pass.call;
  c.row_begin = row_begin;
  c.samples = std::make_shared<std::map<const void*, std::shared_ptr<const RowSample>>>();
  c.flags = (pass.train ? uint32_t{TN_CALL_TRAIN} : 0u) | (save ? uint32_t{TN_CALL_SAVE} : 0u) | (pass.recompute ? uint32_t{TN_CALL_RECOMPUTE} : 0u);
  return c;
}

// q, k, v of normalized rows h, per-head norms and rotation included; what backward needs goes to s.
void TransformerBlock::project_qkv(Engine& e, const Pass& pass, const Tensor& h, SavedBlock& s, bool save) const {
  const int64_t rows = h.dim(0), d = config->head_dim, hq = config->heads, hkv = config->kv_heads;
  const LinearCall call = call_at(pass, 0, save);
  s.q = activation(e, rows, config->q_width()), s.k = activation(e, rows, config->kv_width()), s.v = activation(e, rows, config->kv_width());
  linears[kQ].forward(e, call, h, s.q, &s.linears[kQ]);
  linears[kK].forward(e, call, h, s.k, &s.linears[kK]);
  linears[kV].forward(e, call, h, s.v, &s.linears[kV]);
  if (q_norm) {
    const auto normalize = [&](Tensor& x, Tensor& raw, Tensor& rstd, const Parameter& weight, int64_t n_heads) {
      raw = x.reshaped({rows * n_heads, d});
      x = activation(e, rows, n_heads * d);
      rstd = e.empty(Category::kActivations, kF32, {rows * n_heads});
      e.rms_norm(raw, weight.seen(e), config->norm_eps, x.reshaped({rows * n_heads, d}), &rstd);
      if (!save) raw = rstd = Tensor();
    };
    normalize(s.q, s.q_raw, s.rstd_q, *q_norm, hq);
    normalize(s.k, s.k_raw, s.rstd_k, *k_norm, hkv);
  }
  s.q = s.q.reshaped({rows, hq, d}), s.k = s.k.reshaped({rows, hkv, d}), s.v = s.v.reshaped({rows, hkv, d});
  e.rope(s.q, pass.positions, *inv_freq, rope_scale, 1);
  e.rope(s.k, pass.positions, *inv_freq, rope_scale, 1);
}

Tensor TransformerBlock::forward(Engine& e, const Pass& pass, const Tensor& x, SavedBlock* saved) const {
  const Tensor middle = attention_half(e, pass, x, saved);
  return mlp_half(e, pass, middle, saved && pass.memory.checkpointing == Checkpointing::kNone ? saved : nullptr);
}

Tensor TransformerBlock::attention_half(Engine& e, const Pass& pass, const Tensor& x, SavedBlock* saved) const {
  const Checkpointing policy = pass.memory.checkpointing;
  const bool keep_all = saved && policy == Checkpointing::kNone;
  SavedBlock local;
  SavedBlock& s = saved ? *saved : local;
  const int64_t rows = x.dim(0);

  Tensor rstd;
  if (keep_all) rstd = e.empty(Category::kActivations, kF32, {rows});
  Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  Tensor lse;
  if (saved && policy != Checkpointing::kBlock)
    lse = e.empty(Category::kActivations, kF32, {pass.sequences, config->heads, pass.length});
  {
    const Tensor h = activation(e, rows, config->hidden);
    e.rms_norm(x, norm1->seen(e), config->norm_eps, h, keep_all ? &rstd : nullptr);
    project_qkv(e, pass, h, s, keep_all);
  }
  attention->forward(e, pass.sequences, pass.length, pass.length, 0, pass.segments, s.q, s.k, s.v, o, lse ? &lse : nullptr);
  if (!keep_all) s.q = s.k = s.v = Tensor();

  Tensor middle = activation(e, rows, config->hidden);
  attention_output(e, pass, o, x, middle, s, keep_all);
  if (saved) s.x = x;
  if (saved && policy != Checkpointing::kBlock) s.o = o, s.lse = lse;
  if (keep_all) s.rstd1 = rstd;
  return middle;
}

// middle = x + adapted(o_proj(o)).
void TransformerBlock::attention_output(Engine& e, const Pass& pass, const Tensor& o, const Tensor& x, const Tensor& middle, SavedBlock& s,
                                        bool save) const {
  const int64_t rows = x.dim(0);
  const LinearCall call = call_at(pass, 0, save);
  const bool adapted = !sublayers[0].adapters.empty();
  const Tensor out = adapted ? activation(e, rows, config->hidden) : middle;
  linears[kO].forward(e, call, o.reshaped({rows, config->q_width()}), out, &s.linears[kO]);
  if (adapted) {
    sublayers[0].forward(e, call, out, middle, &s.sublayers[0]);
    if (save && sublayers[0].needs_input()) s.attention_out = out;
  }
  e.axpby(1, x, 1, middle);
}

Tensor TransformerBlock::mlp_half(Engine& e, const Pass& pass, const Tensor& middle, SavedBlock* saved) const {
  const int64_t rows = middle.dim(0);
  if (saved) saved->middle = middle;
  Tensor y = activation(e, rows, config->hidden);
  if (!pass.memory.tiled_mlp) {
    SavedBlock local;
    mlp_rows(e, pass, 0, middle, y, saved ? saved : &local, saved != nullptr);
  } else {
    const int64_t tile = std::min(rows, config->hidden);
    for (int64_t r = 0; r < rows; r += tile) {
      const int64_t end = std::min(r + tile, rows);
      SavedBlock local;
      mlp_rows(e, pass, r, middle.rows(r, end), y.rows(r, end), &local, false);
    }
  }
  return y;
}

// out = middle + down(silu(gate(h)) · up(h)), h = norm(middle), for some rows; returns h.
Tensor TransformerBlock::mlp_rows(Engine& e, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& out, SavedBlock* s, bool save) const {
  const int64_t rows = middle.dim(0);
  Tensor h = activation(e, rows, config->hidden);
  if (save) s->rstd2 = e.empty(Category::kActivations, kF32, {rows});
  e.rms_norm(middle, norm2->seen(e), config->norm_eps, h, save ? &s->rstd2 : nullptr);
  const LinearCall call = call_at(pass, begin, save);
  s->gate = activation(e, rows, config->intermediate), s->up = activation(e, rows, config->intermediate);
  linears[kGate].forward(e, call, h, s->gate, &s->linears[kGate]);
  linears[kUp].forward(e, call, h, s->up, &s->linears[kUp]);
  if (out) {
    // Without a backward to come the product may overwrite the gate.
    const Tensor product = save ? activation(e, rows, config->intermediate) : s->gate;
    e.swiglu(s->gate, s->up, product);
    if (sublayers[1].adapters.empty()) {
      linears[kDown].forward(e, call, product, out, &s->linears[kDown]);
    } else {
      const Tensor before = activation(e, rows, config->hidden);
      linears[kDown].forward(e, call, product, before, &s->linears[kDown]);
      sublayers[1].forward(e, call, before, out, &s->sublayers[1]);
      if (save && sublayers[1].needs_input()) s->mlp_out = before;
    }
    e.axpby(1, middle, 1, out);
  }
  return h;
}

void TransformerBlock::backward(Engine& e, Pass pass, SavedBlock& s, Tensor& dy, bool want_dx, const GradientReady& ready) const {
  const int64_t rows = dy.dim(0);
  pass.recompute = !s.rstd1;
  if (pass.recompute) {  // everything up to the middle again, this time keeping it
    s.rstd1 = e.empty(Category::kActivations, kF32, {rows});
    const Tensor h = activation(e, rows, config->hidden);
    e.rms_norm(s.x, norm1->value, config->norm_eps, h, &s.rstd1);
    project_qkv(e, pass, h, s, true);
    if (!s.o) {
      s.o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
      s.lse = e.empty(Category::kActivations, kF32, {pass.sequences, config->heads, pass.length});
      attention->forward(e, pass.sequences, pass.length, pass.length, 0, pass.segments, s.q, s.k, s.v, s.o, &s.lse);
    }
    s.middle = activation(e, rows, config->hidden);
    attention_output(e, pass, s.o, s.x, s.middle, s, true);
  }
  if (pass.memory.tiled_mlp) {
    const int64_t tile = std::min(rows, config->hidden);
    for (int64_t r = 0; r < rows; r += tile) {
      const int64_t end = std::min(r + tile, rows);
      SavedBlock part;
      part.middle = s.middle.rows(r, end);
      mlp_backward(e, pass, r, part, dy.rows(r, end), true);
    }
  } else {
    mlp_backward(e, pass, 0, s, dy, !s.gate);
  }
  s.middle = s.rstd2 = s.gate = s.up = s.mlp_out = Tensor();
  for (int i = kGate; i <= kDown; ++i) s.linears[i] = {};
  s.sublayers[1] = {};
  announce(kGate, kDown, norm2, ready);
  attention_backward(e, pass, s, dy, want_dx);
  s = SavedBlock();
  announce(kQ, kO, norm1, ready);
}

// Gradients of one half are complete.
void TransformerBlock::announce(int first, int last, Parameter* norm, const GradientReady& ready) const {
  const auto announce_adapters = [&](const Linear& l) {
    for (const Adapter* a : l.adapters)
      for (uint32_t id : a->site_params.at(l.site))
        if (a->param_sites[id] >= 0) ready(*a->parameters[id]);
  };
  for (int i = first; i <= last; ++i) {
    if (linears[i].trains_weight()) ready(*linears[i].weight);
    if (linears[i].bias && linears[i].bias->trainable) ready(*linears[i].bias);
    announce_adapters(linears[i]);
  }
  announce_adapters(sublayers[first == kQ ? 0 : 1]);
  if (norm->trainable) ready(*norm);
  if (first != kQ) return;
  for (Parameter* p : {q_norm, k_norm})
    if (p && p->trainable) ready(*p);
}

void TransformerBlock::mlp_half_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, const GradientReady& ready) const {
  mlp_backward(e, pass, 0, s, dy, !s.gate);
  s = SavedBlock();
  announce(kGate, kDown, norm2, ready);
}

void TransformerBlock::attention_half_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, const GradientReady& ready) const {
  attention_backward(e, pass, s, dy, true);
  s = SavedBlock();
  announce(kQ, kO, norm1, ready);
}

// dy [rows, hidden] of the block's output becomes the gradient of `middle`, in place. fresh: gate and up are not kept and are computed here.
void TransformerBlock::mlp_backward(Engine& e, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy, bool fresh) const {
  const int64_t rows = dy.dim(0);
  Pass p = pass;
  Tensor h;
  if (fresh) {
    p.recompute = true;
    h = mlp_rows(e, p, begin, s.middle, Tensor(), &s, true);
    const bool adapted = !sublayers[1].adapters.empty();
    if (adapted || !linears[kDown].adapters.empty()) {  // adapters leave their saved tensors in their forward
      const Tensor product = activation(e, rows, config->intermediate);
      e.swiglu(s.gate, s.up, product);
      if (adapted) s.mlp_out = activation(e, rows, config->hidden);
      linears[kDown].forward(e, call_at(p, begin, true), product, s.mlp_out, &s.linears[kDown]);
      if (adapted) sublayers[1].forward(e, call_at(p, begin, true), s.mlp_out, Tensor(), &s.sublayers[1]);
    }
  } else if (linears[kGate].needs_input() || linears[kUp].needs_input()) {
    h = activation(e, rows, config->hidden);
    e.rms_norm(s.middle, norm2->value, config->norm_eps, h, nullptr);
  }
  const LinearCall call = call_at(p, begin, true);
  Tensor dproduct = activation(e, rows, config->intermediate);
  {
    Tensor product;
    if (linears[kDown].needs_input()) {
      product = activation(e, rows, config->intermediate);
      e.swiglu(s.gate, s.up, product);
    }
    Tensor d_out = dy;
    if (!sublayers[1].adapters.empty()) {
      d_out = activation(e, rows, config->hidden);
      sublayers[1].backward(e, call, dy, s.mlp_out, &d_out, 0, &s.sublayers[1]);
    }
    linears[kDown].backward(e, call, d_out, product, &dproduct, 0, &s.linears[kDown]);
  }
  e.swiglu_backward(dproduct, s.gate, s.up, s.gate, s.up);
  dproduct = Tensor();
  const Tensor dh = activation(e, rows, config->hidden);
  linears[kGate].backward(e, call, s.gate, h, &dh, 0, &s.linears[kGate]);
  linears[kUp].backward(e, call, s.up, h, &dh, 1, &s.linears[kUp]);
  const Tensor* dweight = norm2->trainable ? &norm2->open_zeroed_gradient(e) : nullptr;
  e.rms_norm_backward(dh, s.middle, norm2->value, s.rstd2, 1, dy, dweight);
}

// dy of `middle` becomes the gradient of the block's input, in place.
void TransformerBlock::attention_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const {
  const int64_t rows = dy.dim(0), d = config->head_dim, hq = config->heads, hkv = config->kv_heads;
  const LinearCall call = call_at(pass, 0, true);
  const bool below = want_dx || norm1->trainable;
  bool any = below || (q_norm && q_norm->trainable) || (k_norm && k_norm->trainable);
  for (int i : {kQ, kK, kV}) any = any || linears[i].trains();
  Tensor d_o;
  if (any) d_o = e.empty(Category::kActivations, e.compute(), {rows, hq, d});
  const Tensor d_o_flat = any ? d_o.reshaped({rows, config->q_width()}) : Tensor();
  {
    Tensor d_out = dy;
    if (!sublayers[0].adapters.empty()) {
      d_out = activation(e, rows, config->hidden);
      sublayers[0].backward(e, call, dy, s.attention_out, &d_out, 0, &s.sublayers[0]);
      s.attention_out = Tensor();
    }
    linears[kO].backward(e, call, d_out, s.o.reshaped({rows, config->q_width()}), any ? &d_o_flat : nullptr, 0, &s.linears[kO]);
  }
  if (!any) return;

  Tensor dq = e.empty(Category::kActivations, e.compute(), {rows, hq, d}), dk = e.empty(Category::kActivations, e.compute(), {rows, hkv, d}),
         dv = e.empty(Category::kActivations, e.compute(), {rows, hkv, d});
  attention->backward(e, pass.sequences, pass.length, pass.segments, s.q, s.k, s.v, s.o, s.lse, d_o, dq, dk, dv);
  d_o = s.o = s.q = s.k = s.v = Tensor();
  e.rope(dq, pass.positions, *inv_freq, rope_scale, -1);
  e.rope(dk, pass.positions, *inv_freq, rope_scale, -1);
  if (q_norm) {
    const auto through_norm = [&](Tensor& dx, const Tensor& raw, const Tensor& rstd, Parameter& weight, int64_t n_heads) {
      const Tensor out = e.empty(Category::kActivations, e.compute(), {rows * n_heads, d});
      const Tensor* dweight = weight.trainable ? &weight.open_zeroed_gradient(e) : nullptr;
      e.rms_norm_backward(dx.reshaped({rows * n_heads, d}), raw, weight.value, rstd, 0, out, dweight);
      dx = out.reshaped({rows, n_heads, d});
    };
    through_norm(dq, s.q_raw, s.rstd_q, *q_norm, hq);
    through_norm(dk, s.k_raw, s.rstd_k, *k_norm, hkv);
  }
  Tensor h;
  if (linears[kQ].needs_input() || linears[kK].needs_input() || linears[kV].needs_input()) {
    h = activation(e, rows, config->hidden);
    e.rms_norm(s.x, norm1->value, config->norm_eps, h, nullptr);
  }
  Tensor dh;
  if (below) dh = activation(e, rows, config->hidden);
  const Tensor* to = below ? &dh : nullptr;
  linears[kQ].backward(e, call, dq.reshaped({rows, config->q_width()}), h, to, 0, &s.linears[kQ]);
  linears[kK].backward(e, call, dk.reshaped({rows, config->kv_width()}), h, to, 1, &s.linears[kK]);
  linears[kV].backward(e, call, dv.reshaped({rows, config->kv_width()}), h, to, 1, &s.linears[kV]);
  if (!below) return;
  const Tensor* dweight = norm1->trainable ? &norm1->open_zeroed_gradient(e) : nullptr;
  e.rms_norm_backward(dh, s.x, norm1->value, s.rstd1, 1, dy, dweight);
}

Tensor TransformerBlock::decode(Engine& e, const Pass& pass, const Tensor& x, int64_t past, const Tensor& cache_k, const Tensor& cache_v) const {
  return mlp_half(e, pass, decode_attention(e, pass, x, past, cache_k, cache_v), nullptr);
}

Tensor TransformerBlock::decode_attention(Engine& e, const Pass& pass, const Tensor& x, int64_t past, const Tensor& cache_k,
                                          const Tensor& cache_v) const {
  const int64_t rows = x.dim(0), end = past + rows;
  SavedBlock s;
  {
    const Tensor h = activation(e, rows, config->hidden);
    e.rms_norm(x, norm1->seen(e), config->norm_eps, h, nullptr);
    project_qkv(e, pass, h, s, false);
  }
  e.copy(s.k, cache_k.rows(past, end)), e.copy(s.v, cache_v.rows(past, end));
  const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  attention->forward(e, 1, rows, end, past, nullptr, s.q, cache_k.rows(0, end), cache_v.rows(0, end), o, nullptr);
  Tensor middle = activation(e, rows, config->hidden);
  attention_output(e, pass, o, x, middle, s, false);
  return middle;
}

}  // namespace tenon::trainer
