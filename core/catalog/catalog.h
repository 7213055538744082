// What is installed, across a stack of stores, and the only way in which a host loads a plugin.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/catalog/store.h"
#include "core/plugins/library.h"
#include "core/plugins/manifest.h"
#include "core/plugins/spec.h"

namespace tenon {

// One line of `tenon plugin list`.
struct PluginRow {
  std::string id, version, name, summary, store;
  uint32_t kind = TN_KIND_UNDEFINED;
  std::vector<std::string> backends;
};

// What list() should answer; "" = any.
struct PluginFilter {
  std::string kind, tag, layout, backend;
};

// A feature of the host that takes part in mixes like a plugin of the kind "feature". It is in a mix whose run has the
// tag `run:ID`.
struct Feature {
  std::string id, name;
  std::vector<std::string> provides;
  std::vector<Relation> requires_, conflicts;
};

struct MixReason {
  std::string plugin;    // id of the plugin or feature that minds
  std::string sentence;  // begins with the id
};
struct MixAnswer {
  bool possible = true;
  std::vector<MixReason> reasons;
};

enum class Trust { kCatalogOnly, kAllowAltered };

// [any-thread]; calls take turns. What others install shows at the next call, in stores that existed when the Catalog
// was made.
class Catalog {
 public:
  // Stores in order of precedence: of equal versions of a plugin the first store's counts; otherwise the newest
  // version.
  explicit Catalog(std::vector<std::string> stores);
  // The user's store, then the one that comes with the installation.
  static Catalog open_default();
  ~Catalog();
  Catalog(Catalog&&) noexcept;

  const std::vector<std::string>& stores() const;
  // Looks again for stores that did not exist when the Catalog was made, or that were rebuilt since.
  void refresh();

  std::vector<PluginRow> list(const PluginFilter& filter = {}) const;
  // Everything about a plugin; TN_E_NOT_FOUND names the nearest installed one.
  Manifest info(std::string_view id) const;
  // The folder that it is installed in.
  std::string folder(std::string_view id) const;

  // The id that `name` stands for among the plugins of `kind`: the id itself, or the last part of a vendor's id where
  // that is unique ("lion" for com.example.lion). TN_E_NOT_FOUND names the nearest.
  std::string resolve(uint32_t kind, std::string_view name) const;
  // Parses `galore:rank=128` against the schema of the installed plugin.
  Spec spec(uint32_t kind, std::string_view text) const;

  // Loads the best object of a plugin for a backend that this machine can run; the object must be exactly what was
  // installed, or the call throws TN_E_TRUST.
  LoadedPlugin load(std::string_view id, std::string_view backend, Trust trust = Trust::kCatalogOnly) const;

  // Known to every later check_mix; an id counts once.
  void add_feature(const Feature& feature);

  // Whether these techniques work together in a run with these tags ("run:full-tuning", "device:onednn", …), and all
  // reasons why not. Specs come from spec(); a technique may be named twice.
  MixAnswer check_mix(const std::vector<Spec>& specs, const std::vector<std::string>& run_tags) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The tags of a training or evaluation run that follow from which kinds of techniques are in it: an optimizer without
// an adapter is run:full-tuning, with one run:adapter-tuning, no optimizer is run:eval. An optimizer that provides optimizer:scales,
// or any over a quantizer that provides quantizer:scale-gradients, moves the scales of quantized weights and nothing else:
// run:scale-tuning. A quantizer among them, which is taken for the weights, adds run:quantized-weights, or, one that provides
// model:edited, run:edited-model.
std::vector<std::string> usual_run_tags(const Catalog& catalog, const std::vector<Spec>& specs);

}  // namespace tenon
