// One CPU level's block codec, counted against the readable search for every number of [-1, 1] and every length of a
// tail.
#include <cmath>
#include <memory>
#include <vector>

#include "sdk/dynamic_codec.h"
#include "sdk/philox.h"

namespace tenon::sdk {
namespace {

template <bool Signed>
int64_t differences(bool negative) {
  const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
  const auto encoder = std::make_unique<DynamicEncoder<Signed>>();
  constexpr uint32_t kOne = 0x3f800000u, kBatch = 4096;
  const Block block{0, nullptr};
  std::vector<float> x(kBatch);
  std::vector<uint8_t> codes(kBatch);
  int64_t wrong = 0;
  // As the magnitude grows the code moves away from 0's.
  int expected = Signed ? kDynamicSignedZero : kDynamicUnsignedZero;
  for (uint32_t first = 0; first <= kOne; first += kBatch) {
    const uint32_t n = kOne - first + 1 < kBatch ? kOne - first + 1 : kBatch;
    for (uint32_t i = 0; i < n; ++i) x[i] = std::bit_cast<float>((first + i) | (negative ? 0x80000000u : 0u));
    encode_dynamic<Signed>(block, *encoder, x.data(), 1.0f, codes.data(), n);
    for (uint32_t i = 0; i < n; ++i) {
      while (!negative && expected < 255 && x[i] > book.edge[expected]) ++expected;
      while (negative && expected > 0 && !(x[i] > book.edge[expected - 1])) --expected;
      wrong += codes[i] != expected;
    }
  }
  return wrong;
}

// A negative value keeps its sign: 0's code becomes the one below, nothing else changes.
int64_t sign_differences() {
  const auto encoder = std::make_unique<DynamicEncoder<true>>();
  const Block block{0, nullptr};
  float values[300];
  uint8_t plain[300], kept[300];
  for (int i = 0; i < 300; ++i) values[i] = (i % 3 - 1) * std::ldexp(1.0f, -(i % 60));
  int64_t wrong = 0;
  for (const float unit : {1.0f, 0x1p-70f}) {
    for (float& x : values) x *= unit;
    encode_dynamic<true>(block, *encoder, values, 1 / unit, plain, 300);
    encode_dynamic<true, true>(block, *encoder, values, 1 / unit, kept, 300);
    for (int i = 0; i < 300; ++i)
      wrong += kept[i] != (plain[i] == kDynamicSignedZero && values[i] < 0 ? kDynamicSignedZero - 1 : plain[i]);
  }
  return wrong;
}

template <bool Signed>
int64_t tail_differences() {
  const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
  const auto encoder = std::make_unique<DynamicEncoder<Signed>>();
  const Block block{0, nullptr};
  int64_t wrong = 0;
  for (int64_t n = 0; n <= 256; ++n) {
    std::vector<uint8_t> codes(n + 1, 77), back(n + 1, 77);
    std::vector<float> values(n + 1, 5.0f);
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(37 * i + n);
    decode_dynamic<Signed>(block, codes.data(), 3.0f, values.data(), n);
    encode_dynamic<Signed>(block, *encoder, values.data(), 1 / 3.0f, back.data(), n);
    for (int64_t i = 0; i < n; ++i) wrong += values[i] != book.value[codes[i]] * 3.0f || back[i] != codes[i];
    wrong += values[n] != 5.0f || back[n] != 77;
  }
  return wrong;
}

// Products with factors from 2^-120 to 2^124, against the search over the plain product.
template <bool Signed>
int64_t product_differences() {
  const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
  const auto encoder = std::make_unique<DynamicEncoder<Signed>>();
  const Block block{0, nullptr};
  int64_t wrong = 0;
  float values[1000];
  uint8_t codes[1000];
  for (int exponent = -124; exponent <= 120; exponent += 4) {
    for (uint32_t k = 0; k < 40; ++k) {
      const float unit = std::ldexp(1 + uniform({1, 2, 3}, k), exponent);
      for (uint32_t i = 0; i < 1000; ++i) {
        // Next to an edge, and anywhere.
        const float x = i % 2 ? book.edge[i % 255] : 2 * uniform({4, 5, k}, i) - 1;
        values[i] = (Signed || x >= 0 ? x : -x) * unit;
        if (i % 4 == 3) values[i] = std::nextafter(values[i], i % 8 == 3 ? 0.0f : values[i] * 2);
      }
      const float factor = 1 / unit;
      encode_dynamic<Signed>(block, *encoder, values, factor, codes, 1000);
      for (uint32_t i = 0; i < 1000; ++i) wrong += codes[i] != dynamic_code(book, values[i] * factor);
    }
  }
  return wrong;
}

}  // namespace
}  // namespace tenon::sdk

extern "C" __attribute__((visibility("default"))) int64_t dynamic_codec_differences(int what) {
  using namespace tenon::sdk;
  switch (what) {
    case 0:
      return differences<true>(false);
    case 1:
      return differences<true>(true);
    case 2:
      return differences<false>(false);
    case 3:
      return tail_differences<true>();
    case 4:
      return tail_differences<false>();
    case 5:
      return product_differences<true>();
    case 6:
      return product_differences<false>();
    default:
      return sign_differences();
  }
}
