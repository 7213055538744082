// The dynamic codes of dynamic_map.h in AVX-512, by registers instead of gathers; included by dynamic_codec.h.
#pragma once

#include <type_traits>

#include "sdk/bf16_avx512.h"
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

// 64 codes as bytes, from the upper halves of four vectors back in the order of elements; halves below 0 become 0.
template <bool Interleaved>
TN_FN __m512i upper_bytes(const __m512i (&code)[4]) {
  return pack_words(upper_halves<Interleaved>(code[0], code[1]), upper_halves<Interleaved>(code[2], code[3]));
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

// Between the edges of two decades the code is the integer part of a line in |x|, at most the decade's last code. Only a number closer
// to an integer than rounding can move the line is looked up. Lines are kept in units of 2^-16 codes, so that a conversion to integers
// gives the code in the upper half and the distance to it in the lower. Nine pieces: 0, seven decades, 1.
struct Pieces {
  int32_t of_octave[32];  // the piece in which an octave (exponent mod 32) begins …
  int32_t bound[32];      // … and the key (below) behind which it continues in the next one
  float slope[16], offset[16];
};
inline constexpr int kFraction = 65536, kUnsure = 2;  // lines are raised by kUnsure, so that what is near an integer
                                                      // lies less than 2 · kUnsure above one
// What orders numbers for the bounds: the bits of a number that is never negative; of the signed book twice those of the magnitude, and
// one more for a negative number. So a negative one next to a bound falls where the nearer, of two the lower, value is.
constexpr int32_t key_of_bound(const DynamicBook& book, bool is_signed, int zero, int last) {
  const float edge = book.edge[zero + last];
  const int32_t bits = std::bit_cast<int32_t>(edge);
  if (!is_signed) return bits;
  return 2 * bits + (zero - last - 1 >= 0 && book.edge[zero - last - 1] != -edge ? 1 : 0);
}
constexpr Pieces make_pieces(bool is_signed) {
  const DynamicBook& book = is_signed ? kDynamicSigned : kDynamicUnsigned;
  const int zero = is_signed ? kDynamicSignedZero : kDynamicUnsignedZero;
  Pieces p{};
  int last[9]{};
  p.offset[0] = 0.5f * kFraction;
  double power = 1e6;
  for (int i = 0; i < 7; ++i, power /= 10) {
    const int cells = 1 << (is_signed ? i : i + 1), first = is_signed ? cells : cells - 1;
    p.slope[i + 1] = static_cast<float>(kFraction * power * cells / 0.9);
    p.offset[i + 1] = static_cast<float>(kFraction * (first - cells / 9.0) + kUnsure);
    last[i + 1] = first + cells - 1;
  }
  last[8] = last[7] + 1;
  p.offset[8] = (static_cast<float>(last[8]) + 0.5f) * kFraction;
  for (uint32_t exponent = 96; exponent < 128; ++exponent) {
    const float begin = std::bit_cast<float>(exponent << 23), end = std::bit_cast<float>((exponent + 1) << 23);
    int at = 0;
    while (at < 8 && book.edge[zero + last[at]] < begin) ++at;
    p.of_octave[exponent % 32] = at;
    p.bound[exponent % 32] =
        at < 8 && book.edge[zero + last[at]] < end ? key_of_bound(book, is_signed, zero, last[at]) : 0x7fffffff;
  }
  return p;
}
alignas(64) inline constexpr Pieces kSignedPieces = make_pieces(true), kUnsignedPieces = make_pieces(false);

// The same codes by the table, of some lanes.
template <bool Signed, bool KeepSign>
__attribute__((noinline)) __m512i look_up_codes(const DynamicEncoder<Signed>& encoder, __m512 value, __m512 factor, __m512i code, uint32_t lanes) {
  alignas(64) float values[16], x[16];
  alignas(64) int32_t result[16];
  _mm512_store_ps(values, value), _mm512_store_ps(x, _mm512_mul_ps(value, factor)), _mm512_store_si512(result, code);
  for (; lanes; lanes &= lanes - 1) {
    const int i = std::countr_zero(lanes);
    const uint8_t found = encoder(x[i]);
    result[i] = (KeepSign ? kept_negative(found, values[i]) : found) * kFraction;
  }
  return _mm512_load_si512(result);
}

// The codes of 64 products value · factor, in two halves of some thirty cycles of latency each: a loop begins with the next group before
// it ends one (encode_groups), because the processor's window does not reach far enough to find that by itself.
template <bool Signed, bool KeepSign>
class DynamicCodes {
 public:
  TN_FN DynamicCodes(const DynamicEncoder<Signed>& encoder) : encoder_(encoder) {
    const Pieces& p = Signed ? kSignedPieces : kUnsignedPieces;
    octave_low_ = _mm512_load_si512(p.of_octave), octave_high_ = _mm512_load_si512(p.of_octave + 16);
    bound_low_ = _mm512_load_si512(p.bound), bound_high_ = _mm512_load_si512(p.bound + 16);
    slope_ = _mm512_load_ps(p.slope), offset_ = _mm512_load_ps(p.offset);
  }
  TN_FN void find_pieces(const __m512 (&value)[4], __m512 factor, __m512i (&piece)[4]) const {
    constexpr int kExponent = Signed ? 24 : 23;  // of the key
    for (int k = 0; k < 4; ++k) {
      const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(value[k], factor)),
                    key = _mm512_max_epi32(Signed ? _mm512_rol_epi32(bits, 1) : bits, _mm512_set1_epi32(104 << kExponent)),
                    octave = _mm512_srli_epi32(key, kExponent), first = _mm512_permutex2var_epi32(octave_low_, octave, octave_high_);
      const __mmask16 next = _mm512_cmpgt_epi32_mask(key, _mm512_permutex2var_epi32(bound_low_, octave, bound_high_));
      piece[k] = _mm512_mask_add_epi32(first, next, first, _mm512_set1_epi32(1));
    }
  }
  // Codes in the upper halves of the lanes; below 0 where 0 is meant (packing saturates).
  TN_FN void operator()(const __m512 (&value)[4], __m512 factor, const __m512i (&piece)[4], __m512i (&code)[4]) const {
    __mmask16 unsure[4];
    for (int k = 0; k < 4; ++k) {
      const __m512 x = _mm512_mul_ps(value[k], factor),
                   a = Signed ? _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff))) : x,
                   offset = _mm512_permutexvar_ps(piece[k], offset_), line = _mm512_fmadd_ps(a, _mm512_permutexvar_ps(piece[k], slope_), offset);
      // At most the middle of the decade's last code: 9/4 offset follows from the cells of a decade, 2^i, and where its line begins.
      const __m512 most = _mm512_fmadd_ps(offset, _mm512_set1_ps(2.25f), _mm512_set1_ps((Signed ? -0.5f : 0.75f) * kFraction));
      code[k] = _mm512_cvttps_epi32(_mm512_min_ps(line, most));
      unsure[k] = _mm512_testn_epi32_mask(code[k], _mm512_set1_epi32((kFraction - 1) & ~(2 * kUnsure - 1)));
      if constexpr (Signed) {
        const __mmask16 negative = _mm512_cmp_ps_mask(value[k], _mm512_setzero_ps(), _CMP_LT_OQ);
        if (KeepSign) code[k] = _mm512_mask_max_epi32(code[k], negative, code[k], _mm512_set1_epi32(kFraction));
        code[k] = _mm512_mask_sub_epi32(_mm512_add_epi32(code[k], _mm512_set1_epi32(kDynamicSignedZero * kFraction)), negative,
                                        _mm512_set1_epi32((kDynamicSignedZero + 1) * kFraction - 1), code[k]);
      }
    }
    if (__builtin_expect(_kor_mask16(_kor_mask16(unsure[0], unsure[1]), _kor_mask16(unsure[2], unsure[3])), 0))
      for (int k = 0; k < 4; ++k)
        if (unsure[k]) code[k] = look_up_codes<Signed, KeepSign>(encoder_, value[k], factor, code[k], unsure[k]);
  }

 private:
  const DynamicEncoder<Signed>& encoder_;
  __m512i octave_low_, octave_high_, bound_low_, bound_high_;
  __m512 slope_, offset_;
};

// Codes of n values, a multiple of 64: read(i, x) gives those from i on, factor_of(i) their factor. The last group is begun twice.
template <bool Interleaved, class Codes, class Read, class Factor>
TN_FN void encode_groups(const Codes& code_of, int64_t n, Read read, Factor factor_of, uint8_t* to) {
  if (n <= 0) return;
  __m512 value[4];
  __m512i piece[4];
  read(0, value);
  code_of.find_pieces(value, factor_of(0), piece);
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t next = i + 64 < n ? i + 64 : i;
    __m512i of_next[4], code[4];
    read(next, value);
    code_of.find_pieces(value, factor_of(next), of_next);
    read(i, value);
    code_of(value, factor_of(i), piece, code);
    _mm512_storeu_si512(to + i, upper_bytes<Interleaved>(code));
    for (int k = 0; k < 4; ++k) piece[k] = of_next[k];
  }
}

template <bool Signed, bool KeepSign = false>
void encode_dynamic(const Block&, const DynamicEncoder<Signed>& encoder, const float* values, float factor, uint8_t* codes, int64_t n) {
  const DynamicCodes<Signed, KeepSign> code_of(encoder);
  const auto encode = [&](const float* from, int64_t count, uint8_t* to) TN_INLINE {
    encode_groups<false>(
        code_of, count,
        [from](int64_t i, __m512(&x)[4]) TN_INLINE {
          for (int k = 0; k < 4; ++k) x[k] = _mm512_loadu_ps(from + i + 16 * k);
        },
        [factor](int64_t) TN_INLINE { return _mm512_set1_ps(factor); }, to);
  };
  const int64_t rest = n & 63, whole = n - rest;
  encode(values, whole, codes);
  if (rest == 0) return;
  alignas(64) float last[64] = {};
  alignas(64) uint8_t bytes[64];
  for (int64_t k = 0; k < rest; ++k) last[k] = values[whole + k];
  encode(last, 64, bytes);
  for (int64_t k = 0; k < rest; ++k) codes[whole + k] = bytes[k];
}

#undef TN_INLINE

}  // namespace tenon::sdk
