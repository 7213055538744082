// Reading adapter_config.json as PEFT writes it. The text comes from anywhere: every value is checked, and a wrong one is named.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sdk/adapter/selection.h"

namespace tenon::sdk::peft {

using Json = nlohmann::ordered_json;  // patterns are tried in file order

inline constexpr size_t kMostEntries = 16384;

[[noreturn]] inline void refuse(const std::string& sentence) {
  fail(TN_E_UNSUPPORTED, "adapter_config.json: " + sentence);
}
[[noreturn]] inline void damaged(const std::string& sentence) {
  fail(TN_E_FORMAT, "adapter_config.json: " + sentence);
}

// A value for a message: ASCII, and short.
inline std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

[[noreturn]] inline void wrong(const std::string& key, const Json& value, const std::string& wanted) {
  damaged(key + " is " + shown(value) + " but must be " + wanted);
}

inline const Json* find(const Json& j, const char* key) {
  const auto it = j.find(key);
  return it == j.end() || it->is_null() ? nullptr : &*it;
}

inline bool flag_of(const Json& j, const char* key) {
  const Json* v = find(j, key);
  if (!v) return false;
  if (!v->is_boolean()) wrong(key, *v, "true or false");
  return v->get<bool>();
}

inline int64_t whole(const std::string& key, const Json& v, int64_t min, int64_t max) {
  const double x = v.is_number() ? v.get<double>() : std::nan("");
  if (!(x >= static_cast<double>(min) && x <= static_cast<double>(max)) || x != std::floor(x))
    wrong(key, v, "a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  return static_cast<int64_t>(x);
}

inline int64_t rank(const std::string& key, const Json& v) {
  return whole(key, v, 1, 65536);
}

inline double alpha(const std::string& key, const Json& v) {
  const double x = v.is_number() ? v.get<double>() : std::nan("");
  if (!(x > 0 && x <= 1e9)) wrong(key, v, "a positive number of at most 1e9");
  return x;
}

inline const Json& bounded(const char* key, const Json& list) {
  if (list.size() > kMostEntries)
    damaged(std::string(key) + " has " + std::to_string(list.size()) + " entries but at most " +
            std::to_string(kMostEntries) + " are read");
  return list;
}

// A list of names, or one text (a regular expression).
inline void names_of(const Json& j, const char* key, std::vector<std::string>& list, std::optional<std::string>& text) {
  const Json* v = find(j, key);
  if (!v) return;
  if (v->is_string()) {
    if (const auto& s = v->get_ref<const std::string&>(); !s.empty()) text = s;
    return;
  }
  if (!v->is_array()) wrong(key, *v, "a list of names or one text");
  for (const Json& e : bounded(key, *v)) {
    if (!e.is_string()) wrong(std::string("an entry of ") + key, e, "a name");
    list.push_back(e.get<std::string>());
  }
}

template <class T>
void patterns_of(const Json& j, const char* key, std::vector<std::pair<std::string, T>>& out,
                 T (*read)(const std::string&, const Json&)) {
  const Json* v = find(j, key);
  if (!v) return;
  if (!v->is_object()) wrong(key, *v, "an object of module names and values");
  for (const auto& [name, value] : bounded(key, *v).items())
    out.emplace_back(name, read(std::string(key) + "[" + shown(name) + "]", value));
}

// The object of the file; its peft_type must be `type`.
Json parse(const char* text, const char* type);
// Tells the log of keys that neither PEFT's common ones nor `known` name.
void warn_of_unknown_keys(const Json& j, const tn_host* host, const std::vector<std::string>& known);
// target_modules, exclude_modules, layers and patterns; the writer puts the same keys.
Selection read_selection(const Json& j);
void write_selection(Json& j, const Selection& selection);
// The file's text: keys sorted, as PEFT writes them, those inside a pattern in their own order.
std::string text_of(const Json& j);
// A number without a fraction that is not there.
inline Json number(double x) {
  return x == std::floor(x) && std::abs(x) < 1e15 ? Json(static_cast<int64_t>(x)) : Json(x);
}

}  // namespace tenon::sdk::peft
