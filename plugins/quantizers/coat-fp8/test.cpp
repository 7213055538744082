#include "quantizers/coat-fp8/reference.h"

#include "sdk/fp8.h"
#include "sdk/testing/activation.h"
#include "sdk/testing/device.h"
#include "tenon/gemm_fp8.h"

namespace tenon::coat {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF16, sdk::kF32;

// The test device with products of FP8.
const tn_device_api& device_with_fp8() {
  static constexpr tn_gemm_fp8 kFp8 = {
      TN_SIZE_TO(tn_gemm_fp8, run), 0, [](tn_device*, const tn_fp8_product*, uint64_t* n) -> int32_t { return *n = 0, TN_OK; },
      [](tn_device*, tn_stream*, const tn_fp8_product* p, void*, uint64_t) -> int32_t {
        const DeviceMemory::Reach reach;
        for (int64_t i = 0; i < p->m; ++i)
          for (int64_t j = 0; j < p->n; ++j) {
            double sum = 0;
            for (int64_t l = 0; l < p->k; ++l) sum += double{sdk::from_e4m3(p->a[i * p->a_row + l])} * sdk::from_e4m3(p->b[j * p->b_row + l]);
            const auto put = [&](auto* c) {
              auto& y = c[i * p->c_row + j];
              const double before = p->beta != 0 ? p->beta * sdk::to_float(y) : 0;
              y = sdk::from_float<std::remove_reference_t<decltype(y)>>(static_cast<float>(p->alpha * *p->a_scale * *p->b_scale * sum + before));
            };
            if (sdk::same(p->c_dtype, kF32))
              put(static_cast<float*>(p->c));
            else
              put(static_cast<sdk::bf16*>(p->c));
          }
        return TN_OK;
      }};
  static const tn_device_api api = [] {
    tn_device_api made = *cpu_device_api();
    made.get_extension = [](const char* id) -> const void* { return std::string_view(id) == TN_EXT_GEMM_FP8 ? &kFp8 : nullptr; };
    return made;
  }();
  return api;
}

// y = alpha x W^T + beta · before.
std::vector<float> product(TestCodec& codec, const tn_target& target, Coded& coded, const std::vector<float>& x, int64_t rows, tn_dtype dtype = kF32, double alpha = 1,
                           double beta = 0, const std::vector<float>& before = {}) {
  sdk::testing::Tensor in(dtype, {rows, target.shape[1]}, x), out(dtype, {rows, target.shape[0]});
  if (!before.empty()) out.assign(before);
  tn_estimate e{};
  e.struct_size = sizeof e;
  codec.expect(codec.api.estimate(codec.self, &device_with_fp8(), cpu_device(), &target, TN_QUANTIZER_LINEAR, rows, &e));
  Exec exec(e.workspace_bytes);
  tn_exec call = *exec.get();
  call.api = &device_with_fp8();
  codec.expect(codec.api.linear(codec.self, &call, &target, coded.pointers().data(), in.get(), alpha, beta, out.get()));
  EXPECT_TRUE(exec.intact() && out.intact() && coded.intact());
  return out.floats();
}

class CoatFp8 : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, CoatFp8, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

tn_target state_target(int64_t n) {
  tn_target t = make_target({n}, kF32, "layers.7.up.exp_avg");
  t.site = TN_SITE_OPTIMIZER_STATE;
  return t;
}

std::vector<float> mapped(std::vector<float> x, auto f) {
  for (float& v : x) v = static_cast<float>(f(double{v}));
  return x;
}

std::vector<float> state_round_trip(TestCodec& codec, const std::vector<float>& x) {
  const tn_target t = state_target(static_cast<int64_t>(x.size()));
  Coded coded = codec.encode(t, x);
  return codec.decode(t, coded);
}

double median_expansion(TestCodec& codec, const std::vector<float>& x) {
  Coded coded = codec.encode(state_target(static_cast<int64_t>(x.size())), x);
  std::vector<float> k = coded["expansion"].floats();
  std::nth_element(k.begin(), k.begin() + static_cast<std::ptrdiff_t>(k.size() / 2), k.end());
  return k[k.size() / 2];
}

TEST(E4M3, EveryCodeComesBackAndMidpointsGoToEven) {
  for (uint32_t code = 0; code < 0x7f; ++code) {
    const float x = sdk::from_e4m3(static_cast<uint8_t>(code));
    EXPECT_EQ(sdk::to_e4m3(x), code);
    EXPECT_EQ(sdk::to_e4m3(-x), code | 0x80u);
    if (code == 0x7e) continue;
    const float next = sdk::from_e4m3(static_cast<uint8_t>(code + 1)), middle = (x + next) / 2;
    EXPECT_EQ(sdk::to_e4m3(middle), code + (code & 1)) << x;
    EXPECT_EQ(sdk::to_e4m3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(sdk::to_e4m3(std::nextafter(middle, 500.0f)), code + 1);
  }
  EXPECT_EQ(sdk::from_e4m3(0x7e), 448.0f);
  EXPECT_EQ(sdk::from_e4m3(1), 0x1p-9f);
  for (const float x : {448.0f, 460.0f, 1e30f}) EXPECT_EQ(sdk::to_e4m3(x), 0x7e);
}

TEST_P(CoatFp8, ErrorsAreTheKnownOnes) {
  TestCodec expanded(GetParam()), plain(GetParam(), {{"expand", "false"}});
  const bool emulated = GetParam().find("emulated") != std::string::npos;  // each element is a fiber there
  const double slack = emulated ? 4 : 1;
  const std::vector<float> x = normals(emulated ? 1 << 14 : 1 << 20);
  const auto lognormal = [&](double s) { return mapped(x, [s](double v) { return std::exp(s * v); }); };
  const std::vector<float> narrow = lognormal(0.3), wide = lognormal(1), squares = mapped(x, [](double v) { return v * v; });
  const auto error = [](TestCodec& codec, const std::vector<float>& values) { return relative_mse(values, state_round_trip(codec, values)); };
  EXPECT_NEAR(error(expanded, x), 2.1e-4, slack * 0.1e-4);
  EXPECT_NEAR(error(plain, x), 6.6e-4, slack * 0.2e-4);
  EXPECT_NEAR(error(expanded, narrow), 1.4e-5, slack * 0.1e-5);
  EXPECT_NEAR(error(plain, narrow), 6.8e-4, slack * 0.3e-4);
  EXPECT_NEAR(median_expansion(expanded, narrow), 7.4, slack * 0.2);
  EXPECT_NEAR(error(expanded, wide), 1.1e-4, slack * 0.1e-4);
  EXPECT_NEAR(error(plain, wide), 4.9e-4, slack * 0.4e-4);
  EXPECT_NEAR(error(expanded, squares), 7.5e-4, slack * 0.5e-4);  // wider than the format: no gain, as expected
  EXPECT_NEAR(error(plain, squares), 5.7e-4, slack * 0.5e-4);
  EXPECT_NEAR(median_expansion(expanded, squares), 0.94, slack * 0.07);
}

TEST_P(CoatFp8, AgreesWithTheReference) {
  for (const bool expand : {true, false})
    for (const double spread : {0.0, 0.2, 1.0, 5.0}) {
      TestCodec codec(GetParam(), {{"expand", expand ? "true" : "false"}});
      const int64_t n = 20 * 128 + 77;
      std::vector<float> x = normals(n, 8);
      const std::vector<float> sizes = normals(n, 9);
      for (int64_t i = 0; i < n; ++i) x[i] = std::copysign(static_cast<float>(1e-4 * std::exp(spread * sizes[i])), x[i]);
      for (int64_t i = 3; i < n; i += 40) x[i] = 0;
      const std::vector<double> want = reference::round_trip(x, expand);
      const std::vector<float> got = state_round_trip(codec, x);
      int64_t differ = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (std::fabs(got[i] - want[i]) <= 2e-5 * std::fabs(want[i])) continue;
        ++differ;  // within rounding of a tie: one code apart
        ASSERT_NEAR(got[i], x[i], std::fabs(x[i]) * (spread > 4 ? 0.6 : 0.08)) << i;
      }
      EXPECT_LE(differ, n / 300) << spread;
    }
}

TEST_P(CoatFp8, WithoutExpansionItIsPlainE4M3) {
  TestCodec codec(GetParam(), {{"expand", "false"}});
  const std::vector<float> x = normals(1024);
  const std::vector<float> got = state_round_trip(codec, x);
  size_t differ = 0;
  for (size_t g = 0; g < x.size(); g += 128) {
    float most = 0;
    for (size_t i = g; i < g + 128; ++i) most = std::max(most, std::fabs(x[i]));
    for (size_t i = g; i < g + 128; ++i) {
      const double want = reference::e4m3(double{x[i]} / most * 448) * most / 448;
      differ += std::fabs(got[i] - want) > 1e-5 * std::fabs(want) + 1e-12;
    }
  }
  EXPECT_LE(differ, 3u);  // ties
}

TEST_P(CoatFp8, SignsAndZerosStay) {
  TestCodec codec(GetParam());
  std::vector<float> x = normals(1 << 13);
  for (size_t i = 0; i < x.size(); ++i) x[i] = i % 5 == 0 ? 0.0f : x[i] * std::ldexp(1.0f, -static_cast<int>(i % 60));
  const std::vector<float> y = state_round_trip(codec, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto sign = [](float v) { return (v > 0) - (v < 0); };
    ASSERT_EQ(sign(y[i]), sign(x[i])) << x[i] << " became " << y[i];
  }
}

TEST_P(CoatFp8, ExtremeGroupsKeepTheirMeaning) {
  TestCodec codec(GetParam());
  EXPECT_EQ(state_round_trip(codec, std::vector<float>(300, 0.0f)), std::vector<float>(300, 0.0f));
  EXPECT_EQ(state_round_trip(codec, {}), std::vector<float>{});
  for (const float size : {1e-20f, 0.37f, 3e38f}) {
    std::vector<float> equal(200, size), one(200, 0.0f);
    one[150] = -size;
    for (const float y : state_round_trip(codec, equal)) EXPECT_NEAR(y / size, 1, 2e-5);
    const std::vector<float> y = state_round_trip(codec, one);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i] / size, i == 150 ? -1 : 0, 2e-5) << size;
  }
  std::vector<float> wide(128);
  for (size_t i = 0; i < wide.size(); ++i) wide[i] = static_cast<float>(std::pow(10.0, -30.0 * static_cast<double>(i) / 127));
  const std::vector<float> y = state_round_trip(codec, wide);
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_GT(y[i], 0);
    EXPECT_LT(std::fabs(std::log2(y[i] / wide[i])), 4) << wide[i];  // its fp8 steps are powers of the ratio's own
  }
  const tn_target t = state_target(1000);
  Coded fresh = codec.plan(t);  // state that nobody has written yet
  EXPECT_EQ(codec.decode(t, fresh), std::vector<float>(1000, 0.0f));
}

TEST_P(CoatFp8, StatesTakeTwoBytesAndATwelfth) {
  TestCodec codec(GetParam());
  EXPECT_EQ(codec.plan(state_target(128 * 1000)).bytes(), 1000u * (128 + 12));  // 1.09375 a moment, 2.1875 for both
}

TEST_P(CoatFp8, ActivationsHaveTheFormOfTheirUse) {
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const int64_t channels : {64, 100}) {
      TestCodec codec(GetParam());
      TestActivations activations(codec);
      Coded none;
      std::vector<float> x = normals(33 * channels, 4);
      for (size_t i = 0; i < x.size(); ++i) x[i] *= std::ldexp(1.0f, static_cast<int>(i / 16 % 7));
      x = sdk::testing::Tensor(dtype, {33 * channels}, x).floats();
      const auto check = [&](uint32_t use, auto scale_of) {
        const tn_activation what = make_activation(use, 33, channels, 0, dtype);
        Coded token = activations.save(what, x, none);
        const std::vector<float> y = activations.restore(what, token);
        for (int64_t i = 0; i < 33 * channels; ++i) {
          const double scale = scale_of(i), want = reference::e4m3(x[i] / scale) * scale;
          if (std::fabs(y[i] - want) > 0.005 * std::fabs(want) + 1e-9) {
            EXPECT_NEAR(y[i], x[i], 0.07 * std::fabs(x[i]) + scale * 0x1p-10);  // a tie
          }
        }
        return token.bytes();
      };
      const auto rounded = [](double absmax) { return double{sdk::to_float(sdk::from_float<sdk::bf16>(static_cast<float>((absmax + 1e-10) / 448)))}; };
      const auto group = [&](int64_t i) {
        const int64_t row = i / channels, begin = i % channels / 16 * 16, end = std::min(channels, begin + 16);
        double most = 0;
        for (int64_t c = begin; c < end; ++c) most = std::max(most, std::fabs(double{x[row * channels + c]}));
        return rounded(most);
      };
      double most = 0;
      for (const float v : x) most = std::max(most, std::fabs(double{v}));
      EXPECT_EQ(check(TN_ACTIVATION_NORM_INPUT, group), 33u * static_cast<uint64_t>(channels + 2 * ((channels + 15) / 16)));
      EXPECT_EQ(check(TN_ACTIVATION_LINEAR_INPUT, [&](int64_t) { return rounded(most); }), 33u * static_cast<uint64_t>(channels) + 2);
      const tn_activation operand = make_activation(TN_ACTIVATION_ATTENTION_OPERAND, 33, channels, 4, dtype);
      Coded token = activations.save(operand, x, none);
      EXPECT_EQ(activations.restore(operand, token), sdk::testing::Tensor(kBF16, {33 * channels}, x).floats());
    }
}

TEST_P(CoatFp8, WeightsHaveOneScale) {
  TestCodec codec(GetParam());
  const tn_target t = make_target({64, 512});
  const std::vector<float> w = normals(64 * 512, 6);
  Coded coded = codec.encode(t, w);
  EXPECT_EQ(coded.bytes(), 64u * 512 + 4);
  EXPECT_NEAR(relative_mse(w, codec.decode(t, coded)), 6.9e-4, 0.4e-4);
  EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  EXPECT_EQ(codec.round_trip({0.0f, 0.0f}), (std::vector<float>{0.0f, 0.0f}));
}

// Of the codes of weight and input, each under a bf16 scale.
TEST_P(CoatFp8, ProductsAreThoseOfTheCodes) {
  const int64_t m = 33, n = 130;
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const int64_t rows : {1, 7, 64}) {
      const tn_target target = make_target({m, n}, dtype);
      TestCodec codec(GetParam());
      Coded coded = codec.encode(target, normals(m * n, 1));
      const std::vector<float> w = codec.decode(target, coded), x = sdk::testing::Tensor(dtype, {rows * n}, normals(rows * n, 2)).floats(),
                               before = sdk::testing::Tensor(dtype, {rows * m}, normals(rows * m, 3)).floats();
      double most = 0;
      for (const float v : x) most = std::max(most, std::fabs(double{v}));
      const double scale = sdk::to_float(sdk::from_float<sdk::bf16>(static_cast<float>((most + 1e-10) / 448)));
      const std::vector<float> plain = product(codec, target, coded, x, rows, dtype), scaled = product(codec, target, coded, x, rows, dtype, 0.5, 2, before);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t i = 0; i < m; ++i) {
          double want = 0;
          for (int64_t j = 0; j < n; ++j) want += reference::e4m3(x[t * n + j] / scale) * scale * w[i * n + j];
          const double allowed = (sdk::same(dtype, kBF16) ? 0.012 : 1e-5) * (1 + std::fabs(want));
          ASSERT_NEAR(plain[t * m + i], want, allowed);
          ASSERT_NEAR(scaled[t * m + i], 0.5 * want + 2 * double{before[t * m + i]}, 2 * allowed + (sdk::same(dtype, kBF16) ? 0.02 : 0) * std::fabs(before[t * m + i]));
        }
    }
}

TEST_P(CoatFp8, NotANumberShowsInTheProduct) {
  const tn_target target = make_target({4, 16});
  TestCodec codec(GetParam());
  Coded coded = codec.encode(target, normals(64, 1));
  for (const float bad : {NAN, INFINITY}) {
    std::vector<float> x = normals(32, 2);
    x[3] = bad;
    for (const float y : product(codec, target, coded, x, 2)) EXPECT_FALSE(std::isfinite(y));
  }
  const std::vector<float> before = normals(8, 3);
  EXPECT_EQ(product(codec, target, coded, std::vector<float>(32, 0.0f), 2, kF32, 1, 1, before), before);
}

TEST_P(CoatFp8, WithoutProductsOfFp8HostsDecodeAndMultiply) {
  const tn_target target = make_target({4, 16});
  TestCodec codec(GetParam());
  tn_estimate e{};
  e.struct_size = sizeof e;
  EXPECT_EQ(codec.api.estimate(codec.self, cpu_device_api(), cpu_device(), &target, TN_QUANTIZER_LINEAR, 3, &e), TN_E_UNSUPPORTED);
  EXPECT_EQ(codec.api.estimate(codec.self, &device_with_fp8(), cpu_device(), &target, TN_QUANTIZER_LINEAR_BACKWARD, 3, &e), TN_E_UNSUPPORTED);
}

TEST_P(CoatFp8, RangesAreSlices) {
  TestCodec codec(GetParam());
  const tn_target weight = make_target({301, 67});
  tn_target state = weight, activation = weight;
  state.site = TN_SITE_OPTIMIZER_STATE, activation.site = TN_SITE_ACTIVATION;
  for (const tn_target& t : {weight, state, activation}) {
    Coded coded = codec.encode(t, normals(301 * 67));
    expect_ranges_are_slices(codec, t, coded);
  }
}

TEST_P(CoatFp8, RefusesNonFiniteNumbers) {
  TestCodec codec(GetParam());
  for (const uint32_t site : {TN_SITE_WEIGHT, TN_SITE_OPTIMIZER_STATE, TN_SITE_ACTIVATION})
    for (const float bad : {NAN, INFINITY, -INFINITY})
      for (const size_t at : {size_t{0}, size_t{500}, size_t{999}}) {
        tn_target t = state_target(1000);
        t.site = site;
        std::vector<float> x = normals(1000);
        x[at] = bad;
        Coded coded;
        EXPECT_EQ(codec.try_encode(t, sdk::testing::Tensor(kF32, {1000}, x), &coded), TN_E_NUMERIC);
        EXPECT_NE(codec.host.error.find("layers.7.up"), std::string::npos) << codec.host.error;
      }
}

}  // namespace
}  // namespace tenon::coat
