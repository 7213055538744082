// WTA-CRS: unbiased for any norms, exact where every row is kept, and of less variance than drawing rows at random.
#include "adapters/wta-crs/choose.h"
#include "sdk/testing/adapter_problem.h"
#include "tenon/sampler.h"
#include "tests/reference/golden.h"

namespace tenon::wta_crs::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

// Mean and total variance of the estimate of dYᵀ X over many draws.
struct Estimate {
  std::vector<double> mean, error;  // error: standard error of the mean
  double variance = 0;
};
constexpr int64_t kRows = 40, kM = 2, kN = 3, kTrials = 4000;

Estimate estimate(const std::vector<float>& x, const std::vector<float>& dy, const std::vector<float>& norms, int64_t k,
                  bool adaptive) {
  std::vector<double> sum(kM * kN), squares(kM * kN);
  for (int64_t trial = 0; trial < kTrials; ++trial) {
    const Choice c = choose(norms, k, adaptive, tn_rng{5, static_cast<uint32_t>(trial), 3});
    std::vector<double> g(kM * kN);
    for (size_t j = 0; j < c.index.size(); ++j)
      for (int64_t a = 0; a < kM; ++a)
        for (int64_t b = 0; b < kN; ++b)
          g[a * kN + b] += static_cast<double>(c.weight[j]) * dy[c.index[j] * kM + a] * x[c.index[j] * kN + b];
    for (size_t i = 0; i < g.size(); ++i) sum[i] += g[i], squares[i] += g[i] * g[i];
  }
  Estimate e;
  for (size_t i = 0; i < sum.size(); ++i) {
    const double mean = sum[i] / kTrials, variance = squares[i] / kTrials - mean * mean;
    e.mean.push_back(mean), e.error.push_back(std::sqrt(variance / kTrials)), e.variance += variance;
  }
  return e;
}

std::vector<float> norms_of(const std::vector<float>& x) {
  std::vector<float> out;
  for (int64_t t = 0; t < kRows; ++t) {
    double s = 0;
    for (int64_t b = 0; b < kN; ++b) s += static_cast<double>(x[t * kN + b]) * x[t * kN + b];
    out.push_back(static_cast<float>(std::sqrt(s)));
  }
  return out;
}

std::vector<double> exact(const std::vector<float>& x, const std::vector<float>& dy) {
  std::vector<double> g(kM * kN);
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t a = 0; a < kM; ++a)
      for (int64_t b = 0; b < kN; ++b) g[a * kN + b] += static_cast<double>(dy[t * kM + a]) * x[t * kN + b];
  return g;
}

TEST(WtaCrs, TheExpectationIsTheProduct) {
  const std::vector<float> x = normals(kRows * kN, 1), dy = normals(kRows * kM, 2);
  const std::vector<double> g = exact(x, dy);
  for (const bool adaptive : {true, false})
    for (const std::vector<float>& norms : {norms_of(x), std::vector<float>(kRows, 1.0f)}) {
      const Estimate e = estimate(x, dy, norms, 12, adaptive);
      for (size_t i = 0; i < g.size(); ++i) EXPECT_NEAR(e.mean[i], g[i], 4 * e.error[i]) << i;
    }
}

TEST(WtaCrs, WinnersCutTheVarianceWhereFewRowsAreHeavy) {
  std::vector<float> x = normals(kRows * kN, 1);
  const std::vector<float> dy = normals(kRows * kM, 2);
  for (int64_t b = 0; b < kN; ++b) x[7 * kN + b] *= 400;  // one row carries nearly all mass
  const double winner = estimate(x, dy, norms_of(x), 12, true).variance,
               plain = estimate(x, dy, norms_of(x), 12, false).variance,
               uniform = estimate(x, dy, std::vector<float>(kRows, 1.0f), 12, false).variance;
  EXPECT_LT(winner, 0.2 * plain);
  EXPECT_LT(winner, 1e-3 * uniform);
}

TEST(WtaCrs, WinnersAreThoseOfTheLeastBound) {
  EXPECT_EQ(winners({0.9, 0.02, 0.02, 0.02, 0.02, 0.02}, 3), 1);
  EXPECT_EQ(winners(std::vector<double>(10, 0.1), 4), 0);  // even mass: nobody wins
}

// What the authors' sampler keeps for certain, and what it gives a draw: (1 - P) / (draws · p). Where the rows left have less than 1e-3 of the
// mass theirs gives nothing, which is a bias; ours draws.
TEST(WtaCrs, ChoosesAsTheAuthors) {
  const golden::File file("wta-crs/wta-crs.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [name, c] : settings.items()) {
    const int64_t k = c["k"], certain = file.i32(name + ".certain")[0];
    const std::vector<float> norms = file.f32(name + ".norms"), p = file.f32(name + ".prob");
    const double mass = file.f32(name + ".mass")[0];
    const std::vector<int32_t> winners = file.has(name + ".index") ? file.i32(name + ".index") : std::vector<int32_t>();
    const Choice choice = choose(norms, k, true, tn_rng{5, 1, 3});
    ASSERT_EQ(static_cast<int64_t>(choice.index.size()), k);
    int64_t sure = 0;
    for (int64_t j = 0; j < k; ++j) {
      const int32_t row = choice.index[j];
      const bool won = std::binary_search(winners.begin(), winners.end(), row);
      sure += won;
      EXPECT_NEAR(choice.weight[j], won ? 1 : (1 - mass) / (p[row] * static_cast<double>(k - certain)), 2e-3 * choice.weight[j]) << name;
    }
    EXPECT_EQ(sure, certain) << name;
    EXPECT_EQ(static_cast<int64_t>(winners.size()), certain) << name;
  }
}

class WtaCrsPlugin : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, WtaCrsPlugin, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(WtaCrsPlugin, SamplesRowsWithTheirWeightsAndReplays) {
  TestAdapter a(GetParam(), {{"sample_ratio", "0.3"}, {"min_rows", "2"}});
  ASSERT_EQ(a.bind({{"model.layers.0.self_attn.q_proj", kM, kN}}), TN_OK);
  const auto* sampler = static_cast<const tn_sampler*>(a.plugin.get_extension(TN_EXT_SAMPLER));
  ASSERT_NE(sampler, nullptr);
  int64_t kept = 0;
  tn_estimate cost{};
  cost.struct_size = sizeof cost;
  ASSERT_EQ(sampler->plan(a.self, 0, kRows, kN, &kF32, &kept, &cost), TN_OK);
  EXPECT_EQ(kept, 12);
  ASSERT_EQ(sampler->plan(a.self, 0, 1, kN, &kF32, &kept, &cost), TN_OK);
  EXPECT_EQ(kept, 1);  // never more than there are
  ASSERT_EQ(sampler->plan(a.self, 0, kRows, kN, &kF32, &kept, &cost), TN_OK);
  const std::vector<float> x = normals(kRows * kN, 1);
  Tensor in(kF32, {kRows, kN}, x);
  std::vector<float> first;
  for (int repeat = 0; repeat < 2; ++repeat) {
    Exec exec(cost.workspace_bytes);
    Tensor index(kI32, {kept}), sampled(kF32, {kept, kN});
    const tn_adapter_call call{
        sizeof(tn_adapter_call), TN_CALL_TRAIN | TN_CALL_SAVE, exec.get(), nullptr, nullptr, 0, 1, 0, 0, 1,
        tn_rng{9, 0, 1}};
    ASSERT_EQ(sampler->sample(a.self, 0, &call, in.get(), index.get(), sampled.get()), TN_OK);
    EXPECT_TRUE(exec.intact() && index.intact() && sampled.intact());
    const auto* rows = static_cast<const int32_t*>(index.get()->data);
    const Choice c = choose(norms_of(x), kept, true, tn_rng{9, 0, 1});
    const std::vector<float> out = sampled.floats();
    for (int64_t j = 0; j < kept; ++j) {
      ASSERT_EQ(rows[j], c.index[j]);
      for (int64_t b = 0; b < kN; ++b) EXPECT_FLOAT_EQ(out[j * kN + b], c.weight[j] * x[rows[j] * kN + b]);
    }
    if (repeat) {
      EXPECT_EQ(out, first);
    }
    first = out;
  }
}

TEST_P(WtaCrsPlugin, PassesTheBaseThrough) {
  AdapterProblem p(GetParam(), {5, 7, 3}, {{"target_modules", "q_proj"}});
  EXPECT_EQ(p.adapter.params.size(), 0u);
  EXPECT_LT(relative_distance(p.run().first, p.product(p.base.weight)), 1e-6);
  EXPECT_EQ(p.merged(), p.base.weight);
}

}  // namespace
}  // namespace tenon::wta_crs::testing
