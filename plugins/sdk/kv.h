// The extension org.tenon.kv/1 over a codec of sdk/quantizer.h that also has
//
//   void plan_cache(tn_kv_plan&);
//   void factors(const tn_kv_layer&, const tn_component_sink&);
//   void store(const tn_kv_layer&, int64_t groups, const tn_component_sink&);
//   void estimate_cache(const tn_device_api*, tn_device*, const tn_kv_layer&, uint32_t op, int64_t groups, tn_estimate&);
//   void fit(const tn_exec*, const tn_kv_layer&, const tn_tensor& w_k, const tn_tensor& w_v, const tn_tensor* statistic, int64_t tokens,
//            tn_tensor* const* factors);
//   void write(const tn_exec*, const tn_kv_layer&, const tn_tensor& x, tn_tensor* const* factors, int64_t groups, int64_t first, int64_t n,
//              tn_tensor* const* store);
//   void read(const tn_exec*, const tn_kv_layer&, tn_tensor* const* factors, int64_t groups, int64_t first, int64_t n, tn_tensor* const* store,
//             tn_tensor& k, tn_tensor& v);
#pragma once

#include "sdk/quantizer.h"
#include "tenon/kv.h"

namespace tenon::sdk {

template <class T>
struct KvThunks {
  using Holder = typename QuantizerThunks<T>::Holder;
  static Holder* of(tn_quantizer* self) { return QuantizerThunks<T>::of(self); }

  static int32_t plan(tn_quantizer* self, tn_kv_plan* out) {
    return guard(of(self)->host, [&] { of(self)->codec.plan_cache(*out); });
  }
  static int32_t factors(tn_quantizer* self, const tn_kv_layer* layer, const tn_component_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->codec.factors(*layer, *sink); });
  }
  static int32_t store(tn_quantizer* self, const tn_kv_layer* layer, int64_t groups, const tn_component_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->codec.store(*layer, groups, *sink); });
  }
  static int32_t estimate(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_kv_layer* layer, uint32_t op, int64_t groups,
                          tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate_cache(api, device, *layer, op, groups, *out); });
  }
  static int32_t fit(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, const tn_tensor* w_k, const tn_tensor* w_v,
                     const tn_tensor* statistic, int64_t tokens, tn_tensor* const* factors) {
    return guard(of(self)->host, [&] { of(self)->codec.fit(exec, *layer, *w_k, *w_v, statistic, tokens, factors); });
  }
  static int32_t write(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, const tn_tensor* x, tn_tensor* const* factors, int64_t groups,
                       int64_t first, int64_t n, tn_tensor* const* store) {
    return guard(of(self)->host, [&] { of(self)->codec.write(exec, *layer, *x, factors, groups, first, n, store); });
  }
  static int32_t read(tn_quantizer* self, const tn_exec* exec, const tn_kv_layer* layer, tn_tensor* const* factors, int64_t groups, int64_t first, int64_t n,
                      tn_tensor* const* store, tn_tensor* k, tn_tensor* v) {
    return guard(of(self)->host, [&] { of(self)->codec.read(exec, *layer, factors, groups, first, n, store, *k, *v); });
  }
};

template <class T>
constexpr tn_kv kv_table() {
  using F = KvThunks<T>;
  return {TN_SIZE_TO(tn_kv, read), 0, F::plan, F::factors, F::store, F::estimate, F::fit, F::write, F::read};
}

}  // namespace tenon::sdk
