// Products of bf16 with f32 sums by VDPBF16PS (AVX512_BF16), twice as many a cycle as in f32. The instruction is beyond
// the level for which these objects are compiled: has_pairs() asks the CPU.
//
// A Pair holds two neighbours along the summed axis, the first in its lower half. Layouts are those of gemm.h with
// pairs in place of numbers, so that k counts pairs: A row-major or transposed, B in panels or row-major.
#pragma once

#include <algorithm>

#include "sdk/intrinsics.h"
#include "sdk/panel/gemm.h"
#include "sdk/panel/pack.h"

#if defined(__AVX512BW__)

namespace tenon::sdk::panel {

using Pair [[gnu::may_alias]] = uint32_t;

inline bool has_pairs() {
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
}
inline Pair* pairs_of(float* p) {
  return reinterpret_cast<Pair*>(p);
}

// What gemm.h multiplies here.
struct Pairs {
  using Number = Pair;
  using Row = __m512i;
  TN_FN static Row row(const Pair* b) { return _mm512_loadu_si512(b); }
  TN_FN static Row every(Pair a) { return _mm512_set1_epi32(static_cast<int>(a)); }
  TN_FN static void add_product(Vec& sum, Row a, Row b) { asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b)); }
};

// C [m, n] (+)= A · B of k pairs; B is row-major [k, n], n a multiple of kLanes.
template <bool Transposed>
inline void multiply_pairs(int64_t m, int64_t n, int64_t k, const Pair* a, int64_t lda, const Pair* b, float* c,
                           int64_t ldc, bool add) {
  multiply_of<Pairs, Transposed>(m, n, k, a, lda, b, n, kPanel, c, ldc, add);
}

// The same for the numbers [begin, end) of the summed axis, with A row-major: what lies beside them in a pair of B is
// taken as 0, whatever it is, and has to be 0 in A.
inline void multiply_range(int64_t m, int64_t n, int64_t begin, int64_t end, const Pair* a, int64_t lda, const Pair* b,
                           float* c, int64_t ldc, bool add) {
  const auto half = [&](int64_t pair, Pair mask) {
    alignas(64) Pair row[kMaxWidth];
    for (int64_t i = 0; i < n; ++i) row[i] = b[pair * n + i] & mask;
    multiply_pairs<false>(m, n, 1, a + pair, lda, row, c, ldc, add), add = true;
  };
  if (begin < end && begin % 2) half(begin / 2, 0xffff0000), ++begin;
  if (begin < end && end % 2) half(end / 2, 0x0000ffff), --end;
  if (begin < end) multiply_pairs<false>(m, n, (end - begin) / 2, a + begin / 2, lda, b + begin / 2 * n, c, ldc, add);
}

// C = A · columns [column, column + n) of B in panels [k, kPanel]; both are multiples of kLanes.
inline void multiply_pair_columns(int64_t m, int64_t n, int64_t k, const Pair* a, int64_t lda, const Pair* panels,
                                  int64_t column, float* c, int64_t ldc) {
  multiply_columns_of<Pairs>(m, n, k, a, lda, panels, column, c, ldc);
}

// 16 pairs of a number of each.
TN_FN __m512i interleave(const void* first, const void* second) {
  const auto words = [](const void* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  };
  return _mm512_or_si512(words(first), _mm512_slli_epi32(words(second), 16));
}

// Rows of bf16, n a multiple of kLanes, as pairs of a number of each; null is a row of zeros.
inline void pair_rows(const void* first, const void* second, int64_t n, Pair* to) {
  alignas(64) static constexpr uint16_t kZeros[kMaxWidth] = {};
  const auto *a = static_cast<const uint16_t*>(first), *b = second ? static_cast<const uint16_t*>(second) : kZeros;
  for (int64_t c = 0; c < n; c += kLanes) _mm512_storeu_si512(to + c, interleave(a + c, b + c));
}

// Rows [begin, end) of one head, begin even, as pairs of rows: [⌈(end − begin) / 2⌉, width].
inline void pack_pairs(const HeadRows& x, int64_t b, int64_t h, int64_t begin, int64_t end, Pair* to) {
  for (int64_t t = begin; t < end; t += 2, to += x.width) {
    if (t + kAhead + 1 < end) x.prefetch(b, t + kAhead, h), x.prefetch(b, t + kAhead + 1, h);
    pair_rows(x.at(b, t, h), t + 1 < end ? x.at(b, t + 1, h) : nullptr, x.width, to);
  }
}

// Rows [begin, end) of one head transposed into panels [width / 2, kPanel] of pairs along the width, the last one
// filled up with zeros.
inline void pack_pair_panels(const HeadRows& x, int64_t b, int64_t h, int64_t begin, int64_t end, Pair* to) {
  const int64_t pairs = x.width / 2;
  for (int64_t t = begin; t < begin + round_up(end - begin, kPanel); t += kLanes) {
    Pair* panel = to + (t - begin) / kPanel * kPanel * pairs + (t - begin) % kPanel;
    for (int64_t i = 0; i < kLanes && t + i + kAhead < end; ++i) x.prefetch(b, t + i + kAhead, h);
    for (int64_t c = 0; c < pairs; c += kLanes) {
      const int64_t n = std::min(kLanes, pairs - c);
      Vec block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) {
        block[i] = Vec{};
        if (t + i < end) std::memcpy(&block[i], static_cast<const Pair*>(x.at(b, t + i, h)) + c, n * sizeof(Pair));
      }
      transpose(block);
      for (int64_t i = 0; i < n; ++i) std::memcpy(panel + (c + i) * kPanel, &block[i], sizeof(Vec));
    }
  }
}

// Both rounded to bf16: the first in the lower half, the second in the upper.
TN_FN __m512i round_both(__m512 first, __m512 second) {
  __m512i out;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(out) : "v"(first), "v"(second));
  return out;
}
// What round_both() left, as pairs of a number of each.
TN_FN __m512i interleave_halves(__m512i both) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both);
}

}  // namespace tenon::sdk::panel

#endif
