// A class becomes an attention plugin: tn_attention_api over its methods, exceptions stopped at the border.
#pragma once

#include "sdk/plugin.h"
#include "tenon/attention_form.h"

namespace tenon::sdk {

template <class T>
struct AttentionThunks {
  struct Holder {
    const tn_host* host;
    T kernel;
  };
  static Holder* of(tn_attention* self) { return reinterpret_cast<Holder*>(self); }

  static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, const tn_attention_config* config, tn_attention** out) {
    return guard(host, [&] { *out = reinterpret_cast<tn_attention*>(new Holder{host, T(host, Hypers(hypers, n), *config)}); });
  }
  static void destroy(tn_attention* self) { delete of(self); }
  static int32_t supports(tn_attention* self, const tn_query* query) {
    return guard(of(self)->host, [&] { of(self)->kernel.supports(*query); });
  }
  static int32_t plan(tn_attention* self, const tn_device_api* api, tn_device* device, const tn_attention_shape* shape, tn_attention_plan* out) {
    return guard(of(self)->host, [&] { of(self)->kernel.plan(api, device, *shape, *out); });
  }
  static int32_t forward(tn_attention* self, const tn_attention_call* call, const tn_attention_shape* shape, const tn_port_bind* const* binds,
                         uint64_t n) {
    return guard(of(self)->host, [&] { of(self)->kernel.forward(*call, *shape, binds, n); });
  }
  static int32_t backward(tn_attention* self, const tn_attention_call* call, const tn_attention_shape* shape, const tn_port_bind* const* binds,
                          uint64_t n) {
    return guard(of(self)->host, [&] { of(self)->kernel.backward(*call, *shape, binds, n); });
  }
  static int32_t state(tn_attention* self, const tn_dtype* dtype, int64_t tokens, tn_attention_state* out) {
    return guard(of(self)->host, [&] {
      if (tokens < 0) fail(TN_E_ARGUMENT, "a sequence has 0 or more tokens");
      of(self)->kernel.state(*dtype, tokens, *out);
    });
  }
  static int32_t form(tn_attention* self, uint32_t* form, double* epsilon) {
    return guard(of(self)->host, [&] { of(self)->kernel.form(*form, *epsilon); });
  }
  static int32_t factors(tn_attention* self, uint32_t head, int64_t i, int64_t j, int64_t n, double* out) {
    return guard(of(self)->host, [&] { of(self)->kernel.factors(head, i, j, n, out); });
  }
};

template <class T>
constexpr tn_attention_api attention_api() {
  using F = AttentionThunks<T>;
  return {TN_SIZE_TO(tn_attention_api, state), TN_PLACEMENT_CORE, F::create, F::destroy, F::supports, F::plan, F::forward, F::backward, F::state};
}
// org.tenon.attention-form/1 over T's form() and factors().
template <class T>
constexpr tn_attention_form attention_form() {
  using F = AttentionThunks<T>;
  return {TN_SIZE_TO(tn_attention_form, factors), 0, F::form, F::factors};
}

}  // namespace tenon::sdk
