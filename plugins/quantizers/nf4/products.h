// A block's sixteen products book·absmax, and 4-bit codes turned into them by one table permutation.
//
// The products are rounded to the storage type once a block, so a decoded value is exactly round(book·absmax). Two
// codes share a byte, the even element in the high nibble. Best implementation first; the last one is the plain form.
#pragma once

#include "sdk/dtype.h"
#include "sdk/intrinsics.h"

namespace tenon::nf4 {

template <class T>
T product(const float (&book)[16], float absmax, const uint8_t* codes, int64_t i) {
  return sdk::from_float<T>(book[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * absmax);
}

#if defined(__AVX512BW__)

// Sixteen f32 at a time.
struct FloatProducts {
  using Vector = __m512;
  static constexpr int kLanes = 16;
  __m512 table;

  FloatProducts(const float (&book)[16], float absmax)
      : table(_mm512_mul_ps(_mm512_loadu_ps(book), _mm512_set1_ps(absmax))) {}
  // A 64-bit lane per byte: the high nibble selects for its lower half, the low nibble for its upper half. The
  // permutation looks at the lowest four bits of an index only.
  Vector take(const uint8_t* codes) const {
    const __m512i q = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
    return _mm512_permutexvar_ps(_mm512_or_si512(_mm512_srli_epi64(q, 4), _mm512_slli_epi64(q, 32)), table);
  }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector fma(Vector w, const float* x, Vector acc) { return _mm512_fmadd_ps(w, _mm512_loadu_ps(x), acc); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static float sum(Vector a) { return _mm512_reduce_add_ps(a); }
};

// 16-bit values. The table stands twice in the register because an index is five bits wide, of which the fifth belongs to another code.
template <class T>
struct HalfProducts {
  static constexpr int kLanes = 32;
  __m512i table;

  HalfProducts(const float (&book)[16], float absmax) {
    const __m512 p = _mm512_mul_ps(_mm512_loadu_ps(book), _mm512_set1_ps(absmax));
    if constexpr (std::is_same_v<T, sdk::f16>) {
      table = _mm512_broadcast_i64x4(_mm512_cvtps_ph(p, _MM_FROUND_TO_NEAREST_INT));
    } else {
      alignas(64) static constexpr uint16_t kUpper[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                          1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
      const __m512i u = _mm512_castps_si512(p);
      const __m512i half = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fff), _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)),
                                                 _mm512_set1_epi32(0x8000));  // to nearest, ties to even
      table = _mm512_permutexvar_epi16(_mm512_load_si512(kUpper), _mm512_add_epi32(u, half));
    }
  }
  // Thirty-two values.
  __m512i take(const uint8_t* codes) const {
    const __m512i d = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    return _mm512_permutexvar_epi16(_mm512_or_si512(_mm512_srli_epi32(d, 4), _mm512_slli_epi32(d, 16)), table);
  }
  // Sixty-four: bytes are ordered so that interleaving even with odd elements in each 128 bits orders these.
  void take(const uint8_t* codes, __m512i& first, __m512i& second) const {
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)),
                                                      _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m512i words = _mm512_cvtepu8_epi16(bytes), even = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table),
                  odd = _mm512_permutexvar_epi16(words, table);
    first = _mm512_unpacklo_epi16(even, odd), second = _mm512_unpackhi_epi16(even, odd);
  }
};

inline void store(float* to, __m512 v) {
  _mm512_storeu_ps(to, v);
}
inline void store(void* to, __m512i v) {
  _mm512_storeu_si512(to, v);
}

#elif defined(__AVX2__) && defined(__F16C__)

// Eight f32 at a time: two permutations of half a table, chosen by the code's highest bit.
struct FloatProducts {
  using Vector = __m256;
  static constexpr int kLanes = 8;
  __m256 low, high;

  FloatProducts(const float (&book)[16], float absmax)
      : low(_mm256_mul_ps(_mm256_loadu_ps(book), _mm256_set1_ps(absmax))),
        high(_mm256_mul_ps(_mm256_loadu_ps(book + 8), _mm256_set1_ps(absmax))) {}
  Vector take(const uint8_t* codes) const {
    const __m256i q = _mm256_cvtepu8_epi64(_mm_loadu_si32(codes));
    const __m256i index = _mm256_or_si256(_mm256_srli_epi64(q, 4), _mm256_slli_epi64(q, 32));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector fma(Vector w, const float* x, Vector acc) { return _mm256_fmadd_ps(w, _mm256_loadu_ps(x), acc); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static float sum(Vector a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

// Thirty-two 16-bit values at a time: the table's low and high bytes are looked up apart and interleaved.
struct HalfVector {
  __m256i first, second;
};
template <class T>
struct HalfProducts {
  static constexpr int kLanes = 32;
  __m256i low, high;

  static __m128i round(__m256 p) {
    if constexpr (std::is_same_v<T, sdk::f16>) {
      return _mm256_cvtps_ph(p, _MM_FROUND_TO_NEAREST_INT);
    } else {
      const __m256i u = _mm256_castps_si256(p);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
      const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
      return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
    }
  }
  HalfProducts(const float (&book)[16], float absmax) {
    const __m256 a = _mm256_set1_ps(absmax);
    const __m128i p0 = round(_mm256_mul_ps(_mm256_loadu_ps(book), a)),
                  p1 = round(_mm256_mul_ps(_mm256_loadu_ps(book + 8), a));
    const __m128i byte = _mm_set1_epi16(0xff);
    low = _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_and_si128(p0, byte), _mm_and_si128(p1, byte)));
    high = _mm256_broadcastsi128_si256(_mm_packus_epi16(_mm_srli_epi16(p0, 8), _mm_srli_epi16(p1, 8)));
  }
  HalfVector take(const uint8_t* codes) const {
    const __m256i w = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m256i index =
        _mm256_or_si256(_mm256_srli_epi16(w, 4), _mm256_and_si256(_mm256_slli_epi16(w, 8), _mm256_set1_epi16(0x0f00)));
    const __m256i l = _mm256_shuffle_epi8(low, index), h = _mm256_shuffle_epi8(high, index);
    const __m256i a = _mm256_unpacklo_epi8(l, h), b = _mm256_unpackhi_epi8(l, h);
    return {_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
  }
};

inline void store(float* to, __m256 v) {
  _mm256_storeu_ps(to, v);
}
inline void store(void* to, HalfVector v) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), v.first);
  _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, v.second);
}

#else

template <class T>
struct PlainProducts {
  static constexpr int kLanes = 2;
  struct Vector {
    T v[2];
  };
  T table[16];

  PlainProducts(const float (&book)[16], float absmax) {
    for (int i = 0; i < 16; ++i) table[i] = sdk::from_float<T>(book[i] * absmax);
  }
  Vector take(const uint8_t* codes) const { return {table[*codes >> 4], table[*codes & 15]}; }
  static Vector zero() { return {}; }
  static Vector fma(Vector w, const float* x, Vector acc) {
    return {acc.v[0] + w.v[0] * x[0], acc.v[1] + w.v[1] * x[1]};
  }
  static Vector add(Vector a, Vector b) { return {a.v[0] + b.v[0], a.v[1] + b.v[1]}; }
  static float sum(Vector a) { return a.v[0] + a.v[1]; }
};
using FloatProducts = PlainProducts<float>;
template <class T>
using HalfProducts = PlainProducts<T>;

template <class T>
void store(T* to, typename PlainProducts<T>::Vector v) {
  to[0] = v.v[0], to[1] = v.v[1];
}

#endif

template <class T>
struct ProductsOf {
  using type = HalfProducts<T>;
};
template <>
struct ProductsOf<float> {
  using type = FloatProducts;
};

// dst[0, end - begin) = elements [begin, end) of one block of scale `absmax`; `codes` are the tensor's.
template <class T>
void decode_run(const float (&book)[16], float absmax, const uint8_t* codes, int64_t begin, int64_t end, T* dst) {
  using Products = typename ProductsOf<T>::type;
  const Products products(book, absmax);
  int64_t i = begin;
  if (i < end && i % 2) *dst++ = product<T>(book, absmax, codes, i), ++i;
#if defined(__AVX512BW__)
  if constexpr (sizeof(T) == 2)
    for (; i + 64 <= end; i += 64, dst += 64) {
      __m512i first, second;
      products.take(codes + i / 2, first, second);
      store(dst, first), store(dst + 32, second);
    }
#endif
  for (; i + Products::kLanes <= end; i += Products::kLanes, dst += Products::kLanes)
    store(dst, products.take(codes + i / 2));
  for (; i < end; ++i) *dst++ = product<T>(book, absmax, codes, i);
}

}  // namespace tenon::nf4
