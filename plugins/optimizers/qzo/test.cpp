#include <gtest/gtest.h>

#include <cmath>

#include "sdk/spsa.h"
#include "sdk/testing/optimizer.h"
#include "sdk/testing/statistics.h"

namespace tenon::sdk::testing {
namespace {

using Hypers = std::map<std::string, std::string>;
using Weights = std::vector<std::vector<float>>;

class Qzo : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Qzo, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

Parameter scales(size_t n, float size = 1) { return {{static_cast<int64_t>(n)}, normals(static_cast<int64_t>(n), 1, size), TN_ROLE_SCALE}; }

double squares(const Weights& w) {
  double s = 0;
  for (const float x : w[0]) s += static_cast<double>(x) * x;
  return s;
}

TEST_P(Qzo, WithoutClippingItIsMezo) {
  for (const char* dist : {"normal_table", "rademacher"}) {
    OptimizerRun qzo(GetParam(), {{"clip", "inf"}, {"dist", dist}}, {scales(400)});
    OptimizerRun mezo(sibling_object(GetParam(), "mezo"), {{"dist", dist}}, {scales(400)});
    for (int64_t s = 1; s <= 10; ++s) qzo.drive(s, squares, {.lr = 1e-3}), mezo.drive(s, squares, {.lr = 1e-3});
    EXPECT_TRUE(qzo.same_bits(mezo));
  }
}

TEST_P(Qzo, NoScaleMovesFurtherThanTheClipAllows) {
  OptimizerRun run(GetParam(), {{"clip", "0.5"}}, {scales(300)});
  const std::vector<float> start = run.weights(), at = run.perturbed(0, {{sizeof(tn_term), 0, spsa_seed(1, 1), 1}}, 0, 300);
  run.drive(1, [](const Weights& w) { return 1e4 * squares(w); }, {.lr = 0.1});
  auto m = run.finish();
  EXPECT_EQ(m["clipped"], 1);
  EXPECT_EQ(std::fabs(m["projected_grad"]), 0.5);
  for (size_t i = 0; i < 300; ++i)
    EXPECT_NEAR(std::fabs(run.weights()[i] - start[i]), 0.1 * 0.5 * std::fabs(at[i] - start[i]), 1e-6);
}

// One scale: L(s) = ½ a (s − s0)², so d = z a (s − s0) and s' = s − lr d z in closed form.
TEST_P(Qzo, OneScaleFollowsTheClosedForm) {
  OptimizerRun run(GetParam(), {{"clip", "inf"}, {"eps", "0.125"}}, {{{1}, {2.0f}, TN_ROLE_SCALE}});
  const double a = 3, goal = 0.5, lr = 0.02;
  double s = 2;
  for (int64_t k = 1; k <= 20; ++k) {
    const double z = noise_at<Noise::kNormalTable>({spsa_seed(1, k), 0, 0}, normal_table(), 0);
    run.drive(k, [&](const Weights& w) { return 0.5 * a * std::pow(w[0][0] - goal, 2); }, {.lr = lr});
    s -= lr * z * a * (s - goal) * z;
    EXPECT_NEAR(run.weights()[0], s, 1e-5);
  }
  EXPECT_LT(std::fabs(s - goal), 1.2);
}

TEST_P(Qzo, RelativeProbesFollowTheSizeOfAScale) {
  OptimizerRun run(GetParam(), {{"relative", "true"}, {"clip", "inf"}}, {{{256}, std::vector<float>(256, 0.0f), TN_ROLE_SCALE}, {{256}, std::vector<float>(256, 3.0f), TN_ROLE_SCALE}});
  const std::vector<tn_term> at{{sizeof(tn_term), 0, 5, 0.5}};
  EXPECT_EQ(run.perturbed(0, at, 0, 256), std::vector<float>(256, 0.0f));
  const std::vector<float> moved = run.perturbed(1, at, 0, 256);
  for (size_t i = 0; i < 256; ++i) EXPECT_NEAR(moved[i], 3 * (1 + 0.5 * noise_at<Noise::kNormalTable>({5, 1, 0}, normal_table(), i)), 1e-5);
}

TEST_P(Qzo, HoldsNoState) {
  OptimizerRun run(GetParam(), {}, {scales(64)});
  EXPECT_EQ(run.state_bytes(), 0u);
  EXPECT_EQ(run.update(0, nullptr), TN_E_STATE);
}

}  // namespace
}  // namespace tenon::sdk::testing
