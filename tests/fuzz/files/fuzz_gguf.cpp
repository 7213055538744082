// Arbitrary bytes as a GGUF file: refused with an Error, or every array decodes and every tensor lies within the file.

#include <cstdint>
#include <string_view>

#include "core/error.h"
#include "core/files/gguf.h"

namespace {

// The getters must answer or refuse for every key, whatever its type.
template <class Get>
void try_get(Get get) {
  try {
    get();
  } catch (const tenon::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tenon::ByteSpan bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const tenon::GgufFile file = tenon::GgufFile::parse(bytes, "input");
    size_t touched = 0;
    for (const tenon::GgufEntry& entry : file.metadata()) {
      try_get([&] { file.get_int(entry.key, INT64_MIN, INT64_MAX); });
      try_get([&] { file.get_double(entry.key); });
      try_get([&] { file.get_bool(entry.key); });
      try_get([&] { file.get_string(entry.key); });
      try_get([&] { file.ints(entry.key); });
      try_get([&] { file.doubles(entry.key); });
      try_get([&] {
        for (const std::string_view text : file.strings(entry.key))
          touched += text.empty() ? 0 : text.front() + text.back();
      });
    }
    for (const tenon::GgufTensor& tensor : file.tensors()) {
      for (const std::byte byte : file.data(tensor)) touched += static_cast<size_t>(byte);
    }
    [[maybe_unused]] static volatile size_t sink;  // Keeps the reads, which the sanitizer judges.
    sink = touched;
  } catch (const tenon::Error&) {
  }
  return 0;
}
