// The two passes of an attention technique.
#include "core/c_api/borrowed.h"
#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/plugins/host.h"

using namespace tenon;
using c_api::Access;
using c_api::guard;
using c_api::need;
using c_api::table;

namespace {

void check_port(const tn_session& session, const tn_tensor& tensor, const char* name,
                std::initializer_list<int64_t> shape, c_api::Access access) {
  c_api::check_borrowed(session, tensor, name, access);
  bool same = tensor.ndim == static_cast<int32_t>(shape.size());
  int32_t i = 0;
  for (const int64_t size : shape) {
    same = same && tensor.shape[i] == size;
    ++i;
  }
  if (same && tensor.ndim > 0 && tensor.shape[tensor.ndim - 1] > 1 && tensor.strides[tensor.ndim - 1] != 1)
    throw Error(TN_E_ARGUMENT, std::string(name) + " does not have the stride 1 in its last dimension; copy it");
  if (same) return;
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  throw Error(TN_E_ARGUMENT,
              std::string(name) + " does not have the shape [" + text + "] that the layer and q ask for");
}

void ask_support(tn_technique& t, const tn_tensor& q) {
  tn_query query{};
  query.struct_size = TN_SIZE_TO(tn_query, shape);
  query.device = t.session.device.id();
  query.dtype = query.compute = q.dtype;
  query.ndim = 4;
  std::copy_n(q.shape, 4, query.shape);
  check(table<tn_attention_api>(t).supports(static_cast<tn_attention*>(t.instance), &query),
        t.spec.id + " cannot take these tensors");
}

// One causal call over positions 0…T−1, checked and planned: what both passes share.
class Call {
 public:
  Call(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v, int64_t window,
       uint32_t phase)
      : t_(given(attention)), api_(table<tn_attention_api>(t_)), instance_(static_cast<tn_attention*>(t_.instance)) {
    need(q, "q");
    if (q->ndim != 4)
      throw Error(TN_E_ARGUMENT,
                  "q has " + std::to_string(q->ndim) + " dimensions; it is [batch, tokens, heads, head size]");
    c_api::check_borrowed(t_.session, *q, "q", Access::kRead);
    batch_ = q->shape[0], tokens_ = q->shape[1], dtype_ = q->dtype;
    const tn_attention_config& c = t_.attention;
    bind(TN_PORT_Q, q, "q", c.n_heads, c.d_qk);
    bind(TN_PORT_K, k, "k", c.n_kv_heads, c.d_qk);
    bind(TN_PORT_V, v, "v", c.n_kv_heads, c.d_v);
    ask_support(t_, *q);
    near_.left = window - 1;
    shape_.struct_size = TN_SIZE_TO(tn_attention_shape, reserved);
    shape_.phase = phase;
    shape_.n_mask = window > 0 ? 2 : 1;
    shape_.batch = batch_;
    shape_.t_q = shape_.t_k = tokens_;
    shape_.mask = mask_;
    shape_.dtype = dtype_;
    plan_.struct_size = TN_SIZE_TO(tn_attention_plan, backward);
    plan_.forward.struct_size = plan_.backward.struct_size = TN_SIZE_TO(tn_estimate, bytes_moved);
    check(api_.plan(instance_, &t_.session.device.api(), t_.session.device.handle(), &shape_, &plan_),
          t_.spec.id + " cannot plan this call");
  }

  // A tensor [batch, tokens, heads, d] of q's dtype.
  void bind(uint32_t id, const tn_tensor* tensor, const char* name, int64_t heads, int64_t d,
            Access access = Access::kRead) {
    need(tensor, name);
    check_port(t_.session, *tensor, name, {batch_, tokens_, heads, d}, access);
    c_api::check_dtype(*tensor, dtype_, name, "which q has");
    add(id, tensor);
  }
  void bind_lse(const tn_tensor* lse, Access access) {
    check_port(t_.session, *lse, "lse", {batch_, t_.attention.n_heads, tokens_}, access);
    (void)c_api::dense_bytes(*lse, "lse");
    c_api::check_dtype(*lse, {TN_FLOAT, 32, 1}, "lse", "which it always is");
    add(TN_PORT_LSE, lse);
  }
  const tn_attention_config& config() const { return t_.attention; }

  void run(bool backward) {
    const tn_port_bind* binds[kMost];
    for (uint64_t i = 0; i < n_; ++i) binds[i] = &ports_[i];
    const uint64_t bytes = (backward ? plan_.backward : plan_.forward).workspace_bytes;
    c_api::with_workspace(t_.session, bytes, [&](const tn_exec& exec) {
      tn_attention_call call{};
      call.struct_size = TN_SIZE_TO(tn_attention_call, step);
      call.exec = &exec;
      const auto pass = backward ? api_.backward : api_.forward;
      check(pass(instance_, &call, &shape_, binds, n_), t_.spec.id + " cannot run");
      t_.session.stream.wait();
    });
  }

 private:
  static constexpr uint64_t kMost = 9;
  static tn_technique& given(tn_technique* attention) {
    need(attention, "attention");
    return *attention;
  }
  void add(uint32_t id, const tn_tensor* tensor) {
    ports_[n_++] = {TN_SIZE_TO(tn_port_bind, tensor), id, 0, 0, const_cast<tn_tensor*>(tensor)};
  }
  tn_technique& t_;
  const tn_attention_api& api_;
  tn_attention* instance_;
  int64_t batch_ = 0, tokens_ = 0;
  tn_dtype dtype_{};
  tn_mask_term causal_{TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_CAUSAL, 0, 0, 0, nullptr},
      near_{TN_SIZE_TO(tn_mask_term, blocks), TN_MASK_WINDOW, 0, -1, 0, nullptr};
  const tn_mask_term* mask_[2]{&causal_, &near_};
  tn_attention_shape shape_{};
  tn_attention_plan plan_{};
  tn_port_bind ports_[kMost]{};
  uint64_t n_ = 0;
};

}  // namespace

int32_t tn_attention_forward(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v,
                             int64_t window, tn_tensor* o, tn_tensor* lse) {
  return guard([&] {
    Call call(attention, q, k, v, window, lse ? TN_PHASE_TRAIN : TN_PHASE_PREFILL);
    call.bind(TN_PORT_O, o, "o", call.config().n_heads, call.config().d_v, Access::kWrite);
    if (lse) call.bind_lse(lse, Access::kWrite);
    call.run(false);
  });
}

int32_t tn_attention_backward(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v,
                              int64_t window, const tn_tensor* o, const tn_tensor* lse, const tn_tensor* d_o,
                              tn_tensor* dq, tn_tensor* dk, tn_tensor* dv) {
  return guard([&] {
    Call call(attention, q, k, v, window, TN_PHASE_TRAIN);
    const tn_attention_config& c = call.config();
    call.bind(TN_PORT_O, o, "o", c.n_heads, c.d_v);
    need(lse, "lse");
    call.bind_lse(lse, Access::kRead);
    call.bind(TN_PORT_DO, d_o, "d_o", c.n_heads, c.d_v);
    call.bind(TN_PORT_DQ, dq, "dq", c.n_heads, c.d_qk, Access::kWrite);
    call.bind(TN_PORT_DK, dk, "dk", c.n_kv_heads, c.d_qk, Access::kWrite);
    call.bind(TN_PORT_DV, dv, "dv", c.n_kv_heads, c.d_v, Access::kWrite);
    call.run(true);
  });
}
