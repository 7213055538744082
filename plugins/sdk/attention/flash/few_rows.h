// A tile of few rows against a run of keys: keys and values are read where they lie, each once, since packing them would
// take longer than using them.
#pragma once

#include "sdk/attention/flash/forward_tile.h"

namespace tenon::sdk::flash {

inline constexpr int64_t kFewRows = 8;
// A head's keys lie as far apart as all heads are wide, where hardware does not look ahead: how many keys before its turn one is asked for.
inline constexpr int64_t kKeysAhead = 32;

// Whole vectors of f32 or bf16.
inline bool readable_in_place(const ForwardCall& call) {
  const Problem& p = call.problem;
  const auto whole = [](const sdk::HeadRows& x) { return same(x.dtype, kF32) || same(x.dtype, kBF16); };
  return p.d % kLanes == 0 && p.e % kLanes == 0 && whole(call.ports.k) && whole(call.ports.v);
}

inline Vec load_vector(const float* p) {
  return load(p);
}
inline Vec load_vector(const bf16* p) {
  using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return std::bit_cast<Vec>(__builtin_convertvector(halves, Words) << 16);
}

// The sums of kLanes vectors' lanes, side by side: halves of two meet in one until one is left.
template <int Half, int... I>
Vec add_halves(Vec a, Vec b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I & Half ? int{kLanes} + I - Half : I)...) +
         __builtin_shufflevector(a, b, (I & Half ? int{kLanes} + I : I + Half)...);
}
template <int Half = kLanes / 2>
Vec lane_sums(Vec* v) {
  for (int i = 0; i < Half; ++i) v[i] = add_halves<Half>(v[i], v[i + Half], LaneOrder{});
  if constexpr (Half > 1) return lane_sums<Half / 2>(v);
  return v[0];
}

// score[r][key] = query[r] · k[key] for kRows rows from `query` on; n: a multiple of kLanes, to which scores are filled up. v: the values of these
// keys, to be on their way by the time the scores are there.
template <int kRows, class T>
void score_rows(const sdk::HeadRows& k, const sdk::HeadRows& v, int64_t b, int64_t kv_head, sdk::Run keys, int64_t n, int64_t d, const float* query,
                int64_t stride, float* score) {
  for (int64_t first = 0; first < n; first += kLanes) {
    Vec sum[kRows][kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      Vec s[kRows] = {};
      k.prefetch(b, keys.begin + first + i + kKeysAhead, kv_head);
      v.prefetch(b, keys.begin + first + i, kv_head);
      const auto* row = static_cast<const T*>(k.at(b, std::min(keys.begin + first + i, keys.end - 1), kv_head));
      for (int64_t c = 0; c < d; c += kLanes) {
        const Vec x = load_vector(row + c);
        for (int r = 0; r < kRows; ++r) s[r] += load(query + r * stride + c) * x;
      }
      for (int r = 0; r < kRows; ++r) sum[r][i] = s[r];
    }
    for (int r = 0; r < kRows; ++r) store(score + r * kTileKeys + first, lane_sums(sum[r]));
  }
}

template <class T>
void score_keys(const sdk::HeadRows& k, const sdk::HeadRows& v, int64_t b, int64_t kv_head, sdk::Run keys, int64_t n, int64_t d, const float* query,
                int64_t stride, int64_t rows, float* score) {
  const auto some = [&]<int kRows>(int64_t r) {
    score_rows<kRows, T>(k, v, b, kv_head, keys, n, d, query + r * stride, stride, score + r * kTileKeys);
  };
  int64_t r = 0;
  for (; r + 3 <= rows; r += 3) some.template operator()<3>(r);
  for (; r < rows; ++r) some.template operator()<1>(r);
}

// out[r] += Σ weight[r][key] · v[key] for kRows rows and kVectors vectors of columns.
template <int kRows, int kVectors, class T>
void add_columns(const sdk::HeadRows& v, int64_t b, int64_t kv_head, sdk::Run keys, int64_t column, const float* weight,
                 float* out, int64_t stride) {
  Vec sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sum[r][c] = load(out + r * stride + c * kLanes);
  for (int64_t t = keys.begin; t < keys.end; ++t, ++weight) {
    const auto* row = static_cast<const T*>(v.at(b, t, kv_head)) + column;
    for (int c = 0; c < kVectors; ++c) {
      const Vec x = load_vector(row + c * kLanes);
      for (int r = 0; r < kRows; ++r) sum[r][c] += broadcast(weight[r * kTileKeys]) * x;
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) store(out + r * stride + c * kLanes, sum[r][c]);
}

template <int kVectors, class T>
void add_columns(const sdk::HeadRows& v, int64_t b, int64_t kv_head, sdk::Run keys, int64_t column, int64_t rows,
                 const float* weight, float* out, int64_t stride) {
  const auto add = [&]<int kRows>(int64_t r) {
    add_columns<kRows, kVectors, T>(v, b, kv_head, keys, column, weight + r * kTileKeys, out + r * stride + column, stride);
  };
  int64_t r = 0;
  for (; r + 3 <= rows; r += 3) add.template operator()<3>(r);
  for (; r < rows; ++r) add.template operator()<1>(r);
}

template <class T>
void add_values(const sdk::HeadRows& v, int64_t b, int64_t kv_head, sdk::Run keys, int64_t e, int64_t rows,
                const float* weight, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= e; c += 4 * kLanes) add_columns<4, T>(v, b, kv_head, keys, c, rows, weight, out, stride);
  for (; c < e; c += kLanes) add_columns<1, T>(v, b, kv_head, keys, c, rows, weight, out, stride);
}

// The tile in scratch against at most kTileKeys keys; call.ports are readable_in_place().
inline void attend_few(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, sdk::Run keys,
                       const ForwardScratch& s) {
  const Problem& p = call.problem;
  const int64_t n = round_up(keys.size(), kLanes);
  const bool whole = keys.size() == n && p.full(tile, keys);
  same(call.ports.k.dtype, kF32)
      ? score_keys<float>(call.ports.k, call.ports.v, b, kv_head, keys, n, p.d, s.query, p.d_padded, tile.rows, s.score)
      : score_keys<bf16>(call.ports.k, call.ports.v, b, kv_head, keys, n, p.d, s.query, p.d_padded, tile.rows, s.score);
  for (int64_t r = 0; r < tile.rows; ++r) {
    float* score = s.score + r * kTileKeys;
    if (p.softcap > 0) bend(score, n, p.cap());
    if (!whole)
      each_hidden(p.keys(tile, r), keys.begin, n, keys,
                  [&](int64_t from, int64_t to) { std::fill(score + from, score + to, -INFINITY); });
    softmax_row(score, n, s.run.top[r], s.run.sum[r], s.run.out + r * p.e_padded, p.e_padded);
    if (call.dropout.threshold) drop_weights(call, tile, r, b, kv_head, keys, score);
  }
  same(call.ports.v.dtype, kF32)
      ? add_values<float>(call.ports.v, b, kv_head, keys, p.e, tile.rows, s.score, s.run.out, p.e_padded)
      : add_values<bf16>(call.ports.v, b, kv_head, keys, p.e, tile.rows, s.score, s.run.out, p.e_padded);
}

}  // namespace tenon::sdk::flash
