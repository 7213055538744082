// The dynamic codes of dynamic_map.h in AVX-512, by registers instead of gathers; included by dynamic_codec.h.
#pragma once

#include <type_traits>

#include "sdk/dynamic_map.h"
#include "sdk/for_each.h"
#include "sdk/intrinsics.h"

namespace tenon::sdk {

#define TN_INLINE __attribute__((always_inline))  // the tables live in registers only where everything is one function

// Values of 32 codes at a time. Two halves of an f32 are looked up apart, by two-register permutes and blends. Of the
// signed book the magnitudes suffice: value 127 + k and 127 - k differ in sign.
struct Halves {
  uint16_t low[256], high[256];
};
constexpr Halves halves(const DynamicBook& book, int first, int n) {
  Halves h{};
  for (int i = 0; i < n; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(book.value[first + i]);
    h.low[i] = static_cast<uint16_t>(bits), h.high[i] = static_cast<uint16_t>(bits >> 16);
  }
  return h;
}
alignas(64) inline constexpr Halves kSignedMagnitudes = halves(kDynamicSigned, kDynamicSignedZero, 128),
                                    kUnsignedValues = halves(kDynamicUnsigned, 0, 256);

template <bool Signed>
struct DynamicValues;

template <>
struct DynamicValues<true> {
  __m512i low[4], high[4];
  TN_FN DynamicValues() {
    for (int i = 0; i < 4; ++i)
      low[i] = _mm512_load_si512(kSignedMagnitudes.low + 32 * i),
      high[i] = _mm512_load_si512(kSignedMagnitudes.high + 32 * i);
  }
  // Codes as words in, halves of their values as words out.
  TN_FN void look_up(__m512i code, __m512i& l, __m512i& h) const {
    const __m512i distance = _mm512_sub_epi16(code, _mm512_set1_epi16(kDynamicSignedZero)),
                  k = _mm512_abs_epi16(distance);
    const __mmask32 bit6 = _mm512_test_epi16_mask(k, _mm512_set1_epi16(64)),
                    is_one = _mm512_test_epi16_mask(k, _mm512_set1_epi16(128));
    l = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(low[0], k, low[1]),
                                _mm512_permutex2var_epi16(low[2], k, low[3]));
    h = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(high[0], k, high[1]),
                                _mm512_permutex2var_epi16(high[2], k, high[3]));
    h = _mm512_mask_mov_epi16(h, is_one, _mm512_set1_epi16(0x3f80));  // code 255; the lower half is 0's, as it should
    constexpr int kXorAnd = 0x78;                                     // a ^ (b & c)
    h = _mm512_ternarylogic_epi32(h, distance, _mm512_set1_epi16(static_cast<int16_t>(0x8000)), kXorAnd);
  }
};

template <>
struct DynamicValues<false> {
  __m512i low[8], high[8];
  TN_FN DynamicValues() {
    for (int i = 0; i < 8; ++i)
      low[i] = _mm512_load_si512(kUnsignedValues.low + 32 * i),
      high[i] = _mm512_load_si512(kUnsignedValues.high + 32 * i);
  }
  TN_FN void look_up(__m512i code, __m512i& l, __m512i& h) const {
    const __mmask32 bit6 = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64)),
                    bit7 = _mm512_test_epi16_mask(code, _mm512_set1_epi16(128));
    l = pick(low, code, bit6, bit7), h = pick(high, code, bit6, bit7);
  }

 private:
  static TN_FN __m512i pick(const __m512i* t, __m512i code, __mmask32 bit6, __mmask32 bit7) {
    const __m512i a = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(t[0], code, t[1]),
                                              _mm512_permutex2var_epi16(t[2], code, t[3]));
    const __m512i b = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(t[4], code, t[5]),
                                              _mm512_permutex2var_epi16(t[6], code, t[7]));
    return _mm512_mask_blend_epi16(bit7, a, b);
  }
};

// The values of 64 codes, in the orders of bf16_avx512.h. With AVX512-VBMI bytes of the values are looked up, for 64
// codes at once; the instruction is written out because it is beyond the level for which these objects are compiled.
inline bool has_vbmi() {
  return __builtin_cpu_supports("avx512vbmi");
}

template <bool Signed>
struct ByteTables {
  static constexpr int kRegisters = Signed ? 2 : 4;
  alignas(64) uint8_t plane[4][64 * kRegisters];
};
template <bool Signed>
constexpr ByteTables<Signed> byte_tables() {
  const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
  ByteTables<Signed> t{};
  for (int i = 0; i < 64 * ByteTables<Signed>::kRegisters; ++i)
    for (int k = 0; k < 4; ++k)
      t.plane[k][i] = static_cast<uint8_t>(
          std::bit_cast<uint32_t>(book.value[i + (Signed ? kDynamicSignedZero : kDynamicUnsignedZero)]) >> 8 * k);
  return t;
}
template <bool Signed>
alignas(64) inline constexpr ByteTables<Signed> kByteTables = byte_tables<Signed>();

TN_FN __m512i look_up_bytes(__m512i index, const uint8_t* table) {
  asm("vpermi2b %2, %1, %0" : "+v"(index) : "v"(_mm512_load_si512(table)), "vm"(_mm512_load_si512(table + 64)));
  return index;
}
TN_FN __m512i look_up_bytes(__m512i index, __mmask64 lanes, const uint8_t* table) {
  asm("vpermi2b %3, %2, %0%{%1%}"
      : "+v"(index)
      : "Yk"(lanes), "v"(_mm512_load_si512(table)), "vm"(_mm512_load_si512(table + 64)));
  return index;
}

template <bool Signed>
TN_FN void look_up_planes(__m512i code, __m512i (&plane)[4]) {
  const auto& t = kByteTables<Signed>.plane;
  if constexpr (Signed) {
    const __m512i distance = _mm512_sub_epi8(code, _mm512_set1_epi8(kDynamicSignedZero)), k = _mm512_abs_epi8(distance);
    const __mmask64 is_one = _mm512_movepi8_mask(k);  // code 255, of which 0 is found
    for (int i = 0; i < 4; ++i) plane[i] = look_up_bytes(k, t[i]);
    constexpr int kXorAnd = 0x78;  // a ^ (b & c)
    plane[3] = _mm512_ternarylogic_epi32(plane[3], distance, _mm512_set1_epi8(static_cast<char>(0x80)), kXorAnd);
    plane[3] = _mm512_mask_mov_epi8(plane[3], is_one, _mm512_set1_epi8(0x3f));
    plane[2] = _mm512_mask_mov_epi8(plane[2], is_one, _mm512_set1_epi8(static_cast<char>(0x80)));
  } else {
    // The first look-up leaves the index in the lanes of the second.
    const __mmask64 upper = _mm512_movepi8_mask(code), lower = _knot_mask64(upper);
    for (int i = 0; i < 4; ++i) plane[i] = look_up_bytes(look_up_bytes(code, lower, t[i]), upper, t[i] + 128);
  }
}

// In lane L of 128 bits the elements that lane L of the four results will hold.
template <bool Interleaved>
TN_FN __m512i lane_order(__m512i codes) {
  if constexpr (Interleaved) return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), codes);
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), codes);
}

template <bool Interleaved, bool Vbmi, bool Signed>
TN_FN void decode_64(const uint8_t* codes, __m512 (&out)[4]) {
  const __m512i all = _mm512_loadu_si512(codes);
  __m512i low, high;
  const auto join = [&](__m512(&o)[4], int at) {
    o[at] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
    o[at + 1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
  };
  if constexpr (Vbmi) {
    __m512i plane[4];
    look_up_planes<Signed>(lane_order<Interleaved>(all), plane);
    low = _mm512_unpacklo_epi8(plane[0], plane[1]), high = _mm512_unpacklo_epi8(plane[2], plane[3]);
    join(out, 0);
    low = _mm512_unpackhi_epi8(plane[0], plane[1]), high = _mm512_unpackhi_epi8(plane[2], plane[3]);
    join(out, 2);
  } else {
    const DynamicValues<Signed> values;
    for (int at = 0; at < 4; at += 2) {
      __m512i words = _mm512_cvtepu8_epi16(at ? _mm512_extracti64x4_epi64(all, 1) : _mm512_castsi512_si256(all));
      if constexpr (!Interleaved) words = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
      values.look_up(words, low, high);
      join(out, at);
    }
  }
}

// 64 codes as bytes, back in the order of elements.
template <bool Interleaved>
TN_FN void store_codes(const __m512i (&code)[4], uint8_t* to) {
  const __m512i bytes =
      _mm512_packus_epi16(_mm512_packus_epi32(code[0], code[1]), _mm512_packus_epi32(code[2], code[3]));
  _mm512_storeu_si512(to, Interleaved ? _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), bytes)
                                      : lane_order<false>(bytes));
}

// Runs body(i, whole, lanes) for every 32 elements; only the last, shorter group is masked: masked stores are slow on
// some CPUs.
template <class Body>
TN_FN void by_32(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) body(i, std::true_type{}, 0xffffffffu);
  if (i < n) body(i, std::false_type{}, (1u << (n - i)) - 1);
}

template <bool Signed>
void decode_dynamic(const Block&, const uint8_t* codes, float scale, float* out, int64_t n) {
  const DynamicValues<Signed> values;
  const __m512 factor = _mm512_set1_ps(scale);
  by_32(n, [&](int64_t i, auto whole, __mmask32 lanes) TN_INLINE {
    const __m256i bytes = whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i))
                                : _mm256_maskz_loadu_epi8(lanes, codes + i);
    __m512 first, second;
    __m512i low, high;
    const __m512i words =
        _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_cvtepu8_epi16(bytes));
    values.look_up(words, low, high);
    first = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, high));
    second = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, high));
    first = _mm512_mul_ps(first, factor), second = _mm512_mul_ps(second, factor);
    if constexpr (whole) {
      _mm512_storeu_ps(out + i, first);
      _mm512_storeu_ps(out + i + 16, second);
    } else {
      _mm512_mask_storeu_ps(out + i, static_cast<__mmask16>(lanes), first);
      _mm512_mask_storeu_ps(out + i + 16, static_cast<__mmask16>(lanes >> 16), second);
    }
  });
}

// Between the edges of two decades the code is the integer part of a line in |x|. Only a number closer to an integer
// than rounding can move the line is looked up. Lines are kept in units of 2^-16 codes, so that a conversion to
// integers gives the code in the upper half and the distance to it in the lower. Nine pieces: 0, seven decades, 1.
struct Pieces {
  int32_t of_octave[32];  // the piece in which an octave (exponent mod 32) begins …
  float bound[32];        // … and the |x| behind which it continues in the next one
  float slope[16], offset[16];
  int32_t last[16];  // the largest of the piece
};
inline constexpr int kFraction = 65536, kUnsure = 2;  // lines are raised by kUnsure, so that what is near an integer
                                                      // lies less than 2 · kUnsure above one
constexpr Pieces make_pieces(bool is_signed) {
  const DynamicBook& book = is_signed ? kDynamicSigned : kDynamicUnsigned;
  const int zero = is_signed ? kDynamicSignedZero : kDynamicUnsignedZero;
  Pieces p{};
  p.offset[0] = 0.5f * kFraction;
  double power = 1e6;
  for (int i = 0; i < 7; ++i, power /= 10) {
    const int cells = 1 << (is_signed ? i : i + 1), first = is_signed ? cells : cells - 1;
    p.slope[i + 1] = static_cast<float>(kFraction * power * cells / 0.9);
    p.offset[i + 1] = static_cast<float>(kFraction * (first - cells / 9.0) + kUnsure);
    p.last[i + 1] = first + cells - 1;
  }
  p.last[8] = p.last[7] + 1;
  p.offset[8] = (static_cast<float>(p.last[8]) + 0.5f) * kFraction;
  for (uint32_t exponent = 96; exponent < 128; ++exponent) {
    const float begin = std::bit_cast<float>(exponent << 23), end = std::bit_cast<float>((exponent + 1) << 23);
    int at = 0;
    while (at < 8 && book.edge[zero + p.last[at]] < begin) ++at;
    p.of_octave[exponent % 32] = at;
    p.bound[exponent % 32] = at < 8 && book.edge[zero + p.last[at]] < end ? book.edge[zero + p.last[at]] : 4.0f;
  }
  return p;
}
alignas(64) inline constexpr Pieces kSignedPieces = make_pieces(true), kUnsignedPieces = make_pieces(false);

// The lanes of `unsure` by the table.
template <bool Signed, bool KeepSign>
__attribute__((noinline)) __m512i look_up_codes(const DynamicEncoder<Signed>& encoder, __m512 value, float unit,
                                                __m512i codes, __mmask16 unsure) {
  alignas(64) float values[16];
  alignas(64) int32_t result[16];
  _mm512_store_ps(values, value), _mm512_store_si512(result, codes);
  for (uint32_t rest = unsure; rest; rest &= rest - 1) {
    const int i = std::countr_zero(rest);
    const uint8_t code = encoder(values[i] / unit);
    result[i] = KeepSign ? kept_negative(code, values[i]) : code;
  }
  return _mm512_load_si512(result);
}

// The codes of 16 values / unit as numbers of 32 bits; below 0 where 0 is meant (packing saturates).
template <bool Signed, bool KeepSign>
class DynamicCodes {
 public:
  TN_FN DynamicCodes(const DynamicEncoder<Signed>& encoder) : encoder_(encoder) {
    const Pieces& p = Signed ? kSignedPieces : kUnsignedPieces;
    octave_low_ = _mm512_load_si512(p.of_octave), octave_high_ = _mm512_load_si512(p.of_octave + 16);
    last_ = _mm512_load_si512(p.last);
    bound_low_ = _mm512_load_ps(p.bound), bound_high_ = _mm512_load_ps(p.bound + 16);
    slope_ = _mm512_load_ps(p.slope), offset_ = _mm512_load_ps(p.offset);
  }
  // `unsure` answers the lanes that settle() must look up.
  TN_FN __m512i operator()(__m512 value, float unit, __mmask16& unsure) const {
    const __m512i bits = _mm512_castps_si512(_mm512_div_ps(value, _mm512_set1_ps(unit))),
                  magnitude = Signed ? _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)) : bits;
    const __m512i size = _mm512_max_epi32(magnitude, _mm512_set1_epi32(104 << 23));
    const __m512 a = _mm512_castsi512_ps(size);
    const __m512i octave = _mm512_srli_epi32(size, 23);
    const __m512 bound = _mm512_permutex2var_ps(bound_low_, octave, bound_high_);
    __m512i piece = _mm512_permutex2var_epi32(octave_low_, octave, octave_high_);
    piece = _mm512_mask_add_epi32(piece, _mm512_cmp_ps_mask(a, bound, _CMP_GT_OQ), piece, _mm512_set1_epi32(1));
    const __m512i line = _mm512_cvttps_epi32(
        _mm512_fmadd_ps(a, _mm512_permutexvar_ps(piece, slope_), _mm512_permutexvar_ps(piece, offset_)));
    unsure = _mm512_testn_epi32_mask(line, _mm512_set1_epi32((kFraction - 1) & ~(2 * kUnsure - 1)));
    if (Signed)
      unsure |= _mm512_cmp_ps_mask(
          a, bound, _CMP_EQ_OQ);  // of two equally near values the lower is due: it depends on the sign which
    __m512i code = _mm512_min_epi32(_mm512_srli_epi32(line, 16), _mm512_permutexvar_epi32(piece, last_));
    if constexpr (Signed) {
      const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
      const __m512i zero = _mm512_set1_epi32(kDynamicSignedZero);
      if (KeepSign) code = _mm512_mask_max_epi32(code, negative, code, _mm512_set1_epi32(1));
      code = _mm512_mask_sub_epi32(_mm512_add_epi32(code, zero), negative, zero, code);
    }
    return code;
  }
  TN_FN __m512i settle(__m512i code, __m512 value, float unit, __mmask16 unsure) const {
    return unsure ? look_up_codes<Signed, KeepSign>(encoder_, value, unit, code, unsure) : code;
  }

 private:
  const DynamicEncoder<Signed>& encoder_;
  __m512i octave_low_, octave_high_, last_;
  __m512 bound_low_, bound_high_, slope_, offset_;
};

template <bool Signed, bool KeepSign = false>
void encode_dynamic(const Block&, const DynamicEncoder<Signed>& encoder, const float* values, float unit,
                    uint8_t* codes, int64_t n) {
  const DynamicCodes<Signed, KeepSign> code_of(encoder);
  by_32(n, [&](int64_t i, auto whole, __mmask32 lanes) TN_INLINE {
    __m512 first, second;
    if constexpr (whole) {
      first = _mm512_loadu_ps(values + i), second = _mm512_loadu_ps(values + i + 16);
    } else {
      first = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), values + i);
      second = _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes >> 16), values + i + 16);
    }
    __mmask16 unsure_first, unsure_second;
    __m512i low = code_of(first, unit, unsure_first), high = code_of(second, unit, unsure_second);
    if (__builtin_expect(unsure_first | unsure_second, 0))
      low = code_of.settle(low, first, unit, unsure_first), high = code_of.settle(high, second, unit, unsure_second);
    const __m256i bytes = _mm512_cvtepi16_epi8(
        _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packus_epi32(low, high)));
    if constexpr (whole)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), bytes);
    else
      _mm256_mask_storeu_epi8(codes + i, lanes, bytes);
  });
}

#undef TN_INLINE

}  // namespace tenon::sdk
