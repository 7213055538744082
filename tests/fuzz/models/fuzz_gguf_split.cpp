// Two arbitrary files that name themselves parts of one model: refused with an Error, or every tensor of the whole lies within its part.
// The first two bytes of the input say where the first part ends.
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/files/gguf.h"

namespace {

struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "tenon-fuzz-XXXXXX").string();
  Folder() {
    if (!mkdtemp(path.data())) std::abort();
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

void write(const std::string& path, const uint8_t* data, size_t size) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t cut = std::min<size_t>(data[0] | data[1] << 8, size - 2);
  static const Folder folder;
  const std::string first = folder.path + "/m-00001-of-00002.gguf";
  write(first, data + 2, cut);
  write(folder.path + "/m-00002-of-00002.gguf", data + 2 + cut, size - 2 - cut);
  try {
    const tenon::GgufFile file = tenon::GgufFile::open(first);
    size_t touched = 0;
    for (const tenon::GgufTensor& tensor : file.tensors())
      for (const std::byte byte : file.data(tensor)) touched += static_cast<size_t>(byte);
    [[maybe_unused]] static volatile size_t sink;  // Keeps the reads, which the sanitizer judges.
    sink = touched;
  } catch (const tenon::Error&) {
  }
  return 0;
}
