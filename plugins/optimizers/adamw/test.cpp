#include <memory>

#include <gtest/gtest.h>

#include "optimizers/adamw/reference.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

const std::vector<std::vector<int64_t>> kShapes = {{1}, {7}, {64, 64}, {96, 40}, {40, 96}, {257, 130}};

size_t elements(const std::vector<int64_t>& shape) {
  size_t n = 1;
  for (const int64_t d : shape) n *= static_cast<size_t>(d);
  return n;
}

using Hypers = std::map<std::string, std::string>;

class AdamW : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, AdamW, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

struct Variant {
  std::map<std::string, std::string> hypers;
  reference::AdamW rule;
};

TEST_P(AdamW, FollowsTheOracle) {
  const Variant variants[] = {
      {{}, {}},
      {{{"beta1", "0.8"}, {"beta2", "0.95"}, {"weight_decay", "0.1"}, {"decay", "post"}},
       {.beta1 = 0.8, .beta2 = 0.95, .lambda = 0.1, .decay_first = false}},
      {{{"eps_mode", "hf"}, {"eps", "1e-6"}, {"weight_decay", "0"}}, {.epsilon = 1e-6, .lambda = 0, .hf = true}},
      {{{"amsgrad", "true"}, {"beta2", "0.5"}}, {.beta2 = 0.5, .amsgrad = true}},
  };
  for (const Variant& v : variants) {
    for (const auto& shape : kShapes) {
      const size_t n = elements(shape);
      const std::vector<float> start = normals(n, 1);
      OptimizerRun run(GetParam(), v.hypers, {{shape, start}});
      std::vector<double> w(start.begin(), start.end());
      std::vector<reference::AdamW> rules(n, v.rule);
      for (int t = 1; t <= 20; ++t) {
        const std::vector<float> g = normals(n, 10 + t, t == 6 ? 0.0f : std::exp2(static_cast<float>(t % 7) - 5));
        ASSERT_EQ(run.step(0, g, {.lr = 1e-2, .grad_scale = 0.5}), TN_OK) << run.host.error;
        for (size_t i = 0; i < n; ++i) w[i] = rules[i].step(w[i], 0.5 * g[i], 1e-2, t);
      }
      std::vector<double> moved(n), expected(n);
      const std::vector<float> now = run.weights();
      for (size_t i = 0; i < n; ++i) moved[i] = now[i] - start[i], expected[i] = w[i] - start[i];
      EXPECT_LT(relative_distance(moved, expected), 1e-5) << n;
    }
  }
}

TEST_P(AdamW, StaysWithTheOracleForAThousandSteps) {
  const std::vector<float> start = normals(64, 1);
  OptimizerRun run(GetParam(), {}, {{{64}, start}});
  std::vector<double> w(start.begin(), start.end());
  std::vector<reference::AdamW> rules(64);
  for (int t = 1; t <= 1000; ++t) {
    const std::vector<float> g = normals(64, t);
    run.step(0, g);
    for (size_t i = 0; i < 64; ++i) w[i] = rules[i].step(w[i], g[i], 1e-3, t);
  }
  EXPECT_LT(relative_distance(run.weights(), w), 1e-6);
}

TEST_P(AdamW, EqualsTorch) {
  const golden::File file("adamw/adamw.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [label, s] : settings.items()) {
    for (const std::string name : {"one", "seven", "matrix"}) {
      const std::vector<float> start = file.f32(name + ".start"), gradients = file.f32(name + ".gradients");
      const std::vector<float> expected = file.f32(name + "." + label + ".params");
      const bool amsgrad = s.value("amsgrad", false);
      OptimizerRun run(GetParam(),
                       {{"beta1", s["betas"][0].dump()},
                        {"beta2", s["betas"][1].dump()},
                        {"eps", s["eps"].dump()},
                        {"weight_decay", s["weight_decay"].dump()},
                        {"amsgrad", amsgrad ? "true" : "false"}},
                       {{file.shape(name + ".start"), start}});
      const size_t n = start.size();
      for (size_t t = 0; t < 20; ++t) {
        run.step(0, {gradients.begin() + t * n, gradients.begin() + (t + 1) * n}, {.lr = s["lr"].get<double>()});
        EXPECT_LT(largest_difference(run.weights(),
                                     std::vector<float>(expected.begin() + t * n, expected.begin() + (t + 1) * n)),
                  2e-6)
            << label << t;
      }
      EXPECT_LT(relative_distance(run.state(0, "exp_avg").floats(), file.f32(name + "." + label + ".m")), 1e-6);
      EXPECT_LT(relative_distance(run.state(0, "exp_avg_sq").floats(), file.f32(name + "." + label + ".v")), 1e-6);
      if (amsgrad) {
        EXPECT_LT(relative_distance(run.state(0, "max_exp_avg_sq").floats(), file.f32(name + "." + label + ".vmax")),
                  1e-6);
      }
    }
  }
}

TEST_P(AdamW, FirstStepMovesEveryWeightByTheRate) {
  OptimizerRun run(GetParam(), {{"weight_decay", "0"}}, {{{100}, std::vector<float>(100, 0.0f)}});
  const std::vector<float> g = normals(100, 3);
  run.step(0, g, {.lr = 0.5});
  for (size_t i = 0; i < 100; ++i) EXPECT_NEAR(run.weights()[i], g[i] > 0 ? -0.5 : 0.5, 1e-5);
}

TEST_P(AdamW, IsASignStepWithoutMemory) {
  OptimizerRun run(GetParam(), {{"beta1", "0"}, {"beta2", "0"}, {"eps", "0"}, {"weight_decay", "0"}},
                   {{{4}, {0, 0, 0, 0}}});
  run.step(0, {1e6f, -3, 1e-9f, 0}, {.lr = 0.25});
  EXPECT_EQ(run.weights(), (std::vector<float>{-0.25f, 0.25f, -0.25f, 0}));
  run.step(0, {1e-6f, 2, -5, 0}, {.lr = 0.25});
  EXPECT_EQ(run.weights(), (std::vector<float>{-0.5f, 0, 0, 0}));
}

TEST_P(AdamW, WithoutGradientOnlyDecays) {
  for (const char* decay : {"pre", "post"}) {
    OptimizerRun run(GetParam(), {{"weight_decay", "0.5"}, {"eps", "0"}, {"decay", decay}}, {{{3}, {1, -2, 4}}});
    double factor = 1;
    for (const double lr : {0.1, 0.02, 0.3}) run.step(0, {0, 0, 0}, {.lr = lr}), factor *= 1 - lr * 0.5;
    EXPECT_NEAR(run.weights()[2], 4 * factor, 1e-6);
    run.step(0, {0, 0, 0}, {.lr = 0.1, .decay_scale = 0});
    EXPECT_NEAR(run.weights()[2], 4 * factor, 1e-6);
  }
}

TEST_P(AdamW, OneByOneEqualsAllAtOnce) {
  const std::vector<float> a = normals(5000, 1), b = normals(3, 2), ga = normals(5000, 3), gb = normals(3, 4);
  OptimizerRun together(GetParam(), {}, {{{5000}, a}, {{3}, b}}), alone(GetParam(), {}, {{{5000}, a}});
  together.step(1, gb), together.step(0, ga);
  alone.step(0, ga);
  EXPECT_EQ(together.weights(0), alone.weights(0));
}

TEST_P(AdamW, MasterKeepsWhatBf16WouldLose) {
  const std::vector<float> ones(2048, 1.0f), g(2048, 1.0f);
  const std::map<std::string, std::string> h = {{"weight_decay", "0"}};
  OptimizerRun nearest(GetParam(), h, {{{2048}, ones, TN_ROLE_OTHER, kBF16}});
  OptimizerRun master(GetParam(), h, {{{2048}, ones, TN_ROLE_OTHER, kBF16, true}});
  OptimizerRun random(GetParam(), h, {{{2048}, ones, TN_ROLE_OTHER, kBF16}});
  for (int t = 0; t < 50; ++t) {
    nearest.step(0, g, {.lr = 1e-3, .grad_dtype = kBF16});
    master.step(0, g, {.lr = 1e-3, .grad_dtype = kBF16});
    random.step(0, g, {.lr = 1e-3, .flags = TN_ITEM_STOCHASTIC_ROUNDING, .grad_dtype = kBF16});
  }
  EXPECT_EQ(nearest.weights()[0], 1.0f);  // 1e-3 is below half of bf16's spacing at 1
  EXPECT_NEAR(master.masters()[0], 0.95, 1e-5);
  EXPECT_EQ(master.weights()[0], to_float(from_float<bf16>(master.masters()[0])));
  double mean = 0;
  for (const float w : random.weights()) mean += w / 2048;
  EXPECT_NEAR(mean, 0.95, 5e-4);
}

TEST_P(AdamW, StochasticRoundingReplays) {
  const std::vector<float> start = normals(3000, 1), g = normals(3000, 2);
  const StepOptions o{.lr = 1e-3, .flags = TN_ITEM_STOCHASTIC_ROUNDING};
  OptimizerRun a(GetParam(), {{"state_dtype", "bf16"}}, {{{3000}, start, TN_ROLE_OTHER, kBF16}});
  OptimizerRun b(GetParam(), {{"state_dtype", "bf16"}}, {{{3000}, start, TN_ROLE_OTHER, kBF16}});
  OptimizerRun c(GetParam(), {{"state_dtype", "bf16"}}, {{{3000}, start, TN_ROLE_OTHER, kBF16}});
  c.seed = 77;
  for (int t = 0; t < 3; ++t) a.step(0, g, o), b.step(0, g, o), c.step(0, g, o);
  EXPECT_TRUE(a.same_bits(b));
  EXPECT_FALSE(a.same_bits(c));
}

TEST_P(AdamW, Bf16StatesFollowF32) {
  const std::vector<float> start = normals(4096, 1);
  OptimizerRun full(GetParam(), {}, {{{4096}, start}}), half(GetParam(), {{"state_dtype", "bf16"}}, {{{4096}, start}});
  for (int t = 1; t <= 200; ++t) {
    const std::vector<float> g = normals(4096, t, t < 100 ? 1.0f : 0.1f);
    full.step(0, g), half.step(0, g);
  }
  EXPECT_EQ(half.state_bytes(), 4u * 4096);
  std::vector<float> moved = full.weights(), moved_half = half.weights();
  for (size_t i = 0; i < start.size(); ++i) moved[i] -= start[i], moved_half[i] -= start[i];
  EXPECT_LT(relative_distance(moved_half, moved), 0.02);
  EXPECT_LT(relative_distance(half.state(0, "exp_avg_sq").floats(), full.state(0, "exp_avg_sq").floats()),
            0.05);  // V shrinks with g: it is not frozen
}

TEST_P(AdamW, ResumesBitForBit) {
  for (const char* dtype : {"f32", "bf16"}) {
    const std::vector<float> start = normals(1500, 1);
    OptimizerRun straight(GetParam(), {{"state_dtype", dtype}}, {{{1500}, start}}),
        first(GetParam(), {{"state_dtype", dtype}}, {{{1500}, start}});
    OptimizerRun second(GetParam(), {{"state_dtype", dtype}}, {{{1500}, start}});
    for (int t = 1; t <= 8; ++t) straight.step(0, normals(1500, t));
    for (int t = 1; t <= 3; ++t) first.step(0, normals(1500, t));
    second.resume_from(first);
    for (int t = 4; t <= 8; ++t) second.step(0, normals(1500, t));
    EXPECT_TRUE(second.same_bits(straight));
  }
}

TEST_P(AdamW, StatesAreEightBytesAParameter) {
  for (const auto& shape : kShapes) {
    OptimizerRun run(GetParam(), {}, {{shape, std::vector<float>(elements(shape))}});
    EXPECT_EQ(run.state_bytes(), 8 * elements(shape));
    EXPECT_EQ(run.estimate().state_bytes, run.state_bytes());
    EXPECT_EQ(run.estimate().bytes_moved, 28.0 * static_cast<double>(elements(shape)));
    EXPECT_EQ(run.estimate().workspace_bytes, 0u);
  }
  OptimizerRun ams(GetParam(), {{"amsgrad", "true"}}, {{{10}, std::vector<float>(10)}});
  EXPECT_EQ(ams.state_bytes(), 120u);
}

TEST_P(AdamW, ThreadsDoNotMatter) {
  const auto run = [&](int threads) {
    const Threads scope(threads);
    auto r = std::make_unique<OptimizerRun>(GetParam(), Hypers{{"state_dtype", "bf16"}},
                                            std::vector<Parameter>{{{50001}, normals(50001, 1), TN_ROLE_OTHER, kBF16}});
    for (int t = 1; t <= 3; ++t) r->step(0, normals(50001, t), {.flags = TN_ITEM_STOCHASTIC_ROUNDING});
    return r;
  };
  EXPECT_TRUE(run(1)->same_bits(*run(3)));
}

TEST_P(AdamW, TakesAnEmptyTensor) {
  OptimizerRun run(GetParam(), {}, {{{0, 5}, {}}});
  EXPECT_EQ(run.step(0, {}), TN_OK);
}

TEST_P(AdamW, RefusesWhatItCannotUpdate) {
  OptimizerRun run(GetParam(), {}, {{{4}, {1, 2, 3, 4}}});
  tn_query q{};
  q.struct_size = sizeof q, q.device = {TN_CPU, 0}, q.dtype = kF16;
  EXPECT_EQ(run.api().supports(run.self(), &q), TN_E_UNSUPPORTED);
  EXPECT_NE(run.host.error.find("f16"), std::string::npos);
  EXPECT_EQ(run.step(0, {1, 1, 1, 1}, {.t = -1}), TN_E_ARGUMENT);
  EXPECT_NE(run.host.error.find("t = -1"), std::string::npos);
  tn_param p{};
  p.struct_size = sizeof p, p.repr = TN_REPR_QUANTIZED, p.dtype = kF32, p.name = "lm_head";
  const tn_param* list[] = {&p};
  EXPECT_EQ(run.api().bind(run.self(), list, 1), TN_E_UNSUPPORTED);
  EXPECT_NE(run.host.error.find("lm_head"), std::string::npos);
}

}  // namespace
}  // namespace tenon::sdk::testing
