// Arbitrary bytes as a safetensors file: refused with an Error, or every tensor lies within the file.
#include <cstdlib>

#include "core/error.h"
#include "core/files/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tenon::ByteSpan file(reinterpret_cast<const std::byte*>(data), size);
  try {
    const tenon::SafetensorsHeader header = tenon::parse_safetensors(file, "input");
    for (const tenon::TensorEntry& entry : header.tensors) {
      if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
    }
  } catch (const tenon::Error&) {
  }
  return 0;
}
