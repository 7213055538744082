// IncreLoRA: who gets ranks, the arithmetic of three factors, its files.
#include <nlohmann/json.hpp>

#include "adapters/increlora/ranks.h"
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::increlora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

Ranks three(int64_t budget) {
  Ranks r;
  r.active = {1, 1, 1}, r.mean = {0, 0, 0}, r.uncertainty = {0, 0, 0}, r.budget = budget;
  return r;
}

TEST(IncreLoraRanks, TheMostImportantModulesGetThem) {
  Ranks r = three(20);
  for (int step = 0; step < 5; ++step) r.observe({1, 5.0 + step % 2, 2}, 0.85);
  const auto given = r.give(1, 2);
  ASSERT_EQ(given.size(), 1u);
  EXPECT_EQ(given[0], (std::pair<size_t, int64_t>{1, 2}));
}

TEST(IncreLoraRanks, TheBudgetIsMetExactlyThoughTheIncrementDoesNotDivideIt) {
  Ranks r = three(10);
  r.observe({3, 2, 1}, 0.5);
  while (!r.complete()) (void)r.give(2, 3);
  EXPECT_EQ(r.total(), 10);
  EXPECT_TRUE(r.give(2, 3).empty());
}

TEST(IncreLoraRanks, AnInitialBudgetIsStatic) {
  Ranks r = three(3);
  EXPECT_TRUE(r.complete());
  EXPECT_TRUE(r.give(3, 2).empty());
}

TEST(IncreLoraRanks, SurviveACheckpointAndRefuseForeignOnes) {
  Ranks r = three(10);
  r.observe({3, 2, 1}, 0.5);
  (void)r.give(2, 2);
  Ranks again = three(10);
  const std::vector<uint8_t> bytes = r.bytes();
  again.load(bytes.data(), bytes.size());
  EXPECT_EQ(again.active, r.active);
  EXPECT_EQ(again.mean, r.mean);
  EXPECT_THROW(again.load(bytes.data(), bytes.size() - 1), Failure);
}

class IncreLora : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, IncreLora, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kA, kB, kE, kScore };

TEST_P(IncreLora, StartsAsTheBaseUpToItsReserve) {
  AdapterProblem p(GetParam(), {33, 17, 21});
  EXPECT_LT(relative_distance(p.forward(p.x), p.product(p.base.weight)), 1e-6);
}

// The reserve's E stand still, so their gradient is zero; with the regulariser off the others are exact.
TEST_P(IncreLora, GradientsAgreeWithFiniteDifferences) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s, {{"init_r", "3"}, {"increment", "2"}, {"orth_reg", "0"}});
    p.randomise(0.5f);
    p.expect_gradients({"lora_E"});
    const std::vector<float> de = p.adapter.params[kE].grad.floats();
    EXPECT_EQ(de[3], 0);
    EXPECT_EQ(de[4], 0);
    EXPECT_NE(de[0], 0);
  }
}

TEST_P(IncreLora, ScoreIsTheMeanProductOfDeltaAndItsGradient) {
  AdapterProblem p(GetParam(), {5, 7, 3},
                   {{"init_r", "2"}, {"increment", "1"}, {"score_every", "1"}, {"orth_reg", "0"}, {"target_r", "8"}});
  p.randomise(0.5f);
  (void)p.run();
  std::vector<float> delta = p.merged();
  double sum = 0;
  for (int i = 0; i < 5; ++i)
    for (int j = 0; j < 7; ++j) {
      double g = 0;
      for (int t = 0; t < 3; ++t) g += static_cast<double>(p.dy[t * 5 + i]) * p.x[t * 7 + j];
      sum += std::fabs(g * (delta[i * 7 + j] - p.base.weight[i * 7 + j]));
    }
  EXPECT_NEAR(p.adapter.params[kScore].value.floats()[0], sum / std::sqrt(35.0), 1e-4 * sum);
}

// Two ranks and one in reserve.
TEST_P(IncreLora, EqualsTheAuthors) {
  const golden::File file("increlora/increlora.safetensors");
  AdapterProblem p(GetParam(), {5, 7, 3},
                   {{"init_r", file.setting("r").dump()}, {"increment", file.setting("reserve").dump()}, {"lora_alpha", file.setting("alpha").dump()},
                    {"scale_mode", "rank"}, {"score_every", "1"}, {"orth_reg", "0"}, {"target_r", "8"}});
  p.base.weight = file.f32("weight"), p.x = file.f32("x"), p.dy = file.f32("dy");
  const char* const parts[] = {"A", "B", "E"};
  for (int k = kA; k <= kE; ++k) p.adapter.params[k].value.assign(file.f32(parts[k]));
  const auto [y, dx] = p.run();
  EXPECT_LT(relative_distance(y, file.f32("y")), 1e-6);
  EXPECT_LT(relative_distance(dx, file.f32("dx")), 1e-6);
  EXPECT_LT(relative_distance(p.adapter.params[kA].grad.floats(), file.f32("dA")), 2e-6);
  EXPECT_LT(relative_distance(p.adapter.params[kB].grad.floats(), file.f32("dB")), 2e-6);
  std::vector<float> de = p.adapter.params[kE].grad.floats();
  de.resize(2);  // the reserve's stands still
  EXPECT_LT(relative_distance(de, file.f32("dE")), 2e-6);
  EXPECT_NEAR(p.adapter.params[kScore].value.floats()[0], file.f32("score")[0], 1e-5 * file.f32("score")[0]);
}

TEST_P(IncreLora, TheRegulariserPullsTowardsOrthogonalFactors) {
  std::vector<float> with, without;
  for (const char* weight : {"0.1", "0.0"}) {
    AdapterProblem p(GetParam(), {5, 7, 3},
                     {{"init_r", "2"}, {"increment", "1"}, {"orth_reg", weight}, {"score_every", "1000"}});
    p.randomise(0.5f);
    (void)p.run();
    const std::vector<float> a = p.adapter.params[kA].value.floats();
    double squares = 0;
    std::vector<double> gram(9);
    for (int i = 0; i < 3; ++i)
      for (int k = 0; k < 3; ++k) {
        for (int j = 0; j < 7; ++j) gram[i * 3 + k] += static_cast<double>(a[i * 7 + j]) * a[k * 7 + j];
        gram[i * 3 + k] -= i == k;
        squares += gram[i * 3 + k] * gram[i * 3 + k];
      }
    std::vector<float> g = p.adapter.params[kA].grad.floats();
    if (weight[2] == '1') {
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 7; ++j)
          for (int k = 0; k < 3; ++k)
            g[i * 7 + j] -= static_cast<float>(0.1 * 2 / std::sqrt(squares) * gram[i * 3 + k] * a[k * 7 + j]);
      with = g;
    } else {
      without = g;
    }
  }
  EXPECT_LT(relative_distance(with, without), 1e-5);
}

TEST_P(IncreLora, TheMergedWeightGivesTheSameOutput) {
  for (const LinearSize& s : kLinearSizes) {
    AdapterProblem p(GetParam(), s, {{"init_r", "3"}});
    p.randomise();
    EXPECT_LT(relative_distance(p.product(p.merged()), p.forward(p.x)), 2e-6);
  }
}

TEST_P(IncreLora, ItsFileSaysEveryRank) {
  TestAdapter a(GetParam(), {{"init_r", "2"}, {"target_modules", "q_proj"}});
  ASSERT_EQ(a.bind({{"model.layers.0.self_attn.q_proj", 5, 7}, {"model.layers.1.self_attn.q_proj", 5, 7}}), TN_OK);
  const nlohmann::json j = nlohmann::json::parse(a.config());
  EXPECT_EQ(j["peft_type"], "INCRELORA");
  EXPECT_EQ(j["rank_pattern"]["model.layers.1.self_attn.q_proj"], 2);
}

}  // namespace
}  // namespace tenon::increlora::testing
