// DoRA against peft's numbers and files, and the properties that its definition gives.
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::dora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Dora : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Dora, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kA, kB, kMagnitude, kSquares };

TEST_P(Dora, OneLinearEqualsPeft) {
  const golden::File file("dora/linear.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const std::string label : {"plain", "rslora", "rank1", "wide_rank"})
    for (const bool biased : {false, true}) {
      SCOPED_TRACE(label + (biased ? " with a bias" : ""));
      const std::string at = label + (biased ? ".biased" : "");
      TestAdapter dora(GetParam(), {{"r", settings[label]["r"].dump()},
                                    {"lora_alpha", settings[label]["lora_alpha"].dump()},
                                    {"use_rslora", settings[label].value("use_rslora", false) ? "true" : "false"}});
      ASSERT_EQ(dora.bind({{"layer.q_proj", 5, 7}}), TN_OK);
      Base base{5, 7, file.f32("weight"), biased ? file.f32("bias") : std::vector<float>(), 0, {}};
      dora.init(5, &base);
      EXPECT_LT(relative_distance(dora.params[kMagnitude].value.floats(), file.f32(at + ".start")), 1e-6);
      dora.params[kA].value.assign(file.f32(at + ".A")), dora.params[kB].value.assign(file.f32(at + ".B"));
      dora.params[kMagnitude].value.assign(file.f32(at + ".g"));
      Tensor x(kF32, {3, 7}, file.f32("x")), dy(kF32, {3, 5}, file.f32("dy")), y(kF32, {3, 5}), dx(kF32, {3, 7});
      SavedSlots saved;
      dora.forward(0, base, *x.get(), y.get(), saved);
      dora.backward(0, base, *dy.get(), dx.get(), saved);
      EXPECT_LT(relative_distance(y.floats(), file.f32(at + ".y")), 2e-6);
      EXPECT_LT(relative_distance(dx.floats(), file.f32(at + ".dx")), 2e-6);
      EXPECT_LT(relative_distance(dora.params[kA].grad.floats(), file.f32(at + ".dA")), 2e-6);
      EXPECT_LT(relative_distance(dora.params[kB].grad.floats(), file.f32(at + ".dB")), 2e-6);
      EXPECT_LT(relative_distance(dora.params[kMagnitude].grad.floats(), file.f32(at + ".dg")), 2e-6);
      Tensor w(kF32, {5, 7}, file.f32("weight"));
      ASSERT_EQ(dora.merge(0, 0, 5, *w.get()), TN_OK);
      EXPECT_LT(relative_distance(w.floats(), file.f32(at + ".merged")), 2e-6);
    }
}

TEST_P(Dora, StartsAsTheBase) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s);
    EXPECT_LT(relative_distance(p.forward(p.x), p.product(p.base.weight)), 1e-6);
  }
}

TEST_P(Dora, ScalingTheMagnitudeScalesTheOutputWithoutItsBias) {
  AdapterProblem p(GetParam(), {5, 7, 3});
  p.base.bias = normals(5, 8);
  p.randomise();
  const std::vector<float> before = p.forward(p.x);
  std::vector<float> g = p.adapter.params[kMagnitude].value.floats();
  for (float& v : g) v *= 3;
  p.adapter.params[kMagnitude].value.assign(g);
  const std::vector<float> after = p.forward(p.x);
  for (int64_t i = 0; i < 15; ++i)
    EXPECT_NEAR(after[i] - p.base.bias[i % 5], 3 * (before[i] - p.base.bias[i % 5]), 1e-4);
}

TEST_P(Dora, GradientsThroughTheNormsAgreeWithFiniteDifferences) {
  for (const LinearSize& s : kLinearSizes) {
    if (s.n == 1) continue;  // a row of one column has no direction to train
    for (const char* rank : {"1", "2", "12"}) {
      AdapterProblem p(GetParam(), s, {{"r", rank}, {"norm_grad", "true"}});
      p.base.bias = normals(s.m, 8);
      p.randomise();
      p.expect_gradients({}, 3e-3);
    }
  }
}

// With ν held constant the gradients are those of c ⊙ Z with a constant c: the exact ones differ from them along V
// alone.
TEST_P(Dora, TheSimpleGradientDiffersFromTheExactOne) {
  std::vector<float> db[2], dg[2];
  for (int exact = 0; exact < 2; ++exact) {
    AdapterProblem p(GetParam(), {5, 7, 3}, {{"r", "2"}, {"norm_grad", exact ? "true" : "false"}});
    p.randomise();
    (void)p.run();
    db[exact] = p.adapter.params[kB].grad.floats(), dg[exact] = p.adapter.params[kMagnitude].grad.floats();
  }
  EXPECT_GT(relative_distance(db[0], db[1]), 1e-3);
  EXPECT_EQ(dg[0], dg[1]);
}

TEST_P(Dora, DropoutDropsTheDirectionOfItsInputOnly) {
  AdapterProblem p(GetParam(), {33, 17, 21}, {{"r", "3"}, {"lora_dropout", "0.4"}, {"norm_grad", "true"}});
  p.base.bias = normals(33, 8);
  // At the start c = 1: dropout(X) Wᵀ cancels and the base sees all of X.
  EXPECT_LT(relative_distance(p.forward(p.x),
                              [&] {
                                std::vector<float> y = p.product(p.base.weight);
                                for (size_t i = 0; i < y.size(); ++i) y[i] += p.base.bias[i % 33];
                                return y;
                              }()),
            1e-5);
  p.randomise();
  p.expect_gradients({}, 3e-3);
  EXPECT_EQ(p.run(), p.run());
}

TEST_P(Dora, TheMergedWeightGivesTheSameOutput) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s, {{"r", "3"}});
    p.randomise();
    EXPECT_LT(relative_distance(p.product(p.merged()), p.forward(p.x)), 2e-6);
  }
}

TEST_P(Dora, ARowOfZerosStaysOne) {
  AdapterProblem p(GetParam(), {5, 7, 3});
  for (int j = 0; j < 7; ++j) p.base.weight[2 * 7 + j] = 0;
  p.adapter.init(5, &p.base);
  const auto [y, dx] = p.run();
  for (int t = 0; t < 3; ++t) EXPECT_EQ(y[t * 5 + 2], 0);
  for (float v : dx) EXPECT_TRUE(std::isfinite(v));
  for (const auto& q : p.adapter.params)
    for (float v : q.grad.floats()) EXPECT_TRUE(std::isfinite(v)) << q.key;
}

TEST_P(Dora, PeftsFileHasExactlyTheParametersThatAreSaved) {
  std::ifstream in(golden::path("dora/adapter/adapter_config.json"));
  const std::string text(std::istreambuf_iterator<char>(in), {});
  const golden::File weights("dora/adapter/adapter_model.safetensors");
  TestAdapter dora(GetParam(), {}, text.c_str());
  std::vector<SiteSpec> sites;
  for (int block = 0; block < 2; ++block) {
    const std::string at = "model.layers." + std::to_string(block) + ".";
    sites.push_back({at + "self_attn.q_proj", 32, 32}), sites.push_back({at + "self_attn.k_proj", 16, 32});
    sites.push_back({at + "self_attn.v_proj", 16, 32}), sites.push_back({at + "mlp.down_proj", 32, 48});
  }
  ASSERT_EQ(dora.bind(sites), TN_OK);
  std::vector<std::string> keys, expected = weights.names();
  for (const auto& p : dora.params)
    if (p.info.flags & TN_ADAPTER_PARAM_SAVED) {
      keys.push_back(p.key);
      EXPECT_EQ(weights.shape(p.key), std::vector<int64_t>(p.info.shape, p.info.shape + p.info.ndim)) << p.key;
    }
  std::sort(keys.begin(), keys.end()), std::sort(expected.begin(), expected.end());
  EXPECT_EQ(keys, expected);
  EXPECT_NE(dora.config().find("\"use_dora\": true"), std::string::npos);
}

TEST_P(Dora, MustBeTheFirstOnItsSite) {
  TestAdapter dora(GetParam());
  EXPECT_EQ(dora.bind({{"model.layers.0.self_attn.q_proj", 5, 7, TN_ROLE_Q, TN_PLACE_LINEAR, TN_LINEAR_ADAPTED}}),
            TN_E_CONFLICT);
  EXPECT_NE(dora.host.error.find("first adapter"), std::string::npos) << dora.host.error;
}

TEST_P(Dora, AFileOfPlainLoraIsRefused) {
  EXPECT_THROW(TestAdapter(GetParam(), {}, R"({"peft_type": "LORA", "target_modules": ["q_proj"]})"), Failure);
}

}  // namespace
}  // namespace tenon::dora::testing
