// Declaring sites and parameters to the host.
#pragma once

#include <array>
#include <string>

#include "sdk/base.h"
#include "tenon/adapter.h"

namespace tenon::sdk {

inline constexpr uint32_t kTrained = TN_ADAPTER_PARAM_TRAINABLE | TN_ADAPTER_PARAM_SAVED;

// A parameter of one or two axes (shape[1] = 0: one). site −1: shared by the whole model.
inline void declare_param(const tn_adapter_sink& sink, uint32_t id, int32_t site, uint32_t flags, std::array<int64_t, 2> shape,
                          const std::string& key, double lr_scale = 1, double decay_scale = 1) {
  const tn_adapter_param p{sizeof(tn_adapter_param), id,      site,        flags,       shape[1] ? 2 : 1, 0,
                           {shape[0], shape[1], 0, 0}, lr_scale, decay_scale, key.c_str()};
  check(sink.param(sink.self, &p));
}

// Where PEFT keeps the tensors of a module.
inline std::string peft_key(const tn_site& site, const char* tensor) { return std::string("base_model.model.") + site.path + "." + tensor; }

}  // namespace tenon::sdk
