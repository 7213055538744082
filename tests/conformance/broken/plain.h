// The sound optimizer that every broken one of this gallery is made from: SGD with momentum, in plain loops.
#pragma once

#include <map>
#include <vector>

#include "sdk/optimizer.h"
#include "sdk/tensor.h"

namespace tenon::gallery {

using namespace tenon::sdk;

constexpr tn_hyper_info kMomentum =
    real("momentum", "0.9", 0, 1, TN_RANGE_OPEN_MAX, nullptr, "share of the last update that is kept");
constexpr const tn_hyper_info* kHypers[] = {&kMomentum};

class Plain {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;
  Plain(const tn_host*, const Hypers& hypers) : momentum_(static_cast<float>(hypers.real("momentum"))) {}

  void supports(const tn_query& q) {
    if (!same(q.dtype, kF32) && !same(q.dtype, kBF16)) fail(TN_E_UNSUPPORTED, "weights must be f32 or bf16");
  }
  void bind(const tn_param* const* params, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) counts_[params[i]->uid] = elements(*params[i]);
  }
  void state_layout(uint32_t uid, const tn_state_sink& sink) {
    const tn_state_slot slot{sizeof slot, TN_SLOT_VALUE, 0, 1, kF32, 0, {counts_.at(uid), 0, 0, 0}, "momentum"};
    check(sink.declare(sink.self, &slot));
  }
  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) {
    out.state_bytes = static_cast<uint64_t>(counts_.at(uid)) * 4;
    out.workspace_bytes = static_cast<uint64_t>(counts_.at(uid)) * 4;
    out.flops = 3.0 * static_cast<double>(counts_.at(uid)), out.bytes_moved = 5 * out.flops;
  }
  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) update(*exec, *items[i]);
  }

 protected:
  void update(const tn_exec& exec, const tn_item& item) {
    const int64_t n = count(*item.param);
    float *scratch = static_cast<float*>(exec.workspace), *m = data<float>(*item.states[0]);
    with_float_type(item.grad->dtype, "the gradient", [&]<class G>(G) {
      for (int64_t i = 0; i < n; ++i)
        scratch[i] = static_cast<float>(to_float(data<G>(*item.grad)[i]) * item.grad_scale);
    });
    with_float_type(item.param->dtype, "the weights", [&]<class W>(W) {
      W* w = data<W>(*item.param);
      float* master = item.master ? data<float>(*item.master) : nullptr;
      for (int64_t i = 0; i < n; ++i) {
        m[i] = momentum_ * m[i] + scratch[i];
        const float now = (master ? master[i] : to_float(w[i])) - static_cast<float>(item.lr) * m[i];
        if (master) master[i] = now;
        w[i] = from_float<W>(now);
      }
    });
  }
  static int64_t elements(const tn_param& p) {
    int64_t n = 1;
    for (int32_t i = 0; i < p.ndim; ++i) n *= p.shape[i];
    return n;
  }

  float momentum_;
  std::map<uint32_t, int64_t> counts_;
};

}  // namespace tenon::gallery

// The descriptor and the exported entry of a table.
#define TENON_EXHIBIT(table)                                                                          \
  namespace {                                                                                         \
  constexpr tn_plugin kPlugin =                                                                       \
      tenon::sdk::describe(TN_KIND_OPTIMIZER, "exhibit", "1.0.0", tenon::gallery::kHypers, &(table)); \
  }                                                                                                   \
  TENON_PLUGIN(kPlugin)
