#include "optimizers/adam-mini/reference.h"

#include "sdk/testing/optimizer_checks.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

class AdamMini : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, AdamMini, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

Parameter of_role(uint32_t role, std::vector<int64_t> shape, int32_t heads = 4, int32_t kv_heads = 2) {
  Parameter p{shape, normals(elements(shape), 1), role};
  p.n_heads = heads, p.n_kv_heads = kv_heads;
  return p;
}

TEST_P(AdamMini, FollowsTheOracle) {
  struct Case {
    Parameter parameter;
    size_t size;
  };
  const Case cases[] = {{of_role(TN_ROLE_Q, {64, 40}), 16 * 40},    {of_role(TN_ROLE_K, {32, 40}), 16 * 40},
                        {of_role(TN_ROLE_Q, {256, 300}), 64 * 300}, {of_role(TN_ROLE_V, {32, 40}), 40},
                        {of_role(TN_ROLE_UP, {257, 130}), 130},     {of_role(TN_ROLE_DOWN, {9, 2500}), 2500},
                        {of_role(TN_ROLE_EMBEDDING, {64, 7}), 7},   {of_role(TN_ROLE_NORM, {96}), 96},
                        {of_role(TN_ROLE_Q, {30, 40}, 4), 40},      {of_role(TN_ROLE_O, {1, 1}), 1}};
  for (const Case& c : cases) {
    OptimizerRun run(GetParam(), {{"weight_decay", "0.1"}, {"beta2", "0.95"}}, {c.parameter});
    reference::AdamMini rule{.size = c.size, .beta2 = 0.95, .lambda = 0.1};
    const std::vector<float> start = run.weights();
    std::vector<double> w(start.begin(), start.end());
    for (int t = 1; t <= 12; ++t) {
      const std::vector<float> g = normals(start.size(), 10 + t);
      ASSERT_EQ(run.step(0, g, {.lr = 1e-2}), TN_OK) << run.host.error;
      rule.step(w, g, 1e-2, t);
    }
    std::vector<double> expected(w);
    for (size_t i = 0; i < w.size(); ++i) expected[i] -= start[i];
    EXPECT_LT(relative_distance(moved(run.weights(), start), expected), 1e-5) << c.size;
  }
}

TEST_P(AdamMini, EqualsTheAuthors) {
  const golden::File file("adam-mini/adam-mini.safetensors");
  const nlohmann::json s = file.setting("settings"), order = file.setting("order");
  const std::map<std::string, uint32_t> roles = {{"embed_tokens", TN_ROLE_EMBEDDING},
                                                 {"q_proj", TN_ROLE_Q},
                                                 {"k_proj", TN_ROLE_K},
                                                 {"v_proj", TN_ROLE_V},
                                                 {"o_proj", TN_ROLE_O},
                                                 {"mlp.up_proj", TN_ROLE_UP},
                                                 {"mlp.down_proj", TN_ROLE_DOWN},
                                                 {"lm_head", TN_ROLE_HEAD},
                                                 {"norm", TN_ROLE_NORM},
                                                 {"q_proj.bias", TN_ROLE_BIAS}};
  for (uint32_t i = 0; i < order.size(); ++i) {
    const std::string name = order[i];
    Parameter p = of_role(roles.at(name), file.shape(name));
    const size_t n = p.start.size();
    p.start = golden::noise(900 + i, n, 1);
    OptimizerRun run(GetParam(), {{"beta2", s["betas"][1].dump()}, {"weight_decay", s["weight_decay"].dump()}}, {p});
    for (uint32_t t = 1; t <= 8; ++t)
      run.step(0, golden::noise(920 + 10 * i + t, n, 1),
               {.lr = s["lr"].get<double>(), .decay_scale = p.shape.size() == 1 ? 0.0 : 1.0});
    EXPECT_LT(relative_distance(moved(run.weights(), p.start), moved(file.f32(name), p.start)), 1e-5) << name;
  }
}

// A block of one element, or one in which all |g| are equal, is AdamW.
TEST_P(AdamMini, IsAdamWWhereBlocksHoldOneSize) {
  Parameter column = of_role(TN_ROLE_UP, {50, 1}), bias = of_role(TN_ROLE_BIAS, {50});
  OptimizerRun mini(GetParam(), {}, {column}), adam(GetParam(), {}, {bias});
  for (int t = 1; t <= 5; ++t) mini.step(0, normals(50, t)), adam.step(0, normals(50, t));
  EXPECT_LT(relative_distance(mini.weights(), adam.weights()), 1e-6);

  OptimizerRun rows(GetParam(), {}, {of_role(TN_ROLE_UP, {10, 20})}),
      all(GetParam(), {}, {of_role(TN_ROLE_BIAS, {200})});
  for (int t = 1; t <= 5; ++t) {
    std::vector<float> g = normals(200, t);
    for (size_t i = 0; i < 200; ++i) g[i] = std::copysign(static_cast<float>(1 + i / 20), g[i]);
    rows.step(0, g), all.step(0, g);
  }
  EXPECT_LT(relative_distance(rows.weights(), all.weights()), 1e-6);
}

TEST_P(AdamMini, PermutedColumnsPermuteTheUpdate) {
  const Parameter p = of_role(TN_ROLE_GATE, {30, 24});
  const auto reversed = [](std::vector<float> x) {
    for (size_t i = 0; i < 30; ++i) std::reverse(x.begin() + i * 24, x.begin() + (i + 1) * 24);
    return x;
  };
  Parameter q = p;
  q.start = reversed(p.start);
  OptimizerRun straight(GetParam(), {}, {p}), mirrored(GetParam(), {}, {q});
  for (int t = 1; t <= 4; ++t) {
    const std::vector<float> g = normals(720, t);
    straight.step(0, g), mirrored.step(0, reversed(g));
  }
  EXPECT_LT(relative_distance(mirrored.weights(), reversed(straight.weights())), 1e-6);
}

TEST_P(AdamMini, BlocksFollowHeadsAndRoles) {
  const std::vector<Parameter> p = {of_role(TN_ROLE_Q, {64, 40}), of_role(TN_ROLE_K, {32, 40}),
                                    of_role(TN_ROLE_V, {32, 40}), of_role(TN_ROLE_NORM, {40}),
                                    of_role(TN_ROLE_BIAS, {40}),  of_role(TN_ROLE_Q, {64, 40}, 0, 0)};
  expect_state_bytes({GetParam(), {}, p},
                     {4 * 2560 + 4 * 4, 4 * 1280 + 4 * 2, 4 * 1280 + 4 * 32, 4 * 40 + 4, 8 * 40, 4 * 2560 + 4 * 64});
  expect_state_bytes({GetParam(), {{"v_per_tensor", "true"}, {"state_dtype", "bf16"}}, p},
                     {2 * 2560 + 4 * 4, 2 * 1280 + 4 * 2, 2 * 1280 + 4, 2 * 40 + 4, 4 * 40, 2 * 2560 + 4 * 64});
}

TEST_P(AdamMini, IsSound) {
  for (const char* dtype : {"f32", "bf16"})
    expect_sound({GetParam(),
                  {{"state_dtype", dtype}},
                  {of_role(TN_ROLE_Q, {128, 150}), of_role(TN_ROLE_UP, {170, 130}), of_role(TN_ROLE_NORM, {64}),
                   of_role(TN_ROLE_BIAS, {64})}});
}

}  // namespace
}  // namespace tenon::sdk::testing
