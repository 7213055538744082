// An adapter that is a side network and nothing else: what lst and qst share but for their choices.
//
//   struct Method {
//     static constexpr const char *kName = "lst", *kPeftType = "LST";
//     static constexpr const tn_hyper_info* kHypers[] = {…};
//     static SideSettings choose(const Settings&);  // fails where the settings make no sense
//   };
#pragma once

#include "sdk/adapter/settings.h"
#include "sdk/adapter/side_network.h"

namespace tenon::sdk {

template <class Method>
class SideAdapter {
 public:
  static constexpr uint32_t kCaps = 0;
  SideAdapter(const tn_host* host, const Hypers& hypers, const char* config_json)
      : settings_(host, hypers, Method::kHypers, config_json, Method::kPeftType),
        network_(Method::kName, Method::choose(settings_)) {}

  void supports(const tn_query& q) {
    if (!same(q.compute, kF32) && !same(q.compute, kBF16))
      fail(TN_E_UNSUPPORTED, std::string(Method::kName) + " computes in f32 or bf16");
  }
  void bind_region(const tn_region_model& model, const tn_region_sink& sink) { network_.bind(model, sink); }
  void init_param(const tn_exec* exec, uint32_t param, const tn_base_linear* base, const tn_rng& rng,
                  tn_tensor& value) {
    network_.init(exec, param, base, rng, value);
  }
  void run_forward(const Region& r, const tn_tensor& x, tn_tensor& y) { network_.forward(r, x, y); }
  void run_backward(const Region& r, const tn_tensor& dy, tn_tensor* dx) {
    if (dx)
      fail(TN_E_UNSUPPORTED,
           std::string(Method::kName) + " sends no gradient to the embedding; train it with another adapter");
    network_.backward(r, dy);
  }
  void write_config(const tn_sink& sink) { settings_.write(sink); }

 private:
  Settings settings_;
  SideNetwork network_;
};

}  // namespace tenon::sdk
