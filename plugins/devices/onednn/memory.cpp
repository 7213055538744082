#include "devices/onednn/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "devices/onednn/cpu.h"
#include "devices/onednn/device.h"

namespace tenon::onednn {
namespace {

constexpr uint64_t kHugePage = 2u << 20;
constexpr uint64_t kParallelBytes = 1u << 20;  // below this one thread copies faster than several
constexpr int64_t kPiece = 1 << 18;

// Lengths of the blocks that were mapped; others came from aligned_alloc.
struct Mappings {
  std::mutex mutex;
  std::unordered_map<void*, uint64_t> bytes;
};
Mappings& mappings() {
  static Mappings m;
  return m;
}

// A mapping that begins on a huge page: over-map and give back both ends.
void* map_aligned(uint64_t n_bytes) {
  const uint64_t total = n_bytes + kHugePage;
  void* raw = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(raw), aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(raw, aligned - begin);
  if (begin + total > aligned + n_bytes)
    munmap(reinterpret_cast<void*>(aligned + n_bytes), begin + total - aligned - n_bytes);
  void* const memory = reinterpret_cast<void*>(aligned);
  madvise(memory, n_bytes, MADV_HUGEPAGE);  // advice: a kernel without huge pages ignores it
  return memory;
}

[[noreturn]] void refuse(uint64_t n_bytes, uint64_t free_bytes) {
  sdk::fail(TN_E_MEMORY,
            "the CPU device cannot allocate " + std::to_string(n_bytes) + " bytes: " + std::to_string(free_bytes) +
                " bytes of memory are free; use a smaller batch, a shorter sequence or a more thrifty mix");
}

}  // namespace

int32_t allocate(tn_device* device, uint64_t n_bytes, void** out) {
  return sdk::guard(device->host, [&] {
    if (n_bytes == 0 || !out)
      sdk::fail(TN_E_ARGUMENT, "an allocation needs at least one byte and a place for its address");
    *out = nullptr;
    if (n_bytes < kHugePage) {
      const uint64_t rounded = (n_bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
      *out = std::aligned_alloc(TN_ALIGNMENT, rounded);
      if (!*out) refuse(n_bytes, system_memory().free_bytes);
      return;
    }
    // The kernel promises more than it has; a block that cannot fit is refused here rather than by the out-of-memory
    // killer.
    const SystemMemory memory = system_memory();
    if (n_bytes > memory.free_bytes) refuse(n_bytes, memory.free_bytes);
    const uint64_t pages = (n_bytes + 4095) / 4096 * 4096;
    void* const block = map_aligned(pages);
    if (!block) refuse(n_bytes, memory.free_bytes);
    std::unique_lock lock(mappings().mutex);
    try {
      mappings().bytes.emplace(block, pages);
    } catch (...) {
      munmap(block, pages);
      throw;
    }
    *out = block;
  });
}

void release(tn_device*, void* memory) {
  if (!memory) return;
  uint64_t mapped = 0;
  {
    std::unique_lock lock(mappings().mutex);
    if (const auto it = mappings().bytes.find(memory); it != mappings().bytes.end()) {
      mapped = it->second;
      mappings().bytes.erase(it);
    }
  }
  if (mapped) {
    munmap(memory, mapped);
  } else {
    std::free(memory);
  }
}

int32_t copy(tn_device* device, tn_stream*, void* to, const void* from, uint64_t n_bytes, uint32_t direction) {
  return sdk::guard(device->host, [&] {
    if (direction < TN_COPY_TO_DEVICE || direction > TN_COPY_WITHIN)
      sdk::fail(TN_E_ARGUMENT, "copy direction " + std::to_string(direction) + " is unknown");
    if (n_bytes == 0) return;
    if (n_bytes < kParallelBytes) {
      std::memmove(to, from, n_bytes);
      return;
    }
    const auto* source = static_cast<const char*>(from);
    auto* target = static_cast<char*>(to);
    if (source < target + n_bytes && target < source + n_bytes) {  // overlapping: one pass in the right direction
      std::memmove(to, from, n_bytes);
      return;
    }
    const int64_t pieces = static_cast<int64_t>((n_bytes + kPiece - 1) / kPiece);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pieces; ++i)
      std::memcpy(target + i * kPiece, source + i * kPiece,
                  std::min<uint64_t>(kPiece, n_bytes - static_cast<uint64_t>(i) * kPiece));
  });
}

int32_t fill(tn_device*, tn_stream*, void* to, uint8_t byte, uint64_t n_bytes) {
  if (n_bytes == 0) return TN_OK;
  auto* const target = static_cast<char*>(to);
  const int64_t pieces = static_cast<int64_t>((n_bytes + kPiece - 1) / kPiece);
#pragma omp parallel for schedule(static) if (n_bytes >= kParallelBytes)
  for (int64_t i = 0; i < pieces; ++i)
    std::memset(target + i * kPiece, byte, std::min<uint64_t>(kPiece, n_bytes - static_cast<uint64_t>(i) * kPiece));
  return TN_OK;
}

}  // namespace tenon::onednn
