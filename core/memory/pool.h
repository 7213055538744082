// The pool under Memory: best fit with splitting and coalescing over chunks of a device's allocator.
//
// Small blocks share chunks of kChunkBytes. A block of kLargeBytes or more gets a chunk of its own size, kept when it
// becomes free and split only for a request of at least three quarters of its size, so that a long-lived tensor never
// pins the hole of a large temporary. Before the pool grows it gives back wholly free chunks, so what it holds stays
// within kSlackBytes (plus the remnants of splits) of the largest sum that was ever live. The last few little blocks
// that came back are kept as they are, for the next request of their size: a token that is decoded asks for a dozen of
// them in every layer. They go back among the holes before anything is concluded from a lack of those.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "tenon/device.h"

namespace tenon {

class Pool {
 public:
  static constexpr uint64_t kChunkBytes = uint64_t{16} << 20;
  static constexpr uint64_t kLargeBytes = uint64_t{16} << 20;
  static constexpr uint64_t kSlackBytes = uint64_t{96} << 20;

  Pool(const tn_device_api* api, tn_device* device) : api_(api), device_(device) {}
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // `bytes` is a positive multiple of TN_ALIGNMENT; `bound` is the largest sum of live blocks so far, this one
  // included. Null: the device has no more memory. Not thread-safe.
  void* take(uint64_t bytes, uint64_t bound);
  // A block and the bytes that were asked for.
  void give(void* data, uint64_t bytes) noexcept;

  uint64_t held_bytes() const noexcept { return held_; }
  uint64_t device_allocations() const noexcept { return device_allocations_; }

 private:
  struct Chunk {
    uint64_t bytes;
    bool large;
  };
  // A stretch of a chunk, free or in use; stretches of a chunk tile it.
  struct Span {
    uint64_t bytes;
    uintptr_t chunk;
    bool free;
  };
  using Spans = std::map<uintptr_t, Span>;
  using Holes = std::set<std::pair<uint64_t, uintptr_t>>;  // (bytes, address): best fit first

  struct Kept {
    void* data;
    uint64_t bytes;
  };
  static constexpr size_t kKept = 16;
  static constexpr uint64_t kKeptBytes = uint64_t{64} << 10;  // of one block, at most

  void* take_kept(uint64_t bytes) noexcept;
  bool let_go() noexcept;
  void make_hole(void* data) noexcept;
  void* take_hole(bool large, uint64_t bytes, bool any);
  void* carve(Spans::iterator span, uint64_t bytes);
  bool grow(bool large, uint64_t bytes);
  bool release_one(uint64_t wanted) noexcept;
  bool whole(const Span& span) const { return span.bytes == chunks_.at(span.chunk).bytes; }
  Holes& holes(uintptr_t chunk) { return chunks_.at(chunk).large ? large_holes_ : small_holes_; }

  const tn_device_api* api_;
  tn_device* device_;
  std::map<uintptr_t, Chunk> chunks_;
  Spans spans_;
  Holes small_holes_, large_holes_;
  std::array<Kept, kKept> kept_{};  // the oldest first; in use as far as spans_ know
  size_t n_kept_ = 0;
  uint64_t held_ = 0, device_allocations_ = 0;
};

}  // namespace tenon
