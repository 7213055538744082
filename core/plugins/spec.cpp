#include "core/plugins/spec.h"

#include <algorithm>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/kinds.h"
#include "core/plugins/nearest.h"

namespace tenon {
namespace {

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

[[noreturn]] void refuse(std::string_view spec, const std::string& why) {
  throw Error(TN_E_ARGUMENT, quote_name(spec) + " is not a technique with its parameters: " + why +
                                 "; write it as id or id:key=value,key=value");
}

// Takes a value up to the next comma, or a text in double quotes. `at` is left at the comma or the end.
std::string take_value(std::string_view spec, size_t& at) {
  if (at >= spec.size() || spec[at] != '"') {
    const size_t end = std::min(spec.find(',', at), spec.size());
    const std::string_view value = trim(spec.substr(at, end - at));
    at = end;
    return std::string(value);
  }
  std::string value;
  for (++at; at < spec.size() && spec[at] != '"'; ++at) {
    if (spec[at] == '\\' && at + 1 < spec.size()) ++at;
    value += spec[at];
  }
  if (at == spec.size()) refuse(spec, "a quote is not closed");
  ++at;
  while (at < spec.size() && spec[at] == ' ') ++at;
  if (at < spec.size() && spec[at] != ',') refuse(spec, "something follows a closed quote");
  return value;
}

std::string join(const Spec& spec, bool all) {
  std::string text = spec.id;
  char separator = ':';
  for (size_t i = 0; i < spec.values.size(); ++i) {
    if (!all && !spec.given[i]) continue;
    text += separator;
    text += spec.values[i].name + '=' + to_text(spec.values[i]);
    separator = ',';
  }
  return text;
}

}  // namespace

const HyperValue* Spec::find(std::string_view name) const {
  const auto at = std::find_if(values.begin(), values.end(), [&](const HyperValue& v) { return v.name == name; });
  return at == values.end() ? nullptr : &*at;
}

SpecText cut_spec(std::string_view text) {
  constexpr size_t kMost = 64 * 1024;
  if (text.size() > kMost) refuse(text, "it has " + std::to_string(text.size()) + " bytes, more than 65536");
  const std::string_view spec = trim(text);
  SpecText out;
  const size_t colon = std::min(spec.find(':'), spec.size());
  out.id = trim(spec.substr(0, colon));
  if (out.id.empty()) refuse(text, "the technique's id is missing");
  if (!valid_id(out.id)) refuse(text, quote_name(out.id) + " cannot be an id (a-z, 0-9, '.', '-', '_')");
  size_t at = colon + 1;
  while (at < spec.size()) {
    const size_t equals = spec.find('=', at);
    const size_t comma = spec.find(',', at);
    if (equals == std::string_view::npos || comma < equals) {
      refuse(text,
             quote_name(trim(spec.substr(at, comma == std::string_view::npos ? comma : comma - at))) + " has no value");
    }
    const std::string_view key = trim(spec.substr(at, equals - at));
    if (key.empty()) refuse(text, "a value has no key");
    at = equals + 1;
    while (at < spec.size() && spec[at] == ' ') ++at;
    out.items.push_back({std::string(key), take_value(spec, at)});
    if (at < spec.size() && ++at == spec.size()) refuse(text, "it ends with a comma");
  }
  return out;
}

Spec resolve_spec(const SpecText& text, const Schema& schema) {
  Spec spec{text.id};
  spec.given.resize(schema.size());
  for (const HyperInfo& info : schema) spec.values.push_back(parse_value(text.id, info, info.default_value));
  for (const SpecText::Item& item : text.items) {
    const std::string& key = item.key;
    const auto info = std::find_if(schema.begin(), schema.end(), [&](const HyperInfo& h) { return h.name == key; });
    if (info == schema.end()) {
      std::vector<std::string> names;
      for (const HyperInfo& h : schema) names.push_back(h.name);
      const std::string hint = names.empty() ? "; it takes no parameters" : suggestion(key, names, "it takes");
      throw Error(TN_E_ARGUMENT, text.id + " has no parameter " + quote_name(key) + hint);
    }
    const auto i = static_cast<size_t>(info - schema.begin());
    if (spec.given[i]) throw Error(TN_E_ARGUMENT, text.id + ": " + key + " is given twice; keep one of the two");
    spec.values[i] = parse_value(text.id, *info, item.value);
    spec.given[i] = true;
  }
  return spec;
}

std::string canonical(const Spec& spec) {
  return join(spec, true);
}
std::string short_form(const Spec& spec) {
  return join(spec, false);
}

HyperArray::HyperArray(const Spec& spec) {
  values_.reserve(spec.values.size());
  for (const HyperValue& v : spec.values) {
    const bool text = v.type == TN_TYPE_STRING || v.type == TN_TYPE_CHOICE;
    values_.push_back({TN_SIZE_TO(tn_hyper, s), v.type, v.name.c_str(), v.i, v.f, text ? v.s.c_str() : nullptr});
  }
  for (const tn_hyper& value : values_) pointers_.push_back(&value);
}

}  // namespace tenon
