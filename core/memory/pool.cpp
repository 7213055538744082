#include "core/memory/pool.h"

#include <algorithm>
#include <iterator>

namespace tenon {

Pool::~Pool() {
  for (const auto& [base, chunk] : chunks_) api_->free(device_, reinterpret_cast<void*>(base));
}

void* Pool::take(uint64_t bytes, uint64_t bound) {
  const bool large = bytes >= kLargeBytes;
  if (void* data = take_kept(bytes)) return data;
  if (void* data = take_hole(large, bytes, false)) return data;
  if (let_go())
    if (void* data = take_hole(large, bytes, false)) return data;
  const uint64_t chunk = large ? bytes : kChunkBytes;
  while (held_ + chunk > bound + kSlackBytes && release_one(held_ + chunk - bound - kSlackBytes)) {
  }
  while (!grow(large, bytes)) {
    if (void* data = take_hole(large, bytes, true)) return data;
    if (!release_one(UINT64_MAX)) return nullptr;
  }
  return take_hole(large, bytes, true);
}

void* Pool::take_kept(uint64_t bytes) noexcept {
  for (size_t i = n_kept_; i-- > 0;) {
    if (kept_[i].bytes != bytes) continue;
    void* const data = kept_[i].data;
    std::move(kept_.begin() + i + 1, kept_.begin() + n_kept_--, kept_.begin() + i);
    return data;
  }
  return nullptr;
}

// All kept blocks become holes; false: there were none.
bool Pool::let_go() noexcept {
  const bool any = n_kept_ > 0;
  while (n_kept_ > 0) make_hole(kept_[--n_kept_].data);
  return any;
}

// `any`: also a hole that is too large to be split without regret.
void* Pool::take_hole(bool large, uint64_t bytes, bool any) {
  Holes& holes = large ? large_holes_ : small_holes_;
  for (auto hole = holes.lower_bound({bytes, 0}); hole != holes.end(); ++hole) {
    const auto span = spans_.find(hole->second);
    if (large && !any && hole->first - bytes > hole->first / 4 && whole(span->second)) continue;
    holes.erase(hole);
    return carve(span, bytes);
  }
  return nullptr;
}

// Marks the front of a hole as used; the rest stays a hole.
void* Pool::carve(Spans::iterator span, uint64_t bytes) {
  Span& used = span->second;
  used.free = false;
  if (used.bytes > bytes) {
    const uintptr_t rest = span->first + bytes;
    spans_.emplace(rest, Span{used.bytes - bytes, used.chunk, true});
    holes(used.chunk).emplace(used.bytes - bytes, rest);
    used.bytes = bytes;
  }
  return reinterpret_cast<void*>(span->first);
}

void Pool::give(void* data, uint64_t bytes) noexcept {
  if (bytes > kKeptBytes) return make_hole(data);
  if (n_kept_ == kKept) {
    make_hole(kept_[0].data);
    std::move(kept_.begin() + 1, kept_.begin() + n_kept_--, kept_.begin());
  }
  kept_[n_kept_++] = {data, bytes};
}

void Pool::make_hole(void* data) noexcept {
  auto span = spans_.find(reinterpret_cast<uintptr_t>(data));
  Holes& free = holes(span->second.chunk);
  if (const auto next = std::next(span);
      next != spans_.end() && next->second.free && next->second.chunk == span->second.chunk) {
    free.erase({next->second.bytes, next->first});
    span->second.bytes += next->second.bytes;
    spans_.erase(next);
  }
  if (span != spans_.begin()) {
    const auto previous = std::prev(span);
    if (previous->second.free && previous->second.chunk == span->second.chunk) {
      free.erase({previous->second.bytes, previous->first});
      previous->second.bytes += span->second.bytes;
      spans_.erase(span);
      span = previous;
    }
  }
  span->second.free = true;
  free.emplace(span->second.bytes, span->first);
}

bool Pool::grow(bool large, uint64_t bytes) {
  // A device that has no room for a shared chunk may still have room for this one block.
  uint64_t size = large ? bytes : kChunkBytes;
  void* memory = nullptr;
  if (api_->alloc(device_, size, &memory) != TN_OK) {
    size = bytes;
    if (large || api_->alloc(device_, size, &memory) != TN_OK) return false;
  }
  const auto base = reinterpret_cast<uintptr_t>(memory);
  ++device_allocations_;
  held_ += size;
  chunks_.emplace(base, Chunk{size, large});
  spans_.emplace(base, Span{size, base, true});
  holes(base).emplace(size, base);
  return true;
}

// Returns one wholly free chunk to the device: the smallest of at least `wanted` bytes, or the largest there is.
bool Pool::release_one(uint64_t wanted) noexcept {
  uintptr_t best = 0;
  uint64_t best_bytes = 0;
  for (const Holes* holes : {&small_holes_, &large_holes_}) {
    for (const auto& [bytes, address] : *holes) {
      if (!whole(spans_.at(address))) continue;
      const bool better = best_bytes < wanted ? bytes > best_bytes : bytes >= wanted && bytes < best_bytes;
      if (better) best = address, best_bytes = bytes;
    }
  }
  if (best_bytes == 0) return false;
  holes(best).erase({best_bytes, best});
  spans_.erase(best);
  chunks_.erase(best);
  held_ -= best_bytes;
  api_->free(device_, reinterpret_cast<void*>(best));
  return true;
}

}  // namespace tenon
