// Hyper-parameter schemas: what a technique can be told, with types, ranges and defaults.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tenon/plugin.h"

namespace tenon {

struct HyperInfo {
  uint32_t type = TN_TYPE_UNDEFINED;  // TN_TYPE_*
  std::string name;
  std::string default_value;  // as a user would write it
  double min = 0, max = 0;    // numbers; ±infinity = open-ended
  uint32_t flags = 0;         // TN_RANGE_*
  std::vector<std::string> choices;
  std::string unit, doc;

  bool operator==(const HyperInfo&) const = default;
};

using Schema = std::vector<HyperInfo>;

// One value of a parameter: INT in i (and f), FLOAT in f, BOOL in i, STRING and CHOICE in s.
struct HyperValue {
  uint32_t type = TN_TYPE_UNDEFINED;
  std::string name;
  int64_t i = 0;
  double f = 0;
  std::string s;

  bool operator==(const HyperValue&) const = default;
};

// "int", "float", "bool", "string", "choice"; "?" for others. type_from_name answers TN_TYPE_UNDEFINED for others.
std::string_view type_name(uint32_t type) noexcept;
uint32_t type_from_name(std::string_view name) noexcept;

// Parses what a user wrote. `technique` begins the error: "adamw: beta2=1.5 is not valid; beta2 is a number with 0 <=
// beta2 < 1".
HyperValue parse_value(std::string_view technique, const HyperInfo& info, std::string_view text);

// "a whole number with rank >= 1", "one of std, left", "true or false", "a text".
std::string describe(const HyperInfo& info);

// The value as a user would write it; numbers in the shortest form that reads back exactly. A text that needs it is in
// quotes.
std::string to_text(const HyperValue& value);

// Refuses a schema that could not be used: bad or repeated names, unknown types, empty ranges or choices, a default
// that is not legal. `technique` begins the error.
void check_schema(std::string_view technique, const Schema& schema);

// The schema of a descriptor, checked. Strings that are null where they must not be are refused.
Schema read_schema(std::string_view technique, const tn_plugin& plugin);

}  // namespace tenon
