#include "core/plugins/schema.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/files/bytes.h"

namespace tenon {
namespace {

constexpr std::array<std::string_view, 6> kTypes = {"?", "int", "float", "bool", "string", "choice"};

template <class Number>
std::string number_text(Number value) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end);
}

bool numeric(const HyperInfo& info) {
  return info.type == TN_TYPE_INT || info.type == TN_TYPE_FLOAT;
}

bool in_range(const HyperInfo& info, double value) {
  const bool above = info.flags & TN_RANGE_OPEN_MIN ? value > info.min : value >= info.min;
  const bool below = info.flags & TN_RANGE_OPEN_MAX ? value < info.max : value <= info.max;
  return above && below;
}

// A leading '+' is what people write; from_chars does not take it.
template <class Number>
bool parse_number(std::string_view text, Number& out) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

bool parse_bool(std::string_view text, int64_t& out) {
  static constexpr std::string_view kTrue[] = {"true", "1", "yes", "on"}, kFalse[] = {"false", "0", "no", "off"};
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  out = std::find(std::begin(kTrue), std::end(kTrue), lower) != std::end(kTrue);
  return out || std::find(std::begin(kFalse), std::end(kFalse), lower) != std::end(kFalse);
}

bool parse_into(const HyperInfo& info, std::string_view text, HyperValue& out) {
  switch (info.type) {
    case TN_TYPE_INT:
      if (!parse_number(text, out.i)) return false;
      out.f = static_cast<double>(out.i);
      return in_range(info, out.f);
    case TN_TYPE_FLOAT:
      return parse_number(text, out.f) && std::isfinite(out.f) && in_range(info, out.f);
    case TN_TYPE_BOOL:
      return parse_bool(text, out.i);
    case TN_TYPE_CHOICE:
      out.s = text;
      return std::find(info.choices.begin(), info.choices.end(), out.s) != info.choices.end();
    case TN_TYPE_STRING:
      out.s = text;
      return text.find('\0') == std::string_view::npos;
    default:
      return false;
  }
}

bool valid_name(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && name.size() <= 64 && letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

std::vector<std::string> split_choices(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t bar; (bar = text.find('|')) != std::string_view::npos; text.remove_prefix(bar + 1)) {
    parts.emplace_back(text.substr(0, bar));
  }
  parts.emplace_back(text);
  return parts;
}

}  // namespace

std::string_view type_name(uint32_t type) noexcept {
  return type < kTypes.size() ? kTypes[type] : kTypes[0];
}

uint32_t type_from_name(std::string_view name) noexcept {
  for (uint32_t type = 1; type < kTypes.size(); ++type) {
    if (kTypes[type] == name) return type;
  }
  return TN_TYPE_UNDEFINED;
}

std::string describe(const HyperInfo& info) {
  switch (info.type) {
    case TN_TYPE_BOOL:
      return "true or false";
    case TN_TYPE_STRING:
      return "a text";
    case TN_TYPE_CHOICE: {
      std::string text = "one of ";
      for (size_t i = 0; i < info.choices.size(); ++i) text += (i ? ", " : "") + info.choices[i];
      return text;
    }
    default:
      break;
  }
  std::string text = info.type == TN_TYPE_INT ? "a whole number" : "a number";
  const bool low = std::isfinite(info.min), high = std::isfinite(info.max);
  if (low || high) text += " with ";
  if (low && !high) return text + info.name + (info.flags & TN_RANGE_OPEN_MIN ? " > " : " >= ") + number_text(info.min);
  if (low) text += number_text(info.min) + (info.flags & TN_RANGE_OPEN_MIN ? " < " : " <= ");
  if (high) text += info.name + (info.flags & TN_RANGE_OPEN_MAX ? " < " : " <= ") + number_text(info.max);
  return text;
}

HyperValue parse_value(std::string_view technique, const HyperInfo& info, std::string_view text) {
  HyperValue value{info.type, info.name};
  if (!parse_into(info, text, value)) {
    const std::string shown = quote_name(text);  // cut and cleaned; a plain value is shown without its quotes
    const bool plain = !text.empty() && shown == '\'' + std::string(text) + '\'';
    throw Error(TN_E_ARGUMENT, std::string(technique) + ": " + info.name + '=' + (plain ? std::string(text) : shown) +
                                   " is not valid; " + info.name + " is " + describe(info));
  }
  return value;
}

std::string to_text(const HyperValue& value) {
  switch (value.type) {
    case TN_TYPE_INT:
      return number_text(value.i);
    case TN_TYPE_FLOAT:
      return number_text(value.f);
    case TN_TYPE_BOOL:
      return value.i ? "true" : "false";
    default:
      break;
  }
  if (!value.s.empty() && value.s.find_first_of(",\"\\ ") == std::string::npos) return value.s;
  std::string text = "\"";
  for (const char c : value.s) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

void check_schema(std::string_view technique, const Schema& schema) {
  const auto refuse = [&](const HyperInfo& info, const std::string& why) {
    throw Error(TN_E_FORMAT, std::string(technique) + ": the hyper-parameter " + quote_name(info.name) + ' ' + why);
  };
  std::set<std::string_view> names;
  for (const HyperInfo& info : schema) {
    if (!valid_name(info.name)) refuse(info, "has a name that is not made of letters, digits and '_'");
    if (!names.insert(info.name).second) refuse(info, "is declared twice");
    if (info.type == TN_TYPE_UNDEFINED || info.type >= kTypes.size()) {
      refuse(info, "has the unknown type " + std::to_string(info.type));
    }
    if (numeric(info) && !(info.min <= info.max)) refuse(info, "has an empty range");
    if (info.type == TN_TYPE_CHOICE) {
      const bool blank = std::any_of(info.choices.begin(), info.choices.end(), [](const auto& c) { return c.empty(); });
      if (info.choices.empty() || blank) refuse(info, "lacks its choices");
    }
    HyperValue value;
    if (!parse_into(info, info.default_value, value)) {
      refuse(info, "has the default " + quote_name(info.default_value) + ", which is not " + describe(info));
    }
  }
}

Schema read_schema(std::string_view technique, const tn_plugin& plugin) {
  constexpr uint64_t kMost = 1000;
  const auto refuse = [&](const std::string& why) { throw Error(TN_E_FORMAT, std::string(technique) + ": " + why); };
  if (plugin.n_hypers > kMost)
    refuse("it declares " + std::to_string(plugin.n_hypers) + " hyper-parameters, more than 1000");
  if (plugin.n_hypers > 0 && !plugin.hypers) refuse("its list of hyper-parameters is null");
  Schema schema;
  for (uint64_t i = 0; i < plugin.n_hypers; ++i) {
    const tn_hyper_info* const raw = plugin.hypers[i];
    if (!raw || raw->struct_size < TN_SIZE_TO(tn_hyper_info, doc) || !raw->name || !raw->default_value || !raw->doc) {
      refuse("the declaration of its hyper-parameter " + std::to_string(i) + " is incomplete");
    }
    HyperInfo info{raw->type, raw->name, raw->default_value, raw->min, raw->max, raw->flags, {}, "", raw->doc};
    if (raw->unit) info.unit = raw->unit;
    if (raw->type == TN_TYPE_CHOICE && raw->choices) info.choices = split_choices(raw->choices);
    if (!numeric(info)) info.min = info.max = 0, info.flags = 0;  // meaningless there, so not part of the schema
    schema.push_back(std::move(info));
  }
  check_schema(technique, schema);
  return schema;
}

}  // namespace tenon
