// Columns, rows or single elements of a matrix W[m, n] that have Adam's states, in compact order.
//
// The choice is drawn at a refresh and kept in a state: for columns the chosen indices in rising order; for rows the
// place of each row among the chosen, or −1; for single elements one bit each. Every chunk of 1024 elements has its
// share of the chosen elements (their number up to element e is the density times e, rounded down), so that no place
// depends on the elements before the chunk.
#pragma once

#include <bit>

#include "optimizers/frugal/rule.h"
#include "sdk/workspace.h"

namespace tenon::sdk::frugal {

struct Coordinates {
  int64_t m, n, chosen;  // columns, rows or elements
  Split split;
  double density;

  Coordinates(const Settings& s, int64_t m, int64_t n) : m(m), n(n), split(s.split), density(s.density) {
    if (split == Split::kColumns || split == Split::kRows) {
      chosen = up_to(axis());
    } else if (split == Split::kRandK) {
      chosen = up_to(m * n);
    } else {  // a projection on unit vectors, or on none
      split = s.is_left(m, n) ? Split::kRows : Split::kColumns;
      chosen = s.rank(m, n);
    }
  }
  TN_FN int64_t up_to(int64_t e) const { return static_cast<int64_t>(static_cast<double>(e) * density); }
  int64_t axis() const { return split == Split::kColumns ? n : m; }
  int64_t states() const { return split == Split::kColumns ? m * chosen : split == Split::kRows ? chosen * n : chosen; }
  int64_t indices() const { return split == Split::kColumns ? chosen : m; }
  int64_t mask_bytes() const { return chunks(m * n) * (kChunk / 8); }
  uint64_t index_bytes() const {
    return static_cast<uint64_t>(split == Split::kRandK ? mask_bytes() : indices() * int64_t{sizeof(int32_t)});
  }
  void declare(const tn_state_sink& sink) const {
    const int64_t bytes = mask_bytes(), count = indices(),
                  rows[] = {split == Split::kRows ? chosen : m, split == Split::kRows ? n : chosen};
    if (split == Split::kRandK)
      declare_slot(sink, "chosen", TN_SLOT_BASIS, kU8, 1, &bytes);
    else
      declare_slot(sink, "chosen", TN_SLOT_BASIS, kI32, 1, &count);
    const bool flat = split == Split::kRandK;
    declare_slot(sink, "exp_avg", TN_SLOT_VALUE, kF32, flat ? 1 : 2, flat ? &chosen : rows);
    declare_slot(sink, "exp_avg_sq", TN_SLOT_VALUE, kF32, flat ? 1 : 2, flat ? &chosen : rows);
  }
};

// Keys of a draw, and which of them were among the smallest.
struct Draw {
  uint64_t* keys = nullptr;
  int32_t* taken = nullptr;
  Draw(const Coordinates& c, Workspace& w) {
    if (c.split != Split::kRandK) keys = w.take<uint64_t>(c.axis()), taken = w.take<int32_t>(c.axis());
  }
};

TN_FN uint64_t key_of(const tn_rng& rng, int64_t i) {
  const uint64_t at = plane_start(kPlaneSketch) + static_cast<uint64_t>(i);
  return static_cast<uint64_t>(philox(rng, at >> 2).w[at & 3]) << 32 | static_cast<uint64_t>(i);
}

inline void choose_axis(const tn_exec* exec, const Coordinates& c, const tn_rng& rng, const Draw& draw,
                        int32_t* index) {
  const int64_t n = c.axis(), chosen = c.chosen;
  uint64_t* keys = draw.keys;
  int32_t* taken = draw.taken;
  const bool columns = c.split == Split::kColumns;
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { keys[i] = key_of(rng, i); });
  for_each_block(
      exec, n,
      [=] TN_KERNEL(const Block& block) {
        const uint64_t mine = keys[block.index];
        taken[block.index] = block.sum(n, [=](int64_t i) { return int64_t{keys[i] < mine}; }) < chosen;
      },
      n);
  for_each_block(
      exec, n,
      [=] TN_KERNEL(const Block& block) {
        const int64_t i = block.index, before = block.sum(i, [=](int64_t k) { return int64_t{taken[k]}; });
        if (columns && taken[i]) index[before] = static_cast<int32_t>(i);
        if (!columns) index[i] = taken[i] ? static_cast<int32_t>(before) : -1;
      },
      n);
}

inline void choose_elements(const tn_exec* exec, const Coordinates& c, const tn_rng& rng, uint8_t* mask) {
  const int64_t n = c.m * c.n;
  for_each_block<2 * kChunk * sizeof(uint32_t)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        const int64_t wanted = c.up_to(chunk.begin + chunk.n) - c.up_to(chunk.begin);
        uint32_t *keys = block.shared<uint32_t>(), *taken = keys + kChunk;
        // 22 random bits over 10 of the place: no two are equal.
        block.each(chunk.n, [=](int64_t i) {
          keys[i] = static_cast<uint32_t>(key_of(rng, chunk.begin + i) >> 32 & 0xfffffc00u) | static_cast<uint32_t>(i);
        });
        for (int64_t i = 0; i < chunk.n; ++i) {
          const uint32_t mine = keys[i];
          taken[i] = block.sum(chunk.n, [=](int64_t k) { return int32_t{keys[k] < mine}; }) < wanted;
        }
        uint8_t* to = mask + block.index * (kChunk / 8);
        block.each(kChunk / 8, [=](int64_t k) {
          uint32_t bits = 0;
          for (int64_t b = 0; b < 8; ++b)
            if (8 * k + b < chunk.n) bits |= taken[8 * k + b] << b;
          to[k] = static_cast<uint8_t>(bits);
        });
      },
      kChunk * kChunk);
}

// Places within [0, 1024) of the bits of one chunk's mask, rising; returns their number.
TN_FN int64_t places_of(const Block& block, const uint8_t* mask, int32_t* places) {
  block.each(kChunk / 8, [=](int64_t k) {
    int64_t at = 0;
    for (int64_t j = 0; j < k; ++j) at += std::popcount(mask[j]);
    for (int b = 0; b < 8; ++b)
      if (mask[k] >> b & 1) places[at++] = static_cast<int32_t>(8 * k + b);
  });
  return block.sum(kChunk / 8, [=](int64_t k) { return int64_t{std::popcount(mask[k])}; });
}

// One piece of a chunk: elements [0, n) at w and g; element places[q] has the states m[q], v[q].
TN_FN void update_piece(const Block& block, const Numbers& a, int64_t n, const float* g, float* w, int64_t chosen,
                        const int32_t* places, int32_t offset, float* m, float* v, float* fresh) {
  block.each(chosen, [=](int64_t q) {
    const int32_t i = places[q] - offset;
    const float x = g[i] * a.adam.grad_scale;
    m[q] = decayed(a.adam.a1, m[q], x), v[q] = decayed(a.adam.a2, v[q], x * x);
    fresh[q] = stepped(a.adam, w[i], adam_ratio(a.adam, m[q], v[q]));
  });
  block.each(n, [=](int64_t i) { w[i] = stepped(a.outside, w[i], a.direction(g[i] * a.adam.grad_scale)); });
  block.each(chosen, [=](int64_t q) { w[places[q] - offset] = fresh[q]; });
}

// First place in index[0, n) that is not below `value`.
TN_FN int64_t first_from(const int32_t* index, int64_t n, int64_t value) {
  int64_t low = 0;
  while (low < n) {
    const int64_t middle = (low + n) / 2;
    if (index[middle] < value)
      low = middle + 1;
    else
      n = middle;
  }
  return low;
}

inline void update_coordinates(const tn_exec* exec, const Coordinates& c, const Numbers& a, const tn_item& item) {
  const int64_t n = c.m * c.n, columns = c.n, chosen = c.chosen;
  const Split split = c.split;
  const Stored grad = gradient_of(item), weight = weight_of(item);
  float *m = state_of(item, 1, c.states()).f32, *v = state_of(item, 2, c.states()).f32;
  const void* choice = data<char>(*item.states[0]);
  for_each_block<4 * kChunk * sizeof(float)>(
      exec, chunks(n),
      [=] TN_KERNEL(const Block& block) {
        const Chunk chunk(block, n);
        float *stage = block.shared<float>(), *fresh = stage + 2 * kChunk;
        int32_t* places = reinterpret_cast<int32_t*>(stage + 3 * kChunk);
        const float* g = grad.read(block, chunk, stage);
        float* w = weight.read(block, chunk, stage + kChunk);
        if (split == Split::kRandK) {
          const int64_t first = c.up_to(chunk.begin);
          const int64_t count =
              places_of(block, static_cast<const uint8_t*>(choice) + block.index * (kChunk / 8), places);
          update_piece(block, a, chunk.n, g, w, count, places, 0, m + first, v + first, fresh);
        } else {
          const int32_t* index = static_cast<const int32_t*>(choice);
          for (int64_t at = 0; at < chunk.n;) {  // the pieces of the rows that meet this chunk
            const int64_t row = (chunk.begin + at) / columns, begin = chunk.begin + at - row * columns;
            const int64_t length = columns - begin < chunk.n - at ? columns - begin : chunk.n - at;
            if (split == Split::kColumns) {
              const int64_t first = first_from(index, chosen, begin), last = first_from(index, chosen, begin + length);
              update_piece(block, a, length, g + at, w + at, last - first, index + first, static_cast<int32_t>(begin),
                           m + row * chosen + first, v + row * chosen + first, fresh);
            } else if (index[row] >= 0) {
              const int64_t first = index[row] * columns + begin;
              block.each(length, [=](int64_t i) { places[i] = static_cast<int32_t>(i); });
              update_piece(block, a, length, g + at, w + at, length, places, 0, m + first, v + first, fresh);
            } else {
              update_piece(block, a, length, g + at, w + at, 0, places, 0, m, v, fresh);
            }
            at += length;
          }
        }
        weight.write(block, chunk, w);
      },
      kChunk);
}

}  // namespace tenon::sdk::frugal
