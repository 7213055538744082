// A class becomes an optimizer plugin: tn_optimizer_api over its methods, exceptions stopped at the border.
//
//   struct Rule {
//     static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;
//     Rule(const tn_host*, const Hypers&);
//     void supports(const tn_query&);                     // throws Failure{TN_E_UNSUPPORTED, reason}
//     void bind(const tn_param* const*, uint64_t n);
//     void state_layout(uint32_t uid, const tn_state_sink&);
//     void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate&);
//     void apply(const tn_exec*, const tn_item* const*, uint64_t n);   // or int32_t, to answer TN_DEGRADED
//     // optional, same pattern: plan, prepare, finish, save, load
//   };
//   constexpr tn_optimizer_api api = sdk::optimizer_api<Rule>();
#pragma once

#include "sdk/plugin.h"
#include "tenon/optimizer.h"

namespace tenon::sdk {

template <class T>
struct OptimizerThunks {
  struct Holder {
    const tn_host* host;
    T rule;
  };
  static Holder* of(tn_optimizer* self) { return reinterpret_cast<Holder*>(self); }

  static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, tn_optimizer** out) {
    return guard(host, [&] { *out = reinterpret_cast<tn_optimizer*>(new Holder{host, T(host, Hypers(hypers, n))}); });
  }
  static void destroy(tn_optimizer* self) { delete of(self); }
  static int32_t supports(tn_optimizer* self, const tn_query* query) {
    return guard(of(self)->host, [&] { of(self)->rule.supports(*query); });
  }
  static int32_t bind(tn_optimizer* self, const tn_param* const* params, uint64_t n) {
    return guard(of(self)->host, [&] { of(self)->rule.bind(params, n); });
  }
  static int32_t state_layout(tn_optimizer* self, uint32_t uid, const tn_state_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->rule.state_layout(uid, *sink); });
  }
  static int32_t estimate(tn_optimizer* self, const tn_device_api* api, tn_device* device, uint32_t uid, tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->rule.estimate(api, device, uid, *out); });
  }
  static int32_t plan(tn_optimizer* self, const tn_step* step, const tn_plan_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->rule.plan(*step, *sink); });
  }
  static int32_t prepare(tn_optimizer* self, const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    return guard(of(self)->host, [&] { return of(self)->rule.prepare(exec, items, n); });
  }
  static int32_t apply(tn_optimizer* self, const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    return guard(of(self)->host, [&] { return of(self)->rule.apply(exec, items, n); });
  }
  static int32_t finish(tn_optimizer* self, const tn_step* step, tn_advice* advice) {
    return guard(of(self)->host, [&] { of(self)->rule.finish(*step, *advice); });
  }
  static int32_t save(tn_optimizer* self, const tn_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->rule.save(*sink); });
  }
  static int32_t load(tn_optimizer* self, const void* bytes, uint64_t n) {
    return guard(of(self)->host, [&] { of(self)->rule.load(bytes, n); });
  }
};

template <class T>
constexpr tn_optimizer_api optimizer_api() {
  using F = OptimizerThunks<T>;
  tn_optimizer_api t{};
  t.struct_size = TN_SIZE_TO(tn_optimizer_api, load);
  t.caps = T::kCaps;
  t.create = F::create, t.destroy = F::destroy, t.supports = F::supports, t.bind = F::bind;
  t.state_layout = F::state_layout, t.estimate = F::estimate, t.apply = F::apply;
  if constexpr (requires { &T::plan; }) t.plan = F::plan;
  if constexpr (requires { &T::prepare; }) t.prepare = F::prepare;
  if constexpr (requires { &T::finish; }) t.finish = F::finish;
  if constexpr (requires { &T::save; }) t.save = F::save, t.load = F::load;
  return t;
}

}  // namespace tenon::sdk
