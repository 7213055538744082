#include "devices/onednn/long_sum.h"

#include <algorithm>

#include "sdk/panel/pairs.h"

namespace tenon::onednn {

#if defined(__AVX512BW__)

namespace {

using sdk::panel::Pair;

constexpr int64_t kNarrow = 64, kLeastTerms = 128, kLanes = 16;
constexpr int64_t kWidth = 64;   // columns of the wide operand that are multiplied together
constexpr int64_t kChunk = 128;  // pairs of its rows, which then stay in the first cache

// C, or its transpose: narrow [terms, few], wide [terms, many].
struct Sides {
  int64_t few, many, narrow_stride, wide_stride, c_few, c_many;
  bool a_is_wide;
};

Sides sides_of(const Problem& p) {
  if (p.m <= p.n) return {p.m, p.n, p.a_col, p.b_row, p.c_row, p.c_col, false};
  return {p.n, p.m, p.b_row, p.a_col, p.c_col, p.c_row, true};
}

// Of C, from sums [few, columns]: alpha times them, and what is there.
void add_to(const Sides& s, const float* sum, int64_t columns, float alpha, bool adds, float* c) {
  for (int64_t i = 0; i < s.few; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      float& y = c[i * s.c_few + j * s.c_many];
      y = (adds ? y : 0.0f) + alpha * sum[i * kWidth + j];
    }
}

}  // namespace

bool is_long_sum(const Problem& p, bool in_bf16) {
  const int64_t few = std::min(p.m, p.n), many = std::max(p.m, p.n);
  return in_bf16 && p.a == Storage::kBF16 && p.b == Storage::kBF16 && p.c == Storage::kF32 && p.bias == Storage::kNone && p.batch_axes == 0 &&
         !p.packed_b && !p.swapped && few <= kNarrow && many >= 2 * few && many % kLanes == 0 && p.k >= kLeastTerms && p.a_row == 1 && p.a_col >= p.m &&
         p.b_col == 1 && p.b_row >= p.n && p.beta != Factor::kOther && sdk::panel::has_pairs();
}

uint64_t long_sum_bytes(const Problem& p) { return static_cast<uint64_t>((p.k + 1) / 2 * std::min(p.m, p.n)) * sizeof(Pair); }

void run_long_sum(const Problem& p, const Pointers& q, void* workspace) {
  const Sides s = sides_of(p);
  const auto* const wide = static_cast<const uint16_t*>(s.a_is_wide ? q.a : q.b);
  const auto* const narrow = static_cast<const uint16_t*>(s.a_is_wide ? q.b : q.a);
  auto* const pairs = static_cast<Pair*>(workspace);
  const int64_t n_pairs = (p.k + 1) / 2, panels = (s.many + kWidth - 1) / kWidth;
  for (int64_t t = 0; t < n_pairs; ++t) {
    const uint16_t* const first = narrow + 2 * t * s.narrow_stride;
    const uint16_t* const second = 2 * t + 1 < p.k ? first + s.narrow_stride : nullptr;
    const int64_t whole = s.few / kLanes * kLanes;
    sdk::panel::pair_rows(first, second, whole, pairs + t * s.few);
    for (int64_t i = whole; i < s.few; ++i) pairs[t * s.few + i] = first[i] | (second ? static_cast<Pair>(second[i]) << 16 : 0);
  }
#pragma omp parallel for schedule(static)
  for (int64_t panel = 0; panel < panels; ++panel) {
    alignas(64) Pair rows[kChunk * kWidth];
    alignas(64) float sum[kNarrow * kWidth];
    const int64_t column = panel * kWidth, columns = std::min(kWidth, s.many - column);
    for (int64_t begin = 0; begin < n_pairs; begin += kChunk) {
      const int64_t count = std::min(kChunk, n_pairs - begin);
      for (int64_t t = 0; t < count; ++t) {
        const int64_t row = 2 * (begin + t);
        const uint16_t* const at = wide + row * s.wide_stride + column;
        sdk::panel::pair_rows(at, row + 1 < p.k ? at + s.wide_stride : nullptr, columns, rows + t * columns);
      }
      sdk::panel::multiply_pairs<true>(s.few, columns, count, pairs + begin * s.few, s.few, rows, sum, kWidth, begin > 0);
    }
    add_to(s, sum, columns, static_cast<float>(q.alpha), p.beta == Factor::kOne, static_cast<float*>(q.c) + column * s.c_many);
  }
}

#else

bool is_long_sum(const Problem&, bool) { return false; }
uint64_t long_sum_bytes(const Problem&) { return 0; }
void run_long_sum(const Problem&, const Pointers&, void*) {}

#endif

}  // namespace tenon::onednn
