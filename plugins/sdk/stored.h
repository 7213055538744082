// Vectors of weights and states as rules see them: f32, whatever they are kept in. A rule is written once, over chunks
// of f32; f32 memory is handed out in place, bf16 goes through the block's shared memory.
#pragma once

#include "sdk/for_each.h"
#include "sdk/philox.h"
#include "sdk/tensor.h"
#include "tenon/optimizer.h"

#if defined(__AVX512BW__)
#include "sdk/bf16_avx512.h"
#include "sdk/philox_avx512.h"
#endif

namespace tenon::sdk {

inline constexpr int64_t kChunk = 1024;  // elements; a multiple of 8, so that a Philox block never straddles chunks
constexpr int64_t chunks(int64_t n, int64_t chunk = kChunk) {
  return (n + chunk - 1) / chunk;
}

// Elements [begin, begin + n), n <= the chunk's size.
struct Chunk {
  int64_t begin, n;
  TN_FN Chunk(const Block& block, int64_t total, int64_t chunk = kChunk)
      : begin(block.index * chunk), n(total - begin < chunk ? total - begin : chunk) {}
  TN_FN Chunk(int64_t begin, int64_t n) : begin(begin), n(n) {}
};

// Draws of one update that must not meet take elements far apart in the same key: plane p begins at element p · 2^56. Two states share a
// plane: of each pair of neighbours the second state's take each other's bits, so that no element has the same bits twice.
enum Plane : uint64_t { kPlaneWeight = 0, kPlaneState = 1 /* and 2 */, kPlaneSketch = 8 /* and 9 */ };
constexpr uint64_t plane_start(uint64_t plane) {
  return plane << 56;
}

// Elements kept as f32, as bf16 rounded to nearest or stochastically, or as f32 with a rounded copy beside.
struct Stored {
  float* f32 = nullptr;   // null: the truth is in b16
  bf16* b16 = nullptr;    // null: f32 alone
  float* copy = nullptr;  // an f32 copy of the truth in f32
  bool stochastic = false;
  tn_rng rng{};
  uint64_t first = 0;   // of its plane
  bool crossed = false;  // neighbours take each other's bits

  // The elements from `begin` on, a multiple of 8.
  TN_FN Stored from(int64_t begin) const {
    Stored s = *this;
    if (f32) s.f32 += begin;
    if (b16) s.b16 += begin;
    if (copy) s.copy += begin;
    s.first += static_cast<uint64_t>(begin);
    return s;
  }

  // In place, or staged in `stage` of at least chunk.n floats.
  TN_FN float* read(const Block& block, const Chunk& chunk, float* stage) const {
    if (f32) return f32 + chunk.begin;
    const bf16* from = b16 + chunk.begin;
    block.each(chunk.n, [=](int64_t i) { stage[i] = to_float(from[i]); });
    return stage;
  }
  // Where a chunk's values may be put before write(), when the old ones do not matter.
  TN_FN float* place(const Chunk& chunk, float* stage) const { return f32 ? f32 + chunk.begin : stage; }
  // `values` is what read() or place() gave, updated.
  TN_FN void write(const Block& block, const Chunk& chunk, const float* values) const {
    if (copy) {
      float* to = copy + chunk.begin;
      block.each(chunk.n, [=](int64_t i) { to[i] = values[i]; });
    }
    if (!b16) return;
    bf16* to = b16 + chunk.begin;
    if (stochastic) {
      write_stochastic(block, chunk, values, to);
    } else {
      block.each(chunk.n, [=](int64_t i) { to[i] = from_float<bf16>(values[i]); });
    }
  }

 private:
  TN_FN void write_stochastic(const Block& block, const Chunk& chunk, const float* values, bf16* to) const {
    // Eight elements share the four words of one Philox block; element e takes half-word e mod 8.
    const tn_rng key = rng;
    const int64_t other = crossed ? 1 : 0;
#if TN_GPU
    const uint64_t counter = (first + static_cast<uint64_t>(chunk.begin)) >> 3;
    const int64_t n = chunk.n;
    block.each((n + 7) / 8, [=](int64_t k) {
      const Words r = philox(key, counter + static_cast<uint64_t>(k));
      const int64_t end = 8 * k + 8 < n ? 8 : n - 8 * k;
      for (int64_t j = 0; j < end; ++j)
        to[8 * k + j] = {round_stochastic_bf16(values[8 * k + j], r.w[j >> 1] >> (16 * ((j & 1) ^ other)) & 0xffffu)};
    });
#else
    int64_t at = 0;
#if defined(__AVX512BW__)
    const Philox64 draw(rng);
    for (; at + 64 <= chunk.n; at += 64) {
      __m512i low, high;
      draw((first + static_cast<uint64_t>(chunk.begin + at)) >> 3, low, high);
      if (crossed) low = _mm512_rol_epi32(low, 16), high = _mm512_rol_epi32(high, 16);
      const float* v = values + at;
      narrow_bf16<false>(_mm512_loadu_ps(v), _mm512_loadu_ps(v + 16), low, to + at);
      narrow_bf16<false>(_mm512_loadu_ps(v + 32), _mm512_loadu_ps(v + 48), high, to + at + 32);
    }
#endif
    for (; at < chunk.n; at += kNoise) {
      alignas(64) uint32_t words[kNoise / 2];
      const uint64_t counter = (first + static_cast<uint64_t>(chunk.begin + at)) >> 3;
      const int64_t n = chunk.n - at < kNoise ? chunk.n - at : kNoise;
      uint32_t* out = words;
      block.each((n + 7) / 8, [=](int64_t k) {
        const Words r = philox(key, counter + static_cast<uint64_t>(k));
        for (int j = 0; j < 4; ++j) out[4 * k + j] = r.w[j];
      });
      const uint32_t* noise = words;
      block.each(n, [=](int64_t i) {
        to[at + i] = {round_stochastic_bf16(values[at + i], noise[i >> 1] >> (16 * ((i & 1) ^ other)) & 0xffffu)};
      });
    }
#endif
  }
  static constexpr int64_t kNoise = 256;
};

inline void check_count(const tn_tensor& t, int64_t n, const char* what) {
  if (count(t) != n)
    fail(TN_E_ARGUMENT,
         std::string(what) + " has " + std::to_string(count(t)) + " elements where " + std::to_string(n) + " belong");
}

// The parameter of an item, with its master if it has one. A master is rounded to nearest: it is what keeps small
// updates.
inline Stored weight_of(const tn_item& item) {
  if (!item.param) fail(TN_E_ARGUMENT, "an item has no parameter");
  const int64_t n = count(*item.param);
  Stored w{.stochastic = !item.master && (item.flags & TN_ITEM_STOCHASTIC_ROUNDING),
           .rng = item.rng,
           .first = plane_start(kPlaneWeight)};
  const bool is_f32 = same(item.param->dtype, kF32);
  if (item.master) {
    w.f32 = contiguous<float>(item.master, "the master");
    check_count(*item.master, n, "the master");
    if (is_f32)
      w.copy = contiguous<float>(item.param, "the parameter");
    else
      w.b16 = contiguous<bf16>(item.param, "the parameter");
  } else if (is_f32) {
    w.f32 = contiguous<float>(item.param, "the parameter");
  } else {
    w.b16 = contiguous<bf16>(item.param, "the parameter (f32 or bf16)");
  }
  return w;
}

// The gradient, f32 or bf16, read only.
inline Stored gradient_of(const tn_item& item) {
  check_count(*item.grad, count(*item.param), "the gradient");
  if (same(item.grad->dtype, kF32)) return {.f32 = contiguous<float>(item.grad, "the gradient")};
  return {.b16 = contiguous<bf16>(item.grad, "the gradient (f32 or bf16)")};
}

// State `index` of an item as f32 or bf16 values; bf16 is rounded stochastically, or a slowly growing average would
// stand still.
inline Stored state_of(const tn_item& item, uint32_t index, int64_t n) {
  if (index >= item.n_states || !item.states[index])
    fail(TN_E_ARGUMENT, "an item came with " + std::to_string(item.n_states) + " states, state_layout declared more");
  const tn_tensor& t = *item.states[index];
  check_count(t, n, "a state");
  if (same(t.dtype, kF32)) return {.f32 = contiguous<float>(&t, "a state")};
  return {.b16 = contiguous<bf16>(&t, "a state"),
          .stochastic = true,
          .rng = item.rng,
          .first = plane_start(kPlaneState + index / 2),
          .crossed = index % 2 == 1};
}

}  // namespace tenon::sdk
