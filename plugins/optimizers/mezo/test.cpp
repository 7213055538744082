#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "sdk/noise.h"
#include "sdk/spsa.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;
using Weights = std::vector<std::vector<float>>;

class Mezo : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Mezo, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

// Of tests/reference/normal_quantiles.py, in exact fractions.
constexpr uint64_t kGoldenTable = 8787804001080867168u;

constexpr const char* kDists[] = {"normal_table", "normal", "rademacher"};

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double s = 0;
  for (size_t i = 0; i < a.size(); ++i) s += static_cast<double>(a[i]) * b[i];
  return s;
}
// ½ Σ c (w − goal)²: its gradient is c (w − goal).
struct Quadratic {
  std::vector<float> curve, goal;
  explicit Quadratic(size_t n) : curve(normals(static_cast<int64_t>(n), 5)), goal(normals(static_cast<int64_t>(n), 6)) {
    for (float& c : curve) c = 0.5f + std::fabs(c);
  }
  double operator()(const Weights& w) const {
    double s = 0;
    for (size_t i = 0; i < goal.size(); ++i) s += 0.5 * curve[i] * std::pow(static_cast<double>(w[0][i]) - goal[i], 2);
    return s;
  }
  std::vector<float> gradient(const std::vector<float>& w) const {
    std::vector<float> g(w.size());
    for (size_t i = 0; i < w.size(); ++i) g[i] = curve[i] * (w[i] - goal[i]);
    return g;
  }
};

// z of a whole parameter of this run and step.
std::vector<float> noise(OptimizerRun& run, size_t i, int64_t step, uint32_t probe = 0) {
  const auto n = static_cast<int64_t>(run.weights(i).size());
  const std::vector<float> w = run.perturbed(i, {}, 0, n), moved = run.perturbed(i, {{sizeof(tn_term), probe, spsa_seed(1, step), 1024}}, 0, n);
  std::vector<float> z(w.size());
  for (size_t k = 0; k < z.size(); ++k) z[k] = (moved[k] - w[k]) / 1024;
  return z;
}

TEST_P(Mezo, ProjectedGradientIsTheDirectionalDerivativeOfAQuadratic) {
  for (const char* dist : kDists) {
    OptimizerRun run(GetParam(), {{"eps", "0.5"}, {"dist", dist}}, {{{7, 30}, normals(210, 1)}});
    const Quadratic loss(210);
    const double expected = dot(noise(run, 0, 1), loss.gradient(run.weights()));
    run.drive(1, [&](const Weights& w) { return loss(w); }, {.lr = 0});
    EXPECT_NEAR(run.finish()["projected_grad"], expected, 1e-4 * std::fabs(expected)) << dist;
  }
}

TEST_P(Mezo, MovesAlongTheNoiseThatItProbed) {
  for (const char* dist : kDists) {
    OptimizerRun run(GetParam(), {{"weight_decay", "0.1"}, {"dist", dist}, {"q", "3"}}, {{{300}, normals(300, 1), TN_ROLE_Q}, {{40}, normals(40, 2), TN_ROLE_NORM}});
    const Weights start{run.weights(0), run.weights(1)};
    std::vector<std::vector<float>> z[2];
    for (size_t i = 0; i < 2; ++i)
      for (uint32_t p = 0; p < 3; ++p) z[i].push_back(noise(run, i, 4, p));
    const Quadratic loss(300);
    run.drive(4, [&](const Weights& w) { return loss(w) + dot(w[1], w[1]); }, {.lr = 0.01});
    auto m = run.finish();
    const double g[] = {m["projected_grad"], m["projected_grad2"], m["projected_grad3"]};
    for (size_t i = 0; i < 2; ++i)
      for (size_t k = 0; k < start[i].size(); ++k) {
        double move = i == 0 ? 0.1 * start[i][k] : 0;  // norms do not decay
        for (int p = 0; p < 3; ++p) move += g[p] / 3 * z[i][p][k];
        EXPECT_NEAR(run.weights(i)[k], start[i][k] - 0.01 * move, 2e-5 * (1 + std::fabs(move))) << dist;
      }
  }
}

TEST_P(Mezo, TheLogRebuildsTheModelBitForBit) {
  for (const tn_dtype dtype : {kF32, kBF16}) {
    const auto make = [&] { return std::make_unique<OptimizerRun>(GetParam(), Hypers{}, std::vector<Parameter>{{{17, 40}, normals(680, 1), TN_ROLE_Q, dtype}}); };
    const auto run = make(), replay = make();
    const Quadratic loss(680);
    const StepOptions o{.lr = 1e-3, .flags = dtype.bits == 16 ? uint32_t{TN_ITEM_STOCHASTIC_ROUNDING} : 0u};
    std::vector<std::pair<double, double>> log;
    for (int64_t s = 1; s <= 20; ++s) {
      run->drive(s, [&](const Weights& w) { return loss(w); }, o);
      auto m = run->finish();
      log.emplace_back(m["loss_plus"], m["loss_minus"]);
    }
    for (int64_t s = 1; s <= 20; ++s) {
      int asked = 0;
      replay->drive(s, [&](const Weights&) { return asked++ == 0 ? log[s - 1].first : log[s - 1].second; }, o);
    }
    EXPECT_TRUE(run->same_bits(*replay));
  }
}

// The authors' steps, whose weights go to w + eps z, w - eps z and back in place, over a quadratic of f64; z by an implementation of its own.
TEST_P(Mezo, EqualsTheAuthors) {
  const golden::File file("mezo/mezo.safetensors");
  const std::vector<std::vector<int64_t>> shapes{{9, 31}, {40}};
  std::vector<std::vector<float>> curve, goal;
  for (uint32_t i = 0; i < 2; ++i) curve.push_back(golden::noise(3810 + i, i ? 40 : 279, 1)), goal.push_back(golden::noise(3820 + i, i ? 40 : 279, 1));
  const auto loss = [&](const Weights& w) {
    double sum = 0;
    for (size_t i = 0; i < 2; ++i)
      for (size_t k = 0; k < w[i].size(); ++k) sum += 0.5 * (std::fabs(curve[i][k]) + 0.2) * std::pow(w[i][k] - goal[i][k], 2);
    return sum;
  };
  for (const char* label : {"default", "decay"}) {
    const nlohmann::json s = file.setting("settings")[label];
    OptimizerRun run(GetParam(), {{"eps", file.setting("eps").dump()}, {"weight_decay", s["weight_decay"].dump()}},
                     {{shapes[0], golden::noise(3800, 279, 1), TN_ROLE_Q}, {shapes[1], golden::noise(3801, 40, 1), TN_ROLE_NORM}});
    const std::vector<float> z = file.f32("z"), here = run.perturbed(0, {{sizeof(tn_term), 0, spsa_seed(1, 1), 1}}, 0, 279);
    for (size_t i = 0; i < 279; ++i) EXPECT_NEAR(here[i] - run.weights()[i], z[i], 2e-6);
    const std::vector<float> projected = file.f32(label + std::string(".projected"));
    for (int64_t t = 1; t <= file.setting("steps"); ++t) {
      run.drive(t, loss, {.lr = s["lr"]});
      EXPECT_NEAR(run.finish()["projected_grad"], projected[t - 1], 0.02 + 2e-3 * std::fabs(projected[t - 1])) << t;
    }
    for (size_t i = 0; i < 2; ++i) EXPECT_LT(relative_distance(run.weights(i), file.f32(label + ("." + std::to_string(i)))), 2e-5) << label;
  }
}

TEST_P(Mezo, ProbesLeaveTheWeightsAlone) {
  OptimizerRun run(GetParam(), {}, {{{333}, normals(333, 1), TN_ROLE_Q, kBF16}});
  const std::vector<float> start = run.weights();
  const Quadratic loss(333);
  for (int64_t s = 1; s <= 5; ++s) run.drive(s, [&](const Weights& w) { return loss(w); }, {.lr = 0});
  EXPECT_EQ(run.weights(), start);
}

TEST_P(Mezo, MeanOverSeedsIsTheGradientAndItsSquareIsNPlusTwoTimesIt) {
  constexpr size_t kN = 50;
  const bool emulated = is_emulated(GetParam());  // each thread is a fiber there
  const int kSeeds = emulated ? 1000 : 10000;
  for (const char* dist : {"normal_table", "normal"}) {
    const Quadratic loss(kN);
    OptimizerRun run(GetParam(), {{"dist", dist}}, {{{kN}, normals(kN, 1)}});
    const std::vector<float> g = loss.gradient(run.weights());
    std::vector<double> mean(kN);
    double square = 0;
    for (int s = 1; s <= kSeeds; ++s) {
      const std::vector<float> z = noise(run, 0, s);
      const double p = dot(z, g);
      for (size_t i = 0; i < kN; ++i) mean[i] += p * z[i] / kSeeds;
      square += p * p * dot(z, z) / kSeeds;
    }
    double along = 0, norm = 0;
    for (size_t i = 0; i < kN; ++i) along += mean[i] * g[i], norm += mean[i] * mean[i];
    EXPECT_GT(along / std::sqrt(norm * dot(g, g)), emulated ? 0.96 : 0.99) << dist;
    EXPECT_NEAR(square / dot(g, g), kN + 2, emulated ? 8 : 2.5) << dist;
  }
}

TEST_P(Mezo, AnyRangeAndAnyTypeSeesTheSameNoise) {
  for (const char* dist : kDists) {
    OptimizerRun run(GetParam(), {{"dist", dist}}, {{{5000}, normals(5000, 1)}});
    const std::vector<tn_term> at{{sizeof(tn_term), 0, 99, 0.25}, {sizeof(tn_term), 1, 98, -0.5}};
    const std::vector<float> whole = run.perturbed(0, at, 0, 5000);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 130}, {127, 128}, {129, 4999}, {2048, 2049}, {3000, 3000}, {4999, 5000}}) {
      EXPECT_EQ(run.perturbed(0, at, begin, end), std::vector<float>(whole.begin() + begin, whole.begin() + end)) << dist << begin;
      const std::vector<float> half = run.perturbed(0, at, begin, end, kBF16);
      for (int64_t i = begin; i < end; ++i) EXPECT_EQ(half[i - begin], to_float(from_float<bf16>(whole[i])));
    }
    for (const int threads : {1, 2, 3}) {
      const Threads scope(threads);
      EXPECT_EQ(run.perturbed(0, at, 0, 5000), whole);
    }
  }
}

// What a backend makes many elements at a time is, to the bit, what noise_at makes of each, in every entry of the table.
TEST_P(Mezo, EveryBackendMakesTheSameNoise) {
  const int64_t n = is_emulated(GetParam()) ? 3001 : 100001;
  const tn_rng key{77, 0, 3};
  for (const char* dist : kDists) {
    OptimizerRun run(GetParam(), {{"dist", dist}}, {{{n}, std::vector<float>(n)}});
    const std::vector<float> z = run.perturbed(0, {{sizeof(tn_term), key.stream, key.seed, 1}}, 0, n);
    const Noise kind = noise_named(dist);
    for (int64_t i = 0; i < n; ++i) {
      float expected = 0;
      with_noise(kind, [&]<Noise kKind>() { expected = noise_at<kKind>(key, normal_table(), static_cast<uint64_t>(i)); });
      ASSERT_EQ(z[i], expected) << dist << " " << i;
    }
  }
}

TEST_P(Mezo, ALossThatIsNotFiniteSkipsTheStep) {
  OptimizerRun run(GetParam(), {}, {{{64}, normals(64, 1)}});
  const std::vector<float> start = run.weights();
  for (const double bad : {double{NAN}, double{INFINITY}}) {
    int asked = 0;
    const tn_driven out = run.drive(1, [&](const Weights&) { return asked++ == 1 ? bad : 2.0; }, {.lr = 1});
    EXPECT_TRUE(out.flags & TN_DRIVEN_SKIP);
    EXPECT_EQ(run.weights(), start);
  }
  EXPECT_TRUE(run.finish().empty());
}

TEST_P(Mezo, OneSidedProbesAskForTheStart) {
  OptimizerRun run(GetParam(), {{"side", "one"}, {"eps", "1e-2"}}, {{{64}, normals(64, 1)}});
  const Quadratic loss(64);
  const double at_start = loss({run.weights()}), slope = dot(noise(run, 0, 1), loss.gradient(run.weights()));
  int asked = 0;
  const tn_driven out = run.drive(1, [&](const Weights& w) { return ++asked, loss(w); }, {.lr = 0});
  EXPECT_EQ(asked, 2);
  EXPECT_NEAR(out.loss, at_start, 1e-9);
  EXPECT_NEAR(run.finish()["projected_grad"], slope, 1.0);  // biased by eps z'Az / 2
}

TEST_P(Mezo, FindsTheBottomOfAQuadratic) {
  for (const char* dist : kDists) {
    OptimizerRun run(GetParam(), {{"dist", dist}}, {{{10}, normals(10, 1)}});
    const Quadratic loss(10);
    const double start = loss({run.weights()});
    for (int64_t s = 1; s <= 600; ++s) run.drive(s, [&](const Weights& w) { return loss(w); }, {.lr = 0.03});
    EXPECT_LT(loss({run.weights()}), 0.05 * start) << dist;
  }
}

TEST_P(Mezo, HoldsNoState) {
  OptimizerRun run(GetParam(), {}, {{{64, 3}, normals(192, 1)}});
  EXPECT_EQ(run.state_bytes(), 0u);
  EXPECT_EQ(run.estimate().workspace_bytes, 0u);
  EXPECT_EQ(run.update(0, nullptr), TN_E_STATE);  // no losses yet
  EXPECT_NE(run.host.error.find("drive"), std::string::npos);
}

TEST(NormalTable, HasTheMomentsOfTheNormalAndGoldenBits) {
  const float* t = normal_table();
  double two = 0, four = 0;
  uint64_t bits = 0;
  for (int k = 0; k < 4096; ++k) {
    if (k > 0) {
      ASSERT_GT(t[k], t[k - 1]);
    }
    EXPECT_EQ(t[k], -t[4095 - k]);
    EXPECT_NEAR(0.5 * std::erfc(-t[k] / 1.00016031 / std::sqrt(2.0)), (k + 0.5) / 4096, 4e-7);
    two += std::pow(t[k], 2) / 4096, four += std::pow(t[k], 4) / 4096;
    bits = bits * 1099511628211u + std::bit_cast<uint32_t>(t[k]);
  }
  EXPECT_NEAR(two, 1, 1e-7);
  EXPECT_NEAR(four / two / two, 2.991, 1e-3);
  EXPECT_NEAR(t[4095], 3.669, 1e-3);
  EXPECT_EQ(bits, kGoldenTable);
}

TEST(Noise, BoxAndMullersNumbersAreNormalInEveryPlaceOfABlock) {
  const tn_rng key{42, 7, 3};
  constexpr int kDraws = 400000;
  double one[4]{}, two[4]{}, four[4]{}, beside = 0, last = 0, most = 0;
  for (uint64_t e = 0; e < kDraws; ++e) {
    const double z = noise_at<Noise::kNormal>(key, nullptr, e);
    one[e % 4] += z, two[e % 4] += z * z, four[e % 4] += z * z * z * z, beside += z * last, last = z;
    most = std::fmax(most, std::fabs(z));
  }
  const double n = kDraws / 4;
  for (int k = 0; k < 4; ++k) {  // four standard deviations of each mean
    EXPECT_NEAR(one[k] / n, 0, 4 / std::sqrt(n));
    EXPECT_NEAR(two[k] / n, 1, 4 * std::sqrt(2 / n));
    EXPECT_NEAR(four[k] / n, 3, 4 * std::sqrt(96 / n));
  }
  EXPECT_NEAR(beside / kDraws, 0, 4 / std::sqrt(kDraws));
  EXPECT_GT(most, 4);
  EXPECT_LT(most, 5.77);
}

TEST(Noise, SignsAreBalancedAndBitsAreTheirOwn) {
  const tn_rng key{42, 7, 3};
  double sum = 0;
  for (uint64_t e = 0; e < 100000; ++e) sum += noise_at<Noise::kRademacher>(key, nullptr, e);
  EXPECT_LT(std::fabs(sum), 1300);  // four standard deviations
}

}  // namespace
}  // namespace tenon::sdk::testing
