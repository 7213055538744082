#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/files/safetensors.h"

namespace tenon {
namespace {

static_assert(std::endian::native == std::endian::little, "The file formats are little-endian and read in place.");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // Of the reference reader.
constexpr size_t kMaxTensors = 1'000'000;
constexpr char kMetadataKey[] = "__metadata__";
constexpr char kDamaged[] = "; the file is damaged, download it again";

[[noreturn]] void fail(const std::string& name, const std::string& problem) {
  throw Error(TN_E_FORMAT, name + ": " + problem + kDamaged);
}

// The JSON text of the header without its padding.
std::string_view header_text(ByteSpan file, const std::string& name) {
  if (file.size() < kLengthBytes) {
    fail(name, "the file has " + std::to_string(file.size()) +
                   " bytes but a safetensors file starts with an 8-byte header length");
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > file.size() - kLengthBytes) {
    fail(name,
         "the header claims " + std::to_string(length) + " bytes but the file has " + std::to_string(file.size()));
  }
  if (length > kMaxHeaderBytes) {
    fail(name,
         "the header claims " + std::to_string(length) + " bytes and the limit is " + std::to_string(kMaxHeaderBytes));
  }
  const std::string_view text = as_text(file.subspan(kLengthBytes, length));
  if (text.empty()) fail(name, "the header is empty");
  if (text.front() != '{') fail(name, "the header starts with " + quote_name(text.substr(0, 1)) + " and not with '{'");
  const size_t last = text.find_last_not_of(' ');
  if (text[last] != '}')
    fail(name, "the header ends with " + quote_name(text.substr(last, 1)) + " and not with '}' and spaces");
  return text.substr(0, last + 1);
}

// Words for errors alone: thousands of tensors are opened without one.
std::string subject_of(const std::string& tensor_name) {
  return "tensor " + quote_name(tensor_name);
}

// The whole number of a header field of a tensor; negative and fractional numbers, and those above 2^63 - 1, are refused.
uint64_t natural(const Json& value, const char* field, const std::string& tensor_name, const std::string& name) {
  if (value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX))
    return value.get<uint64_t>();
  fail(name, field + (" of " + subject_of(tensor_name)) + " holds " + (value.is_number() ? value.dump() : json_kind(value)) +
                 " where a whole number from 0 to 2^63-1 is due");
}

const Json& field_of(const Json& tensor, const char* key, const std::string& tensor_name, const std::string& name) {
  const auto at = tensor.find(key);
  if (at == tensor.end()) fail(name, subject_of(tensor_name) + " has no field '" + key + "'");
  return *at;
}

// Bytes of a tensor by its shape and dtype. A 0 does not excuse an overflow of the other sizes: whoever multiplies them
// in another order must be safe too.
uint64_t shape_bytes(const TensorEntry& tensor, const std::string& name) {
  const bool empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
  auto bits = static_cast<uint64_t>(dtype_bits(tensor.dtype));
  for (const int64_t size : tensor.shape) {
    if (size != 0 && __builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits)) {
      fail(name, "the shape of " + subject_of(tensor.name) + " overflows 2^64 bits");
    }
  }
  if (empty) return 0;
  if (bits % 8 != 0) {
    fail(name, subject_of(tensor.name) + " has " + std::to_string(bits) + " bits as " + std::string(dtype_name(tensor.dtype)) +
                   ", which is not a whole number of bytes");
  }
  return bits / 8;
}

TensorEntry parse_tensor(const std::string& tensor_name, const Json& value, const std::string& name) {
  const auto subject = [&] { return subject_of(tensor_name); };
  if (!value.is_object()) fail(name, subject() + " is described by " + json_kind(value) + " and not by an object");
  TensorEntry entry;
  entry.name = tensor_name;
  const Json& dtype = field_of(value, "dtype", tensor_name, name);
  if (!dtype.is_string()) fail(name, "the dtype of " + subject() + " is " + json_kind(dtype) + " and not a text");
  if (!dtype_from_name(dtype.get_ref<const std::string&>(), entry.dtype)) {
    throw Error(TN_E_FORMAT, name + ": the dtype " + quote_name(dtype.get_ref<const std::string&>()) + " of " +
                                 subject() +
                                 " is not one of the format's; convert the file to a known dtype such as BF16 or F32");
  }
  const Json& shape = field_of(value, "shape", tensor_name, name);
  if (!shape.is_array()) fail(name, "the shape of " + subject() + " is " + json_kind(shape) + " and not an array");
  entry.shape.reserve(shape.size());
  for (const Json& size : shape) {
    entry.shape.push_back(static_cast<int64_t>(natural(size, "the shape", tensor_name, name)));
  }
  const Json& offsets = field_of(value, "data_offsets", tensor_name, name);
  if (!offsets.is_array()) fail(name, "data_offsets of " + subject() + " is " + json_kind(offsets) + " and not an array");
  if (offsets.size() != 2)
    fail(name, "data_offsets of " + subject() + " has " + std::to_string(offsets.size()) + " numbers and not 2");
  const uint64_t begin = natural(offsets[0], "data_offsets", tensor_name, name);
  const uint64_t end = natural(offsets[1], "data_offsets", tensor_name, name);
  if (begin > end)
    fail(name, subject() + " ends at " + std::to_string(end) + ", before it begins at " + std::to_string(begin));
  const uint64_t bytes = shape_bytes(entry, name);
  if (bytes != end - begin) {
    fail(name, subject() + " needs " + std::to_string(bytes) + " bytes by its shape but data_offsets give it " +
                   std::to_string(end - begin));
  }
  entry.offset = begin;
  entry.bytes = bytes;
  return entry;
}

std::map<std::string, std::string> parse_metadata(const Json& value, const std::string& name) {
  if (!value.is_object()) fail(name, "__metadata__ is " + json_kind(value) + " and not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      fail(name, "the value of " + quote_name(key) + " in __metadata__ is " + json_kind(text) + " and not a text");
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

// Sorted by offset, the tensors must tile the data exactly. Turns their offsets into offsets in the file.
void check_tiling(std::vector<TensorEntry>& tensors, uint64_t data_begin, uint64_t data_bytes,
                  const std::string& name) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes != b.bytes ? a.bytes < b.bytes : a.name < b.name;
  });
  uint64_t expected = 0;
  for (TensorEntry& tensor : tensors) {
    const uint64_t end = tensor.offset + tensor.bytes;  // Cannot overflow: both ends are below 2^63.
    const auto subject = [&] { return subject_of(tensor.name); };
    if (tensor.offset < expected) {
      fail(name, subject() + " begins at " + std::to_string(tensor.offset) +
                     " and overlaps the tensor before it, which ends at " + std::to_string(expected));
    }
    if (tensor.offset > expected) {
      fail(name, std::to_string(tensor.offset - expected) + " bytes before " + subject() + " belong to no tensor");
    }
    if (end > data_bytes) {
      fail(name, subject() + " ends at byte " + std::to_string(end) + " of the data but the file holds " +
                     std::to_string(data_bytes) + " bytes of data");
    }
    expected = end;
    tensor.offset += data_begin;
  }
  if (expected != data_bytes) {
    fail(name, "the tensors end at byte " + std::to_string(expected) + " of the data but the file holds " +
                   std::to_string(data_bytes) + " bytes of data");
  }
}

}  // namespace

SafetensorsHeader parse_safetensors(ByteSpan file, const std::string& name) {
  const std::string_view text = header_text(file, name);
  JsonLimits limits;
  limits.max_bytes = kMaxHeaderBytes;
  limits.max_depth = 4;  // The header, a tensor, its shape, and one more so that a wrong type has a better error.
  limits.unique_keys = true;
  const Json root = parse_json(text, name + ": in the safetensors header", limits);
  if (root.size() > kMaxTensors) {
    fail(name, "the header names " + std::to_string(root.size()) + " tensors and the limit is " +
                   std::to_string(kMaxTensors));
  }
  SafetensorsHeader header;
  header.tensors.reserve(root.size());
  for (const auto& [key, value] : root.items()) {
    if (key == kMetadataKey) {
      header.metadata = parse_metadata(value, name);
    } else {
      header.tensors.push_back(parse_tensor(key, value, name));
    }
  }
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  check_tiling(header.tensors, kLengthBytes + length, file.size() - kLengthBytes - length, name);
  return header;
}

}  // namespace tenon
