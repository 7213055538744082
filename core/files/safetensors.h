// The safetensors container: reading untrusted files and shards, and writing byte for byte what the reference writer
// writes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/bytes.h"
#include "core/files/mapped_file.h"

namespace tenon {

// The dtypes of the format, in the order by which writers lay tensors out (last first), so that wide types are aligned.
enum class FileDtype : uint8_t {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};
constexpr int kFileDtypeCount = 22;

std::string_view dtype_name(FileDtype dtype);  // "BF16", "F8_E4M3"
int dtype_bits(FileDtype dtype);               // Bits of one element: 4, 6, 8, 16, 32 or 64.
// Looks a name up; false and untouched `dtype` when the format has none of that name.
bool dtype_from_name(std::string_view name, FileDtype& dtype);

struct TensorEntry {
  std::string name;
  FileDtype dtype = FileDtype::kU8;
  std::vector<int64_t> shape;  // Row-major; rank 0 is one element; a 0 makes the tensor empty.
  uint32_t file = 0;           // Which shard, from 0.
  uint64_t offset = 0;         // From the start of that file. Not necessarily a multiple of the element size.
  uint64_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // By offset; they tile the data without a hole or an overlap.
  std::map<std::string, std::string> metadata;
};

// Reads and checks the header of a whole file in memory. `name` names the file in errors. Throws TN_E_FORMAT with a
// sentence of its own for every rule of the format that the file breaks; allocates no more than the header justifies.
SafetensorsHeader parse_safetensors(ByteSpan file, const std::string& name);

// A model in one file or in shards, mapped read-only. Reading is [any-thread].
class SafetensorsReader {
 public:
  // `path` is a .safetensors file, a .safetensors.index.json file, or a folder that holds model.safetensors or its
  // index. Every tensor that an index names must be in its shard; a shard's file name must be a plain name in the
  // index's folder.
  static SafetensorsReader open(const std::string& path);

  const std::vector<TensorEntry>& tensors() const { return tensors_; }              // By file, then by offset.
  const TensorEntry* find(std::string_view name) const;                             // Null when there is none.
  const TensorEntry& get(std::string_view name) const;                              // Throws TN_E_NOT_FOUND.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }  // Of the first shard.

  // The bytes of a tensor, valid as long as the reader. Unaligned in files of other writers: copy before typed access.
  ByteSpan data(const TensorEntry& entry) const;

  // Lets the system take back the memory of a tensor that was copied elsewhere.
  void drop(const TensorEntry& entry) const;

  const std::string& path() const { return path_; }
  size_t file_count() const { return files_.size(); }

 private:
  void add_file(const std::string& path);
  void add_shards(const std::string& index_path);
  void build_index();

  std::string path_;
  std::vector<MappedFile> files_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // Views of the names in tensors_.
  std::map<std::string, std::string> metadata_;
};

}  // namespace tenon
