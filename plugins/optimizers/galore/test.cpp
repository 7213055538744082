#include <limits>
#include <memory>

#include <gtest/gtest.h>

#include "optimizers/galore/reference.h"
#include "sdk/dynamic_map.h"
#include "sdk/testing/gradients.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;

class GaLore : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, GaLore, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

double orthonormality(const std::vector<float>& p, size_t d, size_t r) {
  double worst = 0;
  for (size_t a = 0; a < r; ++a)
    for (size_t b = 0; b < r; ++b) {
      double s = 0;
      for (size_t i = 0; i < d; ++i) s += static_cast<double>(p[i * r + a]) * p[i * r + b];
      worst = std::max(worst, std::abs(s - (a == b)));
    }
  return worst;
}

// The part of |G|² that G P keeps, P[n, r].
double energy(const std::vector<float>& g, const std::vector<float>& p, size_t m, size_t n, size_t r) {
  double kept = 0;
  for (size_t i = 0; i < m; ++i)
    for (size_t k = 0; k < r; ++k) {
      double s = 0;
      for (size_t j = 0; j < n; ++j) s += static_cast<double>(g[i * n + j]) * p[j * r + k];
      kept += s * s;
    }
  return kept / (norm(g) * norm(g));
}

std::vector<float> transposed(const std::vector<float>& a, size_t rows, size_t columns) {
  std::vector<float> t(a.size());
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < columns; ++j) t[j * rows + i] = a[i * columns + j];
  return t;
}

Parameter matrix(int64_t m, int64_t n, std::vector<float> start = {}) {
  if (start.empty()) start = normals(static_cast<size_t>(m * n), 1);
  return {{m, n}, std::move(start), TN_ROLE_Q};
}

TEST_P(GaLore, FollowsTheOracle) {
  for (const auto& [m, n] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 40}, {40, 96}, {257, 130}, {1, 7}, {1, 1}}) {
    const auto rows = static_cast<size_t>(m), columns = static_cast<size_t>(n);
    OptimizerRun run(GetParam(), {{"rank", "8"}, {"update_proj_gap", "5"}, {"weight_decay", "0.1"}}, {matrix(m, n)});
    reference::GaLore rule(rows, columns, 8, 5, 0.25);
    rule.lambda = 0.1;
    const std::vector<float> start = run.weights();
    reference::Values w(start.begin(), start.end());
    for (int t = 1; t <= 12; ++t) {
      const std::vector<float> g = gradient(rows, columns, 10, 0.7, 0.05 * t);
      ASSERT_EQ(run.step(0, g, {.lr = 1e-2}), TN_OK) << run.host.error;
      rule.step(w, g, 1e-2, t);
    }
    std::vector<double> moved(w.size()), expected(w.size());
    const std::vector<float> now = run.weights();
    for (size_t i = 0; i < w.size(); ++i) moved[i] = now[i] - start[i], expected[i] = w[i] - start[i];
    EXPECT_LT(relative_distance(moved, expected), 2e-4) << m << "x" << n;
  }
}

TEST_P(GaLore, EqualsTheReferenceImplementation) {
  const golden::File file("galore/galore.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [label, s] : settings.items()) {
    for (const std::string name : {"tall", "wide", "square"}) {
      if (!file.has(name + "." + label + ".step12.params")) continue;
      const std::vector<int64_t> shape = file.shape(name + ".start");
      const std::vector<int8_t> all = file.i8(name + ".gradients");
      Hypers h = {{"rank", "8"},
                  {"update_proj_gap", "4"},
                  {"beta1", s["betas"][0].dump()},
                  {"beta2", s["betas"][1].dump()},
                  {"eps", s["eps"].dump()},
                  {"weight_decay", s["weight_decay"].dump()}};
      if (label == "adamw8") h.insert({{"state_bits", "8"}, {"min_8bit_size", "256"}});
      OptimizerRun run(GetParam(), h, {{shape, file.f32(name + ".start"), TN_ROLE_UP}});
      const size_t n = static_cast<size_t>(shape[0] * shape[1]);
      const std::vector<float> start = run.weights();
      for (size_t t = 1; t <= 12; ++t) {
        std::vector<float> g(n);
        for (size_t i = 0; i < n; ++i) g[i] = all[(t - 1) * n + i] / 64.0f;
        run.step(0, g, {.lr = s["lr"].get<double>()});
        const std::string key = name + "." + label + ".step" + std::to_string(t) + ".params";
        if (!file.has(key)) continue;
        std::vector<float> moved = run.weights(), expected = file.f32(key);
        for (size_t i = 0; i < n; ++i) moved[i] -= start[i], expected[i] -= start[i];
        // Codes on an edge may fall to either side, so 8 bits are compared more loosely.
        EXPECT_LT(relative_distance(moved, expected), label == "adamw8" ? 2e-2 : 1e-3) << key;
      }
    }
  }
}

TEST_P(GaLore, BasisIsOrthonormal) {
  for (const char* side : {"std", "reverse_std", "left", "right"}) {
    for (const char* svd : {"exact", "randomized"}) {
      for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{300, 70}, {70, 300}}) {
        OptimizerRun run(GetParam(), {{"rank", "24"}, {"proj_type", side}, {"svd", svd}}, {matrix(m, n)});
        run.step(0, gradient(static_cast<size_t>(m), static_cast<size_t>(n), 60, 0.8));
        const std::vector<float> p = run.state(0, "projector").floats();
        EXPECT_LT(orthonormality(p, p.size() / 24, 24), 1e-5) << side << svd << m;
      }
    }
  }
}

TEST_P(GaLore, KeepsAGradientOfThatRankWhole) {
  for (const char* svd : {"exact", "randomized"}) {
    OptimizerRun run(GetParam(), {{"rank", "12"}, {"svd", svd}}, {matrix(90, 60)});
    const std::vector<float> g = gradient(90, 60, 9, 0.9);
    run.step(0, g);
    const std::vector<float> p = run.state(0, "projector").floats();
    EXPECT_NEAR(energy(g, p, 90, 60, 12), 1, 1e-5) << svd;
    EXPECT_LT(orthonormality(p, 60, 12), 1e-5) << svd;  // completed, although only nine directions are there
  }
}

// Adam without memory and with a huge eps is gradient descent; with r = d the subspace is the whole space.
TEST_P(GaLore, FullRankGradientDescentIsUnprojected) {
  for (const char* side : {"std", "full"}) {
    OptimizerRun run(GetParam(),
                     {{"rank", "999"},
                      {"beta1", "0"},
                      {"beta2", "0"},
                      {"eps", "1e6"},
                      {"eps_mode", "exact"},
                      {"proj_type", side},
                      {"scale", "0.5"}},
                     {matrix(48, 30, std::vector<float>(48 * 30, 0.0f))});
    const std::vector<float> g = gradient(48, 30, 30, 0.95);
    run.step(0, g, {.lr = 1e6});
    std::vector<float> expected = g;
    for (float& x : expected) x *= -0.5f;
    EXPECT_LT(relative_distance(run.weights(), expected), 1e-5) << side;
  }
}

// A gradient on the first r columns spans unit vectors: AdamW there, nothing elsewhere.
TEST_P(GaLore, IsAdamWOnUnitVectors) {
  std::vector<float> g(50 * 20);
  for (size_t i = 0; i < 50; ++i)
    g[i * 20 + i % 4] =
        static_cast<float>(1 + i % 4) * (i % 8 < 4 ? 0.1f : -0.1f);  // orthogonal columns of different size
  OptimizerRun run(GetParam(), {{"rank", "4"}, {"scale", "1"}}, {matrix(50, 20, std::vector<float>(1000, 0.0f))});
  OptimizerRun adam(GetParam(), {}, {{{50, 20}, std::vector<float>(1000, 0.0f)}});
  for (int t = 0; t < 5; ++t) run.step(0, g), adam.step(0, g);
  EXPECT_LT(relative_distance(run.weights(), adam.weights()), 1e-4);
  EXPECT_EQ(run.weights()[10], 0);
}

TEST_P(GaLore, TransposedGradientGivesTheTransposedUpdate) {
  const std::vector<float> start = normals(70 * 30, 1);
  OptimizerRun tall(GetParam(), {{"rank", "6"}, {"update_proj_gap", "3"}}, {matrix(70, 30, start)});
  OptimizerRun wide(GetParam(), {{"rank", "6"}, {"update_proj_gap", "3"}}, {matrix(30, 70, transposed(start, 70, 30))});
  for (int t = 1; t <= 7; ++t) {
    const std::vector<float> g = gradient(70, 30, 12, 0.7, 0.1 * t);
    tall.step(0, g), wide.step(0, transposed(g, 70, 30));
  }
  EXPECT_LT(relative_distance(wide.weights(), transposed(tall.weights(), 70, 30)), 1e-5);
}

TEST_P(GaLore, OneByOneEqualsAllAtOnce) {
  OptimizerRun both(GetParam(), {{"rank", "6"}}, {matrix(40, 30), {{40}, normals(40, 2), TN_ROLE_NORM}}),
      alone(GetParam(), {{"rank", "6"}}, {matrix(40, 30)});
  const std::vector<float> g = gradient(40, 30, 12, 0.7);
  both.step(1, normals(40, 3)), both.step(0, g), alone.step(0, g);
  EXPECT_EQ(both.weights(0), alone.weights(0));
}

// A slowly falling spectrum, as gradients have: the hardest for a subspace iteration.
TEST_P(GaLore, RandomizedSubspaceIsAlmostTheExactOne) {
  constexpr size_t m = 320, n = 280, r = 32;
  OptimizerRun exact(GetParam(), {{"rank", "32"}, {"svd", "exact"}, {"update_proj_gap", "1"}}, {matrix(m, n)});
  OptimizerRun fast(GetParam(), {{"rank", "32"}, {"svd", "randomized"}, {"update_proj_gap", "1"}}, {matrix(m, n)});
  for (int t = 1; t <= 3; ++t) {
    const std::vector<float> g = gradient(m, n, 280, 0.98, 0.2 * t);
    exact.step(0, g), fast.step(0, g);
    const double best = energy(g, exact.state(0, "projector").floats(), m, n, r),
                 found = energy(g, fast.state(0, "projector").floats(), m, n, r);
    EXPECT_GT(found, 0.98 * best) << t;
    EXPECT_LT(std::sqrt(1 - found), 1.05 * std::sqrt(1 - best)) << t;
    EXPECT_NEAR(fast.finish().at("galore_energy"), found, 0.02);
  }
}

TEST_P(GaLore, ResumesInTheMiddleOfAGap) {
  for (const Hypers& h : {Hypers{}, Hypers{{"state_bits", "8"}, {"min_8bit_size", "0"}, {"proj_dtype", "bf16"}},
                          Hypers{{"svd", "randomized"}, {"moments", "rotate"}}, Hypers{{"proj_type", "full"}},
                          Hypers{{"moments", "reset"}, {"stagger", "true"}}}) {
    Hypers all = h;
    all.insert({{"rank", "8"}, {"update_proj_gap", "4"}});
    OptimizerRun straight(GetParam(), all, {matrix(60, 44)}), first(GetParam(), all, {matrix(60, 44)}),
        second(GetParam(), all, {matrix(60, 44)});
    const auto g = [](int t) { return gradient(60, 44, 20, 0.8, 0.1 * t); };
    for (int t = 1; t <= 11; ++t) straight.step(0, g(t));
    for (int t = 1; t <= 6; ++t) first.step(0, g(t));
    second.resume_from(first);
    for (int t = 7; t <= 11; ++t) second.step(0, g(t));
    EXPECT_TRUE(second.same_bits(straight));
  }
}

TEST_P(GaLore, StatesHaveTheCardsSize) {
  constexpr uint64_t m = 300, n = 70, r = 16;
  const std::vector<std::pair<Hypers, uint64_t>> cases = {
      {{}, 4 * n * r + 8 * m * r},
      {{{"proj_dtype", "bf16"}}, 2 * n * r + 8 * m * r},
      {{{"proj_type", "left"}}, 4 * m * r + 8 * n * r},
      {{{"proj_type", "full"}}, 4 * (m + n) * r + 8 * r * r},
      {{{"state_bits", "8"}}, 4 * n * r + 2 * m * r + 8 * ((m * r + 255) / 256)},
      {{{"state_bits", "8"}, {"min_8bit_size", "1000000"}}, 4 * n * r + 8 * m * r},
  };
  for (const auto& [h, bytes] : cases) {
    Hypers all = h;
    all["rank"] = "16";
    OptimizerRun run(GetParam(), all, {matrix(m, n)});
    EXPECT_EQ(run.state_bytes(), bytes);
    EXPECT_EQ(run.estimate().state_bytes, bytes);
  }
}

TEST_P(GaLore, LeavesTheRestToAdamW) {
  OptimizerRun run(GetParam(), {{"rank", "4"}},
                   {{{64, 64}, normals(4096, 1), TN_ROLE_EMBEDDING},
                    {{64, 64}, normals(4096, 1), TN_ROLE_HEAD},
                    {{64}, normals(64, 1), TN_ROLE_NORM},
                    {{64}, normals(64, 1), TN_ROLE_Q}});
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(run.state_names(i), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  OptimizerRun coded(GetParam(), {{"rank", "4"}, {"state_bits", "8"}},
                     {{{64, 64}, normals(4096, 1), TN_ROLE_EMBEDDING}, {{64, 64}, normals(4096, 1), TN_ROLE_HEAD}});
  EXPECT_EQ(coded.state_names(0), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  EXPECT_EQ(coded.state_names(1), (std::vector<std::string>{"state1", "state2", "absmax1", "absmax2"}));
}

TEST_P(GaLore, WithoutGradientOnlyDecays) {
  for (const char* svd : {"exact", "randomized"}) {
    OptimizerRun run(GetParam(),
                     {{"rank", "4"}, {"weight_decay", "0.5"}, {"eps", "0"}, {"svd", svd}, {"update_proj_gap", "2"}},
                     {matrix(20, 10, std::vector<float>(200, 2.0f))});
    EXPECT_EQ(run.step(0, std::vector<float>(200), {.lr = 0.1}), TN_OK);
    for (const float w : run.weights()) ASSERT_FLOAT_EQ(w, 1.9f);
    const std::vector<float> p = run.state(0, "projector").floats();
    for (size_t i = 0; i < 10; ++i)
      for (size_t k = 0; k < 4; ++k) EXPECT_EQ(p[i * 4 + k], i == k);
    run.step(0, gradient(20, 10, 8, 0.8)), run.step(0, gradient(20, 10, 8, 0.8));
    const std::vector<float> before = run.state(0, "projector").floats();
    EXPECT_NE(before, p);
    run.step(0, std::vector<float>(200)),
        run.step(0, std::vector<float>(200));  // t = 5 refreshes: nothing to learn from
    EXPECT_EQ(run.state(0, "projector").floats(), before);
  }
}

TEST_P(GaLore, ANonFiniteGradientAtARefreshIsLeftOut) {
  for (const char* svd : {"exact", "randomized"}) {
    OptimizerRun run(GetParam(), {{"rank", "4"}, {"update_proj_gap", "2"}, {"svd", svd}}, {matrix(20, 10)});
    run.step(0, gradient(20, 10, 8, 0.8)), run.step(0, gradient(20, 10, 8, 0.8));
    const std::vector<float> w = run.weights(), p = run.state(0, "projector").floats(),
                             m = run.state(0, "exp_avg").floats();
    std::vector<float> bad = gradient(20, 10, 8, 0.8);
    bad[17] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(run.step(0, bad), TN_DEGRADED);
    EXPECT_EQ(run.weights(), w);
    EXPECT_EQ(run.state(0, "projector").floats(), p);
    EXPECT_EQ(run.state(0, "exp_avg").floats(), m);
    bool degraded = false;
    run.finish(&degraded);
    EXPECT_TRUE(degraded);
    EXPECT_EQ(run.step(0, gradient(20, 10, 8, 0.8)), TN_OK);
    EXPECT_EQ(run.finish(&degraded).count("galore_refreshes"), 0u);
    EXPECT_FALSE(degraded);
  }
}

TEST_P(GaLore, RoundedWeightsFollowF32) {
  const std::vector<float> start = normals(64 * 40, 1);
  OptimizerRun full(GetParam(), {{"rank", "8"}, {"weight_decay", "0.1"}}, {matrix(64, 40, start)});
  OptimizerRun master(GetParam(), {{"rank", "8"}, {"weight_decay", "0.1"}},
                      {{{64, 40}, start, TN_ROLE_K, kBF16, true}});
  OptimizerRun random(GetParam(), {{"rank", "8"}, {"weight_decay", "0.1"}}, {{{64, 40}, start, TN_ROLE_K, kBF16}});
  for (int t = 1; t <= 10; ++t) {
    const std::vector<float> g = gradient(64, 40, 20, 0.8);
    full.step(0, g, {.lr = 0.01}), master.step(0, g, {.lr = 0.01}),
        random.step(0, g, {.lr = 0.01, .flags = TN_ITEM_STOCHASTIC_ROUNDING, .grad_dtype = kBF16});
  }
  EXPECT_LT(relative_distance(master.masters(), full.weights()), 1e-6);
  EXPECT_LT(relative_distance(random.weights(), full.weights()), 1e-2);
  EXPECT_EQ(master.weights()[5], to_float(from_float<bf16>(master.masters()[5])));
}

TEST_P(GaLore, EightBitMomentsFollowF32) {
  OptimizerRun full(GetParam(), {{"rank", "8"}, {"eps_mode", "exact"}, {"update_proj_gap", "10"}}, {matrix(200, 60)});
  OptimizerRun coded(GetParam(),
                     {{"rank", "8"}, {"state_bits", "8"}, {"min_8bit_size", "0"}, {"update_proj_gap", "10"}},
                     {matrix(200, 60)});
  const std::vector<float> start = full.weights();
  for (int t = 1; t <= 30; ++t) {
    const std::vector<float> g = gradient(200, 60, 20, 0.8, 0.02 * t);
    full.step(0, g), coded.step(0, g);
  }
  std::vector<float> a = full.weights(), b = coded.weights();
  for (size_t i = 0; i < a.size(); ++i) a[i] -= start[i], b[i] -= start[i];
  EXPECT_LT(relative_distance(b, a), 0.08);
}

// After a quarter turn of two directions the first moment is found where the gradient now is.
TEST_P(GaLore, RotationCarriesTheMomentOver) {
  const auto plane = [](double angle, float a, float b) {
    std::vector<float> g(12 * 3);
    for (size_t i = 0; i < 12; ++i) {
      const float x = a * (i % 2 ? 1.0f : -1.0f), y = b * (i % 4 < 2 ? 1.0f : -1.0f);
      g[i * 3] = static_cast<float>(x * std::cos(angle) - y * std::sin(angle)),
            g[i * 3 + 1] = static_cast<float>(x * std::sin(angle) + y * std::cos(angle));
    }
    return g;
  };
  for (const char* bits : {"32", "8"}) {
    OptimizerRun kept(GetParam(),
                      {{"rank", "2"}, {"update_proj_gap", "2"}, {"state_bits", bits}, {"min_8bit_size", "0"}},
                      {matrix(12, 3)});
    OptimizerRun turned(GetParam(),
                        {{"rank", "2"},
                         {"update_proj_gap", "2"},
                         {"moments", "rotate"},
                         {"beta1", "0.999"},
                         {"state_bits", bits},
                         {"min_8bit_size", "0"}},
                        {matrix(12, 3)});
    for (OptimizerRun* run : {&kept, &turned})
      run->step(0, plane(0, 3, 1)), run->step(0, plane(0, 3, 1)), run->step(0, plane(0.6, 3, 1));
    // In full coordinates the moment still points along the first gradients.
    const std::vector<float> p = turned.state(0, "projector").floats();
    std::vector<float> m(24);
    if (bits[0] == '3') {
      m = turned.state(0, "exp_avg").floats();
    } else {
      for (size_t i = 0; i < 24; ++i)
        m[i] = kDynamicSigned.value[turned.state(0, "state1").raw()[i]] * turned.state(0, "absmax1").floats()[0];
    }
    std::vector<float> whole(36), expected = plane(0, 3, 1);
    for (size_t i = 0; i < 12; ++i)
      for (size_t j = 0; j < 3; ++j)
        for (size_t k = 0; k < 2; ++k) whole[i * 3 + j] += m[i * 2 + k] * p[j * 2 + k];
    const std::vector<float> last = plane(0.6, 3, 1);
    for (size_t i = 0; i < 36; ++i) expected[i] = 0.001f * ((0.999f + 0.999f * 0.999f) * expected[i] + last[i]);
    EXPECT_LT(relative_distance(whole, expected), bits[0] == '3' ? 1e-5 : 0.03) << bits;
  }
}

TEST_P(GaLore, ResetForgets) {
  OptimizerRun run(GetParam(), {{"rank", "4"}, {"update_proj_gap", "3"}, {"moments", "reset"}}, {matrix(30, 20)});
  for (int t = 0; t < 3; ++t) run.step(0, gradient(30, 20, 8, 0.8));
  run.step(0, gradient(30, 20, 8, 0.8, 0, 90));
  std::vector<float> square = run.state(0, "exp_avg").floats();
  const std::vector<float> v = run.state(0, "exp_avg_sq").floats();
  for (float& x : square) x = x * x * 0.1f;  // (0.1 g)² · 0.1 = 0.001 g²
  EXPECT_LT(relative_distance(square, v), 1e-5);
}

TEST_P(GaLore, StaggerSpreadsRefreshes) {
  OptimizerRun run(GetParam(), {{"rank", "4"}, {"update_proj_gap", "4"}, {"stagger", "true"}},
                   {matrix(20, 10), matrix(20, 10), matrix(20, 10)});
  std::vector<double> refreshes;
  for (int t = 1; t <= 6; ++t) {
    for (size_t i = 0; i < 3; ++i) run.step(i, gradient(20, 10, 8, 0.8));
    const auto metrics = run.finish();
    refreshes.push_back(metrics.count("galore_refreshes") ? metrics.at("galore_refreshes") : 0);
  }
  EXPECT_EQ(refreshes, (std::vector<double>{3, 0, 1, 1, 1, 0}));
}

TEST_P(GaLore, ThreadsDoNotMatter) {
  for (const char* svd : {"exact", "randomized"}) {
    const auto run = [&](int threads) {
      const Threads scope(threads);
      auto r =
          std::make_unique<OptimizerRun>(GetParam(), Hypers{{"rank", "40"}, {"svd", svd}, {"update_proj_gap", "2"}},
                                         std::vector<Parameter>{matrix(300, 280)});
      for (int t = 1; t <= 3; ++t) r->step(0, gradient(300, 280, 60, 0.95, 0.1 * t));
      return r;
    };
    EXPECT_TRUE(run(1)->same_bits(*run(3))) << svd;
  }
}

TEST_P(GaLore, TakesAnEmptyMatrix) {
  OptimizerRun run(GetParam(), {}, {{{0, 5}, {}, TN_ROLE_Q}, {{3, 0}, {}, TN_ROLE_Q}});
  EXPECT_EQ(run.step(0, {}), TN_OK);
  EXPECT_EQ(run.step(1, {}), TN_OK);
}

}  // namespace
}  // namespace tenon::sdk::testing
