#include <algorithm>
#include <limits>
#include <memory>

#include <gtest/gtest.h>

#include "optimizers/adamw/reference.h"
#include "optimizers/adamw8/reference.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;

class AdamW8 : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, AdamW8, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

int64_t codes_apart(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, int64_t by) {
  int64_t n = 0;
  for (size_t i = 0; i < a.size(); ++i) n += std::abs(static_cast<int>(a[i]) - static_cast<int>(b[i])) > by;
  return n;
}

TEST_P(AdamW8, FollowsTheOracle) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{1}, {7}, {64, 64}, {96, 40}, {40, 96}, {257, 130}}) {
    size_t n = 1;
    for (const int64_t d : shape) n *= static_cast<size_t>(d);
    const std::vector<float> start = normals(n, 1);
    OptimizerRun run(GetParam(), {{"min_8bit_size", "0"}, {"weight_decay", "0.1"}}, {{shape, start}});
    reference::AdamW8 rule(n);
    rule.lambda = 0.1;
    std::vector<double> w(start.begin(), start.end());
    for (int t = 1; t <= 20; ++t) {
      std::vector<float> g = normals(n, 10 + t);
      for (size_t i = 0; i < n; ++i) g[i] *= t == 6 ? 0 : std::exp2(static_cast<float>(i / 40 % 9) - 4);
      ASSERT_EQ(run.step(0, g, {.lr = 1e-3}), TN_OK) << run.host.error;
      rule.step(w, g, 1e-3, t);
    }
    const int64_t most = static_cast<int64_t>(n) / 1000 + 1;  // rounding of f32 meets an edge of the book
    EXPECT_LE(codes_apart(run.state(0, "state1").raw(), rule.C1, 0), most) << n;
    EXPECT_LE(codes_apart(run.state(0, "state2").raw(), rule.C2, 0), most) << n;
    EXPECT_EQ(codes_apart(run.state(0, "state1").raw(), rule.C1, 1), 0) << n;
    EXPECT_LT(relative_distance(run.state(0, "absmax1").floats(), rule.A1), 1e-3);
    EXPECT_LT(relative_distance(run.weights(), w), 1e-4) << n;
  }
}

TEST_P(AdamW8, EqualsTheReferenceImplementation) {
  const golden::File file("adamw8/adamw8.safetensors");
  const nlohmann::json settings = file.setting("settings");
  constexpr size_t n = 4353;
  for (const auto& [label, s] : settings.items()) {
    OptimizerRun run(GetParam(),
                     {{"beta1", s["betas"][0].dump()},
                      {"beta2", s["betas"][1].dump()},
                      {"eps", s["eps"].dump()},
                      {"weight_decay", s["weight_decay"].dump()},
                      {"decay", "pre"}},  // as its CPU version does
                     {{{n}, golden::noise(300, n, 1)}});
    const std::vector<float> m_absmax = file.f32(label + ".m_absmax"), v_absmax = file.f32(label + ".v_absmax");
    for (size_t t = 1; t <= 10; ++t) {
      std::vector<float> g = golden::noise(static_cast<uint32_t>(400 + t), n, 1);
      for (size_t i = 0; i < n; ++i) g[i] = i >= 768 && i < 1024 ? 0 : std::ldexp(g[i], -static_cast<int>(i / 64 % 8));
      run.step(0, g, {.lr = s["lr"].get<double>()});
      const auto row = [&](const std::vector<float>& all) {
        return std::vector<float>(all.begin() + 18 * (t - 1), all.begin() + 18 * t);
      };
      EXPECT_LT(relative_distance(run.state(0, "absmax1").floats(), row(m_absmax)), 2e-3) << label << t;
      EXPECT_LT(relative_distance(run.state(0, "absmax2").floats(), row(v_absmax)), 2e-3) << label << t;
      const std::string at = label + ".step" + std::to_string(t);
      if (!file.has(at + ".params")) continue;
      std::vector<uint8_t> m = run.state(0, "state1").raw(), v = run.state(0, "state2").raw(),
                           rm = file.u8(at + ".m_codes"), rv = file.u8(at + ".v_codes");
      for (size_t i = 768; i < 1024; ++i) m[i] = rm[i], v[i] = rv[i];  // a zero block's codes mean nothing
      EXPECT_LE(codes_apart(m, rm, 1), 4) << at;
      EXPECT_LE(codes_apart(v, rv, 1), 4) << at;
      EXPECT_LT(relative_distance(run.weights(), file.f32(at + ".params")), 1e-4) << at;
    }
  }
}

// The states are coded after use.
TEST_P(AdamW8, FirstStepIsAdamWs) {
  const std::vector<float> start = normals(10000, 1), g = normals(10000, 2);
  OptimizerRun coded(GetParam(), {}, {{{10000}, start}}),
      plain(GetParam(), {{"min_8bit_size", "1000000"}}, {{{10000}, start}});
  coded.step(0, g), plain.step(0, g);
  EXPECT_EQ(coded.weights(), plain.weights());
  EXPECT_NE(coded.state_names(), plain.state_names());
}

// There is no code for -1: the largest negative moment of a block is remembered 0.7% too small.
TEST_P(AdamW8, ForgetsALittleOfTheMostNegative) {
  std::vector<float> g(4096, 1.0f);
  for (size_t i = 0; i < g.size(); i += 2) g[i] = -1;
  OptimizerRun run(GetParam(), {{"weight_decay", "0"}}, {{{4096}, std::vector<float>(4096)}});
  run.step(0, g, {.lr = 1});
  EXPECT_EQ(run.state(0, "absmax1").floats()[0], 0.1f);
  EXPECT_EQ(run.state(0, "state1").raw()[1], 255);
  EXPECT_EQ(run.state(0, "state1").raw()[0], 0);
  const std::vector<float> before = run.weights();
  run.step(0, g, {.lr = 1});
  const double rise = before[0] - run.weights()[0], fall = before[1] - run.weights()[1];
  EXPECT_NEAR(fall, 1, 1e-5);
  EXPECT_NEAR(rise, -(0.9 * 0.99296875 * 0.1 + 0.1) / 0.19, 1e-5);
}

TEST_P(AdamW8, KeepsTheSignOfATinyMoment) {
  std::vector<float> g(4096, 1e-9f);
  g[0] = 1;
  for (size_t i = 1; i < 2048; ++i) g[i] = -1e-9f;
  OptimizerRun run(GetParam(), {{"blocksize", "4096"}}, {{{4096}, std::vector<float>(4096)}});
  run.step(0, g);
  EXPECT_EQ(run.state(0, "state1").raw()[1], 126);
  EXPECT_EQ(run.state(0, "state1").raw()[4000], 127);
  EXPECT_EQ(run.state(0, "state2").raw()[1], 0);
}

TEST_P(AdamW8, ZeroBlocksStayZeroAndOnlyDecay) {
  OptimizerRun run(GetParam(), {{"weight_decay", "0.5"}, {"eps", "0"}}, {{{5000}, std::vector<float>(5000, 2.0f)}});
  run.step(0, std::vector<float>(5000), {.lr = 0.1});
  for (const float w : run.weights()) ASSERT_FLOAT_EQ(w, 1.9f);
  for (const float a : run.state(0, "absmax1").floats()) ASSERT_EQ(a, 0);
  EXPECT_EQ(run.state(0, "state1").raw()[0], 127);
}

TEST_P(AdamW8, LeavesOutWhatIsNotFinite) {
  std::vector<float> g = normals(4096, 1);
  g[5] = std::numeric_limits<float>::infinity(), g[300] = std::numeric_limits<float>::quiet_NaN(), g[4095] = 1e30f;
  OptimizerRun run(GetParam(), {}, {{{4096}, std::vector<float>(4096, 1.0f)}});
  run.step(0, normals(4096, 2)), run.step(0, normals(4096, 3));
  const std::vector<float> before = run.weights();
  run.step(0, g);
  for (const size_t i : {5, 300, 4095}) {
    EXPECT_EQ(run.weights()[i], before[i]);
    EXPECT_EQ(run.state(0, "state1").raw()[i], 127);
    EXPECT_EQ(run.state(0, "state2").raw()[i], 0);
  }
  EXPECT_NE(run.weights()[6], before[6]);
  for (const char* name : {"absmax1", "absmax2"})
    for (const float a : run.state(0, name).floats()) EXPECT_TRUE(std::isfinite(a));
}

TEST_P(AdamW8, StatesAreTwoBytesAndAScaleABlock) {
  for (const int64_t b : {64, 256, 4096}) {
    const Hypers h = {{"blocksize", std::to_string(b)}};
    OptimizerRun run(GetParam(), h, {{{257, 130}, std::vector<float>(257 * 130)}});
    EXPECT_EQ(run.state_bytes(), static_cast<uint64_t>(2 * 33410 + 8 * ((33410 + b - 1) / b)));
    EXPECT_EQ(run.estimate().state_bytes, run.state_bytes());
  }
  OptimizerRun mixed(
      GetParam(), {},
      {{{4095}, std::vector<float>(4095)}, {{4096}, std::vector<float>(4096), TN_ROLE_EMBEDDING}, {{0}, {}}});
  EXPECT_EQ(mixed.state_bytes(0), 8u * 4095);
  EXPECT_EQ(mixed.state_bytes(1), 8u * 4096);
  EXPECT_EQ(mixed.step(2, {}), TN_OK);
  OptimizerRun all(GetParam(), {{"embed_f32", "false"}}, {{{4096}, std::vector<float>(4096), TN_ROLE_EMBEDDING}});
  EXPECT_EQ(all.state_bytes(), 2u * 4096 + 8 * 16);
}

TEST_P(AdamW8, ThreadsDoNotMatter) {
  const auto run = [&](int threads) {
    const Threads scope(threads);
    auto r = std::make_unique<OptimizerRun>(GetParam(), Hypers{}, std::vector<Parameter>{{{50001}, normals(50001, 1)}});
    for (int t = 1; t <= 3; ++t) r->step(0, normals(50001, t));
    return r;
  };
  EXPECT_TRUE(run(1)->same_bits(*run(3)));
}

// A whole block and one cut short take different roads (groups of vectors, one by one) to the same bits. The block's
// maxima are its first element's, which both have.
TEST_P(AdamW8, BlocksCutShortAreNoDifferent) {
  constexpr int64_t kWhole = 256, kShort = 250;
  for (const tn_dtype weight : {kF32, kBF16})
    for (const tn_dtype gradient : {kF32, kBF16})
      for (const uint32_t flags : {0u, uint32_t{TN_ITEM_STOCHASTIC_ROUNDING}}) {
        const std::vector<float> start = normals(kWhole, 1), cut(start.begin(), start.begin() + kShort);
        const Hypers h{{"min_8bit_size", "0"}, {"weight_decay", "0.1"}};
        OptimizerRun whole(GetParam(), h, {{{kWhole}, start, TN_ROLE_OTHER, weight}}),
            part(GetParam(), h, {{{kShort}, cut, TN_ROLE_OTHER, weight}});
        for (int t = 1; t <= 12; ++t) {
          std::vector<float> g = normals(kWhole, 10 + t);
          for (size_t i = 1; i < g.size(); ++i) g[i] = std::clamp(g[i] * std::exp2(-static_cast<float>(i % 24)), -7.0f, 7.0f);
          g[0] = 8;
          if (t == 5) g[17] = std::numeric_limits<float>::infinity(), g[70] = std::numeric_limits<float>::quiet_NaN();
          const StepOptions o{.lr = 1e-2, .flags = flags, .grad_dtype = gradient};
          ASSERT_EQ(whole.step(0, g, o), TN_OK);
          g.resize(kShort);
          ASSERT_EQ(part.step(0, g, o), TN_OK);
        }
        std::vector<float> w = whole.weights();
        w.resize(kShort);
        EXPECT_EQ(w, part.weights());
        for (const char* name : {"state1", "state2"}) {
          std::vector<uint8_t> codes = whole.state(0, name).raw();
          codes.resize(kShort);
          EXPECT_EQ(codes, part.state(0, name).raw()) << name;
        }
      }
}

// Kernels that went to the tests' stream since it was set to 0.
int64_t launches = 0;
void count_launches() {
  static void (*const submit)(tn_stream*, std::function<void()>) = DeviceMemory::stream()->submit;
  DeviceMemory::stream()->submit = [](tn_stream* stream, std::function<void()> work) { ++launches, submit(stream, std::move(work)); };
}

// Tensors of one list, on a GPU a few launches for all: ragged sizes, rates and times of their own, types and small ones that keep f32 moments.
TEST_P(AdamW8, AListIsItsTensorsOneByOne) {
  const std::vector<int64_t> sizes = {1, 255, 256, 257, 1024, 1025, 5000, 31, 4096, 64, 640, 2047, 2048, 3, 999, 1000, 1001, 12, 300, 301, 700, 4097, 8, 90};
  for (const char* blocksize : {"256", "4096"}) {
    std::vector<Parameter> parameters;
    std::vector<StepOptions> options;
    std::vector<std::vector<float>> gradients;
    for (size_t i = 0; i < sizes.size(); ++i) {
      parameters.push_back({{sizes[i]}, normals(static_cast<size_t>(sizes[i]), 1 + static_cast<uint64_t>(i)), i == 10 ? TN_ROLE_EMBEDDING : TN_ROLE_OTHER,
                            i % 3 == 1 ? kBF16 : kF32, i % 6 == 1});
      options.push_back({.lr = 1e-3 * static_cast<double>(1 + i % 4), .decay_scale = i % 2 ? 1.0 : 0.0, .grad_scale = i % 5 ? 1.0 : 0.5,
                         .flags = i % 4 == 0 ? uint32_t{TN_ITEM_STOCHASTIC_ROUNDING} : 0u, .grad_dtype = i % 4 == 1 ? kBF16 : kF32});
    }
    const Hypers h{{"min_8bit_size", "5"}, {"weight_decay", "0.1"}, {"blocksize", blocksize}};
    static const bool counted = (count_launches(), true);
    ASSERT_TRUE(counted);
    OptimizerRun together(GetParam(), h, parameters), apart(GetParam(), h, parameters);
    for (int t = 1; t <= 4; ++t) {
      gradients.clear();
      for (size_t i = 0; i < sizes.size(); ++i) {
        gradients.push_back(i == 6 && t == 2 ? std::vector<float>() : normals(static_cast<size_t>(sizes[i]), 100 * static_cast<uint64_t>(t) + i));
        options[i].t = t + static_cast<int64_t>(i % 3);
      }
      launches = 0;
      ASSERT_EQ(together.step_all(gradients, options), TN_OK) << together.host.error;
      if (is_emulated(GetParam())) {  // three tensors have f32 moments, the others are two full arguments of a launch at most
        EXPECT_EQ(launches, 3 + 2);
      }
      for (size_t i = 0; i < sizes.size(); ++i)
        if (!gradients[i].empty()) {
          ASSERT_EQ(apart.step(i, gradients[i], options[i]), TN_OK);
        }
      ASSERT_TRUE(together.same_bits(apart)) << "step " << t << ", blocks of " << blocksize;
    }
  }
}

TEST_P(AdamW8, ResumesBitForBit) {
  const Parameter p{{9000}, normals(9000, 1), TN_ROLE_OTHER, kBF16};
  const StepOptions o{.lr = 1e-3, .flags = TN_ITEM_STOCHASTIC_ROUNDING, .grad_dtype = kBF16};
  OptimizerRun straight(GetParam(), {}, {p}), first(GetParam(), {}, {p}), second(GetParam(), {}, {p});
  for (int t = 1; t <= 8; ++t) straight.step(0, normals(9000, t), o);
  for (int t = 1; t <= 3; ++t) first.step(0, normals(9000, t), o);
  second.resume_from(first);
  for (int t = 4; t <= 8; ++t) second.step(0, normals(9000, t), o);
  EXPECT_TRUE(second.same_bits(straight));
}

// A two-layer network with tanh on noisy data: 200 steps, full batch.
double train(const std::string& object, const Hypers& h) {
  constexpr int kIn = 16, kHidden = 32, kRows = 1000;
  const std::vector<float> x = normals(kRows * kIn, 1), secret = normals(kIn, 2);
  std::vector<double> y(kRows);
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kIn; ++i) y[r] += x[r * kIn + i] * secret[i] / 4;
    y[r] = std::sin(y[r]) + 0.5 * normal({5, 5, 5}, static_cast<uint64_t>(r));
  }
  OptimizerRun run(object, h,
                   {{{kHidden, kIn}, normals(kHidden * kIn, 3, 0.25f)}, {{kHidden}, normals(kHidden, 4, 0.18f)}});
  double loss = 0;
  for (int t = 1; t <= 200; ++t) {
    const std::vector<float> w1 = run.weights(0), w2 = run.weights(1);
    std::vector<float> g1(w1.size()), g2(w2.size());
    loss = 0;
    for (int r = 0; r < kRows; ++r) {
      std::vector<double> hidden(kHidden);
      double out = -y[r];
      for (int j = 0; j < kHidden; ++j) {
        double a = 0;
        for (int i = 0; i < kIn; ++i) a += w1[j * kIn + i] * x[r * kIn + i];
        hidden[j] = std::tanh(a), out += w2[j] * hidden[j];
      }
      loss += out * out / kRows;
      for (int j = 0; j < kHidden; ++j) {
        g2[j] += static_cast<float>(2 * out * hidden[j] / kRows);
        const double back = 2 * out * w2[j] * (1 - hidden[j] * hidden[j]) / kRows;
        for (int i = 0; i < kIn; ++i) g1[j * kIn + i] += static_cast<float>(back * x[r * kIn + i]);
      }
    }
    run.step(0, g1, {.lr = 3e-3}), run.step(1, g2, {.lr = 3e-3});
  }
  return loss;
}

TEST_P(AdamW8, TrainsAsWellAsF32) {
  const double full = train(GetParam(), {{"min_8bit_size", "1000000"}}),
               coded = train(GetParam(), {{"min_8bit_size", "0"}});
  EXPECT_LT(full, 0.3);  // the noise has a variance of 0.25
  EXPECT_NEAR(coded / full, 1, 0.01);
}

}  // namespace
}  // namespace tenon::sdk::testing
