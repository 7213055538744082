// Accounted memory: every byte of a run is allocated here, under a category, within a limit.
//
// A Memory serves one device. Blocks come from a pool (best fit, split and coalesced) over chunks of the device's own
// allocator, so that a training step that repeats its sequence of allocations costs the device none. `peak()` is exact:
// the largest sum of live blocks, each rounded to TN_ALIGNMENT. A Memory without a device counts and hands out
// addresses that must not be touched: the planner runs the trainer's own step on it, and so forecasts exactly what the
// run will allocate.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "tenon/device.h"

namespace tenon {

enum class Category : uint8_t { kWeights, kGradients, kOptimizerState, kAdapter, kActivations, kWorkspace, kCodec };
inline constexpr int kCategories = 7;
const char* category_name(Category c) noexcept;  // "weights", "gradients", "optimizer state", …

struct MemoryUse {
  std::array<uint64_t, kCategories> live{}, peak{};  // peak of each category on its own
  std::array<uint64_t, kCategories> at_peak{};       // what was live when the total was largest; sums to total_peak
  uint64_t total_live = 0, total_peak = 0;
};

class Memory;

// A live block; frees itself. Movable.
class Block {
 public:
  Block() = default;
  Block(Block&& other) noexcept { swap(other); }
  Block& operator=(Block&& other) noexcept {
    Block(std::move(other)).swap(*this);
    return *this;
  }
  ~Block();
  void* data() const noexcept { return data_; }
  uint64_t bytes() const noexcept { return bytes_; }
  explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  friend class Memory;
  void swap(Block& other) noexcept {
    std::swap(owner_, other.owner_), std::swap(data_, other.data_), std::swap(bytes_, other.bytes_),
        std::swap(category_, other.category_);
  }
  Memory* owner_ = nullptr;
  void* data_ = nullptr;
  uint64_t bytes_ = 0;  // rounded up to TN_ALIGNMENT
  Category category_ = Category::kWorkspace;
};

class Memory {
 public:
  // limit_bytes = 0: no limit. The device outlives the Memory.
  Memory(const tn_device_api* api, tn_device* device, uint64_t limit_bytes);
  // A counting Memory for the planner.
  explicit Memory(uint64_t limit_bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // A block of at least `bytes` (0 gives an empty Block). Contents are undefined. Over the limit or out of memory:
  // throws Error{TN_E_MEMORY} that names the category, the request, what is live and the limit. Thread-safe.
  Block allocate(Category category, uint64_t bytes);

  bool counts_only() const noexcept { return api_ == nullptr; }
  MemoryUse use() const;
  void reset_peak();  // peaks start again from what is live now

  // For tests: from now on every block begins full of this byte instead of whatever was there, so that a value that is read before it is
  // written shows in the results. 0xff makes NaN of every float and -1 of every integer. stream: of the work that uses the blocks, since
  // earlier work may still be reading what lay there.
  void fill_fresh(uint8_t byte, tn_stream* stream);

 private:
  friend class Block;
  struct Pool;
  void release(void* data, uint64_t bytes, Category category) noexcept;

  const tn_device_api* api_ = nullptr;
  tn_device* device_ = nullptr;
  bool fills_ = false;  // fill_fresh
  uint8_t fresh_ = 0;
  tn_stream* filling_ = nullptr;
  uint64_t limit_ = 0;
  std::unique_ptr<Pool> pool_;
};

// "1.25 GiB": three significant digits, binary units.
std::string format_bytes(uint64_t bytes);

}  // namespace tenon
