// One forward pass of an attention technique.
#include "core/c_api/borrowed.h"
#include "core/c_api/guard.h"
#include "core/c_api/objects.h"
#include "core/error.h"
#include "core/plugins/host.h"

using namespace tenon;
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

}  // namespace

int32_t tn_attention_forward(tn_technique* attention, const tn_tensor* q, const tn_tensor* k, const tn_tensor* v,
                             int64_t window, tn_tensor* o, tn_tensor* lse) {
  return guard([&] {
    need(attention, "attention");
    need(q, "q"), need(k, "k"), need(v, "v"), need(o, "o");
    tn_technique& t = *attention;
    const tn_attention_api& api = table<tn_attention_api>(t);
    auto* const instance = static_cast<tn_attention*>(t.instance);
    const tn_attention_config& c = t.attention;
    if (q->ndim != 4)
      throw Error(TN_E_ARGUMENT,
                  "q has " + std::to_string(q->ndim) + " dimensions; it is [batch, tokens, heads, head size]");
    c_api::check_borrowed(t.session, *q, "q", c_api::Access::kRead);
    const int64_t batch = q->shape[0], tokens = q->shape[1];
    using c_api::Access;
    check_port(t.session, *q, "q", {batch, tokens, c.n_heads, c.d_qk}, Access::kRead);
    check_port(t.session, *k, "k", {batch, tokens, c.n_kv_heads, c.d_qk}, Access::kRead);
    check_port(t.session, *v, "v", {batch, tokens, c.n_kv_heads, c.d_v}, Access::kRead);
    check_port(t.session, *o, "o", {batch, tokens, c.n_heads, c.d_v}, Access::kWrite);
    c_api::check_dtype(*k, q->dtype, "k", "which q has");
    c_api::check_dtype(*v, q->dtype, "v", "which q has");
    c_api::check_dtype(*o, q->dtype, "o", "which q has");
    if (lse) {
      check_port(t.session, *lse, "lse", {batch, c.n_heads, tokens}, Access::kWrite);
      (void)c_api::dense_bytes(*lse, "lse");
      c_api::check_dtype(*lse, {TN_FLOAT, 32, 1}, "lse", "which it always is");
    }
    ask_support(t, *q);

    const tn_mask_term causal = {TN_SIZE_TO(tn_mask_term, n), TN_MASK_CAUSAL, 0, 0, 0};
    const tn_mask_term near = {TN_SIZE_TO(tn_mask_term, n), TN_MASK_WINDOW, window - 1, -1, 0};
    const tn_mask_term* const mask[] = {&causal, &near};
    tn_attention_shape shape{};
    shape.struct_size = TN_SIZE_TO(tn_attention_shape, reserved);
    shape.phase = TN_PHASE_PREFILL;
    shape.n_mask = window > 0 ? 2 : 1;
    shape.batch = batch;
    shape.t_q = shape.t_k = tokens;
    shape.mask = mask;
    shape.dtype = q->dtype;
    tn_attention_plan plan{};
    plan.struct_size = TN_SIZE_TO(tn_attention_plan, backward);
    plan.forward.struct_size = plan.backward.struct_size = TN_SIZE_TO(tn_estimate, bytes_moved);
    check(api.plan(instance, &t.session.device.api(), t.session.device.handle(), &shape, &plan),
          t.spec.id + " cannot plan this call");

    const auto port = [](uint32_t id, const tn_tensor* tensor) {
      return tn_port_bind{TN_SIZE_TO(tn_port_bind, tensor), id, 0, 0, const_cast<tn_tensor*>(tensor)};
    };
    const tn_port_bind ports[] = {port(TN_PORT_Q, q), port(TN_PORT_K, k), port(TN_PORT_V, v), port(TN_PORT_O, o),
                                  port(TN_PORT_LSE, lse)};
    const tn_port_bind* const binds[] = {&ports[0], &ports[1], &ports[2], &ports[3], &ports[4]};
    c_api::with_workspace(t.session, plan.forward.workspace_bytes, [&](const tn_exec& exec) {
      tn_attention_call call{};
      call.struct_size = TN_SIZE_TO(tn_attention_call, step);
      call.exec = &exec;
      check(api.forward(instance, &call, &shape, binds, lse ? 5 : 4), t.spec.id + " cannot run");
      t.session.stream.wait();
    });
  });
}
