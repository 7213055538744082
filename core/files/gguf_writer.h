// Writing GGUF version 3: metadata and sizes first, tensor bytes as they come, the file visible only when it is
// complete.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/files/bytes.h"
#include "core/files/gguf.h"
#include "core/files/tensor_stream.h"

namespace tenon {

// The key-value part of a file, in the order of the calls. A key that is empty or set twice throws TN_E_ARGUMENT.
class GgufMetadata {
 public:
  void set_u32(std::string_view key, uint32_t value);
  void set_i32(std::string_view key, int32_t value);
  void set_u64(std::string_view key, uint64_t value);
  void set_f32(std::string_view key, float value);
  void set_bool(std::string_view key, bool value);
  void set_string(std::string_view key, std::string_view value);
  void set_strings(std::string_view key, std::span<const std::string> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  void set_i32s(std::string_view key, std::span<const int32_t> values);

  // Copies an entry of another file as it is.
  void copy(const GgufEntry& entry);

  uint64_t count() const { return keys_.size(); }
  const std::string& encoded() const { return encoded_; }
  // The value of general.alignment, or the format's default. It can only be set to a power of two, as a u32.
  uint64_t alignment() const { return alignment_; }

 private:
  void begin(std::string_view key, GgufType type);
  void begin_array(std::string_view key, GgufType type, uint64_t count);
  template <class T>
  void put(T value);
  void put_string(std::string_view text);

  std::string encoded_;
  std::unordered_set<std::string> keys_;
  uint64_t alignment_ = 32;
};

struct GgufTensorSpec {
  std::string name;
  const GgmlType* type = nullptr;  // From find_ggml_type().
  std::vector<int64_t> shape;      // Row-major, as GgufTensor has it.
};

// Not thread-safe. The target is untouched until commit().
class GgufWriter {
 public:
  // Tensors lie in the file in the order given. Throws TN_E_ARGUMENT for what a reader would refuse: names that are
  // empty, over 63 bytes or used twice, a rank above 4, rows that are not whole blocks.
  GgufWriter(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors);

  // Appends the next bytes of one tensor; the tensors may be written in any order and in pieces.
  void write(std::string_view name, ByteSpan bytes);

  // Makes the file visible. Throws TN_E_STATE when a tensor is not complete.
  void commit();

 private:
  std::unique_ptr<TensorStream> stream_;
};

}  // namespace tenon
