// Adam over moments held in 8 bits (8-bit Optimizers via Block-wise Quantization, Dettmers et al. 2021).
//
// Blocks of `blocksize` consecutive elements; a state is one byte an element and one f32, the largest magnitude, a
// block. The first moment takes the signed book, the second the unsigned one. The moments of an update are decoded,
// advanced and *used* in f32, then coded: so the first step is Adam's to the last bit, and the codes only carry what is
// remembered. Zero bytes are a legal start: 0 times any code is 0.
#pragma once

#include <algorithm>

#include "sdk/adam.h"
#include "sdk/dynamic_codec.h"
#include "sdk/parameters.h"

namespace tenon::sdk {

// Sixteen KB and more of tables: one per instance of a plugin, never on the stack of a kernel.
struct Adam8Coder {
  DynamicEncoder<true> first;
  DynamicEncoder<false> second;
};

struct Adam8States {
  uint8_t *m, *v;
  float *m_max, *v_max;
  int64_t blocksize;
};

inline constexpr int64_t kLargestBlocksize = 4096;
constexpr int64_t adam8_chunk_size(int64_t blocksize) {
#if defined(__AVX512BW__)
  return blocksize > 0 ? kLargestBlocksize : 0;  // no stage for gradients and weights: only two blocks are at hand
#else
  return blocksize > kChunk ? blocksize : kChunk;
#endif
}

// Slots first … first + 3 as adam8_declare declared them.
inline Adam8States adam8_states(const tn_item& item, uint32_t first, int64_t n, int64_t blocksize) {
  if (item.n_states < first + 4)
    fail(TN_E_ARGUMENT, "an item came with " + std::to_string(item.n_states) + " states, state_layout declared more");
  const auto slot = [&](uint32_t i, int64_t expected) -> const tn_tensor* {
    check_count(*item.states[first + i], expected, "a state");
    return item.states[first + i];
  };
  const int64_t blocks = chunks(n, blocksize);
  return {contiguous<uint8_t>(slot(0, n), "state1"), contiguous<uint8_t>(slot(1, n), "state2"),
          contiguous<float>(slot(2, blocks), "absmax1"), contiguous<float>(slot(3, blocks), "absmax2"), blocksize};
}

inline void adam8_declare(const tn_state_sink& sink, int32_t ndim, const int64_t* shape, int64_t blocksize) {
  int64_t n = 1;
  for (int32_t i = 0; i < ndim; ++i) n *= shape[i];
  const int64_t blocks = chunks(n, blocksize);
  declare_slot(sink, "state1", TN_SLOT_CODES, kU8, ndim, shape);
  declare_slot(sink, "state2", TN_SLOT_CODES, kU8, ndim, shape);
  declare_slot(sink, "absmax1", TN_SLOT_SCALES, kF32, 1, &blocks);
  declare_slot(sink, "absmax2", TN_SLOT_SCALES, kF32, 1, &blocks);
}
constexpr uint64_t adam8_bytes(int64_t n, int64_t blocksize) {
  return static_cast<uint64_t>(2 * n + 8 * chunks(n, blocksize));
}

inline constexpr float kLargestSquare = 3.402823466e38f;
// Adam counts an element whose squared gradient is no finite number as one without gradient and without past.
TN_FN bool is_usable(float g) {
  return g * g <= kLargestSquare;
}
// The factor that brings a block's largest to 1. A block of zeros, or of numbers whose reciprocal overflows, is coded as zeros.
TN_FN float adam8_factor(float largest) {
  return largest >= 0x1p-126f ? 1.0f / largest : 0.0f;
}

}  // namespace tenon::sdk
#if defined(__AVX512BW__)
#include "sdk/adam8_avx512.h"
#endif
namespace tenon::sdk {

// Advances the moments of a chunk by its gradients. take(i, usable, u) receives the direction of the chunk's i-th
// element (usable = 0: it is 0 and the element rests), in the same loop, which divides and takes roots and has time for
// it. m and v: scratch of a block each.
template <class Gradient, class Take>
TN_FN void adam8_chunk(const Block& block, const Chunk& chunk, const AdamNumbers& a, const Adam8Coder& coder,
                       const Adam8States& s, Gradient g, float* m, float* v, Take take) {
  for (int64_t at = 0; at < chunk.n; at += s.blocksize) {
    const int64_t n = chunk.n - at < s.blocksize ? chunk.n - at : s.blocksize, scale = (chunk.begin + at) / s.blocksize;
    uint8_t *cm = s.m + chunk.begin + at, *cv = s.v + chunk.begin + at;
    decode_dynamic<true>(block, cm, s.m_max[scale], m, n);
    decode_dynamic<false>(block, cv, s.v_max[scale], v, n);
    const Block::Pair largest = block.max2(n, {0, 0}, [=](int64_t i) {
      // Factors, not branches: 1 where the gradient is usable, else 0.
      const float x = g(at + i) * a.grad_scale, usable = is_usable(x) ? 1.0f : 0.0f, clean = is_usable(x) ? x : 0.0f;
      const float mi = decayed(a.a1, m[i] * usable, clean), vi = decayed(a.a2, v[i] * usable, clean * clean);
      m[i] = mi, v[i] = vi;
      take(at + i, usable, adam_ratio(a, mi, vi));
      return Block::Pair{std::fabs(mi), vi};
    });
    float *const m_max = s.m_max + scale, *const v_max = s.v_max + scale;
    block.each(1, [=](int64_t) { *m_max = largest.first, *v_max = largest.second; });
    // A small negative value keeps its sign.
    encode_dynamic<true, true>(block, coder.first, m, adam8_factor(largest.first), cm, n);
    encode_dynamic<false>(block, coder.second, v, adam8_factor(largest.second), cv, n);
  }
}

// The direction alone, as adam_direction.
inline void adam8_direction(const tn_exec* exec, const AdamNumbers& a, const Adam8Coder& coder, const Adam8States& s,
                            int64_t n, float* u) {
  const int64_t size = adam8_chunk_size(s.blocksize);
  const CapturedEncoder<Adam8Coder> c(coder);
  for_each_block<4 * kLargestBlocksize * sizeof(float)>(
      exec, chunks(n, size),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n, size);
        float* stage = block.shared<float>();
#if defined(__AVX512BW__)
        if (adam8_fits_groups(chunk, a, {})) return adam8_groups<false>(a, *c, s, chunk, u, DirectionGroups{u}, stage);
#endif
        float* pu = u + chunk.begin;
        adam8_chunk(block, chunk, a, *c, s, [=](int64_t i) { return pu[i]; }, stage, stage + size,
                    [=](int64_t i, float, float direction) { pu[i] = direction; });
      },
      size, 2 * size * static_cast<int64_t>(sizeof(float)));
}

// The first moment alone: decoded, and coded again after it has changed.
inline void adam8_decode_first(const tn_exec* exec, const Adam8States& states, int64_t n, float* out) {
  const Adam8States s = states;
  for_each_block(
      exec, chunks(n, s.blocksize),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n, s.blocksize);
        decode_dynamic<true>(block, s.m + chunk.begin, s.m_max[block.index], out + chunk.begin, chunk.n);
      },
      s.blocksize);
}
inline void adam8_encode_first(const tn_exec* exec, const Adam8Coder& coder, const float* values, int64_t n, const Adam8States& states) {
  const Adam8States s = states;
  const CapturedEncoder<Adam8Coder> c(coder);
  for_each_block(
      exec, chunks(n, s.blocksize),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n, s.blocksize);
        const float* const x = values + chunk.begin;
        const float largest = block.max(chunk.n, 0.0f, [=](int64_t i) { return std::fabs(x[i]); });
        float* const scale = s.m_max + block.index;
        block.each(1, [=](int64_t) { *scale = largest; });
        encode_dynamic<true>(block, (*c).first, x, adam8_factor(largest), s.m + chunk.begin, chunk.n);
      },
      s.blocksize);
}

// What one update of a parameter needs of it.
struct Adam8Item {
  AdamNumbers a;
  Stored grad, weight;
  Adam8States s;
  int64_t n;

  Adam8Item() = default;
  Adam8Item(const AdamSettings& settings, const tn_item& item, int64_t blocksize)
      : a(settings, item),
        grad(gradient_of(item)),
        weight(weight_of(item)),
        s(adam8_states(item, 0, count(*item.param), blocksize)),
        n(count(*item.param)) {}
  // Moments are staged always, gradient and weight where they are bf16.
  TN_FN int64_t at_weight() const { return TN_GPU || grad.f32 ? 2 : 3; }
  TN_FN int64_t staged() const { return at_weight() + (weight.f32 ? 0 : 1); }

  // The chunk of `size` elements that is the block's.
  TN_FN void update(const Block& block, const Adam8Coder& coder, int64_t size) const {
    const Chunk chunk(block, n, size);
    float* stage = block.shared<float>();
#if defined(__AVX512BW__)
    if (adam8_fits_groups(chunk, a, weight)) return adam8_groups(a, coder, s, chunk, grad, weight, stage);
#endif
#if TN_GPU  // a bf16 gradient is read where it lies: with its stage, blocks of 4096 would not fit the 64 KB of AMD's cards
    const float* const wide = grad.f32 ? grad.f32 + chunk.begin : nullptr;
    const bf16* const narrow = grad.f32 ? nullptr : grad.b16 + chunk.begin;
    const auto g = [=](int64_t i) { return wide ? wide[i] : to_float(narrow[i]); };
#else
    const float* const from = grad.read(block, chunk, stage + 2 * size);
    const auto g = [=](int64_t i) { return from[i]; };
#endif
    float* w = weight.read(block, chunk, stage + at_weight() * size);
    const AdamNumbers numbers = a;
    adam8_chunk(block, chunk, numbers, coder, s, g, stage, stage + size,
                [=](int64_t i, float usable, float u) { w[i] = stepped(numbers, w[i], u, numbers.decay * usable); });
    weight.write(block, chunk, w);
  }
};

// Updates of any number of parameters.
#if TN_GPU

// As many in one launch as its arguments hold, since small parameters would cost a launch each: 4 KB of arguments is what every vendor passes.
struct Adam8List {
  static constexpr int kMost = (4096 - 128) / static_cast<int>(sizeof(Adam8Item) + sizeof(int64_t));
  Adam8Item item[kMost];
  int64_t first[kMost];  // each one's first block
  int64_t size;          // elements of a block
  int filled = 0;
  CapturedEncoder<Adam8Coder> coder;

  Adam8List(int64_t size, const Adam8Coder& coder) : size(size), coder(coder) {}
  TN_FN void operator()(const Block& block) const {
    int k = 0;
    while (k + 1 < filled && first[k + 1] <= block.index) ++k;
    const Adam8Item mine = item[k];
    mine.update(Block{block.index - first[k], block.memory}, *coder, size);
  }
};
static_assert(sizeof(Adam8List) <= 4096 - 64);

inline void adam8_updates(const tn_exec* exec, const AdamSettings& settings, const Adam8Coder& coder,
                          const tn_item* const* items, uint64_t n, int64_t blocksize) {
  const int64_t size = adam8_chunk_size(blocksize);
  for (uint64_t begin = 0; begin < n; begin += Adam8List::kMost) {
    Adam8List list(size, coder);
    int64_t blocks = 0, staged = 0;
    for (; list.filled < Adam8List::kMost && begin + static_cast<uint64_t>(list.filled) < n; ++list.filled) {
      const Adam8Item& item = list.item[list.filled] = Adam8Item(settings, *items[begin + static_cast<uint64_t>(list.filled)], blocksize);
      list.first[list.filled] = blocks, blocks += chunks(item.n, size);
      staged = std::max(staged, item.staged());
    }
    for_each_block<4 * kLargestBlocksize * sizeof(float)>(exec, blocks, list, size,
                                                          staged * size * static_cast<int64_t>(sizeof(float)));
  }
}

#else

inline void adam8_updates(const tn_exec* exec, const AdamSettings& settings, const Adam8Coder& coder,
                          const tn_item* const* items, uint64_t n, int64_t blocksize) {
  const int64_t size = adam8_chunk_size(blocksize);
  for (uint64_t i = 0; i < n; ++i) {
    const Adam8Item item(settings, *items[i], blocksize);
    for_each_block<4 * kLargestBlocksize * sizeof(float)>(
        exec, chunks(item.n, size), [=, c = &coder](const Block& block) { item.update(block, *c, size); }, size);
  }
}

#endif

inline void adam8_update(const tn_exec* exec, const AdamSettings& settings, const Adam8Coder& coder,
                         const tn_item& item, int64_t blocksize) {
  const tn_item* const one = &item;
  adam8_updates(exec, settings, coder, &one, 1, blocksize);
}

}  // namespace tenon::sdk
