#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "optimizers/mkor/factor.h"
#include "optimizers/mkor/hybrid.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;

class Mkor : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Mkor, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

double length(const std::vector<float>& x) {
  double s = 0;
  for (const float v : x) s += static_cast<double>(v) * v;
  return std::sqrt(s);
}

// The inverse of a symmetric positive matrix by Gauss and Jordan, in double.
std::vector<double> inverse(std::vector<double> a, int64_t n) {
  std::vector<double> b(a.size());
  for (int64_t i = 0; i < n; ++i) b[i * n + i] = 1;
  for (int64_t c = 0; c < n; ++c) {
    const double d = a[c * n + c];
    for (int64_t k = 0; k < n; ++k) a[c * n + k] /= d, b[c * n + k] /= d;
    for (int64_t r = 0; r < n; ++r) {
      const double f = a[r * n + c];
      if (r == c || f == 0) continue;
      for (int64_t k = 0; k < n; ++k) a[r * n + k] -= f * a[c * n + k], b[r * n + k] -= f * b[c * n + k];
    }
  }
  return b;
}

TEST(MkorFactor, IsTheInverseOfTheAverageAfterAHundredUpdates) {
  constexpr int64_t kN = 24;
  const InverseSettings s{0.95f, 0.1f, 1e9f, 100, false};
  std::vector<float> f(kN * kN), p(kN), scalars(kScalars + 2 * kN);
  std::vector<double> average(kN * kN);
  for (int64_t i = 0; i < kN; ++i) f[i * kN + i] = 1, average[i * kN + i] = 1;
  for (uint32_t t = 0; t < 100; ++t) {
    const std::vector<float> v = normals(kN, t);
    update_inverse<float>(nullptr, s, f.data(), kN, v.data(), p.data(), scalars.data());
    for (int64_t i = 0; i < kN; ++i)
      for (int64_t k = 0; k < kN; ++k) average[i * kN + k] = 0.95 * average[i * kN + k] + 0.05 * v[i] * v[k];
  }
  EXPECT_LT(relative_distance(f, inverse(average, kN)), 1e-4);
}

TEST(MkorFactor, NothingSeenGrowsTheInverseUntilTheStabiliserStopsIt) {
  constexpr int64_t kN = 8;
  std::vector<float> f(kN * kN), p(kN), scalars(kScalars + 2 * kN), zero(kN);
  for (int64_t i = 0; i < kN; ++i) f[i * kN + i] = 1;
  float largest = 0;
  for (int t = 0; t < 200; ++t) {
    update_inverse<float>(nullptr, {0.95f, 0.1f, 2, 100, false}, f.data(), kN, zero.data(), p.data(), scalars.data());
    largest = std::max(largest, f[0]);
  }
  EXPECT_GT(largest, 1.9f);
  EXPECT_LT(largest, 2.2f);
  EXPECT_EQ(f[1], 0.0f);
}

TEST(MkorFactor, TheReferencesFormMixesTheInverseWithTheIdentity) {
  std::vector<float> f{2, 0, 0, 4}, p(2), scalars(kScalars + 4);
  const std::vector<float> v{1, 500};  // cut to 3
  update_inverse<float>(nullptr, {0.95f, 0.1f, 1e9f, 3, true}, f.data(), 2, v.data(), p.data(), scalars.data());
  const double a = 0.95 * 2 + 0.05, d = 0.95 * 4 + 0.05, den = 1 + a + 9 * d;
  EXPECT_NEAR(f[0], a - a * a / den, 1e-5);
  EXPECT_NEAR(f[1], -3 * a * d / den, 1e-5);
  EXPECT_NEAR(f[3], d - 9 * d * d / den, 1e-5);
}

Parameter weight() { return {{12, 20}, normals(240, 1), TN_ROLE_Q, kF32, false, 0, 0, 0}; }

TEST_P(Mkor, WithoutATapItIsItsInnerOptimizer) {
  for (const char* inner : {"sgd", "adamw"}) {
    OptimizerRun mkor(GetParam(), {{"inner", inner == std::string("sgd") ? "sgd:momentum=0.9" : "adamw"}}, {weight()});
    OptimizerRun plain(sibling_object(GetParam(), inner), inner == std::string("sgd") ? Hypers{{"momentum", "0.9"}} : Hypers{}, {weight()});
    for (uint32_t t = 1; t <= 5; ++t) mkor.step(0, normals(240, t)), plain.step(0, normals(240, t));
    EXPECT_EQ(mkor.weights(), plain.weights()) << inner;
  }
}

TEST_P(Mkor, KeepsTheLengthAndTurnsTheDirection) {
  for (const char* half : {"false", "true"}) {
    OptimizerRun run(GetParam(), {{"inner", "sgd:momentum=0"}, {"half", half}}, {weight()});
    for (uint32_t t = 1; t <= 6; ++t) {
      const std::vector<float> before = run.weights(), g = normals(240, 100 + t);
      ASSERT_EQ(run.step(0, g, {.lr = 1, .tap_x = normals(20, t, 5), .tap_dy = normals(12, 50 + t, 5)}), TN_OK) << run.host.error;
      std::vector<float> moved(240);
      double along = 0;
      for (size_t i = 0; i < 240; ++i) moved[i] = before[i] - run.weights()[i], along += moved[i] * g[i];
      EXPECT_NEAR(length(moved), length(g), 1e-3 * length(g));
      EXPECT_LT(along, 0.999 * length(g) * length(g));
      EXPECT_GT(along, 0);  // positive definite on both sides
    }
  }
}

// K = L G R against dense algebra, with the rescaling.
TEST_P(Mkor, PreconditionsWithTheInversesItHolds) {
  OptimizerRun run(GetParam(), {{"inner", "sgd:momentum=0"}, {"half", "false"}}, {weight()});
  const std::vector<float> before = run.weights(), g = normals(240, 7);
  run.step(0, g, {.lr = 1, .tap_x = normals(20, 1, 3), .tap_dy = normals(12, 2, 3)});
  const std::vector<float> left = run.state(0, "left_inverse").floats(), right = run.state(0, "right_inverse").floats();
  std::vector<double> gr(240), k(240);
  double kk = 0;
  for (int i = 0; i < 12; ++i)
    for (int c = 0; c < 20; ++c)
      for (int j = 0; j < 20; ++j) gr[i * 20 + c] += static_cast<double>(g[i * 20 + j]) * right[j * 20 + c];
  for (int i = 0; i < 12; ++i)
    for (int c = 0; c < 20; ++c) {
      for (int j = 0; j < 12; ++j) k[i * 20 + c] += left[i * 12 + j] * gr[j * 20 + c];
      kk += k[i * 20 + c] * k[i * 20 + c];
    }
  for (int i = 0; i < 240; ++i) EXPECT_NEAR(before[i] - run.weights()[i], k[i] * length(g) / std::sqrt(kk), 1e-4);
}

TEST_P(Mkor, EqualsTheAuthors) {
  const golden::File file("mkor/mkor.safetensors");
  const std::vector<float> g = file.f32("gradients"), x = file.f32("inputs"), dy = file.f32("outputs"), w = file.f32("weights");
  OptimizerRun run(GetParam(), {{"rule", "sm_ref"}, {"inner", "sgd:momentum=0.9"}, {"half", "false"}}, {{{12, 20}, file.f32("start"), TN_ROLE_Q, kF32, false, 0, 0, 0}});
  const auto at = [](const std::vector<float>& all, size_t t, size_t n) { return std::vector<float>(all.begin() + t * n, all.begin() + (t + 1) * n); };
  for (size_t t = 0; t < 8; ++t) {
    ASSERT_EQ(run.step(0, at(g, t, 240), {.lr = file.setting("lr"), .tap_x = at(x, t, 20), .tap_dy = at(dy, t, 12)}), TN_OK) << run.host.error;
    EXPECT_LT(relative_distance(run.weights(), at(w, t, 240)), 2e-6) << t;
  }
  EXPECT_LT(relative_distance(run.state(0, "left_inverse").floats(), file.f32("left")), 2e-6);
  EXPECT_LT(relative_distance(run.state(0, "right_inverse").floats(), file.f32("right")), 2e-6);
}

TEST_P(Mkor, TapsOnItsStepsAndOnlyOfLinears) {
  OptimizerRun run(GetParam(), {{"inv_freq", "4"}, {"warmup_steps", "2"}}, {weight(), {{20}, normals(20, 2), TN_ROLE_NORM}, {{30, 8}, normals(240, 3), TN_ROLE_EMBEDDING}});
  const std::set<int64_t> expected{1, 2, 5, 9};
  for (int64_t s = 1; s <= 10; ++s) {
    run.plan(s);
    EXPECT_EQ(run.planned(0), expected.contains(s) ? uint32_t{TN_PLAN_TAP_MEANS} : 0u) << s;
    EXPECT_EQ(run.planned(1) | run.planned(2), 0u);
  }
  EXPECT_EQ(run.state_names(0), (std::vector<std::string>{"left_inverse", "right_inverse", "momentum_buffer"}));
  EXPECT_EQ(run.state_bytes(0), 2u * (144 + 400) + 4u * 240);
  EXPECT_EQ(OptimizerRun(GetParam(), {{"half", "false"}}, {weight()}).state_bytes(0), 4u * (144 + 400 + 240));
  EXPECT_EQ(run.estimate(0).state_bytes, run.state_bytes(0));
  EXPECT_EQ(run.state_bytes(1), 4u * 20);
}

TEST_P(Mkor, ResumesBitForBit) {
  const auto go = [](OptimizerRun& r, uint32_t t) {
    StepOptions o{.lr = 0.1};
    if (t % 2) o.tap_x = normals(20, t), o.tap_dy = normals(12, t + 9);
    r.plan(t), r.step(0, normals(240, t), o);
  };
  OptimizerRun straight(GetParam(), {}, {weight()}), first(GetParam(), {}, {weight()}), second(GetParam(), {}, {weight()});
  for (uint32_t t = 1; t <= 8; ++t) go(straight, t);
  for (uint32_t t = 1; t <= 4; ++t) go(first, t);
  second.resume_from(first);
  for (uint32_t t = 5; t <= 8; ++t) go(second, t);
  EXPECT_TRUE(second.same_bits(straight));
}

// A loss that falls by `fast` a step in preconditioned windows and by `slow` in the others: how many of `steps` were preconditioned.
int64_t preconditioned(Hybrid& hybrid, double fast, double slow, int64_t steps, double noise = 0) {
  int64_t on = 0;
  double loss = 10;
  for (int64_t t = 0; t < steps; ++t) {
    const bool now = hybrid.preconditions();
    on += now;
    hybrid.see(loss * (1 + noise * (t % 3 - 1)));
    loss *= 1 - (now ? fast : slow);
  }
  return on;
}

TEST(MkorHybrid, StaysWhileItPaysAndStopsForGoodWhenItDoesNot) {
  Hybrid off;
  EXPECT_EQ(preconditioned(off, 0, 0.01, 100), 100);
  EXPECT_FALSE(off.is_on());
  Hybrid pays(10, 0);
  EXPECT_EQ(preconditioned(pays, 0.02, 0.01, 500, 1e-3), 400);  // every fifth window is a probe
  EXPECT_NEAR(pays.gain(), 1, 0.1);
  Hybrid does_not(10, 0);
  EXPECT_EQ(preconditioned(does_not, 0.01, 0.02, 500, 1e-3), 50);  // four windows, the probe, and the one behind it
  EXPECT_TRUE(does_not.has_stopped());
  EXPECT_NEAR(does_not.gain(), -0.5, 0.1);
  Hybrid not_enough(10, 2);  // twice as fast is not three times
  preconditioned(not_enough, 0.02, 0.01, 500);
  EXPECT_TRUE(not_enough.has_stopped());
  // A curve that flattens by itself, the same with and without: neither is favoured by its place.
  Hybrid flattens(10, 0);
  for (int t = 0; t < 60; ++t) flattens.see(1 + 9 * std::exp(-t / 50.0));
  EXPECT_NEAR(flattens.gain(), 0, 0.05);
}

TEST(MkorHybrid, GoesOnFromWhatItSaved) {
  Hybrid straight(7, 0), first(7, 0), second(7, 0);
  preconditioned(straight, 0.01, 0.02, 30), preconditioned(first, 0.01, 0.02, 30);
  std::string blob;
  first.save(blob);
  blob += "inner";
  std::string_view rest = blob;
  second.load(rest);
  EXPECT_EQ(rest, "inner");
  EXPECT_EQ(preconditioned(straight, 0.01, 0.02, 60), preconditioned(second, 0.01, 0.02, 60));
  EXPECT_EQ(straight.gain(), second.gain());
  std::string_view none = "short";
  EXPECT_THROW(second.load(none), Failure);
}

TEST_P(Mkor, HybridIsItsInnerOptimizerOnceItHasStopped) {
  const Hypers hypers{{"hybrid", "true"}, {"hybrid_window", "4"}, {"inner", "sgd:momentum=0"}};
  OptimizerRun run(GetParam(), hypers, {weight()});
  for (uint32_t t = 1; t <= 40; ++t) {
    run.plan(t);
    EXPECT_EQ(run.planned(0) != 0, t <= 24 && t % 10 == 1) << t;
    StepOptions o{.lr = 0.1};
    if (run.planned(0)) o.tap_x = normals(20, t, 3), o.tap_dy = normals(12, t + 9, 3);
    const std::vector<float> before = run.weights();
    run.step(0, normals(240, t), o);
    const bool second_order = t <= 16 || (t > 20 && t <= 24);  // the probe is the fifth window, and the sixth decides
    const std::vector<float> g = normals(240, t), after = run.weights();
    const double square = std::pow(length(g), 2);
    double along = 0;
    for (size_t i = 0; i < 240; ++i) along += 10 * (before[i] - after[i]) * g[i];
    EXPECT_EQ(along < 0.999 * square, second_order) << t;
    run.see_loss(second_order ? 3.0 : 3.0 - 0.1 * ((t - 1) % 4));  // falls without it alone
    EXPECT_EQ(run.finish()["second_order"], t < 16 || (t >= 20 && t < 24)) << t;  // of the step to come
  }
  OptimizerRun resumed(GetParam(), hypers, {weight()});
  resumed.resume_from(run);
  resumed.plan(41);
  EXPECT_EQ(resumed.planned(0), 0u);
}

TEST_P(Mkor, ZeroGradientsStayZero) {
  OptimizerRun run(GetParam(), {{"inner", "sgd:momentum=0"}}, {weight()});
  const std::vector<float> before = run.weights();
  run.step(0, std::vector<float>(240), {.lr = 1, .tap_x = normals(20, 1), .tap_dy = std::vector<float>(12)});
  EXPECT_EQ(run.weights(), before);
}

// y = W x with inputs that lean one way: the mean direction dominates the curvature, which is what rank-1 factors see.
TEST_P(Mkor, NeedsFewerStepsThanSgdAtAnEqualRate) {
  const auto steps = [&](const std::string& object, const Hypers& hypers, bool taps) {
    OptimizerRun run(object, hypers, {{{4, 6}, std::vector<float>(24), TN_ROLE_Q, kF32, false, 0, 0, 0}});
    const std::vector<float> goal = normals(24, 3);
    for (uint32_t t = 1; t <= 3000; ++t) {
      std::vector<float> g(24), mean_x(6), mean_d(4);
      double loss = 0;
      for (uint32_t s = 0; s < 16; ++s) {
        std::vector<float> x = normals(6, 16 * (t % 8) + s, 0.5f);
        for (float& v : x) v += 2;
        for (int i = 0; i < 4; ++i) {
          float d = 0;
          for (int k = 0; k < 6; ++k) d += (run.weights()[i * 6 + k] - goal[i * 6 + k]) * x[k];
          loss += d * d / 32, mean_d[i] += d / 16;
          for (int k = 0; k < 6; ++k) g[i * 6 + k] += d * x[k] / 16;
        }
        for (int k = 0; k < 6; ++k) mean_x[k] += x[k] / 16;
      }
      if (loss < 0.01) return t;
      StepOptions o{.lr = 0.03};
      if (taps) o.tap_x = mean_x, o.tap_dy = mean_d;
      run.step(0, g, o);
    }
    return 3000u;
  };
  EXPECT_LT(steps(GetParam(), {{"inner", "sgd:momentum=0"}, {"inv_freq", "1"}}, true), steps(sibling_object(GetParam(), "sgd"), {{"momentum", "0"}}, false));
}

}  // namespace
}  // namespace tenon::sdk::testing
