#include "core/files/safetensors_writer.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"

namespace tenon {
namespace {

constexpr char kMetadataKey[] = "__metadata__";
constexpr char kIndexName[] = "model.safetensors.index.json";

std::string json_text(const Json& value, const std::string& path) {
  try {
    return value.dump();
  } catch (const Json::type_error&) {
    throw Error(TN_E_ARGUMENT, path + ": a tensor name or a metadata text is not UTF-8; rename it");
  }
}

// Indices of `tensors` in file order.
std::vector<size_t> file_order(const std::vector<TensorSpec>& tensors) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return tensors[a].dtype != tensors[b].dtype ? tensors[a].dtype > tensors[b].dtype
                                                : tensors[a].name < tensors[b].name;
  });
  return order;
}

void check_names(const std::vector<TensorSpec>& tensors, const std::string& path) {
  std::unordered_map<std::string_view, bool> seen;
  for (const TensorSpec& tensor : tensors) {
    if (tensor.name == kMetadataKey)
      throw Error(TN_E_ARGUMENT, path + ": a tensor cannot be called '__metadata__'; rename it");
    if (!seen.emplace(tensor.name, true).second) {
      throw Error(TN_E_ARGUMENT, path + ": tensor " + quote_name(tensor.name) +
                                     " is given twice; give every tensor a name of its own");
    }
  }
}

}  // namespace

uint64_t tensor_bytes(const TensorSpec& spec) {
  const bool empty = std::find(spec.shape.begin(), spec.shape.end(), 0) != spec.shape.end();
  auto bits = static_cast<uint64_t>(dtype_bits(spec.dtype));
  for (const int64_t size : spec.shape) {
    if (size < 0 || (size != 0 && __builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits))) {
      throw Error(TN_E_ARGUMENT, "tensor " + quote_name(spec.name) + " has the size " + std::to_string(size) +
                                     " on one axis, which is negative or overflows; correct its shape");
    }
  }
  if (empty) return 0;
  if (bits % 8 != 0) {
    throw Error(TN_E_ARGUMENT, "tensor " + quote_name(spec.name) + " has " + std::to_string(bits) +
                                   " bits, which is not a whole number of bytes; correct its shape");
  }
  return bits / 8;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  check_names(tensors, path);
  // The text is put together by hand because the order of the keys matters and a JSON object would sort them.
  std::string header = "{";
  if (!metadata.empty()) header += "\"__metadata__\":" + json_text(Json(metadata), path);
  std::vector<TensorStream::Slot> slots;
  uint64_t data_bytes = 0;
  for (const size_t i : file_order(tensors)) {
    const TensorSpec& tensor = tensors[i];
    const uint64_t begin = data_bytes;
    const uint64_t bytes = tensor_bytes(tensor);
    if (__builtin_add_overflow(data_bytes, bytes, &data_bytes) || data_bytes > static_cast<uint64_t>(INT64_MAX) / 2) {
      throw Error(TN_E_ARGUMENT, path + ": the tensors together exceed 2^62 bytes; write fewer or smaller ones");
    }
    if (header.size() > 1) header += ',';
    header += json_text(Json(tensor.name), path) + ":{\"dtype\":\"" + std::string(dtype_name(tensor.dtype)) +
              "\",\"shape\":" + Json(tensor.shape).dump() + ",\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(data_bytes) + "]}";
    slots.push_back({tensor.name, begin, bytes, 0});
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), sizeof(length));
  for (TensorStream::Slot& slot : slots) slot.offset += header.size();
  stream_ = std::make_unique<TensorStream>(path, header, std::move(slots), header.size() + data_bytes);
}

void SafetensorsWriter::write(std::string_view name, ByteSpan bytes) {
  stream_->write(name, bytes);
}

void SafetensorsWriter::commit() {
  stream_->commit();
}

ShardedSafetensorsWriter::ShardedSafetensorsWriter(const std::string& folder, const std::vector<TensorSpec>& tensors,
                                                   const std::map<std::string, std::string>& metadata,
                                                   uint64_t max_shard_bytes)
    : folder_(folder) {
  check_names(tensors, folder);
  std::vector<std::vector<TensorSpec>> groups(1);
  uint64_t group_bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t bytes = tensor_bytes(tensor);
    // A tensor larger than the limit has a shard to itself.
    if (!groups.back().empty() && (bytes > max_shard_bytes || group_bytes > max_shard_bytes - bytes)) {
      groups.emplace_back();
      group_bytes = 0;
    }
    shard_of_.emplace(tensor.name, groups.size() - 1);
    groups.back().push_back(tensor);
    group_bytes += bytes;
    total_bytes_ += bytes;
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    char name[64] = "model.safetensors";
    if (groups.size() > 1) std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, groups.size());
    files_.emplace_back(name);
    shards_.emplace_back(folder_ + "/" + name, groups[i], metadata);
  }
}

void ShardedSafetensorsWriter::write(std::string_view name, ByteSpan bytes) {
  const auto at = shard_of_.find(std::string(name));
  // An unknown name goes to the first shard, which refuses it with the right words.
  shards_[at == shard_of_.end() ? 0 : at->second].write(name, bytes);
}

void ShardedSafetensorsWriter::commit() {
  for (SafetensorsWriter& shard : shards_) shard.commit();
  if (shards_.size() == 1) return;
  Json index = {{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", Json::object()}};
  for (const auto& [name, shard] : shard_of_) index["weight_map"][name] = files_[shard];
  write_json_file(folder_ + "/" + kIndexName, index);
}

}  // namespace tenon
