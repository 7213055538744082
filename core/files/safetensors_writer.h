// Writing safetensors: sizes first, bytes as they come, the file visible only when it is complete.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/bytes.h"
#include "core/files/safetensors.h"
#include "core/files/tensor_stream.h"

namespace tenon {

struct TensorSpec {
  std::string name;
  FileDtype dtype = FileDtype::kF32;
  std::vector<int64_t> shape;
};

// Bytes that a tensor takes. Throws TN_E_ARGUMENT for a negative size, an overflow, or sub-byte elements that do not
// fill a byte.
uint64_t tensor_bytes(const TensorSpec& spec);

// One file. The layout is the reference writer's: dtype in descending order of FileDtype, then name; the header padded
// with spaces to a multiple of 8. The same content in the same order gives the same bytes. Not thread-safe.
class SafetensorsWriter {
 public:
  // Throws TN_E_ARGUMENT for a name that is used twice, is "__metadata__" or is not UTF-8.
  SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& tensors,
                    const std::map<std::string, std::string>& metadata = {});

  // Appends the next bytes of one tensor; the tensors may be written in any order and in pieces.
  void write(std::string_view name, ByteSpan bytes);

  // Makes the file visible. Throws TN_E_STATE when a tensor is not complete; the target is untouched then.
  void commit();

 private:
  std::unique_ptr<TensorStream> stream_;
};

// A model in a folder: model.safetensors when it fits into `max_shard_bytes`, otherwise
// model-00001-of-0000N.safetensors and the index, which is written last. Tensors go to shards in the order given. Use
// an AtomicFolder for all-or-nothing.
class ShardedSafetensorsWriter {
 public:
  ShardedSafetensorsWriter(const std::string& folder, const std::vector<TensorSpec>& tensors,
                           const std::map<std::string, std::string>& metadata = {},
                           uint64_t max_shard_bytes = 5'000'000'000);

  void write(std::string_view name, ByteSpan bytes);
  void commit();

  const std::vector<std::string>& files() const { return files_; }  // File names, without the index.

 private:
  std::string folder_;
  std::vector<std::string> files_;
  std::vector<SafetensorsWriter> shards_;
  std::unordered_map<std::string, size_t> shard_of_;
  uint64_t total_bytes_ = 0;
};

}  // namespace tenon
