#include "core/plugins/gpu_code.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

namespace tenon {
namespace {

template <class T>
bool read(ByteSpan bytes, uint64_t at, T& out) {
  if (at > bytes.size() || bytes.size() - at < sizeof out) return false;
  std::memcpy(&out, bytes.data() + at, sizeof out);
  return true;
}

// Calls f with every place where `pattern` stands.
template <class F>
void each(ByteSpan bytes, std::string_view pattern, F f) {
  const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (size_t at = all.find(pattern); at != all.npos; at = all.find(pattern, at + 1)) f(at);
}

// A header of 16 bytes (magic, version, its own size, bytes of all entries), then entries: kind (1 = PTX, 2 = machine code), size of
// the entry's header, bytes behind it, and at offset 28 the compute capability.
void read_cuda(ByteSpan bytes, uint64_t at, std::set<std::string>& out) {
  uint16_t header = 0;
  uint64_t size = 0;
  if (!read(bytes, at + 6, header) || !read(bytes, at + 8, size) || size > bytes.size()) return;
  for (uint64_t entry = at + header, end = entry + size; entry < end;) {
    uint16_t kind = 0;
    uint32_t own = 0, capability = 0;
    uint64_t payload = 0;
    if (!read(bytes, entry, kind) || !read(bytes, entry + 4, own) || !read(bytes, entry + 8, payload) || !read(bytes, entry + 28, capability)) return;
    if ((kind != 1 && kind != 2) || own < 32 || capability > 1000 || payload > bytes.size()) return;
    out.insert((kind == 1 ? "compute_" : "sm_") + std::to_string(capability));
    entry += own + payload;
  }
}

// After the magic the number of entries; each has offset, bytes, and the length and text of its target.
void read_hip(ByteSpan bytes, uint64_t at, std::set<std::string>& out) {
  uint64_t n = 0, place = at + 32;
  if (!read(bytes, at + 24, n) || n > 100) return;
  for (; n > 0; --n) {
    uint64_t size = 0, length = 0;
    if (!read(bytes, place + 8, size) || !read(bytes, place + 16, length) || length > 200 || bytes.size() - place < 24 + length) return;
    const std::string_view target(reinterpret_cast<const char*>(bytes.data()) + place + 24, length);
    if (target.starts_with("hip") && size > 0) out.emplace(target.substr(target.rfind('-') + 1));
    place += 24 + length;
  }
}

}  // namespace

GpuCode gpu_code(ByteSpan object) {
  GpuCode code;
  std::set<std::string> targets;
  each(object, "\x50\xed\x55\xba", [&](uint64_t at) { read_cuda(object, at, targets); });
  each(object, "__CLANG_OFFLOAD_BUNDLE__", [&](uint64_t at) { read_hip(object, at, targets); });
  code.targets.assign(targets.begin(), targets.end());
  constexpr std::string_view kNote = "tenon gpu runtime: ";
  each(object, kNote, [&](uint64_t at) {
    const char* const text = reinterpret_cast<const char*>(object.data()) + at + kNote.size();
    const size_t n = strnlen(text, std::min<size_t>(32, object.size() - at - kNote.size()));
    if (code.runtime.empty() && n < 32) code.runtime.assign(text, n);
  });
  return code;
}

}  // namespace tenon
