#include "sdk/dynamic_map.h"

#include <cmath>
#include <memory>

#include <gtest/gtest.h>

#include "tests/reference/golden.h"

namespace tenon::sdk {
namespace {

TEST(DynamicBook, HasTheLandmarksOfThePaper) {
  const float* s = kDynamicSigned.value;
  const float* u = kDynamicUnsigned.value;
  EXPECT_FLOAT_EQ(s[0], -0.99296875f);
  EXPECT_FLOAT_EQ(s[126], -5.5e-7f);
  EXPECT_EQ(s[127], 0.0f);
  EXPECT_FLOAT_EQ(s[128], 5.5e-7f);
  EXPECT_FLOAT_EQ(s[254], 0.99296875f);
  EXPECT_EQ(s[255], 1.0f);
  EXPECT_EQ(u[0], 0.0f);
  EXPECT_FLOAT_EQ(u[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(u[2], 7.75e-7f);
  EXPECT_FLOAT_EQ(u[253], 0.989453125f);
  EXPECT_FLOAT_EQ(u[254], 0.996484375f);
  EXPECT_EQ(u[255], 1.0f);
  for (int i = 0; i < 255; ++i) {
    EXPECT_LT(s[i], s[i + 1]);
    EXPECT_LT(u[i], u[i + 1]);
  }
}

TEST(DynamicBook, EqualsTheReferenceToTheLastBit) {
  const golden::File file("blockwise-8bit/codec.safetensors");
  const std::vector<float> s = file.f32("book.signed"), u = file.f32("book.unsigned");
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(kDynamicSigned.value[i], s[i]) << i;
    EXPECT_EQ(kDynamicUnsigned.value[i], u[i]) << i;
  }
}

// All 256 distances in f64, the lowest code of the nearest.
uint8_t nearest(const DynamicBook& book, float x) {
  int best = 0;
  for (int i = 1; i < 256; ++i)
    if (std::abs(static_cast<double>(book.value[i]) - x) < std::abs(static_cast<double>(book.value[best]) - x))
      best = i;
  return static_cast<uint8_t>(best);
}

TEST(DynamicCode, IsTheNearestValue) {
  for (const DynamicBook* book : {&kDynamicSigned, &kDynamicUnsigned}) {
    for (int i = 0; i < 256; ++i) EXPECT_EQ(dynamic_code(*book, book->value[i]), i);
    for (int i = 0; i < 255; ++i) {
      for (const float x : {book->edge[i], std::nextafter(book->edge[i], 2.0f), std::nextafter(book->edge[i], -2.0f)})
        EXPECT_EQ(dynamic_code(*book, x), nearest(*book, x)) << x;
    }
    uint64_t bits = 12345;
    for (int k = 0; k < 200000; ++k) {
      bits = bits * 6364136223846793005u + 1442695040888963407u;
      const float sign = book == &kDynamicSigned && bits >> 63 ? -1.0f : 1.0f;
      const float x = sign * std::exp2(static_cast<float>(bits >> 40) / -700000.0f);
      ASSERT_EQ(dynamic_code(*book, x), nearest(*book, x)) << x;
    }
  }
}

// Every f32 in [-1, 1], that is 2 * 1065353217 of them.
TEST(DynamicEncoder, EqualsTheSearchForEveryNumber) {
  const auto signed_encoder = std::make_unique<DynamicEncoder<true>>();
  const auto unsigned_encoder = std::make_unique<DynamicEncoder<false>>();
  constexpr uint32_t kOne = 0x3f800000u;
  uint32_t positive = 127, negative = 127, plain = 0;  // codes of the numbers as their magnitude grows
  int64_t differences = 0;
  for (uint32_t bits = 0; bits <= kOne; ++bits) {
    const float x = std::bit_cast<float>(bits);
    while (positive < 255 && x > kDynamicSigned.edge[positive]) ++positive;
    while (negative > 0 && !(-x > kDynamicSigned.edge[negative - 1])) --negative;
    while (plain < 255 && x > kDynamicUnsigned.edge[plain]) ++plain;
    differences += (*signed_encoder)(x) != positive;
    differences += (*signed_encoder)(-x) != negative;
    differences += (*unsigned_encoder)(x) != plain;
  }
  EXPECT_EQ(differences, 0);
}

}  // namespace
}  // namespace tenon::sdk
