// The extension org.tenon.calibrate/1 over a codec of sdk/quantizer.h that also has
//
//   void calibration(tn_calibration_plan&);
//   void estimate_calibrated(const tn_device_api*, tn_device*, const tn_target&, tn_estimate&);
//   void encode_calibrated(const tn_exec*, const tn_target&, tn_tensor& src, const tn_tensor& statistic, int64_t tokens,
//                          tn_tensor* const* components, const tn_rng*);
#pragma once

#include "sdk/quantizer.h"
#include "tenon/calibrate.h"

namespace tenon::sdk {

template <class T>
struct CalibrateThunks {
  using Holder = typename QuantizerThunks<T>::Holder;
  static Holder* of(tn_quantizer* self) { return QuantizerThunks<T>::of(self); }

  static int32_t plan(tn_quantizer* self, tn_calibration_plan* out) {
    return guard(of(self)->host, [&] { of(self)->codec.calibration(*out); });
  }
  static int32_t estimate(tn_quantizer* self, const tn_device_api* api, tn_device* device, const tn_target* target, tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate_calibrated(api, device, *target, *out); });
  }
  static int32_t encode(tn_quantizer* self, const tn_exec* exec, const tn_target* target, tn_tensor* src, const tn_tensor* statistic,
                        int64_t tokens, tn_tensor* const* components, const tn_rng* rng) {
    return guard(of(self)->host, [&] { of(self)->codec.encode_calibrated(exec, *target, *src, *statistic, tokens, components, rng); });
  }
};

template <class T>
constexpr tn_calibrate calibrate_api() {
  using F = CalibrateThunks<T>;
  return {TN_SIZE_TO(tn_calibrate, encode), 0, F::plan, F::estimate, F::encode};
}

}  // namespace tenon::sdk
