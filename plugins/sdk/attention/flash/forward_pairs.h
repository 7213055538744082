// The forward pass with products of bf16 (sdk/panel/pairs.h): the schedule and the softmax of f32, weights rounded to
// bf16 for their product with V as kernels on matrix units do, sums in f32.
#pragma once

#include "sdk/attention/flash/forward.h"
#include "sdk/panel/pairs.h"

#if defined(__AVX512BW__)

namespace tenon::sdk::flash {

// Q, K, V (and dO) whose products may be those of bf16: rare calls keep f32.
inline bool takes_pairs(const Problem& p, const sdk::Dropout& dropout,
                        std::initializer_list<const sdk::HeadRows*> inputs) {
  return has_pairs() && p.d == p.d_padded && p.e == p.e_padded && p.softcap == 0 && p.scale > 0 && !dropout.threshold &&
         std::all_of(inputs.begin(), inputs.end(), [](const sdk::HeadRows* x) { return same(x->dtype, kBF16); });
}

// Rows as they are stored, bf16, one every `stride` pairs.
inline void copy_rows(const Problem& p, const sdk::HeadRows& x, const RowTile& tile, int64_t b, int64_t kv_head,
                      int64_t stride, Pair* to) {
  each_row(p, {&x}, tile, b, kv_head, kAhead, [&](int64_t r, int64_t token, int64_t head) {
    std::memcpy(to + r * stride, x.at(b, token, head), static_cast<size_t>(x.width) * sizeof(bf16));
  });
}

// Scores in units of 1 / factor become weights as softmax_row() has them, in bf16 from the row's start on.
inline void softmax_row_bf16(float* score, int64_t n, float factor, float& top, float& sum, float* out,
                             int64_t out_width) {
  Vec high = load(score);
  for (int64_t c = kLanes; c < n; c += kLanes) high = larger(load(score + c), high);
  const float tile_top = horizontal_max(high) * factor, new_top = tile_top > top ? tile_top : top;
  if (new_top > top) {
    const float shrink = sdk::vexp2(top - new_top);
    sum *= shrink;
    scale_row(out, out_width, shrink);
    top = new_top;
  }
  const Vec base = broadcast(new_top == -INFINITY ? 0.0f : new_top), unit = broadcast(factor);
  const auto weight = [&](int64_t c) { return exp2_of(load(score + c) * unit - base); };
  auto* to = reinterpret_cast<char*>(score);
  Vec total{};
  int64_t c = 0;
  for (; c + 2 * kLanes <= n; c += 2 * kLanes) {
    const Vec first = weight(c), second = weight(c + kLanes);
    total += first + second;
    _mm512_storeu_si512(to + 2 * c, round_both(first, second));
  }
  if (c < n) {
    const Vec first = weight(c);
    total += first;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * c), _mm512_castsi512_si256(round_both(first, Vec{})));
  }
  sum += horizontal_sum(total);
}

// A run of keys: `k` has the panels from key `origin` on, `v` the pairs of rows from that key on, which is even. A row
// of scores holds weights in bf16 after softmax().
struct PairRun : KeySpan {
  const Pair *k, *v;
  PairRun narrowed(sdk::Run to, const Problem&) const { return {{to, origin}, k, v}; }
  void scores(const Problem& p, int64_t rows, const float* query, float* to) const {
    multiply_pair_columns(rows, columns(), p.d / 2, reinterpret_cast<const Pair*>(query), p.d_padded, k,
                          base() - origin, to, kTileKeys);
  }
  static void softmax(const Problem& p, float* score, int64_t n, float& top, float& sum, float* out) {
    softmax_row_bf16(score, n, p.query_factor(), top, sum, out, p.e_padded);
  }
  // The first key stands in `column`, whose parity is its own.
  void add_values(const Problem& p, int64_t rows, const float* score, int64_t column, float* out) const {
    const int64_t first = (keys.begin - origin) / 2 - column / 2;  // the pair of column 0
    multiply_range(rows, p.e, column, column + keys.size(), reinterpret_cast<const Pair*>(score), kTileKeys,
                   v + first * p.e, out, p.e_padded, true);
  }
};

// K and V packed as pairs, within the memory that f32 takes.
struct PackedPairs {
  static void pack(const ForwardCall& call, const ForwardMemory& memory, int64_t slot, int64_t b, int64_t head,
                   int64_t begin, int64_t end) {
    const Problem& p = call.problem;
    pack_pair_panels(call.ports.k, b, head, begin, end, k(memory, slot) + begin * p.d / 2);
    pack_pairs(call.ports.v, b, head, begin, end, v(memory, slot) + begin / 2 * p.e);
  }
  static void read(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t head, float* query) {
    copy_rows(call.problem, call.ports.q, tile, b, head, call.problem.d_padded, pairs_of(query));
  }
  static PairRun keys(const Problem&, const ForwardMemory& memory, int64_t slot, sdk::Run range) {
    return {{range, 0}, k(memory, slot), v(memory, slot)};
  }

 private:
  static Pair* k(const ForwardMemory& memory, int64_t slot) { return pairs_of(memory.k + slot * memory.k_stride); }
  static Pair* v(const ForwardMemory& memory, int64_t slot) { return pairs_of(memory.v + slot * memory.v_stride); }
};

}  // namespace tenon::sdk::flash

#endif
