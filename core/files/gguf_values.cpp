#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/files/gguf.h"

namespace tenon {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

[[noreturn]] void fail(const GgufFile& file, std::string_view key, const std::string& problem) {
  throw Error(TN_E_FORMAT, file.path() + ": the key " + quote_name(key) + " " + problem +
                               "; the file is damaged or of an unknown kind");
}

[[noreturn]] void fail_type(const GgufFile& file, std::string_view key, const std::string& wanted, GgufType type) {
  fail(file, key, "must be " + wanted + " but has the type " + std::string(gguf_type_name(type)));
}

template <class T>
T required(const GgufFile& file, std::string_view key, const std::optional<T>& value) {
  if (!value) {
    throw Error(TN_E_NOT_FOUND, file.path() + ": the key " + quote_name(key) +
                                    " is missing; the model is incomplete or of another architecture");
  }
  return *value;
}

// Calls f(T{}) with the C++ type of the elements; false for strings.
template <class F>
bool with_element_type(GgufType type, F f) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return f(uint8_t{}), true;
    case GgufType::kI8:
      return f(int8_t{}), true;
    case GgufType::kU16:
      return f(uint16_t{}), true;
    case GgufType::kI16:
      return f(int16_t{}), true;
    case GgufType::kU32:
      return f(uint32_t{}), true;
    case GgufType::kI32:
      return f(int32_t{}), true;
    case GgufType::kU64:
      return f(uint64_t{}), true;
    case GgufType::kI64:
      return f(int64_t{}), true;
    case GgufType::kF32:
      return f(float{}), true;
    case GgufType::kF64:
      return f(double{}), true;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return false;
}

const GgufArray* find_array(const GgufFile& file, std::string_view key) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<GgufArray>(&value->data);
  if (array == nullptr) fail_type(file, key, "an array", value->type);
  return array;
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto at = keys_.find(key);
  return at == keys_.end() ? nullptr : &metadata_[at->second].value;
}

std::optional<int64_t> GgufFile::find_int(std::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  int64_t number = 0;
  if (const auto* positive = std::get_if<uint64_t>(&value->data)) {
    if (*positive > static_cast<uint64_t>(INT64_MAX))
      fail(*this, key, "is " + std::to_string(*positive) + ", which is over 2^63-1");
    number = static_cast<int64_t>(*positive);
  } else if (const auto* with_sign = std::get_if<int64_t>(&value->data)) {
    number = *with_sign;
  } else {
    fail_type(*this, key, "a whole number", value->type);
  }
  if (number < min || number > max) {
    fail(*this, key,
         "is " + std::to_string(number) + " and must be from " + std::to_string(min) + " to " + std::to_string(max));
  }
  return number;
}

std::optional<double> GgufFile::find_double(std::string_view key, double min, double max) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  double number = 0;
  if (const auto* real = std::get_if<double>(&value->data))
    number = *real;
  else if (const auto* positive = std::get_if<uint64_t>(&value->data))
    number = static_cast<double>(*positive);
  else if (const auto* with_sign = std::get_if<int64_t>(&value->data))
    number = static_cast<double>(*with_sign);
  else
    fail_type(*this, key, "a number", value->type);
  if (!std::isfinite(number) || number < min || number > max) {
    fail(*this, key,
         "is " + std::to_string(number) + " and must be a finite number from " + std::to_string(min) + " to " +
             std::to_string(max));
  }
  return number;
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* truth = std::get_if<bool>(&value->data);
  if (truth == nullptr) fail_type(*this, key, "a truth value", value->type);
  return *truth;
}

std::optional<std::string_view> GgufFile::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto* text = std::get_if<std::string_view>(&value->data);
  if (text == nullptr) fail_type(*this, key, "a string", value->type);
  return *text;
}

int64_t GgufFile::get_int(std::string_view key, int64_t min, int64_t max) const {
  return required(*this, key, find_int(key, min, max));
}

double GgufFile::get_double(std::string_view key, double min, double max) const {
  return required(*this, key, find_double(key, min, max));
}

bool GgufFile::get_bool(std::string_view key) const {
  return required(*this, key, find_bool(key));
}

std::string_view GgufFile::get_string(std::string_view key) const {
  return required(*this, key, find_string(key));
}

std::vector<std::string_view> GgufFile::strings(std::string_view key) const {
  std::vector<std::string_view> out;
  const GgufArray* array = find_array(*this, key);
  if (array == nullptr) return out;
  if (array->type != GgufType::kString) fail_type(*this, key, "an array of strings", array->type);
  out.reserve(array->count);
  // The parser has checked the lengths.
  for (const std::byte* at = array->bytes.data(); out.size() < array->count;) {
    const auto length = load<uint64_t>(at);
    out.emplace_back(reinterpret_cast<const char*>(at) + sizeof(length), length);
    at += sizeof(length) + length;
  }
  return out;
}

std::vector<int64_t> GgufFile::ints(std::string_view key) const {
  std::vector<int64_t> out;
  const GgufArray* array = find_array(*this, key);
  if (array == nullptr) return out;
  const bool real = array->type == GgufType::kF32 || array->type == GgufType::kF64;
  if (real || array->type == GgufType::kString) fail_type(*this, key, "an array of whole numbers", array->type);
  out.reserve(array->count);
  with_element_type(array->type, [&]<class T>(T) {
    for (uint64_t i = 0; i < array->count; ++i) {
      const T number = load<T>(array->bytes.data() + i * sizeof(T));
      if (std::is_same_v<T, uint64_t> && static_cast<uint64_t>(number) > static_cast<uint64_t>(INT64_MAX)) {
        fail(*this, key, "has the element " + std::to_string(number) + ", which is over 2^63-1");
      }
      out.push_back(static_cast<int64_t>(number));
    }
  });
  return out;
}

std::vector<double> GgufFile::doubles(std::string_view key) const {
  std::vector<double> out;
  const GgufArray* array = find_array(*this, key);
  if (array == nullptr) return out;
  if (array->type == GgufType::kString) fail_type(*this, key, "an array of numbers", array->type);
  out.reserve(array->count);
  with_element_type(array->type, [&]<class T>(T) {
    for (uint64_t i = 0; i < array->count; ++i)
      out.push_back(static_cast<double>(load<T>(array->bytes.data() + i * sizeof(T))));
  });
  return out;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto at = names_.find(name);
  return at == names_.end() ? nullptr : &tensors_[at->second];
}

const GgufTensor& GgufFile::get_tensor(std::string_view name) const {
  const GgufTensor* tensor = find_tensor(name);
  if (tensor == nullptr) {
    throw Error(TN_E_NOT_FOUND, path_ + ": the model has no tensor " + quote_name(name) +
                                    "; it is incomplete or of another architecture");
  }
  return *tensor;
}

ByteSpan GgufFile::data(const GgufTensor& tensor) const {
  // An empty tensor may lie behind the end of a file that has no data.
  return tensor.bytes == 0 ? ByteSpan() : bytes_[tensor.part].subspan(tensor.offset, tensor.bytes);
}

void GgufFile::drop(const GgufTensor& tensor) const {
  if (!mappings_.empty()) mappings_[tensor.part].drop(tensor.offset, tensor.bytes);
}

}  // namespace tenon
