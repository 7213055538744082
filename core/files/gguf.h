// The GGUF container, versions 2 and 3: reading untrusted files, whole or split.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/files/bytes.h"
#include "core/files/ggml_types.h"
#include "core/files/mapped_file.h"

namespace tenon {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Elements as they lie in the file, checked but not decoded: a vocabulary costs nothing until it is asked for.
struct GgufArray {
  GgufType type = GgufType::kU8;  // Never kArray.
  uint64_t count = 0;
  ByteSpan bytes;
};

struct GgufValue {
  GgufType type = GgufType::kU8;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray> data;
  ByteSpan raw;  // The encoded value without its type, as a writer can copy it.
};

struct GgufEntry {
  std::string_view key;
  GgufValue value;
};

struct GgufTensor {
  std::string_view name;
  const GgmlType* type = nullptr;
  std::vector<int64_t>
      shape;            // Row-major, slowest axis first, as Hugging Face has it: the reverse of what the file says.
  uint64_t offset = 0;  // From the start of its part.
  uint64_t bytes = 0;
  uint32_t part = 0;  // Of a split model, from 0.
};

// All views point into the file and live as long as the object. Reading is [any-thread].
// Errors are TN_E_FORMAT with one sentence for every rule that the file breaks; nothing is allocated on a file's word
// alone.
class GgufFile {
 public:
  // Any part of a split model ("…-00002-of-00003.gguf", beside its siblings) opens the whole: the metadata of the first
  // part, the tensors of all.
  static GgufFile open(const std::string& path);
  // Over memory that the caller keeps; `name` names it in errors.
  static GgufFile parse(ByteSpan file, const std::string& name);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }

  const std::vector<GgufEntry>& metadata() const { return metadata_; }  // In file order.
  const GgufValue* find(std::string_view key) const;                    // Null when there is none.

  // find_* answer nullopt for an absent key; get_* throw TN_E_NOT_FOUND. A wrong type or a value out of range throws
  // TN_E_FORMAT.
  std::optional<int64_t> find_int(std::string_view key, int64_t min, int64_t max) const;
  std::optional<double> find_double(std::string_view key, double min = std::numeric_limits<double>::lowest(),
                                    double max = std::numeric_limits<double>::max()) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  int64_t get_int(std::string_view key, int64_t min, int64_t max) const;
  double get_double(std::string_view key, double min = std::numeric_limits<double>::lowest(),
                    double max = std::numeric_limits<double>::max()) const;
  bool get_bool(std::string_view key) const;
  std::string_view get_string(std::string_view key) const;

  // Decoded arrays; empty when the key is absent. The numbers of an array may have any integer, or floating, type.
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<int64_t> ints(std::string_view key) const;
  std::vector<double> doubles(std::string_view key) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // In file order, which is the order of the data.
  const GgufTensor* find_tensor(std::string_view name) const;          // Null when there is none.
  const GgufTensor& get_tensor(std::string_view name) const;           // Throws TN_E_NOT_FOUND.

  // The encoded bytes of a tensor: whole blocks, row by row. Aligned to alignment() in the file.
  ByteSpan data(const GgufTensor& tensor) const;

  // Lets the system take back the memory of a tensor that was copied elsewhere.
  void drop(const GgufTensor& tensor) const;

 private:
  friend class GgufParser;

  void add_parts();

  std::string path_;
  std::vector<MappedFile> mappings_;  // Empty when the caller keeps the bytes.
  std::vector<ByteSpan> bytes_;       // By part.
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  std::vector<GgufEntry> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> keys_;
  std::unordered_map<std::string_view, size_t> names_;
};

std::string_view gguf_type_name(GgufType type);  // "u32", "string"

}  // namespace tenon
