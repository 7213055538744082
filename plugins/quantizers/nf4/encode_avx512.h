// Encoding in AVX-512 for books whose thresholds lie so far apart (the normal distribution's, not the 4-bit floating point's) that cells
// of [-1, 1] of equal width hold one at most: the cell finds, in a table of 32 numbers that a register pair holds, what has to be added to
// the number for its rank to stand in the uppermost four bits.
#pragma once

#include "quantizers/nf4/code_books.h"
#include "sdk/groups_avx512.h"

namespace tenon::nf4 {

// A scaled element t counts in units of 2^-28, which is exact from 2^-5 on; no threshold is smaller. Its cell is round(15.4 t), from -15
// to 15; 15.4 because 16 cells of a unit would give +1 the cell of -1.
inline constexpr float kUnits = 0x1p28f, kCellsOfUnit = 15.4f;

struct Cells {
  alignas(64) uint32_t raise[32];  // by cell mod 32
  bool one_each;                   // threshold at most
};

constexpr Cells cells_of(const CodeBook& book) {
  const auto nearest = [](double x) { return static_cast<int>(x < 0 ? x - 0.5 : x + 0.5); };
  Cells c{};
  c.one_each = true;
  for (int cell = -15, rank = 0; cell <= 15; ++cell) {
    uint32_t& raise = c.raise[cell & 31];
    int here = 0;
    for (int k = 0; k < 15; ++k) {
      if (nearest(double{kCellsOfUnit} * book.threshold[k]) != cell) continue;
      // The first number above the threshold becomes the first of the next rank.
      raise = (static_cast<uint32_t>(k + 1) << 28) - (static_cast<uint32_t>(static_cast<int32_t>(book.threshold[k] * kUnits)) + 1);
      ++here, rank = k + 1;
    }
    if (here == 0)  // the middle of the cell becomes the middle of the rank
      raise = (static_cast<uint32_t>(rank) << 28) + (1u << 27) - static_cast<uint32_t>(static_cast<int32_t>(cell * (0x1p28 / kCellsOfUnit)));
    c.one_each = c.one_each && here <= 1;
  }
  for (const float threshold : book.threshold) c.one_each = c.one_each && (threshold < 0 ? -threshold : threshold) >= 0x1p-5f;
  return c;
}
template <const CodeBook& book>
alignas(64) inline constexpr Cells kCells = cells_of(book);

// Codes the blocks of x[0, n) that code_blocks takes, as it says.
template <const CodeBook& book, class T, class Rest>
int64_t encode_groups(const T* x, int64_t n, int64_t blocksize, uint8_t* codes, float* absmax, Rest rest) {
  static_assert(kCells<book>.one_each && book.rising);
  const __m512i low = _mm512_load_si512(kCells<book>.raise), high = _mm512_load_si512(kCells<book>.raise + 16);
  const auto ranked = [=](__m512 t) __attribute__((always_inline)) {
    // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
    const __m512 cell = _mm512_fmadd_ps(t, _mm512_set1_ps(kCellsOfUnit / kUnits), _mm512_set1_ps(0x1.8p23f));
    return _mm512_add_epi32(_mm512_cvtps_epi32(t), _mm512_permutex2var_epi32(low, _mm512_castps_si512(cell), high));
  };
  return sdk::code_blocks(x, n, blocksize, kUnits, absmax, [=](int64_t begin, int64_t count, auto factor_of) __attribute__((always_inline)) {
    for (int64_t i = begin; i < begin + count; i += sdk::kGroup) {
      sdk::fetch_ahead<1>(x + i);
      __m512 v[4];
      sdk::read_group<T, sdk::kInterleaves<T>>(x + i, v);
      const auto words = [&](__m512 a, __m512 b, __m512 factor) __attribute__((always_inline)) {
        return _mm512_srli_epi16(sdk::upper_halves<sdk::kInterleaves<T>>(ranked(_mm512_mul_ps(a, factor)), ranked(_mm512_mul_ps(b, factor))), 12);
      };
      const __m512i bytes = sdk::pack_words(words(v[0], v[1], factor_of(i)), words(v[2], v[3], factor_of(i + 32)));
      const __m512i pairs = _mm512_maddubs_epi16(bytes, _mm512_set1_epi16(0x0110));  // 16 · even + odd
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i / 2), _mm512_cvtepi16_epi8(pairs));
    }
  }, rest);
}

}  // namespace tenon::nf4
