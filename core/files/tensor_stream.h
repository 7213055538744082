// A file of named tensors whose sizes are known before their bytes: header first, then the tensors in any order.
// Shared by the safetensors and GGUF writers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/atomic_file.h"
#include "core/files/bytes.h"

namespace tenon {

class TensorStream {
 public:
  struct Slot {
    std::string name;
    uint64_t offset = 0;  // In the file.
    uint64_t bytes = 0;
    uint64_t written = 0;
  };

  // Creates the file with its full size and writes `header` at its start. What no slot covers stays zero.
  TensorStream(const std::string& path, std::string_view header, std::vector<Slot> slots, uint64_t file_bytes);

  // Appends the next bytes of one tensor. Throws TN_E_NOT_FOUND for an unknown name and TN_E_ARGUMENT for more bytes
  // than announced.
  void write(std::string_view name, ByteSpan bytes);

  // Publishes the file; throws TN_E_STATE naming the first tensor that is not complete.
  void commit();

 private:
  AtomicFile file_;
  std::vector<Slot> slots_;
  std::unordered_map<std::string_view, size_t> index_;  // Views of the names in slots_.
};

}  // namespace tenon
