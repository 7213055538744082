// Whole blocks to and from dynamic 8-bit codes at memory speed. Every version gives the codes and values of
// dynamic_map.h:
//   decode_dynamic<Signed>(block, codes, scale, out, n)             out = value of the code · scale
//   encode_dynamic<Signed, KeepSign>(block, encoder, values, factor, codes, n)
//       codes of values · factor, which lie in [-1, 1]; KeepSign: a negative value never gets 0's code, but the one below
#pragma once

#include "sdk/dynamic_map.h"
#include "sdk/for_each.h"
#include "sdk/intrinsics.h"

#if !TN_GPU && defined(__AVX512BW__)
#include "sdk/dynamic_codec_avx512.h"
#else

namespace tenon::sdk {

#if !TN_GPU && defined(__AVX2__)

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
void encode_dynamic(const Block&, const DynamicEncoder<Signed>& encoder, const float* values, float factor,
                    uint8_t* codes, int64_t n) {
  using E = DynamicEncoder<Signed>;
  const __m256 scale = _mm256_set1_ps(factor);
  const __m256i low_bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                                             -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i bits = _mm256_castps_si256(_mm256_mul_ps(_mm256_loadu_ps(values + i), scale));
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
  for (; i < n; ++i) codes[i] = encoder(values[i] * factor);
  if constexpr (KeepSign)
    for (int64_t k = 0; k < n; ++k) codes[k] = kept_negative(codes[k], values[k]);
}

#else

template <bool Signed>
TN_FN void decode_dynamic(const Block& block, const uint8_t* codes, float scale, float* out, int64_t n) {
  block.each(n, [=](int64_t i) { out[i] = dynamic_book<Signed>().value[codes[i]] * scale; });
}

template <bool Signed, bool KeepSign = false>
TN_FN void encode_dynamic(const Block& block, const DynamicEncoder<Signed>& encoder, const float* values, float factor,
                          uint8_t* codes, int64_t n) {
  const DynamicEncoder<Signed>* e = &encoder;
  block.each(n, [=](int64_t i) {
    const uint8_t code = (*e)(values[i] * factor);
    codes[i] = KeepSign ? kept_negative(code, values[i]) : code;
  });
}

#endif

}  // namespace tenon::sdk

#endif
