// Whole blocks to and from dynamic 8-bit codes at memory speed. Every version gives the codes and values of
// dynamic_map.h:
//   decode_dynamic<Signed>(block, codes, scale, out, n)             out = value of the code · scale
//   encode_dynamic<Signed, KeepSign>(block, encoder, values, unit, codes, n)
//       codes of values / unit, |values| <= unit; KeepSign: a negative value never gets 0's code, but the one below
#pragma once

#include <type_traits>

#include "sdk/dynamic_map.h"
#include "sdk/for_each.h"

#if defined(__AVX512BW__) || defined(__AVX2__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 warns of its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace tenon::sdk {

// The code just below 0's, where a negative value would get 0's.
TN_FN uint8_t kept_negative(uint8_t code, float value) {
  return static_cast<uint8_t>(code - (code == kDynamicSignedZero && value < 0 ? 1 : 0));
}

template <bool Signed, bool KeepSign>
__attribute__((noinline)) void encode_one_by_one(const Block& block, const DynamicEncoder<Signed>& encoder,
                                                 const float* values, float unit, uint8_t* codes, int64_t n) {
  const DynamicEncoder<Signed>* e = &encoder;
  block.each(n, [=](int64_t i) {
    const uint8_t code = (*e)(values[i] / unit);
    codes[i] = KeepSign ? kept_negative(code, values[i]) : code;
  });
}

#if defined(__AVX512BW__)

#define TN_INLINE __attribute__((always_inline))  // the tables live in registers only where everything is one function

// 256 words looked up 32 at a time: two halves of an f32 come from eight registers each, by two-register permutes and
// blends, which is faster than a gather. The tables are cut in halves beforehand.
struct Halves {
  uint16_t low[256], high[256];
};
constexpr Halves halves(const DynamicBook& book) {
  Halves h{};
  for (int i = 0; i < 256; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(book.value[i]);
    h.low[i] = static_cast<uint16_t>(bits), h.high[i] = static_cast<uint16_t>(bits >> 16);
  }
  return h;
}
alignas(64) inline constexpr Halves kSignedValues = halves(kDynamicSigned), kUnsignedValues = halves(kDynamicUnsigned);

struct HalvesInRegisters {
  __m512i low[8], high[8];
  TN_FN explicit HalvesInRegisters(const Halves& h) {
    for (int i = 0; i < 8; ++i)
      low[i] = _mm512_load_si512(h.low + 32 * i), high[i] = _mm512_load_si512(h.high + 32 * i);
  }
  // Words in the order 0-3 16-19 4-7 20-23 …: unpacking the halves puts 16 consecutive f32 in each result.
  TN_FN void look_up(__m512i index, __m512& first, __m512& second) const {
    const __mmask32 bit6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64)),
                    bit7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    const __m512i l = pick(low, index, bit6, bit7), h = pick(high, index, bit6, bit7);
    first = _mm512_castsi512_ps(_mm512_unpacklo_epi16(l, h)), second = _mm512_castsi512_ps(_mm512_unpackhi_epi16(l, h));
  }

 private:
  static TN_FN __m512i pick(const __m512i* t, __m512i index, __mmask32 bit6, __mmask32 bit7) {
    const __m512i a = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(t[0], index, t[1]),
                                              _mm512_permutex2var_epi16(t[2], index, t[3]));
    const __m512i b = _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(t[4], index, t[5]),
                                              _mm512_permutex2var_epi16(t[6], index, t[7]));
    return _mm512_mask_blend_epi16(bit7, a, b);
  }
};

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
  const HalvesInRegisters table(Signed ? kSignedValues : kUnsignedValues);
  const __m512 factor = _mm512_set1_ps(scale);
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  by_32(n, [&](int64_t i, auto whole, __mmask32 lanes) TN_INLINE {
    const __m256i bytes = whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i))
                                : _mm256_maskz_loadu_epi8(lanes, codes + i);
    __m512 first, second;
    table.look_up(_mm512_permutexvar_epi64(order, _mm512_cvtepu8_epi16(bytes)), first, second);
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
// than rounding can move the line is looked up, with its fifteen neighbours. Nine pieces: 0, seven decades, 1.
struct Pieces {
  int32_t of_octave[32];  // the piece in which an octave (exponent mod 32) begins …
  float bound[32];        // … and the |x| behind which it continues in the next one
  float slope[16], offset[16];
  int32_t last[16];  // the largest of the piece
};
inline constexpr float kUnsure =
    3e-5f;  // codes; lines are raised by it, so that what is near an integer lies just above one
constexpr Pieces make_pieces(bool is_signed) {
  const DynamicBook& book = is_signed ? kDynamicSigned : kDynamicUnsigned;
  const int zero = is_signed ? kDynamicSignedZero : kDynamicUnsignedZero;
  Pieces p{};
  p.offset[0] = 0.5f;
  double power = 1e6;
  for (int i = 0; i < 7; ++i, power /= 10) {
    const int cells = 1 << (is_signed ? i : i + 1), first = is_signed ? cells : cells - 1;
    p.slope[i + 1] = static_cast<float>(power * cells / 0.9);
    p.offset[i + 1] = static_cast<float>(first - cells / 9.0 + kUnsure);
    p.last[i + 1] = first + cells - 1;
  }
  p.last[8] = p.last[7] + 1;
  p.offset[8] = static_cast<float>(p.last[8]) + 0.5f;
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

template <bool Signed, bool KeepSign = false>
void encode_dynamic(const Block& block, const DynamicEncoder<Signed>& encoder, const float* values, float unit,
                    uint8_t* codes, int64_t n) {
  const Pieces& p = Signed ? kSignedPieces : kUnsignedPieces;
  const __m512 divisor = _mm512_set1_ps(unit);
  const __m512i octave_low = _mm512_load_si512(p.of_octave), octave_high = _mm512_load_si512(p.of_octave + 16),
                last = _mm512_load_si512(p.last);
  const __m512 bound_low = _mm512_load_ps(p.bound), bound_high = _mm512_load_ps(p.bound + 16),
               slope = _mm512_load_ps(p.slope), offset = _mm512_load_ps(p.offset);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m512 value = _mm512_loadu_ps(values + i), x = _mm512_div_ps(value, divisor);
    const __m512i bits = _mm512_castps_si512(x),
                  magnitude = Signed ? _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)) : bits;
    const __m512i size = _mm512_max_epi32(magnitude, _mm512_set1_epi32(104 << 23));
    const __m512 a = _mm512_castsi512_ps(size);
    const __m512i octave = _mm512_srli_epi32(size, 23);
    const __m512 bound = _mm512_permutex2var_ps(bound_low, octave, bound_high);
    __m512i piece = _mm512_permutex2var_epi32(octave_low, octave, octave_high);
    piece = _mm512_mask_add_epi32(piece, _mm512_cmp_ps_mask(a, bound, _CMP_GT_OQ), piece, _mm512_set1_epi32(1));
    const __m512 line = _mm512_fmadd_ps(a, _mm512_permutexvar_ps(piece, slope), _mm512_permutexvar_ps(piece, offset));
    __mmask16 unsure =
        _mm512_cmp_ps_mask(_mm512_reduce_ps(line, _MM_FROUND_TO_NEG_INF), _mm512_set1_ps(2 * kUnsure), _CMP_LT_OQ);
    if (Signed)
      unsure |= _mm512_cmp_ps_mask(
          a, bound, _CMP_EQ_OQ);  // of two equally near values the lower is due: it depends on the sign which
    if (__builtin_expect(unsure, 0)) {
      encode_one_by_one<Signed, KeepSign>(block, encoder, values + i, unit, codes + i, 16);
      continue;
    }
    __m512i code = _mm512_min_epi32(_mm512_cvttps_epi32(line), _mm512_permutexvar_epi32(piece, last));
    if constexpr (Signed) {
      const __m512i up = _mm512_add_epi32(code, _mm512_set1_epi32(kDynamicSignedZero));
      __m512i down = _mm512_sub_epi32(_mm512_set1_epi32(kDynamicSignedZero), code);
      if (KeepSign) down = _mm512_min_epi32(down, _mm512_set1_epi32(kDynamicSignedZero - 1));
      code = _mm512_mask_max_epi32(up, _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ), down,
                                   _mm512_setzero_si512());
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtepi32_epi8(code));
  }
  encode_one_by_one<Signed, KeepSign>(block, encoder, values + i, unit, codes + i, n - i);
}

#undef TN_INLINE

#elif defined(__AVX2__)

template <bool Signed>
void decode_dynamic(const Block&, const uint8_t* codes, float scale, float* out, int64_t n) {
  constexpr const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
  const __m256 factor = _mm256_set1_ps(scale);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_i32gather_ps(book.value, c, 4), factor));
  }
  for (; i < n; ++i) out[i] = book.value[codes[i]] * scale;
}

template <bool Signed, bool KeepSign = false>
void encode_dynamic(const Block&, const DynamicEncoder<Signed>& encoder, const float* values, float unit,
                    uint8_t* codes, int64_t n) {
  using E = DynamicEncoder<Signed>;
  const __m256 divisor = _mm256_set1_ps(unit);
  const __m256i low_bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                                             -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_div_ps(_mm256_loadu_ps(values + i), divisor));
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    magnitude = _mm256_min_epi32(_mm256_max_epi32(magnitude, _mm256_set1_epi32(E::kLeast)), _mm256_set1_epi32(E::kOne));
    __m256i at = _mm256_sub_epi32(_mm256_srli_epi32(magnitude, E::kShift), _mm256_set1_epi32(E::kFirst));
    const __m256i negative = Signed ? _mm256_srai_epi32(bits, 31) : _mm256_setzero_si256();  // -1 or 0
    if (Signed) at = _mm256_add_epi32(at, _mm256_and_si256(negative, _mm256_set1_epi32(E::kCells)));
    const __m256i e = _mm256_i32gather_epi32(reinterpret_cast<const int*>(encoder.table()), at, 4);
    const __m256i beyond =
        _mm256_cmpgt_epi32(_mm256_and_si256(magnitude, _mm256_set1_epi32(E::kMask)), _mm256_srli_epi32(e, 8));
    const __m256i step = _mm256_or_si256(negative, _mm256_set1_epi32(1));
    const __m256i code = _mm256_shuffle_epi8(_mm256_add_epi32(e, _mm256_and_si256(beyond, step)), low_bytes);
    const uint32_t low = static_cast<uint32_t>(_mm256_extract_epi32(code, 0)),
                   high = static_cast<uint32_t>(_mm256_extract_epi32(code, 4));
    __builtin_memcpy(codes + i, &low, 4);
    __builtin_memcpy(codes + i + 4, &high, 4);
  }
  for (; i < n; ++i) codes[i] = encoder(values[i] / unit);
  if constexpr (KeepSign)
    for (int64_t k = 0; k < n; ++k) codes[k] = kept_negative(codes[k], values[k]);
}

#else

template <bool Signed>
TN_FN void decode_dynamic(const Block& block, const uint8_t* codes, float scale, float* out, int64_t n) {
  const float* value = (Signed ? kDynamicSigned : kDynamicUnsigned).value;
  block.each(n, [=](int64_t i) { out[i] = value[codes[i]] * scale; });
}

template <bool Signed, bool KeepSign = false>
TN_FN void encode_dynamic(const Block& block, const DynamicEncoder<Signed>& encoder, const float* values, float unit,
                          uint8_t* codes, int64_t n) {
  encode_one_by_one<Signed, KeepSign>(block, encoder, values, unit, codes, n);
}

#endif

}  // namespace tenon::sdk
