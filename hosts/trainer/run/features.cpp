#include "hosts/trainer/run/features.h"

namespace tenon::trainer {

Catalog open_catalog(std::vector<std::string> stores) {
  Catalog catalog = stores.empty() ? Catalog::open_default() : Catalog(std::move(stores));
  catalog.add_feature({"fused-backward",
                       "update inside backward",
                       {},
                       {{"optimizer:one-at-a-time", "needs an optimizer that can update one parameter at a time; choose another optimizer or drop --fused-backward"}},
                       {{"run:clip-global-norm", "frees each gradient before the global norm is known; pass --clip 0 or drop --fused-backward"},
                        {"run:accumulate", "frees each gradient before the next micro-batch adds to it; pass --accumulate 1 or drop --fused-backward"}}});
  return catalog;
}

}  // namespace tenon::trainer
