#include "hosts/trainer/model/attention.h"

namespace tenon::trainer {

// tn_attention_shape with the arrays that it points to.
struct AttentionLayer::Shape {
  tn_mask_term causal{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0}, window{sizeof(tn_mask_term), TN_MASK_WINDOW, 0, -1, 0};
  const tn_mask_term* terms[2]{&causal, &window};
  std::vector<int64_t> zeros;
  tn_segments segments{};
  tn_attention_shape shape{};

  Shape(int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, int64_t window_tokens, const Segments* packed, uint32_t phase, tn_dtype dtype) {
    window.left = window_tokens - 1;
    shape = {sizeof(tn_attention_shape), phase, 0, window_tokens > 0 ? 2u : 1u, batch, t_q, t_k, q_pos, 0, terms, nullptr, dtype, {}};
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

Tensor heads(const Tensor& t, int64_t batch) { return t.reshaped({batch, t.dim(0) / batch, t.dim(1), t.dim(2)}); }

}  // namespace

void AttentionLayer::forward(Engine& engine, int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, const Segments* packed,
                             const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor* lse) const {
  const uint32_t phase = lse ? TN_PHASE_TRAIN : (t_q == t_k ? TN_PHASE_PREFILL : TN_PHASE_DECODE);
  const Shape s(batch, t_q, t_k, q_pos, window_, packed, phase, q.dtype());
  tn_attention_plan plan{sizeof(tn_attention_plan)};
  check(api_->plan(self_, engine.api(), engine.device(), &s.shape, &plan), "planning attention");
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
  tn_attention_plan plan{sizeof(tn_attention_plan)};
  check(api_->plan(self_, engine.api(), engine.device(), &s.shape, &plan), "planning attention");
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
  tn_attention_plan plan{sizeof(tn_attention_plan)};
  check(api_->plan(self_, engine.api(), engine.device(), &s.shape, &plan), "planning attention");
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
