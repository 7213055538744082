// Compacter: factored products against the explicit Kronecker sums, shared rules, near-identity at the start.
#include "sdk/testing/adapter_problem.h"
#include "tests/reference/golden.h"

namespace tenon::compacter::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

class Compacter : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Compacter, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

enum { kRules, kDownS, kDownT, kDownBias, kUpS, kUpT, kUpBias };

// A sub-layer's output of width d; the base is the identity.
struct Sublayer : AdapterProblem {
  Sublayer(const std::string& object, int64_t d, int64_t T, const char* n, const char* f, const char* gate = "none", const char* dropout = "0")
      : AdapterProblem(object, {d, d, T}, {{"hypercomplex_division", n}, {"reduction_factor", f}, {"gate", gate}, {"dropout", dropout}},
                       {"model.layers.0.mlp", 0, 0, TN_ROLE_DOWN, TN_PLACE_SUBLAYER}) {
    base.weight.assign(static_cast<size_t>(d * d), 0);
    for (int64_t i = 0; i < d; ++i) base.weight[i * d + i] = 1;
  }
};

std::vector<double> kronecker(const std::vector<float>& rules, const std::vector<float>& s, const std::vector<float>& t,
                              int64_t N, int64_t in, int64_t out) {
  const int64_t p = in / N, q = out / N;
  std::vector<double> h(static_cast<size_t>(in * out));
  for (int64_t i = 0; i < N; ++i)
    for (int64_t a = 0; a < N; ++a)
      for (int64_t c = 0; c < N; ++c)
        for (int64_t u = 0; u < p; ++u)
          for (int64_t v = 0; v < q; ++v)
            h[(a * p + u) * out + c * q + v] +=
                static_cast<double>(rules[(i * N + a) * N + c]) * s[i * p + u] * t[i * q + v];
  return h;
}

TEST_P(Compacter, IsTheExplicitKroneckerSum) {
  struct {
    int64_t d, T;
    const char *n, *f;
  } cases[] = {{8, 3, "2", "2"}, {12, 1, "3", "2"}, {7, 4, "1", "7"}, {64, 5, "4", "4"}};
  for (const auto& c : cases) {
    Sublayer p(GetParam(), c.d, c.T, c.n, c.f);
    p.randomise();
    std::vector<std::vector<float>> v;
    for (const auto& q : p.adapter.params) v.push_back(q.value.floats());
    const int64_t N = std::stoll(c.n), k = c.d / std::stoll(c.f);
    const std::vector<double> down = kronecker(v[kRules], v[kDownS], v[kDownT], N, c.d, k),
                              up = kronecker(v[kRules], v[kUpS], v[kUpT], N, k, c.d);
    std::vector<double> expected(static_cast<size_t>(c.T * c.d));
    for (int64_t t = 0; t < c.T; ++t) {
      std::vector<double> z(static_cast<size_t>(k));
      for (int64_t j = 0; j < k; ++j) {
        double sum = v[kDownBias][j];
        for (int64_t i = 0; i < c.d; ++i) sum += p.x[t * c.d + i] * down[i * k + j];
        z[j] = 0.5 * sum * (1 + std::tanh(std::sqrt(2 / M_PI) * (sum + 0.044715 * sum * sum * sum)));
      }
      for (int64_t i = 0; i < c.d; ++i) {
        double sum = p.x[t * c.d + i] + v[kUpBias][i];
        for (int64_t j = 0; j < k; ++j) sum += z[j] * up[j * c.d + i];
        expected[t * c.d + i] = sum;
      }
    }
    EXPECT_LT(relative_distance(p.forward(p.x), expected), 1e-6);
  }
}

TEST_P(Compacter, EqualsTheAuthors) {
  const golden::File file("compacter/compacter.safetensors");
  const nlohmann::json settings = file.setting("settings");
  for (const auto& [name, c] : settings.items()) {
    const int64_t T = c["T"];
    Sublayer p(GetParam(), c["d"], T, std::to_string(c["N"].get<int>()).c_str(), std::to_string(c["f"].get<int>()).c_str());
    p.x = file.f32(name + ".x"), p.dy = file.f32(name + ".dy");
    const char* const parts[] = {"rules", "down.s", "down.t", "down.b", "up.s", "up.t", "up.b"};
    for (int k = kRules; k <= kUpBias; ++k) p.adapter.params[k].value.assign(file.f32(name + "." + parts[k]));
    const auto [y, dx] = p.run();
    EXPECT_LT(relative_distance(y, file.f32(name + ".y")), 1e-6) << name;
    EXPECT_LT(relative_distance(dx, file.f32(name + ".dx")), 1e-6) << name;
    for (int k = kRules; k <= kUpBias; ++k) {
      std::string grad = parts[k];
      grad.insert(grad.find('.') == std::string::npos ? 0 : grad.find('.') + 1, "d");
      EXPECT_LT(relative_distance(p.adapter.params[k].grad.floats(), file.f32(name + "." + grad)), 5e-6) << name << " " << grad;
    }
  }
}

TEST_P(Compacter, GradientsAgreeWithFiniteDifferences) {
  struct {
    int64_t d, T;
    const char *n, *f;
  } cases[] = {{8, 3, "2", "2"}, {12, 1, "3", "2"}, {7, 4, "1", "7"}, {32, 9, "4", "4"}};
  for (const auto& c : cases) {
    Sublayer p(GetParam(), c.d, c.T, c.n, c.f);
    p.randomise(0.8f);
    p.expect_gradients();
  }
}

TEST_P(Compacter, GatesAgreeWithFiniteDifferences) {
  for (const char* gate : {"channel", "token", "large"})
    for (const int64_t T : {1, 6}) {
      Sublayer p(GetParam(), 12, T, "2", "3", gate);
      p.randomise(0.8f);
      p.expect_gradients({}, 2e-3);
    }
}

// A gate's logits far from zero leave the output as it is without a gate, or take it away.
TEST_P(Compacter, AGateIsBetweenNothingAndAll) {
  for (const char* gate : {"channel", "token", "large"}) {
    Sublayer plain(GetParam(), 12, 4, "2", "3"), gated(GetParam(), 12, 4, "2", "3", gate);
    plain.randomise(0.8f);
    for (size_t i = 0; i < plain.adapter.params.size(); ++i) gated.adapter.params[i].value.assign(plain.adapter.params[i].value.floats());
    const std::vector<float> x = plain.x, y = plain.forward(x);
    const auto set_bias = [&](float logit) {
      auto& params = gated.adapter.params;
      for (size_t i = plain.adapter.params.size(); i < params.size(); ++i) {
        const bool bias = std::string(gate) == "channel" || i + 1 == params.size();  // what adds to the logits alone comes last
        params[i].value.assign(std::vector<float>(static_cast<size_t>(params[i].value.size()), bias ? logit : 0));
      }
    };
    set_bias(30);
    EXPECT_LT(relative_distance(gated.forward(x), y), 1e-6) << gate;
    set_bias(-30);
    EXPECT_LT(relative_distance(gated.forward(x), x), 1e-6) << gate;
    set_bias(0);
    std::vector<float> middle(x.size());
    for (size_t i = 0; i < x.size(); ++i) middle[i] = (x[i] + y[i]) / 2;
    EXPECT_LT(relative_distance(gated.forward(x), middle), 1e-6) << gate;
  }
}

// The gradient is that of the very function of the call: the mask is drawn again, not kept.
TEST_P(Compacter, DropoutReplaysInBackward) {
  Sublayer p(GetParam(), 12, 9, "2", "3", "none", "0.5");
  p.randomise(0.8f);
  SavedSlots unused;
  EXPECT_EQ(p.forward(p.x, &unused), p.forward(p.x, &unused));
  CallOptions evaluation;
  evaluation.flags = 0;
  EXPECT_GT(relative_distance(p.forward(p.x, nullptr, evaluation), p.forward(p.x, &unused)), 1e-3);
  p.expect_gradients();
}

TEST_P(Compacter, StartsNearTheIdentity) {
  Sublayer p(GetParam(), 64, 9, "4", "4");
  EXPECT_LT(relative_distance(p.forward(p.x), p.x), 1e-2);
}

TEST_P(Compacter, RulesAreOneForTheModelAndGatherTheGradientsOfAllSites) {
  TestAdapter a(GetParam(), {{"hypercomplex_division", "2"}, {"reduction_factor", "2"}});
  ASSERT_EQ(a.bind({{"model.layers.0.self_attn", 8, 8, TN_ROLE_O, TN_PLACE_SUBLAYER},
                    {"model.layers.0.mlp", 8, 8, TN_ROLE_DOWN, TN_PLACE_SUBLAYER}}),
            TN_OK);
  ASSERT_EQ(a.params.size(), 13u);
  EXPECT_EQ(a.params[kRules].info.site, -1);
  Base identity{8, 8, std::vector<float>(64), {}, 0, {}};
  for (int i = 0; i < 8; ++i) identity.weight[i * 9] = 1;
  for (size_t i = 0; i < a.params.size(); ++i)
    a.params[i].value.assign(normals(a.params[i].value.size(), static_cast<uint32_t>(30 + i), 0.5f));
  std::vector<float> sum(8);
  for (const bool together : {false, true}) {
    if (together) a.zero_gradients();
    for (uint32_t site = 0; site < 2; ++site) {
      if (!together) a.zero_gradients();
      Tensor x(kF32, {3, 8}, normals(24, 40 + site)), y(kF32, {3, 8}), dy(kF32, {3, 8}, normals(24, 50 + site)),
          dx(kF32, {3, 8});
      SavedSlots saved;
      a.forward(site, identity, *x.get(), y.get(), saved);
      a.backward(site, identity, *dy.get(), dx.get(), saved);
      if (!together)
        for (int i = 0; i < 8; ++i) sum[i] += a.params[kRules].grad.floats()[i];
    }
  }
  EXPECT_LT(relative_distance(a.params[kRules].grad.floats(), sum), 1e-6);
}

TEST_P(Compacter, PlacementFfnLeavesAttentionAlone) {
  TestAdapter a(GetParam(), {{"hypercomplex_division", "2"}, {"reduction_factor", "2"}, {"placement", "ffn"}});
  ASSERT_EQ(a.bind({{"model.layers.0.self_attn", 8, 8, TN_ROLE_O, TN_PLACE_SUBLAYER},
                    {"model.layers.0.mlp", 8, 8, TN_ROLE_DOWN, TN_PLACE_SUBLAYER}}),
            TN_OK);
  EXPECT_FALSE(a.retention.contains(0));
  EXPECT_TRUE(a.retention.contains(1));
  EXPECT_EQ(a.trained_roles, std::vector<uint32_t>{TN_ROLE_NORM});
}

TEST_P(Compacter, AWidthThatDoesNotDivideIsRefusedWithItsNumbers) {
  TestAdapter a(GetParam());
  EXPECT_EQ(a.bind({{"model.layers.0.mlp", 576, 576, TN_ROLE_DOWN, TN_PLACE_SUBLAYER}}), TN_E_ARGUMENT);
  EXPECT_NE(a.host.error.find("576/32 = 18"), std::string::npos) << a.host.error;
  TestAdapter none(GetParam());
  EXPECT_EQ(none.bind({{"model.layers.0.mlp.up_proj", 8, 8}}), TN_E_NOT_FOUND);
}

}  // namespace
}  // namespace tenon::compacter::testing
