// Driving an optimizer on tensors of the caller.
#include <algorithm>

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

tn_optimizer* instance_of(tn_technique& t) {
  return static_cast<tn_optimizer*>(t.instance);
}

// What a sink of this file fills, and the first exception that could not be thrown through the plugin.
struct Collector {
  tn_technique* technique;
  tn_technique::Param* param = nullptr;
  std::exception_ptr failure = nullptr;
};

int32_t declare_slot(void* self, const tn_state_slot* slot) {
  Collector& to = *static_cast<Collector*>(self);
  try {
    if (!TN_HAS(slot, tn_state_slot, name) || !slot->name)
      throw Error(TN_E_FORMAT, to.technique->spec.id + ": a state has no name");
    auto& added = to.param->slots.emplace_back(tn_technique::Slot{*slot, slot->name, nullptr});
    added.info.name = added.name.c_str();
    added.tensor =
        c_api::make_tensor(to.technique->session, Category::kOptimizerState, slot->dtype, slot->ndim, slot->shape);
    to.param->states.push_back(&added.tensor->tensor);
    return TN_OK;
  } catch (...) {
    to.failure = std::current_exception();
    return TN_E_ARGUMENT;
  }
}

void check_params(const tn_param* const* params, uint64_t n) {
  if (n > 0) need(params, "params");
  for (uint64_t i = 0; i < n; ++i) {
    need(params[i], "params");
    const std::string what = "parameter " + std::to_string(i);
    if (!TN_HAS(params[i], tn_param, name)) throw Error(TN_E_ARGUMENT, what + ": tn_param.struct_size is not set");
    if (params[i]->ndim < 0 || params[i]->ndim > 4)
      throw Error(TN_E_ARGUMENT, what + " has " + std::to_string(params[i]->ndim) + " dimensions; 0 to 4 are possible");
    for (uint64_t k = 0; k < i; ++k) {
      if (params[k]->uid == params[i]->uid)
        throw Error(TN_E_ARGUMENT, what + " has the uid of parameter " + std::to_string(k) + "; give each its own");
    }
  }
}

void ask_support(tn_technique& t, const tn_param& p) {
  tn_query query{};
  query.struct_size = TN_SIZE_TO(tn_query, shape);
  query.role = p.role;
  query.device = t.session.device.id();
  query.dtype = p.dtype;
  query.compute = {TN_FLOAT, 32, 1};
  query.ndim = p.ndim;
  std::copy_n(p.shape, 4, query.shape);
  check(table<tn_optimizer_api>(t).supports(instance_of(t), &query),
        t.spec.id + " cannot train " + (p.name ? p.name : "a parameter"));
}

}  // namespace

int32_t tn_optimizer_bind(tn_technique* optimizer, const tn_param* const* params, uint64_t n) {
  return guard([&] {
    need(optimizer, "optimizer");
    tn_technique& t = *optimizer;
    const tn_optimizer_api& api = table<tn_optimizer_api>(t);
    if (t.bound) throw Error(TN_E_STATE, t.spec.id + " is bound already; make another instance for other parameters");
    check_params(params, n);
    for (uint64_t i = 0; i < n; ++i) ask_support(t, *params[i]);
    check(api.bind(instance_of(t), params, n), t.spec.id + " cannot bind the parameters");
    t.bound = true;  // whatever fails from here on leaves an instance that is of no more use
    for (uint64_t i = 0; i < n; ++i) {
      auto& param = t.params.emplace_back(tn_technique::Param{*params[i]});
      param.info.name = nullptr;
      Collector collector{&t, &param};
      const tn_state_sink sink = {TN_SIZE_TO(tn_state_sink, declare), 0, &collector, declare_slot};
      const int32_t status = api.state_layout(instance_of(t), param.info.uid, &sink);
      if (collector.failure) std::rethrow_exception(collector.failure);
      check(status, t.spec.id + " cannot describe its states");
      tn_estimate estimate{};
      estimate.struct_size = TN_SIZE_TO(tn_estimate, bytes_moved);
      check(api.estimate(instance_of(t), &t.session.device.api(), t.session.device.handle(), param.info.uid, &estimate),
            t.spec.id + " cannot estimate an update");
      param.workspace = estimate.workspace_bytes;
    }
  });
}

namespace {

// Which parameters train in this step: all, unless the plugin freezes some.
std::vector<bool> plan_step(tn_technique& t, const tn_step& step) {
  struct Plan {
    tn_technique& technique;
    std::vector<bool> trains;
  } plan{t, std::vector<bool>(t.params.size(), true)};
  const tn_optimizer_api& api = table<tn_optimizer_api>(t);
  if (!api.plan) return plan.trains;
  const tn_plan_sink sink = {TN_SIZE_TO(tn_plan_sink, param), 0, &plan,
                             [](void* self, uint32_t uid, uint32_t flags) -> int32_t {
                               Plan& p = *static_cast<Plan*>(self);
                               for (size_t i = 0; i < p.trains.size(); ++i) {
                                 if (p.technique.params[i].info.uid == uid) p.trains[i] = !(flags & TN_PLAN_FREEZE);
                               }
                               return TN_OK;
                             }};
  check(api.plan(instance_of(t), &step, &sink), t.spec.id + " cannot plan the step");
  return plan.trains;
}

void check_tensor(const tn_technique& t, const tn_param& info, const tn_tensor& tensor, const char* what,
                  c_api::Access access) {
  c_api::check_borrowed(t.session, tensor, what, access);
  (void)c_api::dense_bytes(tensor, what);
  bool same = tensor.ndim == info.ndim;
  for (int32_t i = 0; same && i < info.ndim; ++i) same = tensor.shape[i] == info.shape[i];
  if (!same)
    throw Error(TN_E_ARGUMENT, t.spec.id + ": the shape of " + what + " for uid " + std::to_string(info.uid) +
                                   " is not the one that was bound");
}

}  // namespace

int32_t tn_optimizer_step(tn_technique* optimizer, const tn_update* update, tn_tensor* const* params,
                          tn_tensor* const* grads) {
  return guard([&] {
    need(optimizer, "optimizer");
    need(update, "update");
    tn_technique& t = *optimizer;
    const tn_optimizer_api& api = table<tn_optimizer_api>(t);
    if (!t.bound) throw Error(TN_E_STATE, t.spec.id + " is not bound to parameters yet; call tn_optimizer_bind first");
    if (!TN_HAS(update, tn_update, grad_scale)) throw Error(TN_E_ARGUMENT, "tn_update.struct_size is not set");
    if (!t.params.empty()) need(params, "params"), need(grads, "grads");
    const tn_step step = {TN_SIZE_TO(tn_step, seed), 1, t.steps + 1, update->total_steps, update->tokens, update->seed};
    const std::vector<bool> trains = plan_step(t, step);

    std::vector<tn_item> items;
    uint64_t workspace = 0;
    for (size_t i = 0; i < t.params.size(); ++i) {
      if (!grads[i] || !trains[i]) continue;
      need(params[i], "params");
      tn_technique::Param& p = t.params[i];
      check_tensor(t, p.info, *params[i], "the parameter", c_api::Access::kWrite);
      c_api::check_dtype(*params[i], p.info.dtype, "the parameter", "which was bound");
      check_tensor(t, p.info, *grads[i], "the gradient", c_api::Access::kRead);
      if (grads[i]->dtype.code != TN_BFLOAT || grads[i]->dtype.bits != 16)
        c_api::check_dtype(*grads[i], {TN_FLOAT, 32, 1}, "the gradient", "which gradients are where they are not bfloat16");
      workspace = std::max(workspace, p.workspace);
      items.push_back({TN_SIZE_TO(tn_item, rng),
                       p.info.uid,
                       0,
                       static_cast<uint32_t>(p.states.size()),
                       params[i],
                       nullptr,
                       grads[i],
                       p.states.data(),
                       p.updates + 1,
                       update->lr,
                       1.0,
                       update->grad_scale,
                       {update->seed, p.info.uid, static_cast<uint32_t>(step.step)}});
    }
    std::vector<const tn_item*> pointers;
    for (const tn_item& item : items) pointers.push_back(&item);
    c_api::with_workspace(t.session, workspace, [&](const tn_exec& exec) {
      if (api.prepare)
        check(api.prepare(instance_of(t), &exec, pointers.data(), pointers.size()),
              t.spec.id + " cannot prepare the step");
      check(api.apply(instance_of(t), &exec, pointers.data(), pointers.size()), t.spec.id + " cannot apply the step");
      t.session.stream.wait();
    });
    for (size_t i = 0; i < t.params.size(); ++i) t.params[i].updates += grads[i] && trains[i];
    ++t.steps;
    if (api.finish) {
      tn_advice advice = {TN_SIZE_TO(tn_advice, batch_multiplier), 0, nullptr,
                          [](void*, const char*, double) -> int32_t { return TN_OK; }, 1.0};
      check(api.finish(instance_of(t), &step, &advice), t.spec.id + " cannot finish the step");
    }
  });
}

int64_t tn_optimizer_steps(tn_technique* optimizer) {
  return optimizer ? optimizer->steps : 0;
}

uint64_t tn_optimizer_state_bytes(tn_technique* optimizer) {
  uint64_t bytes = 0;
  if (optimizer) {
    for (const auto& param : optimizer->params) {
      for (const auto& slot : param.slots) bytes += slot.tensor->bytes;
    }
  }
  return bytes;
}
