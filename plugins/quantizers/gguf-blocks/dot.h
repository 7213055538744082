// Rows of blocks times activations without decoding them: d · Σ c x + m · Σ x for a block with scale d, minimum m and
// codes c. Half the work of decoding a run into the cache and multiplying it, for the types that files of small models
// hold.
#pragma once

#include <cstring>
#include <type_traits>

#include "quantizers/gguf-blocks/lanes.h"
#include "quantizers/gguf-blocks/small_blocks.h"
#include "sdk/intrinsics.h"

namespace tenon::gguf {

// Sixteen bytes as numbers. (The compiler takes a conversion of vectors apart into scalars.)
template <class Byte>
inline Lanes widen(const Byte* p) {
  Lanes out;
#if defined(__AVX512F__)
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  out.r[0] = _mm512_cvtepi32_ps(std::is_signed_v<Byte> ? _mm512_cvtepi8_epi32(b) : _mm512_cvtepu8_epi32(b));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8 * i));
    out.r[i] = _mm256_cvtepi32_ps(std::is_signed_v<Byte> ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
  }
#else
  for (int i = 0; i < 16; ++i) out.r[i / kRegister][i % kRegister] = static_cast<float>(p[i]);
#endif
  return out;
}

// level[code] for the low and the high nibbles of sixteen bytes; levels are first, first + 1, …
template <int First>
inline void nibbles(const uint8_t* p, Lanes& low, Lanes& high) {
#if defined(__AVX512F__)
  // A register holds all sixteen levels, and a permutation looks at the lowest four bits of a lane alone.
  const __m512 level = _mm512_add_ps(_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_ps(First));
  const __m512i b = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  low.r[0] = _mm512_permutexvar_ps(b, level);
  high.r[0] = _mm512_permutexvar_ps(_mm512_srli_epi32(b, 4), level);
#else
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  Bytes b;
  std::memcpy(&b, p, sizeof b);
  const Bytes l = b & 15, h = b >> 4;
  uint8_t both[32];
  std::memcpy(both, &l, 16), std::memcpy(both + 16, &h, 16);
  low = widen(both), high = widen(both + 16);
  if (First != 0) low = low + fill(First), high = high + fill(First);
#endif
}

// a · b + c, in one rounding where the CPU has the instruction.
inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
#if defined(__AVX512F__)
  return Lanes::map([&](int i) { return _mm512_fmadd_ps(a.r[i], b.r[i], c.r[i]); });
#elif defined(__FMA__)
  return Lanes::map([&](int i) { return _mm256_fmadd_ps(a.r[i], b.r[i], c.r[i]); });
#else
  return a * b + c;
#endif
}

inline float scale_at(const uint8_t* p) {
#if defined(__F16C__)
  return _cvtsh_ss(load16(p));
#else
  return load_f16(p);
#endif
}

// The codes of a block, in the order of its elements, its scale, and its minimum where it has one.
struct Codes {
  Lanes low, high;
  float scale, min;
};
inline Codes codes_of(Q4_0, const uint8_t* b) {
  Codes c{};
  nibbles<-8>(b + 2, c.low, c.high);
  c.scale = scale_at(b);
  return c;
}
inline Codes codes_of(Q4_1, const uint8_t* b) {
  Codes c{};
  nibbles<0>(b + 4, c.low, c.high);
  c.scale = scale_at(b), c.min = scale_at(b + 2);
  return c;
}
inline Codes codes_of(Q8_0, const uint8_t* b) {
  Codes c{};
  const auto* codes = reinterpret_cast<const int8_t*>(b + 2);
  c.low = widen(codes), c.high = widen(codes + 16);
  c.scale = scale_at(b);
  return c;
}

template <class Block, int T>
inline void add_block(const uint8_t* block, const float* const* x, int64_t at, Lanes* acc) {
  const Codes c = codes_of(Block{}, block);
  const Lanes scale = fill(c.scale), min = fill(c.min);
  for (int t = 0; t < T; ++t) {
    const Lanes x0 = load(x[t] + at), x1 = load(x[t] + at + 16);
    acc[t] = multiply_add(scale, multiply_add(c.high, x1, c.low * x0), acc[t]);
    if constexpr (std::is_same_v<Block, Q4_1>) acc[t] = multiply_add(min, x0 + x1, acc[t]);
  }
}

// out[t] = row · x[t] for T rows of activations. Blocks alternate between two sums, which hides the latency of an
// addition.
template <class Block, int T>
void dot_blocks(const uint8_t* row, int64_t blocks, const float* const* x, float* out) {
  static_assert(Block::kElements == 32);
  Lanes even[T] = {}, odd[T] = {};
  int64_t b = 0;
  for (; b + 1 < blocks; b += 2) {
    add_block<Block, T>(row + b * Block::kBytes, x, 32 * b, even);
    add_block<Block, T>(row + (b + 1) * Block::kBytes, x, 32 * (b + 1), odd);
  }
  if (b < blocks) add_block<Block, T>(row + b * Block::kBytes, x, 32 * b, even);
  for (int t = 0; t < T; ++t) out[t] = sum(even[t] + odd[t]);
}

// The same for 1, 2, 4 or 8 rows.
template <class Block>
void dot(const uint8_t* row, int64_t blocks, const float* const* x, int rows, float* out) {
  switch (rows) {
    case 1:
      return dot_blocks<Block, 1>(row, blocks, x, out);
    case 2:
      return dot_blocks<Block, 2>(row, blocks, x, out);
    case 4:
      return dot_blocks<Block, 4>(row, blocks, x, out);
    default:
      return dot_blocks<Block, 8>(row, blocks, x, out);
  }
}

}  // namespace tenon::gguf
