// What the configurations of bitsandbytes' models have in common, whatever the bits.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "sdk/base.h"

namespace tenon::sdk {

// Refuses a quantization_config that leaves linears of some blocks plain: hosts hold all of them in codes, so reading it would code those anew.
inline void refuse_plain_linears(const nlohmann::json& config) {
  const auto skipped = config.find("llm_int8_skip_modules");
  if (skipped == config.end() || !skipped->is_array()) return;
  for (const auto& entry : *skipped) {
    const std::string name = entry.is_string() ? entry.get<std::string>() : "";
    const std::string last = name.substr(name.rfind('.') + 1);
    constexpr const char* kHeld[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "self_attn", "mlp", "layers"};
    if (name.find("layers.") != std::string::npos || std::find(std::begin(kHeld), std::end(kHeld), last) != std::end(kHeld))
      fail(TN_E_UNSUPPORTED, "quantization_config: llm_int8_skip_modules leaves \"" + name.substr(0, 60) +
                                 "\" plain, but all linears of the blocks are held in codes here; start from the plain model");
  }
}

}  // namespace tenon::sdk
