#include "hosts/trainer/model/attention.h"

#include "core/error.h"

namespace tenon::trainer {

// tn_attention_shape with the arrays that it points to.
struct AttentionLayer::Shape {
  tn_mask_term causal{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0, nullptr}, window{sizeof(tn_mask_term), TN_MASK_WINDOW, 0, -1, 0, nullptr};
  const tn_mask_term* terms[2]{&causal, &window};
  std::vector<int64_t> zeros;
  tn_segments segments{};
  tn_attention_shape shape{};

  Shape(int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, int64_t window_tokens, const Segments* packed, uint32_t phase, tn_dtype dtype) {
    window.left = window_tokens - 1;
    shape = {sizeof(tn_attention_shape), phase, 0, window_tokens > 0 ? 2u : 1u, batch, t_q, t_k, q_pos, 0, terms, nullptr, dtype, {}, 0};
    if (packed) {
      zeros.assign(packed->begin.size(), 0);
      const int64_t *b = packed->begin.data(), *n = packed->length.data();
      segments = {sizeof(tn_segments), static_cast<uint32_t>(zeros.size()), b, n, b, n, zeros.data(), zeros.data()};
      shape.batch = 1, shape.t_q = shape.t_k = batch * t_q, shape.segments = &segments;
    }
  }
};

namespace {

class Binds {
 public:
  static constexpr size_t kMost = 9;
  Binds() { keep_.reserve(kMost), refs_.reserve(kMost), ports_.reserve(kMost), binds_.reserve(kMost), pointers_.reserve(kMost); }
  Tensor add(uint32_t port, Tensor t, uint32_t flags = 0) {
    refs_.push_back(t.ref()), keep_.push_back(std::move(t)), ports_.push_back({port, flags});
    return keep_.back();
  }
  void seal() {
    for (size_t i = 0; i < refs_.size(); ++i) {
      refs_[i] = keep_[i].ref();
      binds_.push_back({sizeof(tn_port_bind), ports_[i].first, ports_[i].second, 0, &refs_[i].t});
    }
    for (const tn_port_bind& b : binds_) pointers_.push_back(&b);
  }
  const tn_port_bind* const* data() const { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  std::vector<Tensor> keep_;
  std::vector<Tensor::Ref> refs_;
  std::vector<std::pair<uint32_t, uint32_t>> ports_;  // port, TN_BIND_*
  std::vector<tn_port_bind> binds_;
  std::vector<const tn_port_bind*> pointers_;
};

// [rows, H, d] as [batch, T, H, d], whatever the strides.
Tensor heads(const Tensor& t, int64_t batch) {
  const Tensor::Ref r = t.ref();
  const int64_t* s = r.t.strides;
  const int64_t length = t.dim(0) / batch, strides[4] = {length * s[0], s[0], s[1], s[2]};
  return t.reshaped({batch, length, t.dim(1), t.dim(2)}).with_strides(strides);
}

}  // namespace

const tn_attention_plan& AttentionLayer::plan(Engine& engine, const tn_attention_shape& shape) const {
  const std::array<int64_t, 9> sizes{shape.batch, shape.t_q, shape.t_k, shape.q_pos, shape.k_pos, shape.phase, shape.state_tokens, shape.dtype.code, shape.dtype.bits};
  Segments packed;
  if (const tn_segments* s = shape.segments) packed = {{s->q_begin, s->q_begin + s->n}, {s->q_len, s->q_len + s->n}};
  if (planned_.plan.struct_size && planned_.sizes == sizes && planned_.packed.begin == packed.begin && planned_.packed.length == packed.length)
    return planned_.plan;
  tn_attention_plan plan{};
  plan.struct_size = sizeof plan;
  check(api_->plan(self_, engine.api(), engine.device(), &shape, &plan), "planning attention");
  planned_ = {sizes, std::move(packed), plan};
  return planned_.plan;
}

tn_estimate AttentionLayer::forward_estimate(Engine& engine, int64_t batch, int64_t t, tn_dtype dtype) const {
  return plan(engine, Shape(batch, t, t, 0, window_, nullptr, TN_PHASE_TRAIN, dtype).shape).forward;
}

DecodeState AttentionLayer::start(Engine& engine, int64_t tokens) const {
  DecodeState s;
  s.tokens = tokens;
  tn_attention_state info{};
  info.struct_size = sizeof info;
  const tn_dtype dtype = engine.compute();
  check(api_->state(self_, &dtype, tokens, &info), "asking for the state of attention");
  s.kind = info.kind;
  switch (info.kind) {
    case TN_STATE_PER_TOKEN:
      s.k = engine.empty(Category::kActivations, dtype, {tokens, config_.n_kv_heads, config_.d_qk});
      s.v = engine.empty(Category::kActivations, dtype, {tokens, config_.n_kv_heads, config_.d_v});
      break;
    case TN_STATE_FIXED:
    case TN_STATE_RING: s.bytes = engine.empty(Category::kActivations, kU8, {1, static_cast<int64_t>(info.bytes)}); break;
    default: throw Error(TN_E_UNSUPPORTED, "the attention plugin keeps a decode state of kind " + std::to_string(info.kind) + ", which this host does not know");
  }
  return s;
}

void AttentionLayer::decode(Engine& engine, DecodeState& state, int64_t past, const Tensor& q, const Tensor& k, const Tensor& v,
                            const Tensor& o) const {
  const int64_t rows = q.dim(0), end = past + rows;
  if (state.kind == TN_STATE_PER_TOKEN) {
    const auto [own_k, own_v] = place(state, past, rows);
    if (k.data() != own_k.data()) engine.copy(k, own_k);
    if (v.data() != own_v.data()) engine.copy(v, own_v);
    return forward(engine, 1, rows, end, past, nullptr, q, state.k.rows(0, end), state.v.rows(0, end), o, nullptr);
  }
  Shape s(1, rows, rows, past, window_, nullptr, past == 0 ? TN_PHASE_PREFILL : TN_PHASE_DECODE, q.dtype());
  s.shape.k_pos = past, s.shape.state_tokens = state.tokens;
  const tn_attention_plan& plan = this->plan(engine, s.shape);
  Binds binds;
  binds.add(TN_PORT_Q, heads(q, 1)), binds.add(TN_PORT_K, heads(k, 1)), binds.add(TN_PORT_V, heads(v, 1)), binds.add(TN_PORT_O, heads(o, 1));
  if (past > 0) binds.add(TN_PORT_STATE_IN, state.bytes);
  binds.add(TN_PORT_STATE_OUT, state.bytes);
  binds.seal();
  engine.with_workspace(plan.forward, "attention", [&](const tn_exec* exec) {
    const tn_attention_call call{sizeof(tn_attention_call), 0, exec, 0, {}, 0};
    return api_->forward(self_, &call, &s.shape, binds.data(), binds.size());
  });
}

void AttentionLayer::forward(Engine& engine, int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, const Segments* packed,
                             const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor* lse) const {
  const uint32_t phase = lse ? TN_PHASE_TRAIN : (t_q == t_k ? TN_PHASE_PREFILL : TN_PHASE_DECODE);
  const Shape s(batch, t_q, t_k, q_pos, window_, packed, phase, q.dtype());
  const tn_attention_plan& plan = this->plan(engine, s.shape);
  Binds binds;
  binds.add(TN_PORT_Q, heads(q, s.shape.batch)), binds.add(TN_PORT_K, heads(k, s.shape.batch)), binds.add(TN_PORT_V, heads(v, s.shape.batch));
  binds.add(TN_PORT_O, heads(o, s.shape.batch));
  if (lse) binds.add(TN_PORT_LSE, packed ? lse->reshaped({1, q.dim(1), q.dim(0)}) : *lse);
  binds.seal();
  engine.with_workspace(plan.forward, "attention", [&](const tn_exec* exec) {
    const tn_attention_call call{sizeof(tn_attention_call), 0, exec, 0, {}, 0};
    return api_->forward(self_, &call, &s.shape, binds.data(), binds.size());
  });
}

void AttentionLayer::backward(Engine& engine, int64_t batch, int64_t t, const Segments* packed, const Tensor& q, const Tensor& k,
                              const Tensor& v, const Tensor& o, const Tensor& lse, const Tensor& d_o, const Tensor& dq, const Tensor& dk,
                              const Tensor& dv) const {
  const Shape s(batch, t, t, 0, window_, packed, TN_PHASE_TRAIN, q.dtype());
  const tn_attention_plan& plan = this->plan(engine, s.shape);
  Binds binds;
  const int64_t b = s.shape.batch;
  binds.add(TN_PORT_Q, heads(q, b)), binds.add(TN_PORT_K, heads(k, b)), binds.add(TN_PORT_V, heads(v, b));
  binds.add(TN_PORT_O, heads(o, b)), binds.add(TN_PORT_LSE, packed ? lse.reshaped({1, q.dim(1), q.dim(0)}) : lse);
  binds.add(TN_PORT_DO, heads(d_o, b)), binds.add(TN_PORT_DQ, heads(dq, b)), binds.add(TN_PORT_DK, heads(dk, b)), binds.add(TN_PORT_DV, heads(dv, b));
  binds.seal();
  engine.with_workspace(plan.backward, "attention backward", [&](const tn_exec* exec) {
    const tn_attention_call call{sizeof(tn_attention_call), 0, exec, 0, {}, 0};
    return api_->backward(self_, &call, &s.shape, binds.data(), binds.size());
  });
}

void AttentionLayer::backward_rows(Engine& engine, int64_t q_pos, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                                   const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const {
  const Shape s(1, q.dim(0), k.dim(0), q_pos, window_, nullptr, TN_PHASE_TRAIN, q.dtype());
  const tn_attention_plan& plan = this->plan(engine, s.shape);
  Binds binds;
  binds.add(TN_PORT_Q, heads(q, 1)), binds.add(TN_PORT_K, heads(k, 1)), binds.add(TN_PORT_V, heads(v, 1)), binds.add(TN_PORT_O, heads(o, 1));
  binds.add(TN_PORT_LSE, lse), binds.add(TN_PORT_DO, heads(d_o, 1)), binds.add(TN_PORT_DQ, heads(dq, 1));
  binds.add(TN_PORT_DK, heads(dk, 1), TN_BIND_ACCUMULATE), binds.add(TN_PORT_DV, heads(dv, 1), TN_BIND_ACCUMULATE);
  binds.seal();
  engine.with_workspace(plan.backward, "attention backward", [&](const tn_exec* exec) {
    const tn_attention_call call{sizeof(tn_attention_call), 0, exec, 0, {}, 0};
    return api_->backward(self_, &call, &s.shape, binds.data(), binds.size());
  });
}

}  // namespace tenon::trainer
