// What a run's mix is called, and what can be asked of it: specs as text, versions, what it needs.
#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {

tn_kv_plan Runtime::kv_plan() const {
  const auto set = instantiate();
  return set->techniques.kv_cache ? KvCodec(*set->techniques.kv_cache).plan : tn_kv_plan{};
}

std::string Runtime::site_spec(uint32_t site, std::string (*form)(const Spec&)) const {
  const auto it = sites_.find(site);
  return it == sites_.end() ? "" : form(it->second.spec);
}

std::string Runtime::embeddings_spec() const { return embeddings_ ? canonical(embeddings_->spec) : ""; }

std::map<std::string, std::string> Runtime::plugin_versions() const {
  std::map<std::string, std::string> versions;
  const auto add = [&](const LoadedPlugin& p) { versions[std::string(p.id())] = p.descriptor().version; };
  add(device_.plugin());
  for (const OptimizerPart& p : optimizers_) {
    add(p.plugin);
    for (const Spec& inner : p.mix.inner) versions[inner.id] = catalog_.info(inner.id).version;
  }
  for (const Part* p : {quantizer_.get(), attention_.get(), embeddings_.get()})
    if (p) add(p->plugin);
  for (const Part& p : adapters_) add(p.plugin);
  for (const auto& [site, p] : sites_) add(p.plugin);
  for (const auto& [place, plugin] : inner_) add(plugin);
  return versions;
}

std::string Runtime::joined(uint32_t kind, std::string (*form)(const Spec&)) const {
  std::string text;
  const auto add = [&](const Part& p) { text += (text.empty() ? "" : " + ") + form(p.spec); };
  if (kind == TN_KIND_OPTIMIZER) {
    std::vector<MixOptimizer> all;
    for (const OptimizerPart& p : optimizers_) all.push_back(p.mix);
    return trainer::joined(all, form);
  }
  if (kind == TN_KIND_QUANTIZER && quantizer_) add(*quantizer_);
  if (kind == TN_KIND_ATTENTION && attention_) add(*attention_);
  if (kind == TN_KIND_ADAPTER)
    for (const Part& p : adapters_) add(p);
  return text;
}

std::string Runtime::canonical_spec(uint32_t kind) const { return joined(kind, canonical); }
std::string Runtime::short_spec(uint32_t kind) const { return joined(kind, short_form); }

std::string Runtime::quantizer_value(std::string_view hyper) const {
  const HyperValue* value = quantizer_ ? quantizer_->spec.find(hyper) : nullptr;
  return value ? to_text(*value) : "";
}

bool Runtime::edits() const { return quantizer_ && quantizer_->plugin.extension<tn_edits>(TN_EXT_EDITS); }

bool Runtime::calibrates() const {
  return edits() || (quantizer_ && !takes_stored_codes() &&
         (quantizer_->plugin.extension<tn_calibrate>(TN_EXT_CALIBRATE) || quantizer_->plugin.extension<tn_trainable>(TN_EXT_TRAINABLE)));
}

bool Runtime::takes_stored_codes() const { return stored_ && quantizer_ && canonical(quantizer_->spec) == canonical(stored_->spec); }

const tn_layout* Runtime::quantizer_layout() const {
  return quantizer_ ? quantizer_->plugin.extension<tn_layout>(TN_EXT_LAYOUT) : nullptr;
}

}  // namespace tenon::trainer
