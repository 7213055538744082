// A block whose mixer owns its projections.
#include "hosts/trainer/model/block.h"

namespace tenon::trainer {

MixerCall TransformerBlock::mixer_call(const Pass& pass, SavedBlock& s, bool save) const {
  MixerCall c;
  c.sequences = pass.sequences, c.length = pass.length, c.positions = pass.positions, c.segments = pass.segments;
  c.linear = call_at(pass, 0, save);
  c.linears = linears, c.saved_linears = s.linears;
  if (save) c.saved = &s.mixer;
  return c;
}

// middle = x + adapted(mixer(norm(x))). keep: for backward, which otherwise runs this again from the input.
Tensor TransformerBlock::mixer_half(Engine& e, const Pass& pass, const Tensor& x, SavedBlock* saved, bool keep) const {
  SavedBlock local;
  SavedBlock& s = saved ? *saved : local;
  const int64_t rows = x.dim(0);
  const Tensor h = e.empty(Category::kActivations, e.compute(), {rows, config->hidden});
  Tensor rstd;
  if (keep) rstd = e.empty(Category::kActivations, kF32, {rows});
  e.rms_norm(x, norm1->seen(e), config->norm_eps, h, keep ? &rstd : nullptr);
  const Tensor middle = e.empty(Category::kActivations, e.compute(), {rows, config->hidden});
  join(e, call_at(pass, 0, keep), x, middle, s, [&](const Tensor& out) { mixer->forward(e, mixer_call(pass, s, keep), h, out); });
  if (saved) s.x = x;
  if (keep) s.rstd1 = rstd;
  return middle;
}

Tensor TransformerBlock::decode_mixer(Engine& e, const Pass& pass, const Tensor& x, int64_t past, const DecodeState& state) const {
  SavedBlock s;
  const Tensor h = e.empty(Category::kActivations, e.compute(), {x.dim(0), config->hidden});
  e.rms_norm(x, norm1->seen(e), config->norm_eps, h, nullptr);
  const Tensor middle = e.empty(Category::kActivations, e.compute(), {x.dim(0), config->hidden});
  MixerCall call = mixer_call(pass, s, false);
  call.decode = &state, call.past = past;
  join(e, call.linear, x, middle, s, [&](const Tensor& out) { mixer->forward(e, call, h, out); });
  return middle;
}

void TransformerBlock::mixer_backward(Engine& e, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const {
  const int64_t rows = dy.dim(0);
  const bool below = want_dx || norm1->trainable;
  bool any = below || mixer->trains();
  for (int i : {kQ, kK, kV, kO}) any = any || linears[i].trains();
  const MixerCall call = mixer_call(pass, s, true);
  Tensor d_out = before_adapters(e, call.linear, s, dy);
  if (!any) return;
  Tensor dh;
  if (below) dh = e.empty(Category::kActivations, e.compute(), {rows, config->hidden});
  {
    const Tensor h = e.empty(Category::kActivations, e.compute(), {rows, config->hidden});
    e.rms_norm(s.x, norm1->value, config->norm_eps, h, nullptr);
    mixer->backward(e, call, h, d_out, below ? &dh : nullptr);
  }
  s.mixer.clear();
  d_out = Tensor();
  if (!below) return;
  const Tensor* dweight = norm1->trainable ? &norm1->open_zeroed_gradient(e) : nullptr;
  e.rms_norm_backward(dh, s.x, norm1->value, s.rstd1, 1, dy, dweight);
}

}  // namespace tenon::trainer
