// Specs: how a user asks for a technique. `galore:rank=128,scale=0.25`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/plugins/schema.h"

namespace tenon {

// A technique with a value for every parameter of its schema, in the schema's order.
struct Spec {
  std::string id;
  std::vector<HyperValue> values;
  std::vector<bool> given;  // which values the user wrote; the others are defaults

  const HyperValue* find(std::string_view name) const;
  bool operator==(const Spec& other) const { return id == other.id && values == other.values; }
};

// The text of a spec, cut but not yet looked at: values need the schema, and the schema needs the id.
struct SpecText {
  struct Item {
    std::string key, value;
  };
  std::string id;
  std::vector<Item> items;
};

// Cuts `id[:key=value[,key=value…]]`. A value may stand in double quotes, with \" and \\ inside. Throws TN_E_ARGUMENT.
SpecText cut_spec(std::string_view text);

// Checks every key and value against the schema and fills in defaults. An unknown key names the nearest valid one; a
// key given twice is refused. Throws TN_E_ARGUMENT.
Spec resolve_spec(const SpecText& text, const Schema& schema);
inline Spec parse_spec(std::string_view text, const Schema& schema) {
  return resolve_spec(cut_spec(text), schema);
}

// The canonical forms, which parse back to the same Spec: with every value (for checkpoints, so that a changed default
// changes nothing) and with only the values that the user wrote (for people).
std::string canonical(const Spec& spec);
std::string short_form(const Spec& spec);

// The values as create() takes them. Borrows from the spec, which must stay as it is.
class HyperArray {
 public:
  explicit HyperArray(const Spec& spec);
  HyperArray(const HyperArray&) = delete;
  HyperArray& operator=(const HyperArray&) = delete;
  const tn_hyper* const* data() const { return pointers_.data(); }
  uint64_t size() const { return pointers_.size(); }

 private:
  std::vector<tn_hyper> values_;
  std::vector<const tn_hyper*> pointers_;
};

}  // namespace tenon
