// The optimizers of a mix, resolved and asked about.
#pragma once

#include "core/catalog/catalog.h"
#include "hosts/trainer/optim/route.h"

namespace tenon::trainer {

// An optimizer of the mix. Its hyper-parameter `inner`, where it has one, is the spec of the optimizer that it wraps.
struct MixOptimizer {
  OptimizerClause clause;
  Spec spec;
  std::vector<Spec> inner;  // outermost first
};

// Parses `muon for matrices, adamw for rest` against the installed plugins; "" gives none.
std::vector<MixOptimizer> resolve_optimizers(const Catalog& catalog, const std::string& text);

// Whether the mix is possible. Relations of a technique must hold for each optimizer by itself (update inside backward needs it of all),
// so each is asked for with everything else; a run with several has the tag run:routed. run_tags: beyond those that follow from the mix.
MixAnswer check_mix(const Catalog& catalog, const std::vector<MixOptimizer>& optimizers, const std::vector<Spec>& others,
                    const std::vector<std::string>& run_tags);

// The form of every optimizer with its rate and selector, joined by "; "; parses back.
std::string joined(const std::vector<MixOptimizer>& optimizers, std::string (*form)(const Spec&));

}  // namespace tenon::trainer
