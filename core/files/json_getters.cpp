#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/files/json.h"

namespace tenon {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

std::string shown(const Json& value) {
  if (value.is_structured()) return json_kind(value);
  if (value.is_string()) return "the text " + quote_name(value.get_ref<const std::string&>());
  return value.dump();
}

std::string shown(double value) {
  return Json(value).dump();
}

[[noreturn]] void throw_bad_value(std::string_view what, std::string_view key, const std::string& must,
                                  const Json& value) {
  throw Error(TN_E_FORMAT, std::string(what) + ": " + quote_name(key) + " must be " + must + " but is " + shown(value) +
                               "; correct the file");
}

[[noreturn]] void throw_missing(std::string_view what, std::string_view key) {
  throw Error(TN_E_NOT_FOUND,
              std::string(what) + ": the key " + quote_name(key) + " is missing; add it or take a complete file");
}

const Json* find(const Json& object, std::string_view key, std::string_view what) {
  if (!object.is_object()) {
    throw Error(TN_E_FORMAT, std::string(what) + ": a JSON object with the key " + quote_name(key) +
                                 " is expected but there is " + shown(object) + "; correct the file");
  }
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

// The whole number that `value` holds, or nothing; numbers above 2^63 - 1 do not fit.
std::optional<int64_t> whole(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    return number <= static_cast<uint64_t>(INT64_MAX) ? std::optional<int64_t>(static_cast<int64_t>(number))
                                                      : std::nullopt;
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  const double number = value.get<double>();
  if (std::trunc(number) != number || number < -kTwoTo63 || number >= kTwoTo63) return std::nullopt;
  return static_cast<int64_t>(number);
}

template <class T>
T required(const std::optional<T>& value, std::string_view key, std::string_view what) {
  if (!value) throw_missing(what, key);
  return *value;
}

}  // namespace

std::string json_kind(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a text";
  if (value.is_boolean()) return "a truth value";
  return value.is_null() ? "null" : "a number";
}

std::optional<int64_t> find_int(const Json& object, std::string_view key, int64_t min, int64_t max,
                                std::string_view what) {
  const Json* value = find(object, key, what);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = whole(*value);
  if (!number || *number < min || *number > max) {
    throw_bad_value(what, key, "a whole number from " + std::to_string(min) + " to " + std::to_string(max), *value);
  }
  return number;
}

std::optional<double> find_double(const Json& object, std::string_view key, double min, double max,
                                  std::string_view what) {
  const Json* value = find(object, key, what);
  if (value == nullptr) return std::nullopt;
  // The comparison is false for NaN, which a text cannot spell but a built value can hold.
  if (!value->is_number() || !(value->get<double>() >= min && value->get<double>() <= max)) {
    throw_bad_value(what, key, "a number from " + shown(min) + " to " + shown(max), *value);
  }
  return value->get<double>();
}

std::optional<bool> find_bool(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) throw_bad_value(what, key, "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> find_string(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find(object, key, what);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) throw_bad_value(what, key, "a text", *value);
  return value->get<std::string>();
}

const Json* find_object(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find(object, key, what);
  if (value != nullptr && !value->is_object()) throw_bad_value(what, key, "an object", *value);
  return value;
}

const Json* find_array(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find(object, key, what);
  if (value != nullptr && !value->is_array()) throw_bad_value(what, key, "an array", *value);
  return value;
}

int64_t get_int(const Json& object, std::string_view key, int64_t min, int64_t max, std::string_view what) {
  return required(find_int(object, key, min, max, what), key, what);
}

double get_double(const Json& object, std::string_view key, double min, double max, std::string_view what) {
  return required(find_double(object, key, min, max, what), key, what);
}

bool get_bool(const Json& object, std::string_view key, std::string_view what) {
  return required(find_bool(object, key, what), key, what);
}

std::string get_string(const Json& object, std::string_view key, std::string_view what) {
  return required(find_string(object, key, what), key, what);
}

const Json& get_object(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find_object(object, key, what);
  if (value == nullptr) throw_missing(what, key);
  return *value;
}

const Json& get_array(const Json& object, std::string_view key, std::string_view what) {
  const Json* value = find_array(object, key, what);
  if (value == nullptr) throw_missing(what, key);
  return *value;
}

}  // namespace tenon
