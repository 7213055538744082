// Logarithm, sine and cosine of the SDK against double precision.
#include "fixture.h"
#include "sdk/vector_trig.h"

namespace tenon::onednn::test {
namespace {

double ulps(float x, double exact) {
  const float nearest = static_cast<float>(exact);
  const double unit = std::max<double>(std::nextafter(std::abs(nearest), INFINITY) - std::abs(nearest), 0x1p-149);
  return std::abs(x - exact) / unit;
}

TEST(VectorMath, Logarithm) {
  double worst = 0;
  for (uint32_t u = 1; u < 0x7f800000u; u += 4093) {
    const float x = std::bit_cast<float>(u);
    worst = std::max(worst, ulps(sdk::vlog(x), std::log(static_cast<double>(x))));
  }
  EXPECT_LT(worst, 1.2);
  EXPECT_EQ(sdk::vlog(1.0f), 0.0f);
  EXPECT_EQ(sdk::vlog(0.0f), -INFINITY);
  EXPECT_EQ(sdk::vlog(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(sdk::vlog(-1.0f)));
  EXPECT_TRUE(std::isnan(sdk::vlog(NAN)));
}

TEST(VectorMath, SineAndCosine) {
  double worst_sin = 0, worst_cos = 0;
  for (const float limit : {1.0f, 10.0f, 1e4f, 1e6f, 1e9f})
    for (int i = -200000; i <= 200000; ++i) {
      const float x = limit * (static_cast<float>(i) / 200000.0f);
      const sdk::SinCos v = sdk::vsin_cos(x);
      // Next to a zero an ulp of the result is smaller than the reduction's error.
      worst_sin = std::max(worst_sin, std::min(ulps(v.sin, std::sin(static_cast<double>(x))),
                                               std::abs(v.sin - std::sin(static_cast<double>(x))) * 0x1p30));
      worst_cos = std::max(worst_cos, std::min(ulps(v.cos, std::cos(static_cast<double>(x))),
                                               std::abs(v.cos - std::cos(static_cast<double>(x))) * 0x1p30));
    }
  EXPECT_LT(worst_sin, 1.6);
  EXPECT_LT(worst_cos, 1.6);
  EXPECT_TRUE(std::isnan(sdk::vsin_cos(INFINITY).sin));
  EXPECT_TRUE(std::isnan(sdk::vsin_cos(NAN).cos));
}

}  // namespace
}  // namespace tenon::onednn::test
