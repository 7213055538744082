// The extension org.tenon.activation/1 over a codec of sdk/quantizer.h that also has
//
//   void token(const tn_activation&, const tn_component_sink&);
//   void statistics(const tn_activation&, const tn_component_sink&);   // optional
//   void estimate_activation(const tn_activation&, uint32_t op, tn_estimate&);
//   void save(const tn_exec*, const tn_activation&, const tn_tensor& x, tn_tensor* const* statistics, tn_tensor* const* token, const tn_rng*);
//   void restore(const tn_exec*, const tn_activation&, tn_tensor* const* token, tn_tensor& x);
#pragma once

#include "sdk/codec.h"
#include "sdk/quantizer.h"
#include "tenon/activation.h"

namespace tenon::sdk {

template <class T>
struct ActivationThunks {
  using Holder = typename QuantizerThunks<T>::Holder;
  static Holder* of(tn_quantizer* self) { return QuantizerThunks<T>::of(self); }

  static int32_t token(tn_quantizer* self, const tn_activation* what, const tn_component_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->codec.token(*what, *sink); });
  }
  static int32_t statistics(tn_quantizer* self, const tn_activation* what, const tn_component_sink* sink) {
    return guard(of(self)->host, [&] { of(self)->codec.statistics(*what, *sink); });
  }
  static int32_t estimate(tn_quantizer* self, const tn_device_api*, tn_device*, const tn_activation* what, uint32_t op, tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate_activation(*what, op, *out); });
  }
  static int32_t save(tn_quantizer* self, const tn_exec* exec, const tn_activation* what, const tn_tensor* x, tn_tensor* const* statistics,
                      tn_tensor* const* token, const tn_rng* rng) {
    return guard(of(self)->host, [&] { of(self)->codec.save(exec, *what, *x, statistics, token, rng); });
  }
  static int32_t restore(tn_quantizer* self, const tn_exec* exec, const tn_activation* what, tn_tensor* const* token, tn_tensor* x) {
    return guard(of(self)->host, [&] { of(self)->codec.restore(exec, *what, token, *x); });
  }
};

template <class T>
constexpr tn_activation_codec activation_codec() {
  using F = ActivationThunks<T>;
  tn_activation_codec t{};
  t.struct_size = TN_SIZE_TO(tn_activation_codec, restore);
  t.token = F::token, t.estimate = F::estimate, t.save = F::save, t.restore = F::restore;
  if constexpr (requires { &T::statistics; }) t.statistics = F::statistics;
  return t;
}

// The target whose elements an activation is, for messages and checks.
inline tn_target target_of(const tn_activation& a) {
  tn_target t{};
  t.struct_size = TN_SIZE_TO(tn_target, name);
  t.site = TN_SITE_ACTIVATION, t.uid = a.slot, t.block = a.block, t.ndim = 2, t.dtype = a.dtype, t.shape[0] = a.rows, t.shape[1] = a.channels;
  t.name = "a saved activation";
  return t;
}

}  // namespace tenon::sdk
