#include <gtest/gtest.h>

#include "optimizers/sgd/reference.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

const std::vector<std::vector<int64_t>> kShapes = {{1}, {7}, {64, 64}, {96, 40}, {40, 96}, {257, 130}};

size_t elements(const std::vector<int64_t>& shape) {
  size_t n = 1;
  for (const int64_t d : shape) n *= static_cast<size_t>(d);
  return n;
}

class Sgd : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Sgd, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(Sgd, FollowsTheOracle) {
  const struct {
    std::map<std::string, std::string> hypers;
    reference::Sgd rule;
  } variants[] = {
      {{}, {}},
      {{{"momentum", "0.9"}}, {.mu = 0.9}},
      {{{"momentum", "0.9"}, {"dampening", "0.3"}, {"weight_decay", "0.1"}}, {.mu = 0.9, .dampening = 0.3, .l2 = 0.1}},
      {{{"momentum", "0.8"}, {"nesterov", "true"}, {"decoupled_weight_decay", "0.2"}},
       {.mu = 0.8, .lambda = 0.2, .nesterov = true}},
      {{{"momentum", "0.8"}, {"ema", "true"}, {"nesterov", "true"}}, {.mu = 0.8, .nesterov = true, .ema = true}},
      {{{"momentum", "0.9"}, {"ema", "true"}, {"sign", "true"}}, {.mu = 0.9, .ema = true, .sign = true}},
      {{{"sign", "true"}}, {.sign = true}},
  };
  for (const auto& v : variants) {
    for (const auto& shape : kShapes) {
      const size_t n = elements(shape);
      const std::vector<float> start = normals(n, 1);
      OptimizerRun run(GetParam(), v.hypers, {{shape, start}});
      std::vector<double> w(start.begin(), start.end());
      std::vector<reference::Sgd> rules(n, v.rule);
      for (int t = 1; t <= 20; ++t) {
        const std::vector<float> g = normals(n, 10 + t, t == 6 ? 0.0f : 1.0f);
        ASSERT_EQ(run.step(0, g, {.lr = 1e-2, .grad_scale = 2}), TN_OK) << run.host.error;
        for (size_t i = 0; i < n; ++i) w[i] = rules[i].step(w[i], 2.0 * g[i], 1e-2, t);
      }
      std::vector<double> moved(n), expected(n);
      const std::vector<float> now = run.weights();
      for (size_t i = 0; i < n; ++i) moved[i] = now[i] - start[i], expected[i] = w[i] - start[i];
      EXPECT_LT(relative_distance(moved, expected), 2e-5) << n;
    }
  }
}

TEST_P(Sgd, EqualsTorch) {
  const golden::File file("sgd/sgd.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [label, s] : settings.items()) {
    for (const std::string name : {"one", "seven", "matrix"}) {
      const std::vector<float> start = file.f32(name + ".start"), gradients = file.f32(name + ".gradients");
      const std::vector<float> expected = file.f32(name + "." + label + ".params");
      std::map<std::string, std::string> hypers;
      for (const auto& [key, value] : s.items())
        if (key != "lr") hypers[key] = value.dump();
      OptimizerRun run(GetParam(), hypers, {{file.shape(name + ".start"), start}});
      const size_t n = start.size();
      for (size_t t = 0; t < 20; ++t) {
        run.step(0, {gradients.begin() + t * n, gradients.begin() + (t + 1) * n}, {.lr = s["lr"].get<double>()});
        EXPECT_LT(relative_distance(run.weights(),
                                    std::vector<float>(expected.begin() + t * n, expected.begin() + (t + 1) * n)),
                  1e-6)
            << label << t;
      }
      if (s.contains("momentum")) {
        EXPECT_LT(
            relative_distance(run.state(0, "momentum_buffer").floats(), file.f32(name + "." + label + ".momentum")),
            1e-6);
      }
    }
  }
}

// f(w) = a w² / 2: w_t = (1 − η a)^t w_0.
TEST_P(Sgd, DescendsAParabolaInClosedForm) {
  const std::vector<float> a = {0.5f, 1, 3, 7};
  OptimizerRun run(GetParam(), {}, {{{4}, {1, 1, 1, 1}}});
  for (int t = 1; t <= 30; ++t) {
    std::vector<float> g = run.weights();
    for (size_t i = 0; i < 4; ++i) g[i] *= a[i];
    run.step(0, g, {.lr = 0.1});
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(run.weights()[i], std::pow(1 - 0.1 * a[i], t), 1e-6);
  }
}

// With momentum (w, b) follows a 2×2 matrix whose eigenvalues are complex here: |λ|² = μ.
TEST_P(Sgd, HeavyBallShrinksWithTheRootOfItsMomentum) {
  const double mu = 0.81, eta = 0.1, a = 1;
  OptimizerRun run(GetParam(), {{"momentum", "0.81"}}, {{{1}, {1}}});
  double w = 1, b = 0;
  for (int t = 1; t <= 60; ++t) {
    run.step(0, {static_cast<float>(a) * run.weights()[0]}, {.lr = eta});
    b = (t == 1 ? 0 : mu * b) + a * w, w -= eta * b;
    EXPECT_NEAR(run.weights()[0], w, 1e-5);
  }
  // x_{t+1} = (1 + μ − η a) x_t − μ x_{t−1}; the invariant of two solutions shrinks by μ a step.
  const double trace = 1 + mu - eta * a;
  EXPECT_LT(trace * trace, 4 * mu);
  EXPECT_LT(std::abs(run.weights()[0]), 3 * std::pow(mu, 30));
}

TEST_P(Sgd, SumAndAverageAgreeWhenTheRateIsScaled) {
  const std::vector<float> start = normals(300, 1);
  OptimizerRun sum(GetParam(), {{"momentum", "0.75"}}, {{{300}, start}}),
      average(GetParam(), {{"momentum", "0.75"}, {"ema", "true"}}, {{{300}, start}});
  for (int t = 1; t <= 20; ++t)
    sum.step(0, normals(300, t), {.lr = 0.01}), average.step(0, normals(300, t), {.lr = 0.04});
  EXPECT_LT(relative_distance(average.weights(), sum.weights()), 1e-6);
  std::vector<float> b = sum.state(0, "momentum_buffer").floats();
  for (float& x : b) x *= 0.25f;
  EXPECT_LT(relative_distance(average.state(0, "momentum_buffer").floats(), b), 1e-6);
}

TEST_P(Sgd, KeepsABufferOnlyWithMomentum) {
  OptimizerRun plain(GetParam(), {}, {{{10}, std::vector<float>(10)}}),
      momentum(GetParam(), {{"momentum", "0.5"}}, {{{10}, std::vector<float>(10)}}),
      half(GetParam(), {{"momentum", "0.5"}, {"state_dtype", "bf16"}}, {{{10}, std::vector<float>(10)}});
  EXPECT_EQ(plain.state_bytes(), 0u);
  EXPECT_EQ(momentum.state_bytes(), 40u);
  EXPECT_EQ(half.state_bytes(), 20u);
  EXPECT_EQ(half.estimate().state_bytes, 20u);
}

TEST_P(Sgd, WithoutGradientOnlyDecays) {
  OptimizerRun run(GetParam(), {{"momentum", "0.9"}, {"decoupled_weight_decay", "0.5"}}, {{{2}, {1, -2}}});
  run.step(0, {0, 0}, {.lr = 0.1});
  EXPECT_EQ(run.weights(), (std::vector<float>{0.95f, -1.9f}));
  OptimizerRun empty(GetParam(), {}, {{{0}, {}}});
  EXPECT_EQ(empty.step(0, {}), TN_OK);
}

TEST_P(Sgd, ResumesBitForBit) {
  const std::vector<float> start = normals(2500, 1);
  const std::map<std::string, std::string> h = {{"momentum", "0.9"}, {"state_dtype", "bf16"}};
  const StepOptions o{.lr = 0.01, .flags = TN_ITEM_STOCHASTIC_ROUNDING, .grad_dtype = kBF16};
  const Parameter p{{2500}, start, TN_ROLE_OTHER, kBF16};
  OptimizerRun straight(GetParam(), h, {p}), first(GetParam(), h, {p}), second(GetParam(), h, {p});
  for (int t = 1; t <= 8; ++t) straight.step(0, normals(2500, t), o);
  for (int t = 1; t <= 3; ++t) first.step(0, normals(2500, t), o);
  second.resume_from(first);
  for (int t = 4; t <= 8; ++t) second.step(0, normals(2500, t), o);
  EXPECT_TRUE(second.same_bits(straight));
}

TEST_P(Sgd, RefusesContradictions) {
  for (const std::map<std::string, std::string>& h : {std::map<std::string, std::string>{{"nesterov", "true"}},
                                                      {{"nesterov", "true"}, {"momentum", "0.9"}, {"dampening", "0.1"}},
                                                      {{"ema", "true"}},
                                                      {{"ema", "true"}, {"momentum", "0.9"}, {"dampening", "0.1"}}}) {
    try {
      OptimizerRun run(GetParam(), h, {});
      ADD_FAILURE();
    } catch (const Failure& e) {
      EXPECT_EQ(e.status, TN_E_ARGUMENT);
      EXPECT_NE(e.sentence.find("momentum"), std::string::npos) << e.sentence;
    }
  }
}

}  // namespace
}  // namespace tenon::sdk::testing
