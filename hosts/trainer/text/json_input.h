// What the text side adds to core's JSON: getters with a fallback, token ids, and objects that keep the order of their
// keys.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>

#include "core/files/json.h"

namespace tenon::trainer {

using OrderedJson = nlohmann::ordered_json;  // chat templates print keys in the order in which they were written

// parse_json of core/files/json.h with the order of the keys kept; the same checks and errors.
OrderedJson parse_ordered_json(std::string_view text, const std::string& where);

// Throws the Error of a field that does not have the type `wanted` ("a string").
[[noreturn]] void wrong_type(const std::string& where, std::string_view field, std::string_view wanted);

// Member of an object; nullptr when it is absent or null, or `object` is none.
const Json* member(const Json& object, const char* key);

// A member, or `fallback` when it is absent or null. A wrong type throws.
std::string string_or(const Json& object, const char* key, std::string fallback, const std::string& where);
bool bool_or(const Json& object, const char* key, bool fallback, const std::string& where);

// `value` itself as a token id, at most 2^24 - 1.
uint32_t token_id(const Json& value, std::string_view field, const std::string& where);

}  // namespace tenon::trainer
