// Adapter arithmetic over PEFT folders, by the adapter's own plugin.
#pragma once

#include <string>
#include <vector>

#include "core/catalog/catalog.h"

namespace tenon::trainer {

struct CombinePart {
  std::string folder;
  double weight = 1;
};

// Writes the PEFT folder `output`, which must not exist: the weighted sum of the parts. method: one that the plugin offers; rank: of the result,
// for methods that cut it, 0 = the largest that goes in. Throws Error.
void combine_adapters(const Catalog& catalog, const std::vector<CombinePart>& parts, const std::string& method, int64_t rank, const std::string& output);

}  // namespace tenon::trainer
