// What this CPU can run. Compiled for the baseline instruction set, so that asking is always safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tenon {

// Those of `features` ("avx2", "avx512f", …) that this CPU lacks, in the given order; unknown names count as lacking.
// Features above the level in the environment variable TENON_CPU ("x86-64", "x86-64-v2", "-v3", "-v4") count as lacking
// too, so that the objects for older CPUs can be tested on a newer one. An unknown level there throws TN_E_ARGUMENT.
std::vector<std::string> missing_cpu_features(const std::vector<std::string>& features);

// The features that define a level beyond the one below it; empty for a name that is not a level.
std::vector<std::string> cpu_level_features(std::string_view level);

}  // namespace tenon
