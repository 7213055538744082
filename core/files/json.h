// JSON from untrusted files: bounded depth, size and count, and errors that a user can act on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace tenon {

using Json = nlohmann::json;

struct JsonLimits {
  uint64_t max_bytes = 256u << 20;
  uint64_t max_values =
      16u << 20;  // Numbers, strings, arrays and objects together; bounds the memory of the parsed form.
  int max_depth = 64;
  bool unique_keys = false;  // Refuse an object that has a key twice; otherwise the last one counts.
};

// Parses `text`. `what` names the source in errors ("config.json"). Throws TN_E_FORMAT with the line and column for a
// syntax error, invalid UTF-8, a NUL byte, a number out of the range of double, or anything over the limits. No
// recursion: the depth of the text costs no stack.
Json parse_json(std::string_view text, const std::string& what, const JsonLimits& limits = {});

// Reads and parses a file; errors name its path.
Json read_json_file(const std::string& path, const JsonLimits& limits = {});

// Writes `value` with two spaces of indent and a final newline, atomically. Throws TN_E_ARGUMENT for strings that are
// not UTF-8.
void write_json_file(const std::string& path, const Json& value);

// What a value is, for a message: "an object", "a text", "a number", "null".
std::string json_kind(const Json& value);

// Typed getters. `object` must be a JSON object (else TN_E_FORMAT); `what` names the source in errors. find_* answer
// nullopt (or nullptr) when the key is absent or null; get_* throw TN_E_NOT_FOUND then. A value of the wrong type or
// outside its range throws TN_E_FORMAT naming the key, the value and the range. Whole numbers may be written as 8192.0,
// as Python tools do.
std::optional<int64_t> find_int(const Json& object, std::string_view key, int64_t min, int64_t max,
                                std::string_view what);
std::optional<double> find_double(const Json& object, std::string_view key, double min, double max,
                                  std::string_view what);
std::optional<bool> find_bool(const Json& object, std::string_view key, std::string_view what);
std::optional<std::string> find_string(const Json& object, std::string_view key, std::string_view what);
const Json* find_object(const Json& object, std::string_view key, std::string_view what);
const Json* find_array(const Json& object, std::string_view key, std::string_view what);

int64_t get_int(const Json& object, std::string_view key, int64_t min, int64_t max, std::string_view what);
double get_double(const Json& object, std::string_view key, double min, double max, std::string_view what);
bool get_bool(const Json& object, std::string_view key, std::string_view what);
std::string get_string(const Json& object, std::string_view key, std::string_view what);
const Json& get_object(const Json& object, std::string_view key, std::string_view what);
const Json& get_array(const Json& object, std::string_view key, std::string_view what);

}  // namespace tenon
