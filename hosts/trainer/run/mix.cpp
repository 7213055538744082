#include "hosts/trainer/run/mix.h"

#include <algorithm>

#include "core/error.h"

namespace tenon::trainer {
namespace {

constexpr size_t kDeepest = 4;  // optimizers around one another

bool is_routed(const std::vector<MixOptimizer>& all) { return all.size() > 1 || (all.size() == 1 && !all[0].clause.selector.is_rest()); }

}  // namespace

std::vector<MixOptimizer> resolve_optimizers(const Catalog& catalog, const std::string& text) {
  std::vector<MixOptimizer> all;
  for (OptimizerClause& clause : parse_optimizers(text)) {
    MixOptimizer o{clause, catalog.spec(TN_KIND_OPTIMIZER, clause.spec), {}};
    for (const Spec* at = &o.spec;;) {
      const HyperValue* inner = at->find("inner");
      if (!inner || inner->type != TN_TYPE_STRING || inner->s.empty()) break;
      if (o.inner.size() == kDeepest) throw Error(TN_E_ARGUMENT, "--optimizer: more than 4 optimizers wrap one another in " + clause.spec);
      o.inner.push_back(catalog.spec(TN_KIND_OPTIMIZER, inner->s));
      at = &o.inner.back();
    }
    all.push_back(std::move(o));
  }
  return all;
}

MixAnswer check_mix(const Catalog& catalog, const std::vector<MixOptimizer>& optimizers, const std::vector<Spec>& others,
                    const std::vector<std::string>& run_tags) {
  MixAnswer all;
  const auto ask = [&](std::vector<Spec> specs, bool wrapped) {
    specs.insert(specs.end(), others.begin(), others.end());
    std::vector<std::string> tags = usual_run_tags(catalog, specs);
    tags.insert(tags.end(), run_tags.begin(), run_tags.end());
    if (wrapped) tags.push_back("run:wrapped");
    if (is_routed(optimizers)) tags.push_back("run:routed");
    for (MixReason& r : catalog.check_mix(specs, tags).reasons) {
      const bool known = std::any_of(all.reasons.begin(), all.reasons.end(), [&](const MixReason& o) { return o.sentence == r.sentence; });
      if (!known) all.reasons.push_back(std::move(r));
    }
  };
  for (const MixOptimizer& o : optimizers) {
    ask({o.spec}, false);
    // A wrapped optimizer updates under the same run, so its own relations hold too.
    for (const Spec& inner : o.inner) ask({inner}, true);
  }
  if (optimizers.empty()) ask({}, false);
  all.possible = all.reasons.empty();
  return all;
}

std::string joined(const std::vector<MixOptimizer>& optimizers, std::string (*form)(const Spec&)) {
  std::string text;
  for (const MixOptimizer& o : optimizers)
    text += (text.empty() ? "" : "; ") + o.clause.with_lr_and_selector(form(o.spec), is_routed(optimizers));
  return text;
}

}  // namespace tenon::trainer
