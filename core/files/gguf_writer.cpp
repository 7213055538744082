#include "core/files/gguf_writer.h"

#include <bit>
#include <variant>

#include "core/error.h"

namespace tenon {
namespace {

constexpr char kAlignmentKey[] = "general.alignment";
constexpr size_t kMaxNameBytes = 63;
constexpr size_t kMaxRank = 4;

template <class T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

void append_string(std::string& out, std::string_view text) {
  append(out, static_cast<uint64_t>(text.size()));
  out += text;
}

uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// A negative size, a broken row or an overflow leaves no size to write.
uint64_t checked_bytes(const GgufTensorSpec& tensor, const std::string& path) {
  uint64_t bytes = 0;
  std::string problem;
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    problem = "has a name of " + std::to_string(tensor.name.size()) + " bytes and the format allows 1 to 63";
  } else if (tensor.type == nullptr) {
    problem = "has no type";
  } else if (tensor.shape.size() > kMaxRank) {
    problem = "has rank " + std::to_string(tensor.shape.size()) + " and the format allows up to 4";
  } else if (!ggml_tensor_bytes(*tensor.type, tensor.shape, bytes)) {
    problem = "has a shape that is negative, overflows, or whose last axis is not a multiple of the " +
              std::to_string(tensor.type->block_elements) + " elements of a " + std::string(tensor.type->name) +
              " block";
  }
  if (problem.empty()) return bytes;
  throw Error(TN_E_ARGUMENT,
              path + ": tensor " + quote_name(tensor.name) + " " + problem + "; choose another name, shape or type");
}

}  // namespace

template <class T>
void GgufMetadata::put(T value) {
  append(encoded_, value);
}

void GgufMetadata::put_string(std::string_view text) {
  append_string(encoded_, text);
}

void GgufMetadata::begin(std::string_view key, GgufType type) {
  if (key.empty() || !keys_.emplace(key).second) {
    throw Error(TN_E_ARGUMENT,
                "the GGUF key " + quote_name(key) + " is empty or set twice; give every key a name of its own");
  }
  if (key == kAlignmentKey && type != GgufType::kU32) {
    throw Error(TN_E_ARGUMENT, "the GGUF key 'general.alignment' must be a u32; set it with set_u32");
  }
  put_string(key);
  put(static_cast<uint32_t>(type));
}

void GgufMetadata::begin_array(std::string_view key, GgufType type, uint64_t count) {
  begin(key, GgufType::kArray);
  put(static_cast<uint32_t>(type));
  put(count);
}

void GgufMetadata::set_u32(std::string_view key, uint32_t value) {
  if (key == kAlignmentKey && !std::has_single_bit(value)) {
    throw Error(TN_E_ARGUMENT,
                "the GGUF alignment is " + std::to_string(value) + " and must be a power of two; use 32");
  }
  begin(key, GgufType::kU32);
  put(value);
  if (key == kAlignmentKey) alignment_ = value;
}

void GgufMetadata::set_i32(std::string_view key, int32_t value) {
  begin(key, GgufType::kI32);
  put(value);
}

void GgufMetadata::set_u64(std::string_view key, uint64_t value) {
  begin(key, GgufType::kU64);
  put(value);
}

void GgufMetadata::set_f32(std::string_view key, float value) {
  begin(key, GgufType::kF32);
  put(value);
}

void GgufMetadata::set_bool(std::string_view key, bool value) {
  begin(key, GgufType::kBool);
  put(static_cast<uint8_t>(value));
}

void GgufMetadata::set_string(std::string_view key, std::string_view value) {
  begin(key, GgufType::kString);
  put_string(value);
}

void GgufMetadata::set_strings(std::string_view key, std::span<const std::string> values) {
  begin_array(key, GgufType::kString, values.size());
  for (const std::string& value : values) put_string(value);
}

void GgufMetadata::set_f32s(std::string_view key, std::span<const float> values) {
  begin_array(key, GgufType::kF32, values.size());
  for (const float value : values) put(value);
}

void GgufMetadata::set_i32s(std::string_view key, std::span<const int32_t> values) {
  begin_array(key, GgufType::kI32, values.size());
  for (const int32_t value : values) put(value);
}

void GgufMetadata::copy(const GgufEntry& entry) {
  if (entry.key == kAlignmentKey)
    return set_u32(entry.key, static_cast<uint32_t>(std::get<uint64_t>(entry.value.data)));
  begin(entry.key, entry.value.type);
  encoded_ += as_text(entry.value.raw);
}

GgufWriter::GgufWriter(const std::string& path, const GgufMetadata& metadata,
                       const std::vector<GgufTensorSpec>& tensors) {
  std::string header = "GGUF";
  append(header, uint32_t{3});
  append(header, static_cast<uint64_t>(tensors.size()));
  append(header, metadata.count());
  header += metadata.encoded();
  const uint64_t alignment = metadata.alignment();
  std::vector<TensorStream::Slot> slots;
  std::unordered_set<std::string_view> names;
  uint64_t next = 0;
  for (const GgufTensorSpec& tensor : tensors) {
    const uint64_t bytes = checked_bytes(tensor, path);
    if (!names.insert(tensor.name).second) {
      throw Error(TN_E_ARGUMENT, path + ": tensor " + quote_name(tensor.name) +
                                     " is given twice; give every tensor a name of its own");
    }
    append_string(header, tensor.name);
    append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) append(header, tensor.shape[i]);
    append(header, tensor.type->id);
    append(header, next);
    slots.push_back({tensor.name, next, bytes, 0});
    if (bytes > static_cast<uint64_t>(INT64_MAX) / 4 - next) {
      throw Error(TN_E_ARGUMENT, path + ": the tensors together exceed 2^61 bytes; write fewer or smaller ones");
    }
    next = round_up(next + bytes, alignment);
  }
  const uint64_t data_begin = round_up(header.size(), alignment);
  for (TensorStream::Slot& slot : slots) slot.offset += data_begin;
  // The last tensor is padded as well: some readers take the padded size of every tensor.
  stream_ = std::make_unique<TensorStream>(path, header, std::move(slots),
                                           tensors.empty() ? header.size() : data_begin + next);
}

void GgufWriter::write(std::string_view name, ByteSpan bytes) {
  stream_->write(name, bytes);
}

void GgufWriter::commit() {
  stream_->commit();
}

}  // namespace tenon
