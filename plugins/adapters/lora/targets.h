// Which modules an adapter takes: PEFT's matching rules, in PEFT's order.
#pragma once

#include <string>

#include "config.h"
#include "tenon/adapter.h"

namespace tenon::lora {

// Whether the linear at this site is a target.
bool is_target(const Config& config, const tn_site& site);

// Rank and alpha of a module: the first pattern that matches in file order, else the configuration's own.
int64_t rank_of(const Config& config, const std::string& path);
double alpha_of(const Config& config, const std::string& path);

}  // namespace tenon::lora
