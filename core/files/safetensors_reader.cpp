#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/files/posix_io.h"
#include "core/files/safetensors.h"

namespace tenon {
namespace {

constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr size_t kMaxShards = 100'000;

bool exists(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0;
}

bool is_folder(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// An index comes from the network with the model: it must not be able to name a file elsewhere.
void check_shard_name(const std::string& file, const std::string& index_path) {
  const bool has_control = std::any_of(file.begin(), file.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
  std::string problem;
  if (file.empty())
    problem = "is empty";
  else if (file.find('/') != std::string::npos || file.find('\\') != std::string::npos)
    problem = "has a path separator";
  else if (file.find(':') != std::string::npos)
    problem = "has a colon, as a drive prefix does";
  else if (file.find("..") != std::string::npos)
    problem = "has '..'";
  else if (has_control)
    problem = "has a control character";
  else if (!file.ends_with(".safetensors"))
    problem = "does not end in .safetensors";
  if (problem.empty()) return;
  throw Error(
      TN_E_FORMAT,
      index_path + ": the shard name " + quote_name(file) + " " + problem +
          "; a shard must be a plain .safetensors file beside the index, download the model from a source you trust");
}

}  // namespace

SafetensorsReader SafetensorsReader::open(const std::string& path) {
  SafetensorsReader reader;
  reader.path_ = path;
  if (is_folder(path)) {
    const std::string single = path + "/" + kSingleName;
    const std::string index = path + "/" + kIndexName;
    if (exists(single)) {
      reader.add_file(single);
    } else if (exists(index)) {
      reader.add_shards(index);
    } else {
      throw Error(TN_E_NOT_FOUND, path + ": the folder has neither " + kSingleName + " nor " + kIndexName +
                                      "; name a folder with a model in safetensors form");
    }
  } else if (path.ends_with(".json")) {
    reader.add_shards(path);
  } else {
    reader.add_file(path);
  }
  reader.build_index();
  return reader;
}

void SafetensorsReader::add_file(const std::string& path) {
  MappedFile file(path);
  SafetensorsHeader header = parse_safetensors(file.bytes(), path);
  if (files_.empty()) metadata_ = std::move(header.metadata);
  for (TensorEntry& entry : header.tensors) {
    entry.file = static_cast<uint32_t>(files_.size());
    tensors_.push_back(std::move(entry));
  }
  files_.push_back(std::move(file));
}

void SafetensorsReader::add_shards(const std::string& index_path) {
  JsonLimits limits;
  limits.max_bytes = 100'000'000;
  limits.unique_keys = true;
  const Json index = read_json_file(index_path, limits);
  std::map<std::string, std::vector<std::string>> names_by_file;
  for (const auto& [tensor, file] : get_object(index, "weight_map", index_path).items()) {
    if (!file.is_string()) {
      throw Error(TN_E_FORMAT, index_path + ": the weight_map of tensor " + quote_name(tensor) + " holds " +
                                   json_kind(file) + " and not a file name; download the index again");
    }
    const auto& file_name = file.get_ref<const std::string&>();
    check_shard_name(file_name, index_path);
    names_by_file[file_name].push_back(tensor);
  }
  if (names_by_file.empty() || names_by_file.size() > kMaxShards) {
    throw Error(TN_E_FORMAT, index_path + ": the weight_map names " + std::to_string(names_by_file.size()) +
                                 " shards, and 1 to " + std::to_string(kMaxShards) +
                                 " are possible; download the index again");
  }
  for (const auto& [file, names] : names_by_file) {
    const std::string shard_path = folder_of(index_path) + "/" + file;
    MappedFile mapped(shard_path);
    SafetensorsHeader header = parse_safetensors(mapped.bytes(), shard_path);
    std::unordered_map<std::string_view, TensorEntry*> held;
    for (TensorEntry& entry : header.tensors) held.emplace(entry.name, &entry);
    // What a shard holds beyond the map is another shard's affair: the map decides.
    std::unordered_map<std::string_view, bool> wanted;
    for (const std::string& name : names) {
      if (!held.contains(name)) {
        throw Error(TN_E_FORMAT, shard_path + ": tensor " + quote_name(name) + " is missing, which " +
                                     file_name_of(index_path) + " says is here; download both files again");
      }
      wanted.emplace(name, true);
    }
    if (files_.empty()) metadata_ = std::move(header.metadata);
    for (TensorEntry& entry : header.tensors) {
      if (!wanted.contains(entry.name)) continue;
      entry.file = static_cast<uint32_t>(files_.size());
      tensors_.push_back(entry);
    }
    files_.push_back(std::move(mapped));
  }
}

void SafetensorsReader::build_index() {
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const TensorEntry* SafetensorsReader::find(std::string_view name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &tensors_[at->second];
}

const TensorEntry& SafetensorsReader::get(std::string_view name) const {
  const TensorEntry* entry = find(name);
  if (entry == nullptr) {
    throw Error(TN_E_NOT_FOUND, path_ + ": the model has no tensor " + quote_name(name) +
                                    "; it is incomplete or of another architecture");
  }
  return *entry;
}

ByteSpan SafetensorsReader::data(const TensorEntry& entry) const {
  return files_[entry.file].bytes().subspan(entry.offset, entry.bytes);
}

void SafetensorsReader::drop(const TensorEntry& entry) const {
  files_[entry.file].drop(entry.offset, entry.bytes);
}

}  // namespace tenon
