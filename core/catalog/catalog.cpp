#include "core/catalog/catalog.h"

#include <algorithm>
#include <deque>
#include <set>
#include <unordered_map>
#include <utility>

#include "core/catalog/catalog_state.h"
#include "core/catalog/records.h"
#include "core/catalog/sql.h"
#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "core/plugins/locations.h"
#include "core/plugins/nearest.h"

namespace tenon {
namespace {

std::vector<std::string> names_of_kind(const Database& db, std::string_view kind) {
  Statement rows = db.prepare(sql::kNames);
  rows.bind(1, kind);
  std::vector<std::string> names;
  while (rows.step()) names.push_back(rows.text(0));
  return names;
}

}  // namespace

Catalog::Catalog(std::vector<std::string> stores) {
  std::erase(stores, "");
  Database db = open_stack(stores);
  db.execute(sql::kMixTables);
  state_.reset(new State{std::move(stores), std::move(db), {}, {}});
}

void Catalog::refresh() {
  Catalog fresh(stores());
  const auto lock = std::lock_guard(state_->mutex);  // whoever looks into the old one does so under it
  for (const Feature& feature : state_->features) fresh.add_feature(feature);
  std::swap(state_->db, fresh.state_->db);
}

Catalog Catalog::open_default() {
  return Catalog({user_store(), bundled_store()});
}
Catalog::~Catalog() = default;
Catalog::Catalog(Catalog&&) noexcept = default;

const std::vector<std::string>& Catalog::stores() const {
  return state_->stores;
}

Catalog::State::Place Catalog::State::find(std::string_view id) const {
  Statement row = db.prepare(sql::kCurrent);
  if (!row.bind(1, id).step() || row.integer(0) == 0) return {};
  const int64_t store = row.integer(0);
  return {store,      row.text(1), row.text(2), row.text(3), stores[static_cast<size_t>(store - 1)] + '/' + row.text(5),
          row.text(6)};
}

Catalog::State::Place Catalog::State::get(std::string_view id) const {
  if (Place place = find(id); place.store > 0) return place;
  Statement rows = db.prepare(sql::kAllNames);
  std::vector<std::string> names;
  while (rows.step()) names.push_back(rows.text(0));
  throw Error(TN_E_NOT_FOUND,
              "no plugin named " + quote_name(id) + " is installed" + suggestion(id, names, "there are"));
}

std::vector<PluginRow> Catalog::list(const PluginFilter& filter) const {
  const auto lock = std::lock_guard(state_->mutex);
  struct Found {
    PluginRow row;
    std::string version_key;
    size_t store;
    bool wanted;
  };
  std::deque<Found> all;  // does not move what `newest` looks at
  std::unordered_map<std::string_view, Found*> newest;
  for (size_t s = 0; s < state_->stores.size(); ++s) {
    Statement rows = state_->db.prepare(sql::list(static_cast<int64_t>(s) + 1));
    rows.bind(1, filter.kind).bind(2, filter.tag).bind(3, filter.layout).bind(4, filter.backend);
    while (rows.step()) {
      const auto known = newest.find(rows.view(0));
      if (known != newest.end() && known->second->version_key >= rows.view(5)) continue;
      Found& found = known != newest.end() ? *known->second : all.emplace_back();
      found.row.version = rows.view(1), found.row.kind = kind_from_name(rows.view(2));
      found.row.name = rows.view(3), found.row.summary = rows.view(4), found.row.store = state_->stores[s];
      found.version_key = rows.view(5), found.store = s, found.wanted = rows.integer(6) != 0;
      if (known != newest.end()) continue;
      found.row.id = rows.view(0);
      newest.emplace(found.row.id, &found);
    }
  }
  for (size_t s = 0; s < state_->stores.size(); ++s) {
    Statement objects = state_->db.prepare(sql::backends(static_cast<int64_t>(s) + 1));
    Found* of = nullptr;
    while (objects.step()) {
      if (!of || of->row.id != objects.view(0)) {
        const auto found = newest.find(objects.view(0));
        of = found == newest.end() ? nullptr : found->second;
      }
      if (!of || of->store != s) continue;
      std::vector<std::string>& backends = of->row.backends;
      if (std::find(backends.begin(), backends.end(), objects.view(1)) == backends.end()) backends.emplace_back(objects.view(1));
    }
  }
  std::vector<Found*> order;
  order.reserve(all.size());
  for (Found& found : all)
    if (found.wanted) order.push_back(&found);
  const auto before = [](const Found* a, const Found* b) {
    const std::string_view x = kind_name(a->row.kind), y = kind_name(b->row.kind);
    return x != y ? x < y : a->row.id < b->row.id;
  };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
  std::vector<PluginRow> out;
  out.reserve(order.size());
  for (Found* found : order) out.push_back(std::move(found->row));
  return out;
}

Manifest Catalog::info(std::string_view id) const {
  const auto lock = std::lock_guard(state_->mutex);
  return parse_manifest(state_->get(id).manifest, std::string(id) + " in the catalog");
}

std::string Catalog::folder(std::string_view id) const {
  const auto lock = std::lock_guard(state_->mutex);
  return state_->get(id).folder;
}

std::string Catalog::resolve(uint32_t kind, std::string_view name) const {
  const auto lock = std::lock_guard(state_->mutex);
  const State::Place place = state_->find(name);
  if (place.store > 0 && place.kind == kind_name(kind)) return std::string(name);
  const std::vector<std::string> names = names_of_kind(state_->db, kind_name(kind));
  std::vector<std::string> meant;
  for (const std::string& id : names) {
    if (id.ends_with('.' + std::string(name))) meant.push_back(id);
  }
  if (meant.size() == 1) return meant[0];
  const std::string what = "no " + std::string(kind_name(kind)) + " named " + quote_name(name) + " is installed";
  if (meant.size() > 1)
    throw Error(TN_E_NOT_FOUND, what + ", and several ids end in it; write " + meant[0] + " or " + meant[1]);
  if (place.store > 0)
    throw Error(TN_E_NOT_FOUND, what + " (" + std::string(name) + " is of the kind " + place.kind + ")");
  if (names.empty())
    throw Error(TN_E_NOT_FOUND, what + ", nor any other; install one with `tenon plugin install FOLDER`");
  throw Error(TN_E_NOT_FOUND, what + suggestion(name, names, "there are"));
}

Spec Catalog::spec(uint32_t kind, std::string_view text) const {
  SpecText cut = cut_spec(text);
  cut.id = resolve(kind, cut.id);
  return resolve_spec(cut, info(cut.id).hypers);
}

std::vector<std::string> usual_run_tags(const Catalog& catalog, const std::vector<Spec>& specs) {
  std::set<uint32_t> kinds;
  bool scales = false, edits = false;
  for (const Spec& spec : specs) {
    const Manifest manifest = catalog.info(spec.id);
    const auto provides = [&](const char* tag) { return std::find(manifest.provides.begin(), manifest.provides.end(), tag) != manifest.provides.end(); };
    kinds.insert(manifest.kind);
    scales = scales || provides("optimizer:scales") || provides("quantizer:scale-gradients"), edits = edits || provides("model:edited");
  }
  std::vector<std::string> tags;
  if (kinds.contains(TN_KIND_QUANTIZER)) tags.push_back(edits ? "run:edited-model" : "run:quantized-weights");
  tags.push_back(!kinds.contains(TN_KIND_OPTIMIZER) ? "run:eval"
                 : kinds.contains(TN_KIND_ADAPTER)  ? "run:adapter-tuning"
                 : scales                           ? "run:scale-tuning"
                                                    : "run:full-tuning");
  return tags;
}

}  // namespace tenon
