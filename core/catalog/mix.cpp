// Which techniques work together: a relation of tags, asked in SQL.
#include "core/catalog/catalog.h"
#include "core/catalog/catalog_state.h"
#include "core/catalog/records.h"
#include "core/catalog/sql.h"
#include "core/error.h"
#include "core/files/bytes.h"

namespace tenon {
namespace {

void add_tag(const Database& db, std::string_view tag, int64_t member) {
  db.prepare(sql::kInsertPresent).bind(1, tag).bind(2, member).run();
}

void add_member(const Database& db, int64_t position, int64_t store, std::string_view id) {
  db.prepare(sql::kInsertMember).bind(1, position).bind(2, store).bind(3, id).run();
}

// `id:key=value` for what is a choice or a flag, so that a relation can depend on it.
void add_value_tags(const Database& db, const Spec& spec, int64_t position) {
  for (const HyperValue& value : spec.values) {
    if (value.type == TN_TYPE_CHOICE || value.type == TN_TYPE_BOOL) {
      add_tag(db, spec.id + ':' + value.name + '=' + to_text(value), position);
    }
  }
}

std::string sentence(const std::string& id, const std::string& tag, const std::string& reason,
                     const std::string& obstacle) {
  if (obstacle == "device") return id + ": it has no object for the device " + tag.substr(tag.find(':') + 1);
  return id + ": " + reason;
}

}  // namespace

void Catalog::add_feature(const Feature& feature) {
  const auto lock = std::lock_guard(state_->mutex);
  Database& db = state_->db;
  erase_plugin(db, feature.id);
  Statement insert = db.prepare(sql::kInsertPlugin);
  insert.bind(1, feature.id).bind(2, "0.0.0").bind(3, "").bind(4, "feature").bind(5, feature.name);
  insert.bind(6, "").bind(7, "").bind(8, "").run();
  for (const std::string& tag : feature.provides)
    db.prepare(sql::kInsertProvides).bind(1, feature.id).bind(2, tag).run();
  record_relations(db, feature.id, feature.requires_, feature.conflicts);
  state_->features.push_back(feature);
}

MixAnswer Catalog::check_mix(const std::vector<Spec>& specs, const std::vector<std::string>& run_tags) const {
  const auto lock = std::lock_guard(state_->mutex);
  Database& db = state_->db;
  db.execute(sql::kClearMix);
  int64_t position = 0;
  for (const Spec& spec : specs) {
    const State::Place place = state_->get(spec.id);
    add_member(db, position, place.store, spec.id);
    add_tag(db, "plugin:" + spec.id, position);
    add_tag(db, "kind:" + place.kind, position);
    add_value_tags(db, spec, position);
    ++position;
  }
  Statement is_feature = db.prepare(sql::kIsFeature);
  for (const std::string& tag : run_tags) {
    add_tag(db, tag, -1);
    if (!tag.starts_with("run:")) continue;
    const std::string id = tag.substr(4);
    const bool known = is_feature.bind(1, id).step();
    is_feature.reset();
    if (known) add_member(db, position++, 0, id);
  }
  db.execute(sql::kInsertProvided);

  MixAnswer answer;
  Statement rows = db.prepare(sql::kObstacles);
  while (rows.step())
    answer.reasons.push_back({rows.text(0), sentence(rows.text(0), rows.text(1), rows.text(2), rows.text(3))});
  answer.possible = answer.reasons.empty();
  return answer;
}

}  // namespace tenon
