#include "optimizers/fira/reference.h"

#include <limits>

#include "sdk/testing/gradients.h"
#include "sdk/testing/optimizer_checks.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

class Fira : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Fira, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(Fira, FollowsTheOracle) {
  for (const auto& [m, n] :
       std::vector<std::pair<int64_t, int64_t>>{{64, 64}, {96, 40}, {40, 96}, {257, 130}, {1, 7}}) {
    const auto rows = static_cast<size_t>(m), columns = static_cast<size_t>(n);
    OptimizerRun run(GetParam(), {{"rank", "8"}, {"update_proj_gap", "5"}, {"weight_decay", "0.1"}}, {matrix(m, n)});
    reference::Fira rule{rows, columns, std::min({size_t{8}, rows, columns}), 5, 0.25, 1};
    rule.lambda = 0.1;
    const std::vector<float> start = run.weights();
    reference::Values w(start.begin(), start.end());
    for (int t = 1; t <= 12; ++t) {
      std::vector<float> g = gradient(rows, columns, 10, 0.7, 0.05 * t);
      ASSERT_EQ(run.step(0, g, {.lr = 1e-2, .grad_scale = 0.5}), TN_OK) << run.host.error;
      for (float& x : g) x *= 0.5f;
      rule.step(w, g, 1e-2, t);
    }
    std::vector<double> expected(w);
    for (size_t i = 0; i < w.size(); ++i) expected[i] -= start[i];
    EXPECT_LT(relative_distance(moved(run.weights(), start), expected), 3e-4) << m << "x" << n;
  }
}

TEST_P(Fira, EqualsTheAuthors) {
  const golden::File file("fira/fira.safetensors"), inputs("galore/galore.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [label, s] : settings.items()) {
    for (const std::string name : {"tall", "wide", "square"}) {
      const std::vector<float> start = inputs.f32(name + ".start");
      const std::vector<int8_t> all = inputs.i8(name + ".gradients");
      OptimizerRun run(GetParam(),
                       {{"rank", "8"},
                        {"update_proj_gap", "4"},
                        {"alpha", s["alpha"].dump()},
                        {"compat_alpha", label == "compat" ? "true" : "false"},
                        {"beta2", s["betas"][1].dump()},
                        {"weight_decay", s["weight_decay"].dump()}},
                       {{inputs.shape(name + ".start"), start, TN_ROLE_UP}});
      for (size_t t = 1; t <= 12; ++t) {
        std::vector<float> g(start.size());
        for (size_t i = 0; i < g.size(); ++i) g[i] = all[(t - 1) * g.size() + i] / 64.0f;
        run.step(0, g, {.lr = s["lr"].get<double>()});
        const std::string key = name + "." + label + ".step" + std::to_string(t);
        if (!file.has(key)) continue;
        EXPECT_LT(relative_distance(moved(run.weights(), start), moved(file.f32(key), start)), 1e-3) << key;
      }
    }
  }
}

// With the whole space inside, nothing is left over: GaLore with r = d and scale alpha, which is Adam turned by P.
TEST_P(Fira, FullRankLeavesNothingOver) {
  OptimizerRun run(GetParam(), {{"rank", "999"}}, {matrix(48, 30)});
  for (int t = 1; t <= 5; ++t) run.step(0, gradient(48, 30, 30, 0.95, 0.1 * t));
  EXPECT_LT(run.state(0, "residual_norm").floats()[0], 1e-3 * std::sqrt(48 * 30));  // of |N|, a difference of squares
  reference::Fira rule{48, 30, 30, 200, 0.25, 1};
  const std::vector<float> start = matrix(48, 30).start;
  reference::Values w(start.begin(), start.end());
  for (int t = 1; t <= 5; ++t) rule.step(w, gradient(48, 30, 30, 0.95, 0.1 * t), 1e-3, t);
  EXPECT_LT(relative_distance(moved(run.weights(), start), moved({w.begin(), w.end()}, start)), 1e-3);
}

// Adam without memory and with a huge eps hands its input on: φ is one factor, and with alpha = 1 the step is lr · G.
TEST_P(Fira, IsGradientDescentAroundTheIdentity) {
  const std::vector<float> g = gradient(40, 24, 24, 0.95);
  OptimizerRun run(
      GetParam(),
      {{"rank", "4"}, {"alpha", "1"}, {"beta1", "0"}, {"beta2", "0"}, {"eps", "1e6"}, {"eps_mode", "exact"}},
      {{{40, 24}, std::vector<float>(960), TN_ROLE_Q}});
  run.step(0, g, {.lr = 1e6});
  std::vector<float> expected = g;
  for (float& x : expected) x = -x;
  EXPECT_LT(relative_distance(run.weights(), expected), 1e-5);
}

// |E| of 1, 10 and 10 times a number: 1, 1.01 and 1.0201 times it are let through.
TEST_P(Fira, ResidualGrowsByGammaAtMost) {
  const Settings h = {{"rank", "4"}, {"beta1", "0"}, {"beta2", "0"}, {"eps", "1e6"}, {"eps_mode", "exact"}};
  OptimizerRun run(GetParam(), h, {matrix(40, 24)});
  const std::vector<float> g = gradient(40, 24, 24, 0.95);
  std::vector<float> large = g;
  for (float& x : large) x *= 10;
  run.step(0, g);
  const double first = run.state(0, "residual_norm").floats()[0];
  EXPECT_GT(first, 0);
  run.step(0, large);
  EXPECT_NEAR(run.state(0, "residual_norm").floats()[0] / first, 1.01, 1e-2);
  const double second = run.state(0, "residual_norm").floats()[0];
  run.step(0, large);
  EXPECT_NEAR(run.state(0, "residual_norm").floats()[0] / second, 1.01, 1e-2);
  run.step(0, g);
  EXPECT_NEAR(run.state(0, "residual_norm").floats()[0] / first, 1, 1e-3);
}

TEST_P(Fira, TransposedGradientGivesTheTransposedUpdate) {
  const auto turned = [](const std::vector<float>& x) {
    const reference::Values t = reference::transposed(reference::Values(x.begin(), x.end()), 70, 30);
    return std::vector<float>(t.begin(), t.end());
  };
  const std::vector<float> start = normals(2100, 1);
  OptimizerRun tall(GetParam(), {{"rank", "6"}, {"update_proj_gap", "3"}}, {{{70, 30}, start, TN_ROLE_Q}});
  OptimizerRun wide(GetParam(), {{"rank", "6"}, {"update_proj_gap", "3"}}, {{{30, 70}, turned(start), TN_ROLE_Q}});
  for (int t = 1; t <= 7; ++t) {
    const std::vector<float> g = gradient(70, 30, 12, 0.7, 0.1 * t);
    tall.step(0, g), wide.step(0, turned(g));
  }
  EXPECT_LT(relative_distance(wide.weights(), turned(tall.weights())), 1e-5);
}

TEST_P(Fira, ANonFiniteGradientAtARefreshIsLeftOut) {
  OptimizerRun run(GetParam(), {{"rank", "4"}, {"update_proj_gap", "2"}}, {matrix(20, 10)});
  run.step(0, gradient(20, 10, 8, 0.8)), run.step(0, gradient(20, 10, 8, 0.8));
  const std::vector<float> w = run.weights(), norm = run.state(0, "residual_norm").floats();
  std::vector<float> bad = gradient(20, 10, 8, 0.8);
  bad[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(run.step(0, bad), TN_DEGRADED);
  EXPECT_EQ(run.weights(), w);
  EXPECT_EQ(run.state(0, "residual_norm").floats(), norm);
}

TEST_P(Fira, StatesHaveTheCardsSize) {
  expect_state_bytes({GetParam(), {{"rank", "16"}}, {matrix(300, 70), {{64}, normals(64, 1), TN_ROLE_NORM}}},
                     {4 * 70 * 16 + 8 * 300 * 16 + 4, 8 * 64});
}

TEST_P(Fira, IsSound) {
  for (const char* svd : {"exact", "randomized"})
    expect_sound({GetParam(),
                  {{"rank", "8"}, {"update_proj_gap", "3"}, {"svd", svd}},
                  {matrix(170, 100), matrix(40, 96), {{64}, normals(64, 1), TN_ROLE_NORM}}});
}

}  // namespace
}  // namespace tenon::sdk::testing
