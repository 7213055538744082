#include "core/catalog/catalog.h"

#include <algorithm>
#include <deque>
#include <set>
#include <span>
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

struct Listed {
  PluginRow row;
  std::string version_key;
  bool wanted = false;
};

// Gives each of `listed` its backends. objects come by id, and `listed` in as many runs of ascending ids as there are kinds, so that both are
// walked once side by side and no id is looked up.
void add_backends(Statement objects, const std::vector<Listed*>& listed) {
  std::vector<std::span<Listed* const>> runs;
  for (size_t i = 0, begin = 0; i < listed.size(); ++i)
    if (i + 1 == listed.size() || listed[i + 1]->row.id < listed[i]->row.id) runs.push_back(std::span(listed).subspan(begin, i + 1 - begin)), begin = i + 1;
  Listed* of = nullptr;
  while (objects.step()) {
    const std::string_view id = objects.view(0), backend = objects.view(1);
    if (!of || of->row.id != id) {
      of = nullptr;
      for (std::span<Listed* const>& run : runs) {
        while (!run.empty() && run.front()->row.id < id) run = run.subspan(1);
        if (!run.empty() && run.front()->row.id == id) of = run.front();
      }
    }
    if (!of) continue;
    std::vector<std::string>& backends = of->row.backends;
    if (std::find(backends.begin(), backends.end(), backend) == backends.end()) backends.emplace_back(backend);
  }
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
  std::deque<Listed> all;  // does not move what `known` and `rows` look at
  for (size_t s = 0; s < state_->stores.size(); ++s) {
    std::unordered_map<std::string_view, Listed*> known;  // of the stores before
    for (Listed& listed : all) known.emplace(listed.row.id, &listed);
    std::vector<Listed*> listed;
    Statement rows = state_->db.prepare(sql::list(static_cast<int64_t>(s) + 1));
    rows.bind(1, filter.kind).bind(2, filter.tag).bind(3, filter.layout).bind(4, filter.backend);
    while (rows.step()) {
      const auto older = known.empty() ? known.end() : known.find(rows.view(0));
      if (older != known.end() && older->second->version_key >= rows.view(5)) continue;
      Listed& to = older != known.end() ? *older->second : all.emplace_back();
      if (older == known.end()) to.row.id = rows.view(0);
      to.row.version = rows.view(1), to.row.kind = kind_from_name(rows.view(2));
      to.row.name = rows.view(3), to.row.summary = rows.view(4), to.row.store = state_->stores[s];
      to.row.backends.clear();
      to.version_key = rows.view(5), to.wanted = rows.integer(6) != 0;
      listed.push_back(&to);
    }
    add_backends(state_->db.prepare(sql::backends(static_cast<int64_t>(s) + 1)), listed);
  }
  std::vector<Listed*> order;
  order.reserve(all.size());
  for (Listed& listed : all)
    if (listed.wanted) order.push_back(&listed);
  const auto before = [](const Listed* a, const Listed* b) {
    const std::string_view x = kind_name(a->row.kind), y = kind_name(b->row.kind);
    return x != y ? x < y : a->row.id < b->row.id;
  };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
  std::vector<PluginRow> out;
  out.reserve(order.size());
  for (Listed* listed : order) out.push_back(std::move(listed->row));
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
