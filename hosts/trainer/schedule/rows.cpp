// A block over some rows of a pass: what StreamBP (slices of one layer, Luo et al. 2025) and SeCO (chunks through all layers, Li et al. 2025)
// have in common. Rows are flat over the micro-batch; attention is called for each document that they meet.
#include <algorithm>

#include "hosts/trainer/model/block.h"

namespace tenon::trainer {
namespace {

// Rows [begin, end) of a document that begins at row `document`.
struct Part {
  int64_t document, begin, end;
};

std::vector<Part> parts(const Pass& pass, int64_t begin, int64_t end) {
  std::vector<Part> all;
  const auto add = [&](int64_t document, int64_t length) {
    const Part p{document, std::max(begin, document), std::min(end, document + length)};
    if (p.begin < p.end) all.push_back(p);
  };
  if (pass.segments)
    for (size_t i = 0; i < pass.segments->begin.size(); ++i) add(pass.segments->begin[i], pass.segments->length[i]);
  else
    for (int64_t s = begin / pass.length; s * pass.length < end; ++s) add(s * pass.length, pass.length);
  return all;
}

// Log-sum-exps of a call's rows lie part by part, each [1, Hq, n].
Tensor lse_of(const Tensor& lse, const Part& p, int64_t begin, int64_t n_heads) {
  return lse.rows((p.begin - begin) * n_heads, (p.end - begin) * n_heads).reshaped({1, n_heads, p.end - p.begin});
}

}  // namespace

Keys TransformerBlock::keys(Engine& e, int64_t rows, bool gradients) const {
  const auto make = [&](tn_dtype type) { return e.empty(Category::kActivations, type, {rows, config->kv_heads, config->head_dim}); };
  Keys k{make(e.compute()), make(e.compute()), {}, {}};
  if (gradients) k.dk = make(kF32), k.dv = make(kF32), e.zero(k.dk), e.zero(k.dv);
  return k;
}

void TransformerBlock::make_keys(Engine& e, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys) const {
  const int64_t rows = x.dim(0), end = begin + rows;
  const Tensor h = e.empty(Category::kActivations, e.compute(), {rows, width[0]});
  e.rms_norm(x, norm1->seen(e), norm_eps[0], h, nullptr);
  SavedBlock nothing;
  const LinearCall call = call_at(pass, begin, false);
  const Tensor k = keys.k.rows(begin, end), v = keys.v.rows(begin, end);
  project_heads(e, pass, call, kK, h, &k, nothing);
  project_heads(e, pass, call, kV, h, &v, nothing);
}

Tensor TransformerBlock::attention_rows(Engine& e, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys, bool keys_there,
                                        SavedBlock* saved) const {
  const int64_t rows = x.dim(0), end = begin + rows;
  const bool save = saved != nullptr;
  SavedBlock local;
  SavedBlock& s = saved ? *saved : local;
  const LinearCall call = call_at(pass, begin, save);
  {
    const Tensor h = e.empty(Category::kActivations, e.compute(), {rows, width[0]});
    if (save) s.rstd1 = e.empty(Category::kActivations, kF32, {rows});
    e.rms_norm(x, norm1->seen(e), norm_eps[0], h, save ? &s.rstd1 : nullptr);
    s.q = project_heads(e, pass, call, kQ, h, nullptr, s);
    const Tensor k = keys.k.rows(begin, end), v = keys.v.rows(begin, end);
    if (!keys_there) {
      project_heads(e, pass, call, kK, h, &k, s);
      project_heads(e, pass, call, kV, h, &v, s);
    } else if (save) {
      // The keys are there; what backward needs beside them is not: the head norm's input, and what adapters save.
      if (k_norm) project_heads(e, pass, call, kK, h, nullptr, s);
      else linears[kK].forward(e, call, h, Tensor(), &s.linears[kK]);
      linears[kV].forward(e, call, h, Tensor(), &s.linears[kV]);
    }
  }
  const Tensor o = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
  const Tensor lse = e.empty(Category::kActivations, kF32, {rows * config->heads});
  for (const Part& p : parts(pass, begin, end)) {
    const Tensor part_lse = lse_of(lse, p, begin, config->heads);
    attention->forward(e, 1, p.end - p.begin, p.end - p.document, p.begin - p.document, nullptr, s.q.rows(p.begin - begin, p.end - begin),
                       keys.k.rows(p.document, p.end), keys.v.rows(p.document, p.end), o.rows(p.begin - begin, p.end - begin), &part_lse);
  }
  if (save) s.x = x, s.o = o, s.lse = lse;
  else s.q = Tensor();
  const Tensor middle = e.empty(Category::kActivations, e.compute(), {rows, width[1]});
  attention_output(e, call_at(pass, begin, save), o, x, middle, s);
  if (save) s.middle = middle;
  return middle;
}

void TransformerBlock::forward_rows(Engine& e, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys, bool keys_there, const Tensor& y,
                                    SavedBlock* saved) const {
  const Tensor middle = attention_rows(e, pass, begin, x, keys, keys_there, saved);
  mlp_into(e, pass, begin, middle, y, saved);
}

Tensor TransformerBlock::backward_rows(Engine& e, const Pass& pass, int64_t begin, SavedBlock& s, const Keys& keys, const Tensor& dy, bool want_dx) const {
  const int64_t rows = dy.dim(0), end = begin + rows;
  const bool wanted = needs_attention_gradient(want_dx);
  Tensor d = whole_mlp_backward(e, pass, begin, s, dy);
  Tensor d_o = attention_output_backward(e, call_at(pass, begin, true), s, d, wanted);
  d = past(e, call_at(pass, begin, true), 0, s.x, d, want_dx || norm1->trainable);
  if (wanted) {
    const Tensor dq = e.empty(Category::kActivations, e.compute(), {rows, config->heads, config->head_dim});
    for (const Part& p : parts(pass, begin, end)) {
      const auto own = [&](const Tensor& t) { return t.rows(p.begin - begin, p.end - begin); };
      const auto seen = [&](const Tensor& t) { return t.rows(p.document, p.end); };
      attention->backward_rows(e, p.begin - p.document, own(s.q), seen(keys.k), seen(keys.v), own(s.o), lse_of(s.lse, p, begin, config->heads), own(d_o),
                               own(dq), seen(keys.dk), seen(keys.dv));
    }
    d_o = s.o = s.q = Tensor();
    // No later row is left that could add to the gradients of these keys and values.
    const auto complete = [&](const Tensor& sum) {
      const Tensor mine = sum.rows(begin, end);
      if (e.compute() == kF32) return mine;
      const Tensor narrow = e.empty(Category::kActivations, e.compute(), {rows, config->kv_heads, config->head_dim});
      e.axpby(1, mine, 0, narrow);
      return narrow;
    };
    qkv_backward(e, pass, begin, s, dq, complete(keys.dk), complete(keys.dv), d, want_dx);
  }
  s = SavedBlock();
  return d;
}

// StreamBP: keys and values of all rows once, then slices of rows forward and backward, last first.
Tensor TransformerBlock::stream_backward(Engine& e, const Pass& given, SavedBlock& s, const Tensor& dy, bool want_dx) const {
  Pass pass = given;
  pass.recompute = true;
  const int64_t rows = dy.dim(0), slice = std::min(pass.memory.stream_rows, rows);
  const Keys k = keys(e, rows, needs_attention_gradient(want_dx));
  for (int64_t r = 0; r < rows; r += slice) {
    const int64_t end = std::min(r + slice, rows);
    make_keys(e, pass, r, s.x.rows(r, end), k);
  }
  const bool moves = residual[0] || residual[1];
  Tensor dx = dy;
  if (moves && want_dx) dx = e.empty(Category::kActivations, e.compute(), {rows, width[0]});
  for (int64_t r = (rows - 1) / slice * slice; r >= 0; r -= slice) {
    const int64_t end = std::min(r + slice, rows);
    SavedBlock part;
    attention_rows(e, pass, r, s.x.rows(r, end), k, true, &part);
    const Tensor rows_of_dx = backward_rows(e, pass, r, part, k, dy.rows(r, end), want_dx);
    if (moves && want_dx) e.copy(rows_of_dx, dx.rows(r, end));
  }
  return dx;
}

}  // namespace tenon::trainer
