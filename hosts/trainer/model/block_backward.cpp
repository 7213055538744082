// The backward pass of a block, and what it computes again of the forward pass.
#include <algorithm>

#include "hosts/trainer/model/block.h"

namespace tenon::trainer {
namespace {

Tensor activation(Engine& e, int64_t rows, int64_t width) { return e.empty(Category::kActivations, e.compute(), {rows, width}); }

}  // namespace

bool TransformerBlock::trains() const {
  const auto on = [](const Parameter* p) { return p && p->trainable; };
  const auto any = [](const auto& list) { return std::any_of(std::begin(list), std::end(list), [](const Linear& l) { return l.trains(); }); };
  const bool maps = (residual[0] && residual[0]->trains()) || (residual[1] && residual[1]->trains());
  return on(norm1) || on(norm2) || on(q_norm) || on(k_norm) || maps || any(linears) || any(sublayers) || (mixer && mixer->trains());
}

Tensor TransformerBlock::backward(Engine& e, Pass pass, SavedBlock& s, const Tensor& dy, bool want_dx, const GradientReady& ready) const {
  if (pass.memory.stream_rows > 0) {
    Tensor dx = stream_backward(e, pass, s, dy, want_dx);
    s = SavedBlock();
    announce(ready);
    return dx;
  }
  const int64_t rows = dy.dim(0);
  // A mixer keeps all that it needs, or runs again.
  const bool again_qkv = mixer ? !s.rstd1 : !s.q, again_o = !mixer && !s.o, again_middle = !mixer && !s.middle;
  pass.recompute = again_qkv || again_o || again_middle;
  if (again_qkv && mixer) {
    s.middle = mixer_half(e, pass, s.x, &s, true);
  } else if (again_qkv) {
    s.rstd1 = e.empty(Category::kActivations, kF32, {rows});
    const Tensor h = activation(e, rows, width[0]);
    e.rms_norm(s.x, norm1->value, norm_eps[0], h, &s.rstd1);
    project_qkv(e, pass, h, s, true);
  }
  if (again_o) {
    s.o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
    s.lse = e.empty(Category::kActivations, kF32, {pass.sequences, config->heads, pass.length});
    attention->forward(e, pass.sequences, pass.length, pass.length, 0, pass.segments, s.q, s.k, s.v, s.o, &s.lse);
  }
  if (again_middle) {
    s.middle = activation(e, rows, width[1]);
    attention_output(e, call_at(pass, 0, true), s.o, s.x, s.middle, s);
  }
  Tensor d = whole_mlp_backward(e, pass, 0, s, dy);
  announce_half(kGate, kDown, norm2, ready);
  d = attention_backward(e, pass, s, d, want_dx);
  s = SavedBlock();
  announce_half(kQ, kO, norm1, ready);
  return d;
}

void TransformerBlock::announce(const GradientReady& ready) const {
  announce_half(kGate, kDown, norm2, ready);
  announce_half(kQ, kO, norm1, ready);
}

// Gradients of one half are complete.
void TransformerBlock::announce_half(int first, int last, Parameter* norm, const GradientReady& ready) const {
  const auto announce_adapters = [&](const Linear& l) {
    for (const Adapter* a : l.adapters)
      for (uint32_t id : a->site_params.at(l.site))
        if (a->param_sites[id] >= 0) ready(*a->parameters[id]);
  };
  for (int i = first; i <= last; ++i) {
    if (linears[i].trains_weight()) ready(*linears[i].weight);
    if (linears[i].trains_components()) linears[i].quantized->announce(ready);
    if (linears[i].bias && linears[i].bias->trainable) ready(*linears[i].bias);
    announce_adapters(linears[i]);
  }
  const int half = first == kQ ? 0 : 1;
  announce_adapters(sublayers[half]);
  if (residual[half] && residual[half]->trains_weight()) ready(*residual[half]->weight);
  if (norm->trainable) ready(*norm);
  if (first != kQ) return;
  for (Parameter* p : {q_norm, k_norm})
    if (p && p->trainable) ready(*p);
  if (mixer)
    for (Parameter* p : mixer->parameters)
      if (p->trainable) ready(*p);
}

Tensor TransformerBlock::mlp_half_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, const GradientReady& ready) const {
  Tensor d = mlp_backward(e, pass, 0, s, dy, !s.gate);
  s = SavedBlock();
  announce_half(kGate, kDown, norm2, ready);
  return d;
}

Tensor TransformerBlock::attention_half_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, const GradientReady& ready) const {
  Tensor d = attention_backward(e, pass, s, dy, true);
  s = SavedBlock();
  announce_half(kQ, kO, norm1, ready);
  return d;
}

// What reaches the input x of a half past its sub-layer: dy, in whose memory the rest of the gradient is added, or, where a residual map stands
// there, a tensor of its own (wanted false: only the map's own gradient is).
Tensor TransformerBlock::past(Engine& e, const LinearCall& call, int half, const Tensor& x, const Tensor& dy, bool wanted) const {
  if (!residual[half]) return dy;
  Tensor dx;
  if (wanted) dx = activation(e, dy.dim(0), width[half]);
  residual[half]->backward(e, call, dy, x, wanted ? &dx : nullptr, 0, nullptr);
  return dx;
}

// In tiles where the pass asks for them; what the MLP alone needed is let go.
Tensor TransformerBlock::whole_mlp_backward(Engine& e, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy) const {
  Tensor d = dy;
  if (pass.memory.tiled_mlp) {
    const int64_t rows = dy.dim(0), tile = std::min(rows, width[1]);
    if (residual[1]) d = activation(e, rows, width[1]);
    for (int64_t r = 0; r < rows; r += tile) {
      const int64_t end = std::min(r + tile, rows);
      SavedBlock part;
      part.middle = s.middle.rows(r, end);
      const Tensor rows_of_d = mlp_backward(e, pass, begin + r, part, dy.rows(r, end), true);
      if (residual[1]) e.copy(rows_of_d, d.rows(r, end));
    }
  } else {
    d = mlp_backward(e, pass, begin, s, dy, !s.gate);
  }
  s.middle = s.rstd2 = s.gate = s.up = s.mlp_out = Tensor();
  for (int i = kGate; i <= kDown; ++i) s.linears[i] = {};
  s.sublayers[1] = {};
  return d;
}

// From dy of the block's output to the gradient of `middle`, as past() has it. fresh: gate and up are not kept and are computed here.
Tensor TransformerBlock::mlp_backward(Engine& e, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy, bool fresh) const {
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
      if (adapted) s.mlp_out = activation(e, rows, width[2]);
      linears[kDown].forward(e, call_at(p, begin, true), product, s.mlp_out, &s.linears[kDown]);
      if (adapted) sublayers[1].forward(e, call_at(p, begin, true), s.mlp_out, Tensor(), &s.sublayers[1]);
    }
  } else if (linears[kGate].needs_input() || linears[kUp].needs_input()) {
    h = activation(e, rows, width[1]);
    e.rms_norm(s.middle, norm2->value, norm_eps[1], h, nullptr);
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
      d_out = activation(e, rows, width[2]);
      sublayers[1].backward(e, call, dy, s.mlp_out, &d_out, 0, &s.sublayers[1]);
    }
    linears[kDown].backward(e, call, d_out, product, &dproduct, 0, &s.linears[kDown]);
  }
  e.swiglu_backward(dproduct, s.gate, s.up, s.gate, s.up);
  dproduct = Tensor();
  const Tensor dh = activation(e, rows, width[1]);
  linears[kGate].backward(e, call, s.gate, h, &dh, 0, &s.linears[kGate]);
  linears[kUp].backward(e, call, s.up, h, &dh, 1, &s.linears[kUp]);
  const Tensor* dweight = norm2->trainable ? &norm2->open_zeroed_gradient(e) : nullptr;
  Tensor d = past(e, call, 1, s.middle, dy, true);
  e.rms_norm_backward(dh, s.middle, norm2->value, s.rstd2, 1, d, dweight);
  return d;
}

// Whether anything below the output projection has a gradient to compute.
bool TransformerBlock::needs_attention_gradient(bool want_dx) const {
  const auto on = [](const Parameter* p) { return p && p->trainable; };
  return want_dx || on(norm1) || on(q_norm) || on(k_norm) || linears[kQ].trains() || linears[kK].trains() || linears[kV].trains();
}

// From dy of `middle` to the gradient of the block's input, as past() has it.
Tensor TransformerBlock::attention_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const {
  if (mixer) {
    mixer_backward(e, pass, s, dy, want_dx);
    return dy;
  }
  const int64_t rows = dy.dim(0), d = config->head_dim, hq = config->heads, hkv = config->kv_heads;
  const bool wanted = needs_attention_gradient(want_dx);
  Tensor d_o = attention_output_backward(e, call_at(pass, 0, true), s, dy, wanted);
  Tensor dx = past(e, call_at(pass, 0, true), 0, s.x, dy, want_dx || norm1->trainable);
  if (!wanted) return dx;
  const Tensor dq = e.empty(Category::kActivations, e.compute(), {rows, hq, d}), dk = e.empty(Category::kActivations, e.compute(), {rows, hkv, d}),
               dv = e.empty(Category::kActivations, e.compute(), {rows, hkv, d});
  attention->backward(e, pass.sequences, pass.length, pass.segments, s.q, s.k, s.v, s.o, s.lse, d_o, dq, dk, dv);
  d_o = s.o = s.q = s.k = s.v = Tensor();
  qkv_backward(e, pass, 0, s, dq, dk, dv, dx, want_dx);
  return dx;
}

// dy of `middle` before the adapters of the sub-layer: dy itself where there are none.
Tensor TransformerBlock::before_adapters(Engine& e, const LinearCall& call, SavedBlock& s, const Tensor& dy) const {
  if (sublayers[0].adapters.empty()) return dy;
  const Tensor d_out = activation(e, dy.dim(0), width[1]);
  sublayers[0].backward(e, call, dy, s.attention_out, &d_out, 0, &s.sublayers[0]);
  s.attention_out = Tensor();
  return d_out;
}

// The gradient of attention's output [rows, Hq, d], where it is wanted.
Tensor TransformerBlock::attention_output_backward(Engine& e, const LinearCall& call, SavedBlock& s, const Tensor& dy, bool wanted) const {
  const int64_t rows = dy.dim(0);
  Tensor d_o;
  if (wanted) d_o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  const Tensor flat = wanted ? d_o.reshaped({rows, config->q_width()}) : Tensor();
  const Tensor d_out = before_adapters(e, call, s, dy);
  linears[kO].backward(e, call, d_out, s.o.reshaped({rows, config->q_width()}), wanted ? &flat : nullptr, 0, &s.linears[kO]);
  return d_o;
}

// From gradients of rotated q, k, v to those of the projections and, added to dy where that is wanted, of the block's input.
void TransformerBlock::qkv_backward(Engine& e, const Pass& pass, int64_t begin, SavedBlock& s, Tensor dq, Tensor dk, Tensor dv, const Tensor& dy,
                                    bool want_dx) const {
  const int64_t rows = dq.dim(0), d = config->head_dim;
  const LinearCall call = call_at(pass, begin, true);
  const bool below = want_dx || norm1->trainable;
  const Tensor positions = pass.positions.rows(begin, begin + rows);
  e.rope(dq, positions, *inv_freq, rope_scale, -1);
  e.rope(dk, positions, *inv_freq, rope_scale, -1);
  if (q_norm) {
    const auto through_norm = [&](Tensor& dx, const Tensor& raw, const Tensor& rstd, Parameter& weight, int64_t n_heads) {
      const Tensor out = e.empty(Category::kActivations, e.compute(), {rows * n_heads, d});
      const Tensor* dweight = weight.trainable ? &weight.open_zeroed_gradient(e) : nullptr;
      e.rms_norm_backward(dx.reshaped({rows * n_heads, d}), raw, weight.value, rstd, 0, out, dweight);
      dx = out.reshaped({rows, n_heads, d});
    };
    through_norm(dq, s.q_raw, s.rstd_q, *q_norm, config->heads);
    through_norm(dk, s.k_raw, s.rstd_k, *k_norm, config->kv_heads);
  }
  Tensor h;
  if (linears[kQ].needs_input() || linears[kK].needs_input() || linears[kV].needs_input()) {
    h = activation(e, rows, width[0]);
    e.rms_norm(s.x, norm1->value, norm_eps[0], h, nullptr);
  }
  Tensor dh;
  if (below) dh = activation(e, rows, width[0]);
  const Tensor* to = below ? &dh : nullptr;
  linears[kQ].backward(e, call, dq.reshaped({rows, config->q_width()}), h, to, 0, &s.linears[kQ]);
  linears[kK].backward(e, call, dk.reshaped({rows, config->kv_width()}), h, to, 1, &s.linears[kK]);
  linears[kV].backward(e, call, dv.reshaped({rows, config->kv_width()}), h, to, 1, &s.linears[kV]);
  if (!below) return;
  const Tensor* dweight = norm1->trainable ? &norm1->open_zeroed_gradient(e) : nullptr;
  e.rms_norm_backward(dh, s.x, norm1->value, s.rstd1, 1, dy, dweight);
}

}  // namespace tenon::trainer
