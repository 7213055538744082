#include "core/memory/memory.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <optional>

#include "core/error.h"
#include "core/memory/pool.h"

namespace tenon {

const char* category_name(Category c) noexcept {
  switch (c) {
    case Category::kWeights:
      return "weights";
    case Category::kGradients:
      return "gradients";
    case Category::kOptimizerState:
      return "optimizer state";
    case Category::kAdapter:
      return "adapter";
    case Category::kActivations:
      return "activations";
    case Category::kWorkspace:
      return "workspace";
    case Category::kCodec:
      return "codec";
  }
  return "?";
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes) + " B";
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f %s", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, kUnits[unit]);
  return text;
}

// The books and what is below them: the device's pool, or a counter of addresses.
struct Memory::Pool {
  std::mutex mutex;
  MemoryUse use;
  std::optional<tenon::Pool> blocks;
  uintptr_t next_address = uintptr_t{1} << 46;  // counting: beyond what a process gets from the system

  void* take(uint64_t bytes, uint64_t bound) {
    if (blocks) return blocks->take(bytes, bound);
    void* data = reinterpret_cast<void*>(next_address);
    next_address += bytes;
    return data;
  }
};

Memory::Memory(const tn_device_api* api, tn_device* device, uint64_t limit_bytes)
    : api_(api), device_(device), limit_(limit_bytes), pool_(std::make_unique<Pool>()) {
  pool_->blocks.emplace(api, device);
}

Memory::Memory(uint64_t limit_bytes) : limit_(limit_bytes), pool_(std::make_unique<Pool>()) {}

Memory::~Memory() = default;

void Memory::fill_fresh(uint8_t byte, tn_stream* stream) {
  fills_ = api_ != nullptr, fresh_ = byte, filling_ = stream;
}

namespace {

// "weights 1.20 GiB, activations 300 MiB", largest first.
std::string breakdown(const std::array<uint64_t, kCategories>& live) {
  std::array<int, kCategories> order{};
  for (int i = 0; i < kCategories; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return live[a] > live[b]; });
  std::string text;
  for (const int i : order) {
    if (live[i] == 0) break;
    if (!text.empty()) text += ", ";
    text += std::string(category_name(static_cast<Category>(i))) + ' ' + format_bytes(live[i]);
  }
  return text.empty() ? "nothing" : text;
}

std::string refusal(Category category, uint64_t bytes, const MemoryUse& use) {
  return std::string(category_name(category)) + " need " + format_bytes(bytes) + " of memory on top of the " +
         format_bytes(use.total_live) + " in use (" + breakdown(use.live) + ")";
}

}  // namespace

Block Memory::allocate(Category category, uint64_t bytes) {
  Block block;
  if (bytes == 0) return block;
  const auto lock = std::lock_guard(pool_->mutex);
  MemoryUse& use = pool_->use;
  const uint64_t most = limit_ ? limit_ - use.total_live : UINT64_MAX / 2;  // no sum of 64-bit sizes wraps below this
  const uint64_t rounded = bytes > most ? bytes : (bytes + TN_ALIGNMENT - 1) / TN_ALIGNMENT * TN_ALIGNMENT;
  if (rounded > most) {
    throw Error(TN_E_MEMORY, refusal(category, rounded, use) +
                                 (limit_ ? ", over the memory limit of " + format_bytes(limit_) : std::string()) +
                                 "; raise the limit, or ask for less at a time (a smaller batch or shorter sequences)");
  }
  void* data = pool_->take(rounded, std::max(use.total_peak, use.total_live + rounded));
  if (!data) {
    throw Error(TN_E_MEMORY, refusal(category, rounded, use) +
                                 ", and the device has no more; ask for less at a time (a smaller batch or shorter "
                                 "sequences), or choose a technique that needs less memory");
  }
  const auto i = static_cast<size_t>(category);
  use.live[i] += rounded;
  use.total_live += rounded;
  use.peak[i] = std::max(use.peak[i], use.live[i]);
  if (use.total_live > use.total_peak) {
    use.total_peak = use.total_live;
    use.at_peak = use.live;
  }
  block.owner_ = this;
  block.data_ = data;
  block.bytes_ = rounded;
  block.category_ = category;
  if (fills_ && api_->fill(device_, filling_, data, fresh_, rounded) < 0)
    throw Error(TN_E_DEVICE, "the device failed to fill fresh memory; run without fill_fresh");
  return block;
}

Block::~Block() {
  if (data_) owner_->release(data_, bytes_, category_);
}

void Memory::release(void* data, uint64_t bytes, Category category) noexcept {
  const auto lock = std::lock_guard(pool_->mutex);
  pool_->use.live[static_cast<size_t>(category)] -= bytes;
  pool_->use.total_live -= bytes;
  if (pool_->blocks) pool_->blocks->give(data, bytes);
}

MemoryUse Memory::use() const {
  const auto lock = std::lock_guard(pool_->mutex);
  return pool_->use;
}

void Memory::reset_peak() {
  const auto lock = std::lock_guard(pool_->mutex);
  MemoryUse& use = pool_->use;
  use.peak = use.at_peak = use.live;
  use.total_peak = use.total_live;
}

}  // namespace tenon
