// SLTrain: its support, its limits (dense and low-rank), gradients, merging.
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::sltrain::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class SlTrain : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, SlTrain, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kA, kB, kValues, kIndex };

std::vector<int32_t> columns(AdapterProblem& p) {
  Tensor& t = p.adapter.params[kIndex].value;
  const auto* v = static_cast<const int32_t*>(t.get()->data);
  return {v, v + t.size()};
}

TEST_P(SlTrain, HoldsTheWeightAndTrainsTheRestOfTheModel) {
  AdapterProblem p(GetParam(), {5, 7, 3}, {{"r", "2"}});
  ASSERT_TRUE(p.adapter.owned.contains(0));
  EXPECT_FALSE(p.adapter.owned.at(0));  // there never was another weight
  EXPECT_NE(std::find(p.adapter.trained_roles.begin(), p.adapter.trained_roles.end(), uint32_t{TN_ROLE_EMBEDDING}),
            p.adapter.trained_roles.end());
  AdapterProblem alone(GetParam(), {5, 7, 3}, {{"r", "2"}, {"train_rest", "false"}});
  EXPECT_TRUE(alone.adapter.trained_roles.empty());
  (void)p.run();
  EXPECT_EQ(p.base.calls, 0);
}

TEST_P(SlTrain, TheSupportHasDistinctPositionsSpreadOverTheRows) {
  AdapterProblem p(GetParam(), {40, 50, 2}, {{"r", "2"}, {"sp_ratio", "0.11"}});
  const std::vector<int32_t> c = columns(p);
  ASSERT_EQ(c.size(), 220u);
  for (int64_t i = 0; i < 40; ++i) {
    const int64_t begin = i * 220 / 40, end = (i + 1) * 220 / 40;
    for (int64_t e = begin; e < end; ++e) {
      EXPECT_GE(c[e], 0);
      EXPECT_LT(c[e], 50);
      if (e > begin) {
        EXPECT_LT(c[e - 1], c[e]);
      }
    }
  }
}

void assign(Tensor& to, const std::vector<int32_t>& values) { std::copy(values.begin(), values.end(), static_cast<int32_t*>(to.get()->data)); }

TEST_P(SlTrain, EqualsTheAuthors) {
  const golden::File file("sltrain/sltrain.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [name, c] : settings.items()) {
    AdapterProblem p(GetParam(), {c["m"], c["n"], c["T"]}, {{"r", c["r"].dump()}, {"lora_alpha", c["alpha"].dump()}, {"sp_ratio", c["ratio"].dump()}});
    p.x = file.f32(name + ".x"), p.dy = file.f32(name + ".dy");
    ASSERT_EQ(columns(p).size(), file.i32(name + ".columns").size());
    assign(p.adapter.params[kIndex].value, file.i32(name + ".columns"));
    const char* const parts[] = {"A", "B", "v"};
    for (int k = kA; k <= kValues; ++k) p.adapter.params[k].value.assign(file.f32(name + "." + parts[k]));
    const auto [y, dx] = p.run();
    EXPECT_LT(relative_distance(y, file.f32(name + ".y")), 2e-6) << name;
    EXPECT_LT(relative_distance(dx, file.f32(name + ".dx")), 2e-6) << name;
    for (int k = kA; k <= kValues; ++k) EXPECT_LT(relative_distance(p.adapter.params[k].grad.floats(), file.f32(name + ".d" + parts[k])), 2e-6) << name << parts[k];
  }
}

// With every position in the support v is a dense weight, and its gradient the dense one.
TEST_P(SlTrain, AFullSupportIsDenseTraining) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s, {{"r", "1"}, {"sp_ratio", "1"}});  // B = 0
    const auto [y, dx] = p.run();
    const std::vector<float> w = p.adapter.params[kValues].value.floats();
    EXPECT_LT(relative_distance(y, p.product(w)), 1e-6);
    std::vector<float> dense(static_cast<size_t>(s.m * s.n));
    for (int64_t i = 0; i < s.m; ++i)
      for (int64_t j = 0; j < s.n; ++j) {
        double sum = 0;
        for (int64_t t = 0; t < s.T; ++t) sum += static_cast<double>(p.dy[t * s.m + i]) * p.x[t * s.n + j];
        dense[i * s.n + j] = static_cast<float>(sum);
      }
    EXPECT_LT(relative_distance(p.adapter.params[kValues].grad.floats(), dense), 1e-6);
  }
}

TEST_P(SlTrain, WithoutASupportItIsLowRank) {
  AdapterProblem p(GetParam(), {9, 11, 5}, {{"r", "3"}, {"sp_ratio", "0"}, {"lora_alpha", "6"}});
  p.randomise();
  const std::vector<float> a = p.adapter.params[kA].value.floats(), b = p.adapter.params[kB].value.floats();
  std::vector<float> w(99);
  for (int i = 0; i < 9; ++i)
    for (int j = 0; j < 11; ++j)
      for (int k = 0; k < 3; ++k) w[i * 11 + j] += 2 * b[i * 3 + k] * a[k * 11 + j];
  EXPECT_LT(relative_distance(p.forward(p.x), p.product(w)), 1e-6);
}

TEST_P(SlTrain, GradientsAgreeWithFiniteDifferences) {
  for (const LinearSize& s : kLinearSizes)
    for (const char* rank : {"1", "2", "40"}) {
      AdapterProblem p(GetParam(), s, {{"r", rank}, {"sp_ratio", "0.4"}});
      p.randomise();
      p.expect_gradients();
    }
}

// 700 rows of 4096 columns are several panels with a remainder.
TEST_P(SlTrain, PanelsAddUpToTheWholeMatrix) {
  AdapterProblem p(GetParam(), {700, 4096, 2}, {{"r", "2"}, {"sp_ratio", "0.01"}});
  p.randomise(0.1f);
  const auto [y, dx] = p.run();
  EXPECT_LT(relative_distance(y, p.product(p.merged())), 1e-5);
}

TEST_P(SlTrain, TheMergedWeightGivesTheSameOutput) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s, {{"r", "3"}, {"sp_ratio", "0.3"}});
    p.randomise();
    EXPECT_LT(relative_distance(p.product(p.merged()), p.forward(p.x)), 2e-6);
  }
}

TEST_P(SlTrain, KeepsTheInputAlone) {
  AdapterProblem p(GetParam(), {9, 11, 5});
  SavedSlots saved;
  (void)p.forward(p.x, &saved);
  EXPECT_EQ(saved.bytes(), 0u);
  EXPECT_EQ(saved.inputs.size(), 1u);
}

TEST_P(SlTrain, MustBeTheFirstOnItsSite) {
  TestAdapter a(GetParam());
  EXPECT_EQ(a.bind({{"model.layers.0.self_attn.q_proj", 5, 7, TN_ROLE_Q, TN_PLACE_LINEAR, TN_LINEAR_ADAPTED}}),
            TN_E_CONFLICT);
}

}  // namespace
}  // namespace tenon::sltrain::testing
