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

// Where one of q, k, v of some rows arises: `made` [rows, heads, d], in `to` where it is given, and what the projection itself gives, of which
// a norm of heads stands in between.
TransformerBlock::Heads TransformerBlock::open_heads(Engine& e, int which, int64_t rows, const Tensor* to) const {
  const int64_t d = config->head_dim, n_heads = which == kQ ? config->heads : config->kv_heads;
  const Parameter* norm = which == kQ ? q_norm : which == kK ? k_norm : nullptr;
  Heads h;
  h.made = to ? *to : e.empty(Category::kActivations, e.compute(), {rows, n_heads, d});
  h.projected = norm ? activation(e, rows, n_heads * d) : h.made.reshaped({rows, n_heads * d});
  return h;
}

// Per-head norm and rotation. What backward needs goes to s where the call says so.
Tensor TransformerBlock::finish_heads(Engine& e, const Pass& pass, const LinearCall& call, int which, const Heads& h, SavedBlock& s) const {
  const int64_t rows = h.made.dim(0), n_heads = h.made.dim(1), d = h.made.dim(2);
  if (const Parameter* norm = which == kQ ? q_norm : which == kK ? k_norm : nullptr) {
    const Tensor raw = h.projected.reshaped({rows * n_heads, d}), rstd = e.empty(Category::kActivations, kF32, {rows * n_heads});
    e.rms_norm(raw, norm->seen(e), config->norm_eps, h.made.reshaped({rows * n_heads, d}), &rstd);
    if (call.flags & TN_CALL_SAVE) (which == kQ ? s.q_raw : s.k_raw) = raw, (which == kQ ? s.rstd_q : s.rstd_k) = rstd;
  }
  if (which != kV) e.rope(h.made, pass.positions.rows(call.row_begin, call.row_begin + rows), *inv_freq, rope_scale, 1);
  return h.made;
}

// One of q, k, v of normalized rows h.
Tensor TransformerBlock::project_heads(Engine& e, const Pass& pass, const LinearCall& call, int which, const Tensor& h, const Tensor* to, SavedBlock& s) const {
  const Heads heads = open_heads(e, which, h.dim(0), to);
  linears[which].forward(e, call, h, heads.projected, &s.linears[which]);
  return finish_heads(e, pass, call, which, heads, s);
}

// All three, for decoding: k and v where they are given.
void TransformerBlock::project_together(Engine& e, const Pass& pass, const Tensor& h, const Tensor* k, const Tensor* v, SavedBlock& s) const {
  const LinearCall call = call_at(pass, 0, false);
  const Heads heads[] = {open_heads(e, kQ, h.dim(0), nullptr), open_heads(e, kK, h.dim(0), k), open_heads(e, kV, h.dim(0), v)};
  Linear::forward_all(e, call, {&linears[kQ], &linears[kK], &linears[kV]}, h, {heads[0].projected, heads[1].projected, heads[2].projected},
                      {&s.linears[kQ], &s.linears[kK], &s.linears[kV]});
  s.q = finish_heads(e, pass, call, kQ, heads[0], s);
  s.k = finish_heads(e, pass, call, kK, heads[1], s);
  s.v = finish_heads(e, pass, call, kV, heads[2], s);
}

void TransformerBlock::project_qkv(Engine& e, const Pass& pass, const Tensor& h, SavedBlock& s, bool save) const {
  const LinearCall call = call_at(pass, 0, save);
  s.q = project_heads(e, pass, call, kQ, h, nullptr, s);
  s.k = project_heads(e, pass, call, kK, h, nullptr, s);
  s.v = project_heads(e, pass, call, kV, h, nullptr, s);
}

Tensor TransformerBlock::forward(Engine& e, const Pass& pass, const Tensor& x, SavedBlock* saved) const {
  if (pass.memory.stream_rows > 0) {
    const int64_t rows = x.dim(0);
    const Keys k = keys(e, rows, false);
    const Tensor y = activation(e, rows, width[2]);
    for (int64_t r = 0; r < rows; r += pass.memory.stream_rows) {
      const int64_t end = std::min(r + pass.memory.stream_rows, rows);
      forward_rows(e, pass, r, x.rows(r, end), k, false, y.rows(r, end), nullptr);
    }
    if (saved) saved->x = x;
    return y;
  }
  const Checkpointing policy = pass.memory.policy_of(index);
  const Tensor middle = attention_half(e, pass, x, saved);
  if (saved && !keeps(policy, Checkpointing::kMlp)) {
    if (keeps(policy, Checkpointing::kMiddle)) saved->middle = middle;
    saved = nullptr;
  }
  const Tensor y = mlp_half(e, pass, middle, saved);
  if (saved && !keeps(policy, Checkpointing::kMiddle)) saved->middle = Tensor();
  return y;
}

Tensor TransformerBlock::attention_half(Engine& e, const Pass& pass, const Tensor& x, SavedBlock* saved) const {
  const Checkpointing policy = saved ? pass.memory.policy_of(index) : Checkpointing::kBlock;
  if (mixer) return mixer_half(e, pass, x, saved, keeps(policy, Checkpointing::kQkv) && keeps(policy, Checkpointing::kMiddle));
  const bool keep_qkv = keeps(policy, Checkpointing::kQkv), keep_o = keeps(policy, Checkpointing::kFlashCut), keep_middle = keeps(policy, Checkpointing::kMiddle);
  SavedBlock local;
  SavedBlock& s = saved ? *saved : local;
  const int64_t rows = x.dim(0);

  if (keep_qkv) s.rstd1 = e.empty(Category::kActivations, kF32, {rows});
  const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  Tensor lse;
  if (keep_o) lse = e.empty(Category::kActivations, kF32, {pass.sequences, config->heads, pass.length});
  {
    const Tensor h = activation(e, rows, width[0]);
    e.rms_norm(x, norm1->seen(e), norm_eps[0], h, keep_qkv ? &s.rstd1 : nullptr);
    project_qkv(e, pass, h, s, keep_qkv);
  }
  attention->forward(e, pass.sequences, pass.length, pass.length, 0, pass.segments, s.q, s.k, s.v, o, keep_o ? &lse : nullptr);
  if (!keep_qkv) s.q = s.k = s.v = Tensor();

  const Tensor middle = activation(e, rows, width[1]);
  attention_output(e, call_at(pass, 0, keep_middle), o, x, middle, s);
  if (saved) s.x = x;
  if (keep_o) s.o = o, s.lse = lse;
  return middle;
}

// y += the residual stream that passes the sub-layer by.
void TransformerBlock::add_residual(Engine& e, int half, const Tensor& x, const Tensor& y) const {
  if (residual[half])
    residual[half]->accumulate(e, x, y);
  else
    e.axpby(1, x, 1, y);
}

// middle = x + adapted(o_proj(o)).
void TransformerBlock::attention_output(Engine& e, const LinearCall& call, const Tensor& o, const Tensor& x, const Tensor& middle, SavedBlock& s) const {
  join(e, call, x, middle, s, [&](const Tensor& out) { linears[kO].forward(e, call, o.reshaped({x.dim(0), config->q_width()}), out, &s.linears[kO]); });
}

// middle = x + adapted(what `project` writes).
void TransformerBlock::join(Engine& e, const LinearCall& call, const Tensor& x, const Tensor& middle, SavedBlock& s,
                            const std::function<void(const Tensor& out)>& project) const {
  const bool adapted = !sublayers[0].adapters.empty();
  const Tensor out = adapted ? activation(e, x.dim(0), width[1]) : middle;
  project(out);
  if (adapted) {
    sublayers[0].forward(e, call, out, middle, &s.sublayers[0]);
    if ((call.flags & TN_CALL_SAVE) && sublayers[0].needs_input()) s.attention_out = out;
  }
  add_residual(e, 0, x, middle);
}

Tensor TransformerBlock::mlp_half(Engine& e, const Pass& pass, const Tensor& middle, SavedBlock* saved) const {
  Tensor y = activation(e, middle.dim(0), width[2]);
  mlp_into(e, pass, 0, middle, y, saved);
  return y;
}

void TransformerBlock::mlp_into(Engine& e, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& y, SavedBlock* saved) const {
  const int64_t rows = middle.dim(0);
  if (saved) saved->middle = middle;
  if (!pass.memory.tiled_mlp) {
    SavedBlock local;
    mlp_rows(e, pass, begin, middle, y, saved ? saved : &local, saved != nullptr);
    return;
  }
  const int64_t tile = std::min(rows, width[1]);
  for (int64_t r = 0; r < rows; r += tile) {
    const int64_t end = std::min(r + tile, rows);
    SavedBlock local;
    mlp_rows(e, pass, begin + r, middle.rows(r, end), y.rows(r, end), &local, false);
  }
}

// out = middle + down(silu(gate(h)) · up(h)), h = norm(middle), for some rows; returns h.
Tensor TransformerBlock::mlp_rows(Engine& e, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& out, SavedBlock* s, bool save) const {
  const int64_t rows = middle.dim(0);
  Tensor h = activation(e, rows, width[1]);
  if (save) s->rstd2 = e.empty(Category::kActivations, kF32, {rows});
  e.rms_norm(middle, norm2->seen(e), norm_eps[1], h, save ? &s->rstd2 : nullptr);
  const LinearCall call = call_at(pass, begin, save);
  s->gate = activation(e, rows, config->intermediate), s->up = activation(e, rows, config->intermediate);
  Linear::forward_all(e, call, {&linears[kGate], &linears[kUp]}, h, {s->gate, s->up}, {&s->linears[kGate], &s->linears[kUp]});
  if (out) {
    // Without a backward to come the product may overwrite the gate.
    const Tensor product = save ? activation(e, rows, config->intermediate) : s->gate;
    e.swiglu(s->gate, s->up, product);
    if (sublayers[1].adapters.empty()) {
      linears[kDown].forward(e, call, product, out, &s->linears[kDown]);
    } else {
      const Tensor before = activation(e, rows, width[2]);
      linears[kDown].forward(e, call, product, before, &s->linears[kDown]);
      sublayers[1].forward(e, call, before, out, &s->sublayers[1]);
      if (save && sublayers[1].needs_input()) s->mlp_out = before;
    }
    add_residual(e, 1, middle, out);
  }
  return h;
}

Tensor TransformerBlock::decode(Engine& e, const Pass& pass, const Tensor& x, int64_t past, DecodeState& state) const {
  return mlp_half(e, pass, decode_attention(e, pass, x, past, state), nullptr);
}

Tensor TransformerBlock::decode_attention(Engine& e, const Pass& pass, const Tensor& x, int64_t past, DecodeState& state) const {
  if (mixer) return decode_mixer(e, pass, x, past, state);
  const int64_t rows = x.dim(0);
  SavedBlock s;
  {
    const Tensor h = activation(e, rows, width[0]);
    e.rms_norm(x, norm1->seen(e), norm_eps[0], h, nullptr);
    const auto [k, v] = AttentionLayer::place(state, past, rows);
    project_together(e, pass, h, k ? &k : nullptr, v ? &v : nullptr, s);
  }
  const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  attention->decode(e, state, past, s.q, s.k, s.v, o);
  Tensor middle = activation(e, rows, width[1]);
  attention_output(e, call_at(pass, 0, false), o, x, middle, s);
  return middle;
}

}  // namespace tenon::trainer
