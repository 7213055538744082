#include "hosts/trainer/text/json_input.h"

#include "core/error.h"

namespace tenon::trainer {
namespace {
constexpr uint64_t kLargestId = (1 << 24) - 1;
}

OrderedJson parse_ordered_json(std::string_view text, const std::string& where) {
  parse_json(text, where);  // throws for everything that the second pass could stumble over
  return OrderedJson::parse(text);
}

void wrong_type(const std::string& where, std::string_view field, std::string_view wanted) {
  throw Error(TN_E_FORMAT,
              where + ": \"" + std::string(field) + "\" must be " + std::string(wanted) + "; correct the file");
}

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string string_or(const Json& object, const char* key, std::string fallback, const std::string& where) {
  auto found = find_string(object, key, where);
  return found ? std::move(*found) : std::move(fallback);
}

bool bool_or(const Json& object, const char* key, bool fallback, const std::string& where) {
  return find_bool(object, key, where).value_or(fallback);
}

uint32_t token_id(const Json& value, std::string_view field, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kLargestId)
    wrong_type(where, field, "a token id, a whole number from 0 to " + std::to_string(kLargestId));
  return value.get<uint32_t>();
}

}  // namespace tenon::trainer
