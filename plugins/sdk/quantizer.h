// A class becomes a quantizer plugin: tn_quantizer_api over its methods, exceptions stopped at the border.
//
//   struct Codec {
//     static constexpr uint32_t kSites = TN_SITE_WEIGHT;
//     Codec(const tn_host*, const Hypers&);
//     void supports(const tn_query&);
//     void plan(const tn_target&, const tn_component_sink&);
//     void estimate(const tn_device_api*, tn_device*, const tn_target&, uint32_t op, int64_t rows, tn_estimate&);
//     void encode(const tn_exec*, const tn_target&, const tn_tensor& src, tn_tensor* const* components, const tn_rng*);
//     void decode(const tn_exec*, const tn_target&, tn_tensor* const* components, int64_t begin, int64_t end, tn_tensor& dst);
//     // optional: linear(exec, target, components, x, alpha, beta, y), linear_backward(…)
//   };
#pragma once

#include "sdk/plugin.h"
#include "tenon/quantizer.h"

namespace tenon::sdk {

template <class T>
struct QuantizerThunks {
  struct Holder {
    const tn_host* host;
    T codec;
  };
  static Holder* of(tn_quantizer* self) { return reinterpret_cast<Holder*>(self); }

  static int32_t create(const tn_host* host, const tn_hyper* const* hypers, uint64_t n, tn_quantizer** out) {
    return guard(host, [&] { *out = reinterpret_cast<tn_quantizer*>(new Holder{host, T(host, Hypers(hypers, n))}); });
  }
  static void destroy(tn_quantizer* self) { delete of(self); }
  static int32_t supports(tn_quantizer* self, const tn_query* query) {
    return guard(of(self)->host, [&] { of(self)->codec.supports(*query); });
  }
  static int32_t plan(tn_quantizer* self, const tn_target* target, const tn_component_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->codec.plan(*target, *sink); });
  }
  static int32_t estimate(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* target, uint32_t op, int64_t rows,
                          tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate(api, device, *target, op, rows, *out); });
  }
  static int32_t encode(tn_quantizer* self, const tn_exec* exec, const tn_target* target, const tn_tensor* src, tn_tensor* const* components,
                        const tn_rng* rng) {
    return guard(of(self)->host, [&] { of(self)->codec.encode(exec, *target, *src, components, rng); });
  }
  static int32_t decode(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, int64_t begin,
                        int64_t end, tn_tensor* dst) {
    return guard(of(self)->host, [&] { of(self)->codec.decode(exec, *target, components, begin, end, *dst); });
  }
  static int32_t linear(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components, const tn_tensor* x,
                        double alpha, double beta, tn_tensor* y) {
    return guard(of(self)->host, [&] { of(self)->codec.linear(exec, *target, components, *x, alpha, beta, *y); });
  }
  static int32_t linear_backward(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* const* components,
                                 const tn_tensor* dy, double alpha, double beta, tn_tensor* dx) {
    return guard(of(self)->host, [&] { of(self)->codec.linear_backward(exec, *target, components, *dy, alpha, beta, *dx); });
  }
};

template <class T>
constexpr tn_quantizer_api quantizer_api() {
  using F = QuantizerThunks<T>;
  tn_quantizer_api t{};
  t.struct_size = TN_SIZE_TO(tn_quantizer_api, linear_backward);
  t.sites = T::kSites;
  t.create = F::create, t.destroy = F::destroy, t.supports = F::supports, t.plan = F::plan;
  t.estimate = F::estimate, t.encode = F::encode, t.decode = F::decode;
  if constexpr (requires { &T::linear; }) t.linear = F::linear;
  if constexpr (requires { &T::linear_backward; }) t.linear_backward = F::linear_backward;
  return t;
}

}  // namespace tenon::sdk
