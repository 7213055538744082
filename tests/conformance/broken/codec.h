// The sound codec that the broken ones are made from: 8 bits an element and one scale.
#pragma once

#include <algorithm>
#include <cmath>

#include "sdk/quantizer.h"
#include "sdk/tensor.h"

namespace tenon::gallery {

using namespace tenon::sdk;

constexpr tn_hyper_info kUnused = flag("unused", "false", "changes nothing");
constexpr const tn_hyper_info* kHypers[] = {&kUnused};

class Codec {
 public:
  static constexpr uint32_t kSites = TN_SITE_WEIGHT | TN_SITE_DELTA;
  Codec(const tn_host*, const Hypers&) {}

  void supports(const tn_query& q) {
    if (!same(q.dtype, kF32)) fail(TN_E_UNSUPPORTED, "targets must be f32");
  }
  void plan(const tn_target& t, const tn_component_sink& sink) {
    declare(sink, "codes", kU8, 8, elements(t));
    declare(sink, "scale", kF32, 0, 1);
  }
  void estimate(const tn_device_api*, tn_device*, const tn_target& t, uint32_t op, int64_t, tn_estimate& out) {
    if (op > TN_QUANTIZER_DECODE) fail(TN_E_UNSUPPORTED, "no fused product is offered");
    out.state_bytes = static_cast<uint64_t>(elements(t)) + 4;
  }
  void encode(const tn_exec*, const tn_target& t, const tn_tensor& src, tn_tensor* const* components, const tn_rng*) {
    const int64_t n = elements(t);
    float top = 0;
    each(src, n, [&](int64_t, float x) {
      if (!std::isfinite(x)) fail(TN_E_NUMERIC, std::string(t.name) + " holds NaN or Inf");
      top = std::max(top, std::fabs(x));
    });
    data<float>(*components[1])[0] = top / 127;
    each(src, n, [&](int64_t i, float x) {
      data<int8_t>(*components[0])[i] = static_cast<int8_t>(top > 0 ? std::lround(x / top * 127) : 0);
    });
  }
  void decode(const tn_exec*, const tn_target&, tn_tensor* const* components, int64_t begin, int64_t end,
              tn_tensor& dst) {
    const float scale = data<float>(*components[1])[0];
    with_float_type(dst.dtype, "the result", [&]<class T>(T) {
      for (int64_t i = begin; i < end; ++i)
        data<T>(dst)[i - begin] = from_float<T>(scale * data<int8_t>(*components[0])[i]);
    });
  }

 protected:
  static int64_t elements(const tn_target& t) {
    int64_t n = 1;
    for (int32_t i = 0; i < t.ndim; ++i) n *= t.shape[i];
    return n;
  }
  static void declare(const tn_component_sink& sink, const char* name, tn_dtype dtype, uint32_t code_bits, int64_t n) {
    const tn_component c{sizeof c, code_bits, 0, 1, dtype, 0, {n, 0, 0, 0}, name};
    check(sink.declare(sink.self, &c));
  }
  template <class Visit>
  static void each(const tn_tensor& src, int64_t n, Visit visit) {
    with_float_type(src.dtype, "the source", [&]<class T>(T) {
      for (int64_t i = 0; i < n; ++i) visit(i, to_float(data<T>(src)[i]));
    });
  }
};

}  // namespace tenon::gallery

#define TENON_EXHIBIT(table)                                                                          \
  namespace {                                                                                         \
  constexpr tn_plugin kPlugin =                                                                       \
      tenon::sdk::describe(TN_KIND_QUANTIZER, "exhibit", "1.0.0", tenon::gallery::kHypers, &(table)); \
  }                                                                                                   \
  TENON_PLUGIN(kPlugin)
