#include "quantizers/mesa-act8/reference.h"
#include "sdk/philox.h"
#include "sdk/testing/activation.h"

namespace tenon::mesa {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF32;

constexpr uint32_t kNorm = TN_ACTIVATION_NORM_INPUT, kOperand = TN_ACTIVATION_ATTENTION_OPERAND;

class MesaAct8 : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, MesaAct8, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

// Channels [from, from + n) of x [rows, channels].
std::vector<float> columns(const std::vector<float>& x, int64_t channels, int64_t from, int64_t n) {
  std::vector<float> out;
  for (size_t r = 0; r < x.size() / static_cast<size_t>(channels); ++r)
    for (int64_t c = from; c < from + n; ++c) out.push_back(x[r * static_cast<size_t>(channels) + static_cast<size_t>(c)]);
  return out;
}

TEST_P(MesaAct8, DecodesToTheValueInTheMean) {
  TestCodec codec(GetParam(), {{"running", "false"}});
  TestActivations activations(codec);
  const tn_activation what = make_activation(kNorm, 1, 64);
  std::vector<float> x = normals(64, 5);
  x[7] = 0;
  const reference::Range r = reference::range_of(x);
  const double step = r.width / 254;
  const bool emulated = GetParam().find("emulated") != std::string::npos;  // each element is a fiber there
  const uint32_t kDraws = emulated ? 300 : 100000;
  std::vector<double> sum(x.size());
  Coded none;
  for (uint32_t draw = 0; draw < kDraws; ++draw) {
    Coded token = activations.save(what, x, none, draw);
    const std::vector<float> y = activations.restore(what, token);
    for (size_t i = 0; i < x.size(); ++i) sum[i] += y[i];
    ASSERT_EQ(y[7], 0.0f);
  }
  // The deviation of one draw is at most half a step; a byte of noise leaves a bias (below).
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(sum[i] / kDraws, x[i], (4 * 0.5 / std::sqrt(kDraws) + 0x1p-9) * step) << i;
}

TEST_P(MesaAct8, EachElementIsRoundedByItsOwnByte) {
  TestCodec codec(GetParam(), {{"running", "false"}, {"group", "1000"}});
  TestActivations activations(codec);
  const tn_activation what = make_activation(kNorm, 5, 1000);  // no multiple of 16 in a row, more than one run of noise
  const std::vector<float> x = normals(5000, 3);
  const reference::Range r = reference::range_of(x);
  Coded none, token = activations.save(what, x, none, 9);
  const std::vector<float> y = activations.restore(what, token);
  size_t differ = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const uint32_t word = sdk::philox({11, what.slot, 9}, i / 16).w[i % 16 / 4], byte = word >> 8 * (i % 4) & 255;
    differ += std::fabs(y[i] - reference::round_trip(r, x[i], reference::draw_of(byte))) > r.width / 1000;
  }
  EXPECT_LE(differ, 2u);  // on the edge between two codes in f32
}

TEST(Rounding, TheBiasOfAByteIsAtMostA512thOfAStep) {
  const reference::Range r{-1, 254.0 / 100};  // steps of 0.01, 0 on the hundredth of them
  double most = 0, sum = 0;
  constexpr int kPlaces = 4001;
  for (int i = 0; i < kPlaces; ++i) {
    const double x = 0.01 * i / (kPlaces - 1);
    double mean = 0;
    for (uint32_t byte = 0; byte < 256; ++byte) mean += reference::round_trip(r, x, reference::draw_of(byte)) / 256;
    most = std::max(most, std::fabs(mean - x)), sum += mean - x;
  }
  EXPECT_LE(most, 0.01 / 512 * (1 + 1e-9));
  EXPECT_NEAR(sum / kPlaces, 0, 0.01 / kPlaces);  // over all places none
  for (uint32_t byte = 0; byte < 256; ++byte) EXPECT_EQ(reference::round_trip(r, 0, reference::draw_of(byte)), 0);
}

TEST_P(MesaAct8, ErrorOnNormalsIsTheKnownOne) {
  TestCodec codec(GetParam(), {{"running", "false"}, {"group", "4096"}});
  const bool emulated = GetParam().find("emulated") != std::string::npos;  // each element is a fiber there
  const int64_t groups = emulated ? 4 : 256;
  const std::vector<float> x = normals(4096 * groups);
  const tn_target target = make_target({1, 4096 * groups});
  Coded coded = codec.encode(target, x);
  EXPECT_NEAR(relative_mse(x, codec.decode(target, coded)), 1.4e-4, emulated ? 0.3e-4 : 0.1e-4);
  EXPECT_EQ(coded.bytes(), static_cast<uint64_t>((4096 + 12) * groups));
}

TEST_P(MesaAct8, EveryValueIsOnTheGridOfTheReference) {
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const int64_t channels : {64, 128, 300}) {
      TestCodec codec(GetParam(), {{"running", "false"}, {"stochastic", "false"}});
      TestActivations activations(codec);
      const tn_activation what = make_activation(kNorm, 37, channels, 0, dtype);
      std::vector<float> x = normals(37 * channels, channels);
      for (size_t i = 0; i < x.size(); ++i) x[i] *= std::ldexp(1.0f, static_cast<int>(i % static_cast<size_t>(channels)) / 100 * 3);
      x = sdk::testing::Tensor(dtype, {37 * channels}, x).floats();
      Coded none, token = activations.save(what, x, none);
      const std::vector<float> y = activations.restore(what, token);
      const int64_t groups = (channels + 127) / 128, width = (channels + groups - 1) / groups;
      size_t differ = 0;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t from = g * width, n = std::min(width, channels - from);
        const reference::Range r = reference::range_of(columns(x, channels, from, n));
        for (int64_t row = 0; row < 37; ++row)
          for (int64_t c = from; c < from + n; ++c) {
            const size_t i = static_cast<size_t>(row * channels + c);
            const double want = reference::round_trip(r, x[i], 0.5), last = dtype.bits == 16 ? std::fabs(want) / 128 : 1e-6 * r.width;
            ASSERT_NEAR(y[i], want, r.width / 254 + last);  // a tie in f64 is none in f32
            differ += std::fabs(y[i] - want) > last;
          }
      }
      EXPECT_LE(differ, x.size() / 1000);
    }
}

TEST_P(MesaAct8, TheRunningRangeMovesBeforeCodingAndTheTokenStays) {
  TestCodec codec(GetParam(), {{"decay", "0.9"}});
  TestActivations activations(codec);
  const tn_activation what = make_activation(kOperand, 20, 96, 3);
  Coded statistics = activations.statistics(what);
  ASSERT_EQ(statistics["range"].size(), 6);
  std::vector<reference::Range> running(3);
  std::vector<Coded> tokens;
  std::vector<std::vector<float>> restored;
  for (uint32_t call = 0; call < 4; ++call) {
    std::vector<float> x = normals(20 * 96, 50 + call);
    for (float& v : x) v *= 1.0f + static_cast<float>(call);
    tokens.push_back(activations.save(what, x, statistics, call));
    restored.push_back(activations.restore(what, tokens.back()));
    const std::vector<float> range = statistics["range"].floats();
    for (int64_t g = 0; g < 3; ++g) {
      running[g] = reference::moved(running[g], reference::range_of(columns(x, 96, 32 * g, 32)), 0.9);
      EXPECT_NEAR(range[2 * g], running[g].lo, 1e-5);
      EXPECT_NEAR(range[2 * g + 1], running[g].width, 1e-5);
      for (const float y : columns(restored.back(), 96, 32 * g, 32)) {  // no wrap-around beyond the running range
        EXPECT_GE(y, running[g].lo - running[g].width / 100);
        EXPECT_LE(y, running[g].lo + running[g].width * 1.01);
      }
    }
  }
  for (size_t call = 0; call < 4; ++call) EXPECT_EQ(activations.restore(what, tokens[call]), restored[call]);
}

TEST_P(MesaAct8, TheMeanGradientOfALinearIsExact) {
  constexpr int64_t kRows = 24, kIn = 32, kOut = 3;
  TestCodec codec(GetParam(), {{"running", "false"}});
  TestActivations activations(codec);
  const tn_activation what = make_activation(TN_ACTIVATION_LINEAR_INPUT, kRows, kIn);
  const std::vector<float> x = normals(kRows * kIn, 1), dy = normals(kRows * kOut, 2);
  const double step = reference::range_of(x).width / 254;
  const auto gradient = [&](const std::vector<float>& input, int64_t o, int64_t i) {
    double sum = 0;
    for (int64_t t = 0; t < kRows; ++t) sum += double{dy[t * kOut + o]} * input[t * kIn + i];
    return sum;
  };
  const uint32_t kSeeds = GetParam().find("emulated") != std::string::npos ? 100 : 2000;
  std::vector<double> mean(kOut * kIn);
  Coded none;
  for (uint32_t seed = 0; seed < kSeeds; ++seed) {
    Coded token = activations.save(what, x, none, seed);
    const std::vector<float> y = activations.restore(what, token);
    for (int64_t o = 0; o < kOut; ++o)
      for (int64_t i = 0; i < kIn; ++i) mean[o * kIn + i] += gradient(y, o, i) / kSeeds;
  }
  for (int64_t o = 0; o < kOut; ++o) {
    double power = 0;
    for (int64_t t = 0; t < kRows; ++t) power += double{dy[t * kOut + o]} * dy[t * kOut + o];
    for (int64_t i = 0; i < kIn; ++i) EXPECT_NEAR(mean[o * kIn + i], gradient(x, o, i), 4.5 * 0.5 * step * std::sqrt(power / kSeeds));
  }
}

TEST_P(MesaAct8, ConstantAndOneSidedGroupsKeepTheirMeaning) {
  TestCodec codec(GetParam(), {{"running", "false"}});
  for (const float value : {0.0f, 1000.0f, -3.5f, 1e-30f}) {
    const std::vector<float> x(300, value);
    EXPECT_EQ(codec.round_trip(x), x) << value;
  }
  std::vector<float> high = normals(128);
  for (float& v : high) v += 5000;
  EXPECT_LT(relative_mse(high, codec.round_trip(high)), 1e-10);  // the range does not reach down to 0
  EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
}

TEST_P(MesaAct8, RefusesNonFiniteNumbersAndLeavesTheRangeAlone) {
  TestCodec codec(GetParam());
  expect_refuses_non_finite(codec, 1000);
  TestActivations activations(codec);
  const tn_activation what = make_activation(kNorm, 4, 64);
  Coded statistics = activations.statistics(what), token;
  activations.save(what, normals(256), statistics);
  const std::vector<uint8_t> before = statistics["range"].raw();
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x = normals(256);
    x[100] = bad;
    EXPECT_EQ(activations.try_save(what, sdk::testing::Tensor(kF32, {4, 64}, x), statistics, token), TN_E_NUMERIC);
    EXPECT_EQ(statistics["range"].raw(), before);
  }
}

TEST_P(MesaAct8, RangesAreSlices) {
  TestCodec codec(GetParam());
  const tn_target target = make_target({31, 167});
  Coded coded = codec.encode(target, normals(31 * 167));
  expect_ranges_are_slices(codec, target, coded);
}

}  // namespace
}  // namespace tenon::mesa
