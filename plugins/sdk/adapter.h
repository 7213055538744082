// A class becomes an adapter plugin: tn_adapter_api over its methods, exceptions stopped at the border.
//
//   struct Method {
//     static constexpr uint32_t kCaps = TN_ADAPTER_MERGES;
//     Method(const tn_host*, const Hypers&, const char* config_json);
//     void supports(const tn_query&);
//     void bind(const tn_site* const*, uint64_t n, const tn_adapter_sink&);
//     void estimate(const tn_device_api*, tn_device*, uint32_t site, int64_t rows, tn_dtype compute, bool backward, tn_estimate&);
//     void init_param(const tn_exec*, uint32_t param, const tn_base_linear*, const tn_rng&, tn_tensor& value);
//     void forward(uint32_t site, const tn_adapter_call&, const tn_base_linear&, const tn_tensor& x, tn_tensor* y);
//     void backward(uint32_t site, const tn_adapter_call&, const tn_base_linear&, const tn_tensor& dy, double beta, tn_tensor* dx);
//     void merge_rows(const tn_exec*, uint32_t site, const tn_param_view* const*, uint64_t n, int64_t begin, int64_t end, tn_tensor& w);
//     void write_config(const tn_sink&);
//   };
#pragma once

#include "sdk/plugin.h"
#include "tenon/adapter.h"

namespace tenon::sdk {

template <class T>
struct AdapterThunks {
  struct Holder {
    const tn_host* host;
    T method;
  };
  static Holder* of(tn_adapter* self) { return reinterpret_cast<Holder*>(self); }

  static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, const char* config_json, tn_adapter** out) {
    return guard(host, [&] { *out = reinterpret_cast<tn_adapter*>(new Holder{host, T(host, Hypers(hypers, n), config_json)}); });
  }
  static void destroy(tn_adapter* self) { delete of(self); }
  static int32_t supports(tn_adapter* self, const tn_query* query) {
    return guard(of(self)->host, [&] { of(self)->method.supports(*query); });
  }
  static int32_t bind(tn_adapter* self, const tn_site* const* sites, uint64_t n, const tn_adapter_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->method.bind(sites, n, *sink); });
  }
  static int32_t estimate(tn_adapter* self, const tn_device_api* api, tn_device* device, uint32_t site, int64_t rows, const tn_dtype* compute,
                          uint32_t backward, tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->method.estimate(api, device, site, rows, *compute, backward != 0, *out); });
  }
  static int32_t init_param(tn_adapter* self, const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng* rng,
                            tn_tensor* value) {
    return guard(of(self)->host, [&] { of(self)->method.init_param(exec, param, base, *rng, *value); });
  }
  static int32_t forward(tn_adapter* self, uint32_t site, const tn_adapter_call* call, const tn_base_linear* base, const tn_tensor* x,
                         tn_tensor* y) {
    return guard(of(self)->host, [&] { of(self)->method.forward(site, *call, *base, *x, y); });
  }
  static int32_t backward(tn_adapter* self, uint32_t site, const tn_adapter_call* call, const tn_base_linear* base, const tn_tensor* dy,
                          double beta, tn_tensor* dx) {
    return guard(of(self)->host, [&] { of(self)->method.backward(site, *call, *base, *dy, beta, dx); });
  }
  static int32_t merge_rows(tn_adapter* self, const tn_exec* exec, uint32_t site, const tn_param_view* const* params, uint64_t n, int64_t begin,
                            int64_t end, tn_tensor* w) {
    return guard(of(self)->host, [&] { of(self)->method.merge_rows(exec, site, params, n, begin, end, *w); });
  }
  static int32_t write_config(tn_adapter* self, const tn_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->method.write_config(*sink); });
  }
};

template <class T>
constexpr tn_adapter_api adapter_api() {
  using F = AdapterThunks<T>;
  tn_adapter_api t{};
  t.struct_size = TN_SIZE_TO(tn_adapter_api, write_config);
  t.caps = T::kCaps;
  t.create = F::create, t.destroy = F::destroy, t.supports = F::supports, t.bind = F::bind, t.estimate = F::estimate;
  t.init_param = F::init_param, t.forward = F::forward, t.backward = F::backward, t.write_config = F::write_config;
  if constexpr (requires { &T::merge_rows; }) t.merge_rows = F::merge_rows;
  return t;
}

}  // namespace tenon::sdk
