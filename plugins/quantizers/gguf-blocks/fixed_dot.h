// Rows of blocks times activations in integers, for CPUs with VPDPBUSD (AVX512-VNNI): codes of four blocks at a time meet
// bytes of the activations, eight products of a block to a 32-bit sum.
//
// The activations of four blocks share one step, their largest magnitude / kLargest, and become whole numbers of 24 bits,
// which fall into signed bytes, the planes. So what is rounded before a product is a 2^-24th of the largest; sums of
// integers are exact, and blocks are added in f32 as everywhere.
#pragma once

#include <type_traits>

#include "quantizers/gguf-blocks/small_blocks.h"
#include "sdk/codec.h"
#include "sdk/intrinsics.h"

namespace tenon::gguf {

#if defined(__AVX512BW__)

inline bool has_fixed_dot() {
  static const bool has = __builtin_cpu_supports("avx512vnni");
  return has;
}

// sums += four products each of unsigned bytes a and signed bytes b. Written out because the instruction is beyond the
// level for which these objects are compiled.
inline __m512i add_products(__m512i sums, __m512i a, const void* b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "m"(*static_cast<const __m512i*>(b)));
  return sums;
}
inline __m512i add_products(__m512i sums, __m512i a, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  return sums;
}

// The first and the second halves of four blocks, as unsigned codes.
struct QuadCodes {
  __m512i half[2];
};

// How four blocks are read: their codes, and {scale, minimum} of each. kOffset: what an unsigned code is above its value;
// kMinFactor: what a block's minimum is multiplied with. Of the last four only `blocks` may be there: what is read beyond
// is 0, or any of them, and meets activations of 0. Quad(a, b): two blocks at a and two at b. scales(a, b): of two quads at once.
template <class Block>
struct Quad;

// A register that stays one: without this the compiler reads unaligned memory again for every use, and each read of a line's border counts twice.
inline __m512i held(__m512i v) {
  asm("" : "+v"(v));
  return v;
}

inline QuadCodes nibble_halves(__m512i bytes) {
  const __m512i mask = _mm512_set1_epi8(15);
  return {{_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask)}};
}

// Blocks of five 32-bit words: scale and minimum, then codes.
template <>
struct Quad<Q4_1> {
  static constexpr int kOffset = 0;
  static constexpr float kMinFactor = 1;
  QuadCodes codes;
  __m512i heads;  // in words 0, 5, 10 and 15
  Quad(const uint8_t* b, int blocks) {
    const int words = 5 * blocks;
    const __m512i first = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << std::min(words, 16)) - 1), b),
                  second = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << std::max(words - 4, 0)) - 1), b + 16);
    take(first, second);
  }
  explicit Quad(const uint8_t* b) { take(held(_mm512_loadu_si512(b)), _mm512_loadu_si512(b + 16)); }
  Quad(const uint8_t* a, const uint8_t* b) {
    const __m512i first = _mm512_maskz_loadu_epi32(0x3ff, a), second = _mm512_maskz_loadu_epi32(0x3ff, b);
    codes = nibble_halves(_mm512_permutex2var_epi32(first, _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 17, 18, 19, 20, 22, 23, 24, 25), second));
    heads = _mm512_permutex2var_epi32(first, _mm512_setr_epi32(0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 16, 0, 0, 0, 0, 21), second);
  }
  __m256 scales() const { return _mm512_castps512_ps256(scales(*this, *this)); }
  static __m512 scales(const Quad& a, const Quad& b) {
    const __m512i places = _mm512_setr_epi32(0, 5, 10, 15, 16, 21, 26, 31, 0, 0, 0, 0, 0, 0, 0, 0);
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi32(a.heads, places, b.heads)));
  }

 private:
  void take(__m512i first, __m512i second) {
    const __m512i places = _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 28, 29, 30, 31);
    codes = nibble_halves(_mm512_permutex2var_epi32(first, places, second));
    heads = first;
  }
};

// Blocks of nine 16-bit words: the scale, then codes. Codes − 8 are a minimum of −8 scales.
template <>
struct Quad<Q4_0> {
  static constexpr int kOffset = 0;
  static constexpr float kMinFactor = -8;
  QuadCodes codes;
  __m512i heads;  // in words 0, 9, 18 and 27
  Quad(const uint8_t* b, int blocks) {
    const int words = 9 * blocks;
    const auto lanes = [](int n) { return static_cast<__mmask32>((uint64_t{1} << std::clamp(n, 0, 32)) - 1); };
    take(_mm512_maskz_loadu_epi16(lanes(words), b), _mm512_maskz_loadu_epi16(lanes(words - 4), b + 8));
  }
  explicit Quad(const uint8_t* b) { take(held(_mm512_loadu_si512(b)), _mm512_loadu_si512(b + 8)); }
  Quad(const uint8_t* a, const uint8_t* b) {
    alignas(64) static constexpr uint16_t kPlaces[32] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 11, 12, 13, 14, 15, 16, 17,
                                                         33, 34, 35, 36, 37, 38, 39, 40, 42, 43, 44, 45, 46, 47, 48, 49};
    alignas(64) static constexpr uint16_t kHeads[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 41};
    const __m512i first = _mm512_maskz_loadu_epi16(0x3ffff, a), second = _mm512_maskz_loadu_epi16(0x3ffff, b);
    codes = nibble_halves(_mm512_permutex2var_epi16(first, _mm512_load_si512(kPlaces), second));
    heads = _mm512_permutex2var_epi16(first, _mm512_load_si512(kHeads), second);
  }
  __m256 scales() const { return _mm512_castps512_ps256(scales(*this, *this)); }
  static __m512 scales(const Quad& a, const Quad& b) {
    alignas(64) static constexpr uint16_t kPlaces[32] = {0, 0, 9, 9, 18, 18, 27, 27, 32, 32, 41, 41, 50, 50, 59, 59};
    return _mm512_cvtph_ps(_mm512_castsi512_si256(_mm512_permutex2var_epi16(a.heads, _mm512_load_si512(kPlaces), b.heads)));
  }

 private:
  void take(__m512i first, __m512i second) {
    alignas(64) static constexpr uint16_t kPlaces[32] = {1,  2,  3,  4,  5,  6,  7,  8,  10, 11, 12, 13, 14, 15, 16, 17,
                                                         19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31, 60, 61, 62, 63};
    codes = nibble_halves(_mm512_permutex2var_epi16(first, _mm512_load_si512(kPlaces), second));
    heads = first;
  }
};

// Codes + 128; what that adds is taken from the sums as integers.
template <>
struct Quad<Q8_0> {
  static constexpr int kOffset = 128;
  static constexpr float kMinFactor = 0;
  QuadCodes codes;
  __m128i heads;
  Quad(const uint8_t* b, int blocks) {
    take([=](int i) { return b + (i < blocks ? i : 0) * Q8_0::kBytes; });
  }
  explicit Quad(const uint8_t* b) : Quad(b, 4) {}
  Quad(const uint8_t* a, const uint8_t* b) {
    take([=](int i) { return (i < 2 ? a : b) + i % 2 * Q8_0::kBytes; });
  }
  __m256 scales() const { return _mm256_cvtph_ps(heads); }
  static __m512 scales(const Quad& a, const Quad& b) { return _mm512_cvtph_ps(_mm256_set_m128i(b.heads, a.heads)); }

 private:
  template <class At>
  void take(At at) {
    const auto pair = [&](int i) {
      const auto load = [&](int k) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at(k) + 2)); };
      return _mm512_inserti64x4(_mm512_castsi256_si512(load(i)), load(i + 1), 1);
    };
    const __m512i first = pair(0), second = pair(2), sign = _mm512_set1_epi8(static_cast<char>(0x80));
    codes.half[0] = _mm512_xor_si512(_mm512_shuffle_i64x2(first, second, 0x88), sign);
    codes.half[1] = _mm512_xor_si512(_mm512_shuffle_i64x2(first, second, 0xdd), sign);
    const auto head = [&](int i) { return static_cast<int64_t>(load16(at(i)) | static_cast<uint64_t>(load16(at(i + 1))) << 32); };
    heads = _mm_set_epi64x(head(2), head(0));
  }
};

inline constexpr int kPlanes = 3;

// Four blocks of activations: planes of both halves, the least significant first, what codes are too high by, and the
// factors of {scale, minimum} of each block: the step, and the block's sum.
template <bool kOffset>
struct alignas(64) FixedQuad {
  int8_t plane[kPlanes][2][64];
  float factor[8];
};
template <>
struct alignas(64) FixedQuad<true> {
  int8_t plane[kPlanes][2][64];
  int32_t offset[kPlanes][16];
  float factor[8];
};
template <class Block>
using FixedQuadOf = FixedQuad<Quad<Block>::kOffset != 0>;

// The quads of a row of n activations, a multiple of 32. Where one is no number, every product with its quad is none.
template <class Block, class X>
void fix(const X* x, int64_t n, FixedQuadOf<Block>* out) {
  constexpr float kLargest = 8355000.0f, kLeast = 0x1p-100f;  // 127 · (2^16 + 2^8 + 1), less what rounding may add
  for (int64_t at = 0; at < n; at += 128, ++out) {
    alignas(64) float values[128] = {};
    sdk::convert(x + at, values, std::min<int64_t>(128, n - at));
    const float top = sdk::absmax(values, 128);
    const bool finite = sdk::is_finite(top);
    const float step = finite ? std::max(top, kLeast) / kLargest : __builtin_nanf("");
    const __m512 by = _mm512_set1_ps(finite ? 1 / step : 0.0f);
    for (int block = 0; block < 4; ++block) {
      float sum = 0;
      for (int half = 0; half < 2; ++half) {
        const __m512 v = _mm512_load_ps(values + 32 * block + 16 * half);
        sum += _mm512_reduce_add_ps(v);
        __m512i q = _mm512_maskz_cvtps_epi32(finite ? 0xffff : 0, _mm512_mul_ps(v, by));
        for (int p = 0; p < kPlanes; ++p) {
          _mm_store_si128(reinterpret_cast<__m128i*>(out->plane[p][half] + 16 * block), _mm512_cvtepi32_epi8(q));
          q = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
        }
      }
      out->factor[2 * block] = step, out->factor[2 * block + 1] = Quad<Block>::kMinFactor * sum;
    }
    if constexpr (Quad<Block>::kOffset != 0)
      for (int p = 0; p < kPlanes; ++p) {
        const __m512i one = _mm512_set1_epi8(1);
        const __m512i sums = add_products(add_products(_mm512_setzero_si512(), one, out->plane[p][0]), one, out->plane[p][1]);
        _mm512_store_si512(out->offset[p], _mm512_mullo_epi32(sums, _mm512_set1_epi32(-Quad<Block>::kOffset)));
      }
  }
}

// The same in registers, for several rows of weights. twice: the first two blocks in the place of the last two.
template <bool kOffset>
struct HeldQuad {
  __m512i plane[kPlanes][2], offset[kPlanes];
  __m512 factor;  // for two rows
  explicit HeldQuad(const FixedQuad<kOffset>& x, bool twice = false) : factor(_mm512_broadcast_f32x8(_mm256_load_ps(x.factor))) {
    const auto get = [=](const void* p) {
      const __m512i v = _mm512_load_si512(p);
      return twice ? _mm512_shuffle_i64x2(v, v, 0x44) : v;
    };
    for (int p = 0; p < kPlanes; ++p) {
      for (int half = 0; half < 2; ++half) plane[p][half] = get(x.plane[p][half]);
      if constexpr (kOffset) offset[p] = get(x.offset[p]);
    }
    if (twice) factor = _mm512_shuffle_f32x4(factor, factor, 0);
  }
};

// Σ of code · activation in steps, for sixteen runs of eight, four runs a block.
template <bool kOffset>
__m512 multiply(const QuadCodes& codes, const FixedQuad<kOffset>& x) {
  const auto plane = [&](int p, __m512i sums) {
    return add_products(add_products(sums, codes.half[0], x.plane[p][0]), codes.half[1], x.plane[p][1]);
  };
  if constexpr (!kOffset) {  // 8 · 15 · 128 · 2^16 < 2^31
    __m512i sums = plane(kPlanes - 1, _mm512_setzero_si512());
    for (int p = kPlanes - 2; p >= 0; --p) sums = plane(p, _mm512_slli_epi32(sums, 8));
    return _mm512_cvtepi32_ps(sums);
  } else {  // 8 · 128 · 128 · 2^8 < 2^31, but not · 2^16
    const auto exact = [&](int p) { return plane(p, _mm512_load_si512(x.offset[p])); };
    const __m512 low = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(exact(1), 8), exact(0)));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact(2)), _mm512_set1_ps(65536), low);
  }
}

inline __m512i factor_lanes() { return _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6); }

// out[t] = row · x[t] for `rows` rows of activations, at most T; out has room for T.
template <class Block, int T>
void fixed_dot(const uint8_t* row, int64_t blocks, const FixedQuadOf<Block>* x, int rows, float* out) {
  const int64_t quads = sdk::ceil_div(blocks, 4);
  const __m512i lanes = factor_lanes();
  const FixedQuadOf<Block>* of[T];
  for (int t = 0; t < T; ++t) of[t] = x + (t < rows ? t : 0) * quads;
  __m512 sum[T];
  __m256 min[T];
  for (int t = 0; t < T; ++t) sum[t] = _mm512_setzero_ps(), min[t] = _mm256_setzero_ps();
  const auto add = [&](const Quad<Block>& w, int64_t at) {
    const __m256 scales = w.scales();
    for (int t = 0; t < T; ++t) {
      const auto& xt = of[t][at];
      const __m256 f = _mm256_mul_ps(scales, _mm256_load_ps(xt.factor));
      sum[t] = _mm512_fmadd_ps(multiply(w.codes, xt), _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(f)), sum[t]);
      min[t] = _mm256_add_ps(min[t], f);
    }
  };
  int64_t at = 0;
  for (; at < blocks / 4; ++at, row += 4 * Block::kBytes) add(Quad<Block>(row), at);
  if (blocks % 4 != 0) add(Quad<Block>(row, static_cast<int>(blocks % 4)), at);
  for (int t = 0; t < T; ++t) {
    const __m256 m = min[t];
    out[t] = _mm512_reduce_add_ps(sum[t]) + (Quad<Block>::kMinFactor != 0 ? (m[1] + m[3]) + (m[5] + m[7]) : 0.0f);
  }
}

inline constexpr int kRowsTogether = 4;

// multiply() of several rows step by step, to the same bits: a chain of products of one row alone would leave the units waiting.
template <bool kOffset, int kRows>
[[gnu::always_inline]] inline void multiply_rows(const QuadCodes* codes, const HeldQuad<kOffset>& x, __m512* out) {
  const auto plane = [&](int p, __m512i* sums) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
#pragma GCC unroll 4
      for (int w = 0; w < kRows; ++w) sums[w] = add_products(sums[w], codes[w].half[half], x.plane[p][half]);
  };
  __m512i sums[kRows];
  if constexpr (!kOffset) {
#pragma GCC unroll 4
    for (int w = 0; w < kRows; ++w) sums[w] = _mm512_setzero_si512();
    plane(kPlanes - 1, sums);
#pragma GCC unroll 4
    for (int p = kPlanes - 2; p >= 0; --p) {
#pragma GCC unroll 4
      for (int w = 0; w < kRows; ++w) sums[w] = _mm512_slli_epi32(sums[w], 8);
      plane(p, sums);
    }
#pragma GCC unroll 4
    for (int w = 0; w < kRows; ++w) out[w] = _mm512_cvtepi32_ps(sums[w]);
  } else {
    __m512i low[kRows];
    const auto begin = [&](int p, __m512i* s) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int w = 0; w < kRows; ++w) s[w] = x.offset[p];
      plane(p, s);
    };
    begin(1, low), begin(0, sums);
#pragma GCC unroll 4
    for (int w = 0; w < kRows; ++w) out[w] = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(low[w], 8), sums[w]));
    begin(2, sums);
#pragma GCC unroll 4
    for (int w = 0; w < kRows; ++w) out[w] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[w]), _mm512_set1_ps(65536), out[w]);
  }
}

// The products of kRows quads of weights, read by quad(w), with one of activations: products, and in factors, two rows in each, what scales and
// adds to them.
template <class Block, int kRows, class Read>
[[gnu::always_inline]] inline void quad_rows(const HeldQuad<Quad<Block>::kOffset != 0>& x, const Read& quad, __m512* products, __m512* scale,
                                             __m512* factors) {
  const __m512i first = factor_lanes(), second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  QuadCodes codes[kRows];
#pragma GCC unroll 4
  for (int w = 0; w < kRows; w += 2) {
    const Quad<Block> a = quad(w), b = quad(w + 1);
    const __m512 f = factors[w / 2] = _mm512_mul_ps(Quad<Block>::scales(a, b), x.factor);
    codes[w] = a.codes, codes[w + 1] = b.codes;
    scale[w] = _mm512_permutexvar_ps(first, f), scale[w + 1] = _mm512_permutexvar_ps(second, f);
  }
  multiply_rows<Quad<Block>::kOffset != 0, kRows>(codes, x, products);
}

// out[w][0] = row w · x for kRowsTogether rows of weights that follow each other. Activations are loaded once for all of them, their sums are
// added up together, and what follows the rows is on its way meanwhile. Where two blocks are left at the end, those of two rows make a quad.
template <class Block>
void fixed_rows(const uint8_t* weights, int64_t blocks, const FixedQuadOf<Block>* x, float (*out)[8]) {
  using Held = HeldQuad<Quad<Block>::kOffset != 0>;
  constexpr bool kMinima = Quad<Block>::kMinFactor != 0;
  constexpr int64_t kQuadBytes = 4 * Block::kBytes, kAhead = 12288;
  constexpr int kPairs = kRowsTogether / 2;
  const int64_t row_bytes = blocks * Block::kBytes;
  __m512 sum[kRowsTogether], tail[kPairs], products[kRowsTogether], scale[kRowsTogether];
  __m512 min[kPairs], tail_min = _mm512_setzero_ps(), factors[kPairs];
  for (int w = 0; w < kRowsTogether; ++w) sum[w] = _mm512_setzero_ps();
  for (int w = 0; w < kPairs; ++w) tail[w] = min[w] = _mm512_setzero_ps();
  const auto add = [&](const Held& held, const auto& quad) __attribute__((always_inline)) {
    quad_rows<Block, kRowsTogether>(held, quad, products, scale, factors);
#pragma GCC unroll 4
    for (int w = 0; w < kRowsTogether; ++w) sum[w] = _mm512_fmadd_ps(products[w], scale[w], sum[w]);
#pragma GCC unroll 4
    for (int w = 0; w < kPairs; ++w) min[w] = _mm512_add_ps(min[w], factors[w]);
  };
  int64_t at = 0;
  for (; at < blocks / 4; ++at) {
    const uint8_t* const next = weights + kAhead + at * kRowsTogether * kQuadBytes;
#pragma GCC unroll 16
    for (int64_t byte = 0; byte < kRowsTogether * kQuadBytes; byte += 64) _mm_prefetch(reinterpret_cast<const char*>(next + byte), _MM_HINT_T0);
    add(Held(x[at]), [&](int w) { return Quad<Block>(weights + w * row_bytes + at * kQuadBytes); });
  }
  const uint8_t* const last = weights + at * kQuadBytes;
  if (const int rest = static_cast<int>(blocks % 4); rest == 2) {
    quad_rows<Block, kPairs>(
        Held(x[at], true), [&](int w) { return Quad<Block>(last + 2 * w * row_bytes, last + (2 * w + 1) * row_bytes); }, products, scale, factors);
    for (int w = 0; w < kPairs; ++w) tail[w] = _mm512_mul_ps(products[w], scale[w]);
    tail_min = factors[0];
  } else if (rest != 0) {
    add(Held(x[at]), [&](int w) { return Quad<Block>(last + w * row_bytes, rest); });
  }
  // Halves are added until each row has one sum, in the first element of its quarter; a pair's tail has the form that two rows have after the
  // first of these steps.
  const auto halves = [](__m512 a, __m512 b) { return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0xee), _mm512_shuffle_f32x4(a, b, 0x44)); };
  const __m512 ab = _mm512_add_ps(halves(sum[0], sum[1]), tail[0]), cd = _mm512_add_ps(halves(sum[2], sum[3]), tail[1]);
  const __m512 quarters = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0xdd), _mm512_shuffle_f32x4(ab, cd, 0x88));
  const auto fold = [](__m512 v) { return _mm512_add_ps(v, _mm512_permute_ps(v, 0x4e)); };
  const __m512 pairs = fold(quarters);
  __m512 all = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
  if constexpr (kMinima) {  // in elements 1 and 3 of a row's two quarters
    const __m512 first = _mm512_add_ps(_mm512_shuffle_f32x4(min[0], min[1], 0x88), tail_min), second = _mm512_shuffle_f32x4(min[0], min[1], 0xdd);
    all = _mm512_add_ps(all, _mm512_permute_ps(_mm512_add_ps(fold(first), fold(second)), 0x55));
  }
  alignas(64) float sums[16];
  _mm512_store_ps(sums, all);
  for (int w = 0; w < kRowsTogether; ++w) out[w][0] = sums[4 * w];
}

#endif

// A type's products in fixed point, for up to 8 rows of activations.
struct FixedProduct {
  // Bytes of one row of n activations.
  int64_t (*bytes)(int64_t n) = nullptr;
  void (*fix)(const tn_tensor& x, int64_t rows, int64_t n, void* out) = nullptr;
  // out[w][t] = weights[w] · x[t] for `count` rows of n weights, one after the other.
  void (*dot)(const uint8_t* weights, int64_t count, int64_t n, const void* x, int rows, float (*out)[8]) = nullptr;
};

#if defined(__AVX512BW__)

template <class Block>
struct FixedProductOf {
  static int64_t quads(int64_t n) { return sdk::ceil_div(n, 128); }
  static int64_t bytes(int64_t n) { return quads(n) * static_cast<int64_t>(sizeof(FixedQuadOf<Block>)); }
  static void fix(const tn_tensor& x, int64_t rows, int64_t n, void* out) {
    sdk::with_float_type(x.dtype, "the input of a product", [&](auto type) {
      const auto* from = sdk::data<const decltype(type)>(x);
      auto* to = static_cast<FixedQuadOf<Block>*>(out);
      for (int64_t t = 0; t < rows; ++t) gguf::fix<Block>(from + t * n, n, to + t * quads(n));
    });
  }
  template <int T>
  static void dots(const uint8_t* weights, int64_t count, int64_t n, const void* x, int rows, float (*out)[8]) {
    const int64_t blocks = n / 32;
    int64_t w = 0;
    if constexpr (T == 1)
      for (; w + kRowsTogether <= count; w += kRowsTogether)
        fixed_rows<Block>(weights + w * blocks * Block::kBytes, blocks, static_cast<const FixedQuadOf<Block>*>(x), out + w);
    for (; w < count; ++w)
      fixed_dot<Block, T>(weights + w * blocks * Block::kBytes, blocks, static_cast<const FixedQuadOf<Block>*>(x), rows, out[w]);
  }
  static void dot(const uint8_t* weights, int64_t count, int64_t n, const void* x, int rows, float (*out)[8]) {
    if (rows == 1)
      dots<1>(weights, count, n, x, rows, out);
    else if (rows == 2)
      dots<2>(weights, count, n, x, rows, out);
    else if (rows <= 4)
      dots<4>(weights, count, n, x, rows, out);
    else
      dots<8>(weights, count, n, x, rows, out);
  }
};
template <class Block>
inline constexpr FixedProduct kFixedProduct{FixedProductOf<Block>::bytes, FixedProductOf<Block>::fix, FixedProductOf<Block>::dot};

#else

inline bool has_fixed_dot() { return false; }
template <class Block>
inline constexpr FixedProduct kFixedProduct{};

#endif

}  // namespace tenon::gguf
