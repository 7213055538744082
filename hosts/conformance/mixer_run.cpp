#include "hosts/conformance/mixer_run.h"

#include <algorithm>
#include <cmath>

#include "hosts/conformance/check.h"
#include "hosts/conformance/numbers.h"
#include "sdk/attention/reference.h"
#include "sdk/tensor.h"
#include "tenon/ops.h"

namespace tenon::conformance {

// The functions that the plugin calls; nothing here throws.
struct MixerRun::Table {
  static MixerRun& of(void* self) { return *static_cast<MixerRun*>(self); }

  static int32_t keep(void* self, uint32_t role) {
    if (role < TN_ROLE_Q || role > TN_ROLE_O) return of(self).fault_ = "it keeps a linear that a mixer has not", TN_E_ARGUMENT;
    return of(self).kept_.push_back(role), TN_OK;
  }
  static int32_t param(void* self, const tn_mixer_param* p) {
    MixerRun& r = of(self);
    r.fault_ = r.parameters_.declare(p->id, p->key, p->ndim, p->shape, !(p->flags & TN_MIXER_PARAM_BUFFER));
    return r.fault_.empty() ? int32_t{TN_OK} : int32_t{TN_E_ARGUMENT};
  }
  static int32_t core(void* self, const char*, const tn_attention_config* config, int64_t window, uint32_t* id) {
    *id = static_cast<uint32_t>(of(self).cores_.size());
    return of(self).cores_.emplace_back(*config, window), TN_OK;
  }

  static int32_t alloc(void* self, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    return of(self).lend(of(self).lent_, ndim, shape, dtype, out);
  }
  static void free(void* self, tn_tensor* tensor) {
    MixerRun& r = of(self);
    if (!r.lent_.take_back(tensor)) r.fault_ = "it frees a tensor that it does not hold";
  }
  static int32_t save(void* self, uint32_t slot, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
    MixerRun& r = of(self);
    const int32_t status = r.lend(r.saved_, ndim, shape, dtype, out);
    r.slots_[slot] = {sizeof(tn_saved), 0, *out, nullptr, nullptr};
    return status;
  }
  static int32_t saved(void* self, uint32_t slot, const tn_saved** out) {
    const auto found = of(self).slots_.find(slot);
    if (found == of(self).slots_.end()) return TN_E_NOT_FOUND;
    return *out = &found->second, TN_OK;
  }
  static int32_t no_input(void*, uint32_t) { return TN_E_STATE; }

  static int32_t gemm(void* self, const tn_tensor* a, const tn_tensor* b, double alpha, double beta, tn_tensor* c) {
    return of(self).planned_ ? int32_t{TN_OK} : multiply(of(self).bench_, *a, *b, alpha, beta, *c);
  }
  static int32_t axpby(void* self, double alpha, const tn_tensor* x, double beta, tn_tensor* y) {
    return of(self).planned_ ? int32_t{TN_OK} : conformance::axpby(of(self).bench_, alpha, *x, beta, *y);
  }
  static bool keeps(const MixerRun& r, uint32_t role) { return std::find(r.kept_.begin(), r.kept_.end(), role) != r.kept_.end(); }
  static int32_t linear(void* self, uint32_t role, const tn_tensor* x, tn_tensor* y) {
    MixerRun& r = of(self);
    if (!keeps(r, role)) return r.fault_ = "it calls a linear that it has not kept", TN_E_STATE;
    if (r.planned_) return TN_OK;
    int64_t shape[2], strides[2];
    return multiply(r.bench_, *x, transposed(*r.weights_.at(role)->get(), shape, strides), 1, 0, *y);
  }
  static int32_t linear_backward(void* self, uint32_t role, const tn_tensor* dy, const tn_tensor*, double beta, tn_tensor* dx) {
    MixerRun& r = of(self);
    if (!keeps(r, role)) return r.fault_ = "it calls a linear that it has not kept", TN_E_STATE;
    return r.planned_ || !dx ? int32_t{TN_OK} : multiply(r.bench_, *dy, *r.weights_.at(role)->get(), 1, beta, *dx);
  }

  static sdk::DenseAttention dense(MixerRun& r, uint32_t id, const tn_tensor& q, const tn_tensor& k, const tn_tensor& v) {
    const auto& [c, window] = r.cores_.at(id);
    const int64_t batch = r.decoding_ || !r.rows_.documents.empty() ? 1 : r.rows_.sequences;
    sdk::DenseAttention a{batch, q.shape[0] / batch, k.shape[0] / batch, c.n_heads, c.n_kv_heads, c.d_qk, c.d_v, c.scale, c.softcap};
    a.mask = {{TN_SIZE_TO(tn_mask_term, n), TN_MASK_CAUSAL, 0, 0, 0}};
    if (window > 0) a.mask.push_back({TN_SIZE_TO(tn_mask_term, n), TN_MASK_WINDOW, window - 1, -1, 0});
    if (r.decoding_) a.q_pos = k.shape[0] - q.shape[0];
    for (const auto& [begin, length] : r.rows_.documents) a.segments.push_back({begin, length, begin, length, 0, 0});
    a.q = read(r.bench_, q), a.k = read(r.bench_, k), a.v = read(r.bench_, v);
    return a;
  }
  static int32_t core_forward(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, tn_tensor* o, tn_tensor* lse) {
    MixerRun& r = of(self);
    if (id >= r.cores_.size()) return r.fault_ = "it calls a core that it has not opened", TN_E_ARGUMENT;
    if (r.planned_) return TN_OK;
    const auto out = dense(r, id, *q, *k, *v).forward();
    if (const int32_t status = write(r.bench_, *o, out.o); status < 0 || !lse) return status;
    return write(r.bench_, *lse, out.lse);
  }
  static int32_t core_backward(void* self, uint32_t id, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, const tn_tensor*, const tn_tensor*,
                               const tn_tensor* d_o, tn_tensor* dq, tn_tensor* dk, tn_tensor* dv) {
    MixerRun& r = of(self);
    if (id >= r.cores_.size()) return r.fault_ = "it calls a core that it has not opened", TN_E_ARGUMENT;
    if (r.planned_) return TN_OK;
    const auto g = dense(r, id, *q, *k, *v).backward(read(r.bench_, *d_o), {});
    for (const auto& [to, from] : {std::pair{dq, &g.dq}, {dk, &g.dk}, {dv, &g.dv}})
      if (const int32_t status = write(r.bench_, *to, *from); status < 0) return status;
    return TN_OK;
  }
  static int32_t read_rows(void* self, uint32_t role, int64_t begin, int64_t end, tn_tensor* out) {
    MixerRun& r = of(self);
    const auto found = r.weights_.find(role);
    if (!r.starting_ || found == r.weights_.end()) return r.fault_ = "it reads a weight that is not there to be read", TN_E_STATE;
    const int32_t status = copy_rows(r.bench_, *found->second, begin, end, *out);
    if (status == TN_E_ARGUMENT) r.fault_ = "it reads rows that a weight has not";
    return status;
  }
};

int32_t MixerRun::lend(Loans& from, int32_t ndim, const int64_t* shape, const tn_dtype* dtype, tn_tensor** out) {
  *out = from.lend(bench_, ndim, shape, *dtype, planned_, rows_.poison);
  if (!*out) return fault_ = "it asks for a tensor of an impossible shape", TN_E_ARGUMENT;
  return sizes_.push_back((static_cast<uint64_t>(sdk::count(**out)) * dtype->bits + 7) / 8), TN_OK;
}

MixerRun::MixerRun(Subject& subject, const Spec& spec) : bench_(subject.bench()), api_(subject.api<tn_attention_api>()) {
  if (api_.placement != TN_PLACEMENT_SUBLAYER) throw NotApplicable{"it is a kernel on q, k and v"};
  mixer_ = subject.plugin().extension<tn_mixer_api>(TN_EXT_MIXER);
  expect(mixer_ != nullptr, "its placement is a sub-layer, and it does not offer org.tenon.mixer/1");
  const tn_attention_config config{TN_SIZE_TO(tn_attention_config, softcap), kHeads, kKvHeads, kWidth, kWidth, 0, 1, 0, kHeads, 0, 0, 0};
  int32_t status = 0;
  instance_ = std::make_unique<Instance<tn_attention_api, tn_attention>>(api_, spec, status, &config);
  if (status < 0) refused(status, "create");
  const auto weight = [&](uint32_t role, int64_t m, int64_t n) {
    weights_[role] = std::make_unique<Tensor>(bench_, "a weight of the model", sdk::kF32, std::vector<int64_t>{m, n}, normals(m * n, role, 0.15f));
    weights_[role]->seal();
  };
  weight(TN_ROLE_Q, kHeads * kWidth, kHidden), weight(TN_ROLE_K, kKvHeads * kWidth, kHidden), weight(TN_ROLE_V, kKvHeads * kWidth, kHidden);
  weight(TN_ROLE_O, kHidden, kHeads * kWidth);
  std::vector<float> frequencies;
  for (int i = 0; i < kWidth / 2; ++i) frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / kWidth));
  const tn_mixer_layer layer{TN_SIZE_TO(tn_mixer_layer, rope_scale), 0, kHidden, 0, frequencies.data(), 1};
  const tn_mixer_sink sink{TN_SIZE_TO(tn_mixer_sink, core), 0, this, Table::keep, Table::param, Table::core};
  status = mixer_->bind(instance_->get(), &layer, &sink);
  expect(fault_.empty(), fault_);
  if (status < 0) refused(status, "bind");
  starting_ = true;
  const tn_rng rng{7, 900, 1};
  run({}, 0, nullptr, 0, "start", [&](const tn_mixer_ops* ops) { return mixer_->start(instance_->get(), ops, &rng, 0); });
  starting_ = false;
  for (const Parameter& p : parameters_) expect(all_finite(p.value->floats()), "start leaves parameter " + p.key + " without values");
  parameters_.displace(0.05, 60);
}

void MixerRun::run(const Rows& rows, uint32_t flags, Tensor* state, int64_t past, const std::string& doing,
                   const std::function<int32_t(const tn_mixer_ops*)>& body) {
  rows_ = rows, planned_ = flags & TN_MIXER_PLAN, decoding_ = state != nullptr;
  const int64_t n = rows.count();
  std::vector<int64_t> begin, length, zeros;
  Tensor positions(bench_, "positions", sdk::kI32, {n});
  std::vector<int32_t> place(static_cast<size_t>(n));
  for (int64_t r = 0; r < n; ++r) place[r] = static_cast<int32_t>(past + r % rows.length);
  for (const auto& [b, l] : rows.documents) {
    begin.push_back(b), length.push_back(l), zeros.push_back(0);
    for (int64_t i = 0; i < l; ++i) place[b + i] = static_cast<int32_t>(i);
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(place.data());
  positions.set_raw({bytes, bytes + place.size() * 4});
  const tn_segments segments{TN_SIZE_TO(tn_segments, k_pos), static_cast<uint32_t>(begin.size()), begin.data(), length.data(), begin.data(), length.data(), zeros.data(), zeros.data()};
  const Exec exec(bench_, 0);
  const tn_saver saver{sizeof(tn_saver), 0, this, Table::no_input, Table::save, Table::saved};
  const tn_mixer_ops ops{TN_SIZE_TO(tn_mixer_ops, read_rows), flags | (state ? uint32_t{TN_MIXER_DECODE} : 0u), this, exec.get(),
                         flags & TN_MIXER_SAVE ? &saver : nullptr, parameters_.views(), parameters_.size(), n, kHidden, rows.sequences, rows.length,
                         begin.empty() ? nullptr : &segments, positions.get(), sdk::kF32, {}, past, state ? state->get() : nullptr, Table::alloc, Table::free,
                         Table::gemm, Table::axpby, Table::linear, Table::linear_backward, Table::core_forward, Table::core_backward, Table::read_rows};
  const int32_t status = body(&ops);
  bench_.wait();
  bench_.expect_intact(doing);
  lent_.clear();
  expect(fault_.empty(), fault_);
  must(status, doing);
}

std::vector<float> MixerRun::forward(const Rows& rows, const std::vector<float>& x, bool save) {
  Tensor tx(bench_, "x", sdk::kF32, {rows.count(), kHidden}, x), y(bench_, "y", sdk::kF32, {rows.count(), kHidden});
  tx.seal(), y.fill(rows.poison);
  saved_.clear(), slots_.clear();
  run(rows, save ? TN_MIXER_SAVE : 0, nullptr, 0, "forward", [&](const tn_mixer_ops* ops) { return mixer_->forward(instance_->get(), ops, tx.get(), y.get()); });
  return y.floats();
}

std::vector<float> MixerRun::backward(const Rows& rows, const std::vector<float>& x, const std::vector<float>& dy) {
  Tensor tx(bench_, "x", sdk::kF32, {rows.count(), kHidden}, x), td(bench_, "dy", sdk::kF32, {rows.count(), kHidden}, dy),
      dx(bench_, "dx", sdk::kF32, {rows.count(), kHidden});
  tx.seal(), td.seal(), dx.fill(rows.poison);
  run(rows, TN_MIXER_SAVE, nullptr, 0, "backward",
      [&](const tn_mixer_ops* ops) { return mixer_->backward(instance_->get(), ops, tx.get(), td.get(), dx.get()); });
  return dx.floats();
}

std::vector<uint64_t> MixerRun::allocations(const Rows& rows, bool planned) {
  sizes_.clear();
  const std::vector<float> x = normals(rows.count() * kHidden, 5);
  if (!planned) {
    forward(rows, x), backward(rows, x, x);
    return sizes_;
  }
  saved_.clear(), slots_.clear();
  int64_t shape[2] = {rows.count(), kHidden}, strides[2] = {kHidden, 1};
  tn_tensor a{nullptr, bench_.id, 2, sdk::kF32, shape, strides, 0}, b = a, c = a;
  const uint32_t flags = TN_MIXER_SAVE | TN_MIXER_PLAN;
  run(rows, flags, nullptr, 0, "forward of the forecast", [&](const tn_mixer_ops* ops) { return mixer_->forward(instance_->get(), ops, &a, &b); });
  run(rows, flags, nullptr, 0, "backward of the forecast", [&](const tn_mixer_ops* ops) { return mixer_->backward(instance_->get(), ops, &a, &b, &c); });
  return sizes_;
}

std::vector<float> MixerRun::decode(const std::vector<float>& x, const std::vector<int64_t>& pieces) {
  const int64_t n = static_cast<int64_t>(x.size()) / kHidden;
  tn_attention_state layout{};
  layout.struct_size = TN_SIZE_TO(tn_attention_state, bytes);
  must(api_.state(instance_->get(), &sdk::kF32, n, &layout), "state");
  expect(layout.kind >= TN_STATE_PER_TOKEN && layout.kind <= TN_STATE_RING && layout.bytes > 0, "its decode state has a kind that the ABI does not know, or no bytes");
  Tensor state(bench_, "the decode state", sdk::kU8, {static_cast<int64_t>(layout.bytes)});
  state.fill(0);
  std::vector<float> out;
  int64_t past = 0;
  for (const int64_t rows : pieces) {
    Tensor tx(bench_, "x", sdk::kF32, {rows, kHidden}, slice(x, past * kHidden, (past + rows) * kHidden)), y(bench_, "y", sdk::kF32, {rows, kHidden});
    run({1, rows}, 0, &state, past, "decoding", [&](const tn_mixer_ops* ops) { return mixer_->forward(instance_->get(), ops, tx.get(), y.get()); });
    const auto part = y.floats();
    out.insert(out.end(), part.begin(), part.end());
    past += rows;
  }
  return out;
}

}  // namespace tenon::conformance
