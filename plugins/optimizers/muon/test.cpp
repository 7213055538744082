#include "optimizers/muon/reference.h"
#include "sdk/testing/optimizer_checks.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

class Muon : public ::testing::TestWithParam<std::string> {
 protected:
  // What the first step does to a zero matrix at lr 1, without the factor of the shape: −O.
  std::vector<float> orthogonalized(const std::vector<float>& g, int64_t m, int64_t n, Settings settings = {}) {
    settings.insert({{"ns_dtype", "f32"}});
    OptimizerRun run(GetParam(), settings, {{{m, n}, std::vector<float>(g.size()), TN_ROLE_Q}});
    EXPECT_EQ(run.step(0, g, {.lr = 1 / std::sqrt(std::max(1.0, static_cast<double>(m) / static_cast<double>(n)))}),
              TN_OK);
    std::vector<float> o = run.weights();
    for (float& x : o) x = -x;
    return o;
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, Muon, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

std::vector<float> narrow(const reference::Values& x) {
  return {x.begin(), x.end()};
}

TEST_P(Muon, FollowsTheOracle) {
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{
           {64, 64}, {96, 40}, {40, 96}, {257, 130}, {130, 600}, {600, 150}, {1, 7}, {1, 1}}) {
    OptimizerRun run(GetParam(), {{"ns_dtype", "f32"}, {"weight_decay", "0.1"}}, {matrix(m, n)});
    reference::Muon rule{static_cast<size_t>(m), static_cast<size_t>(n)};
    rule.lambda = 0.1;
    const std::vector<float> start = run.weights();
    reference::Values w(start.begin(), start.end());
    for (int t = 1; t <= 6; ++t) {
      const std::vector<float> g = normals(start.size(), 20 + t);
      ASSERT_EQ(run.step(0, g, {.lr = 0.02}), TN_OK) << run.host.error;
      rule.step(w, g, 0.02);
    }
    EXPECT_LT(relative_distance(moved(run.weights(), start), moved(narrow(w), start)), 1e-4) << m << "x" << n;
  }
}

TEST_P(Muon, EqualsTorch) {
  const golden::File file("muon/muon.safetensors");
  const nlohmann::json settings = file.setting("settings");
  const std::string names[] = {"tall", "wide", "square"};
  for (uint32_t i = 0; i < 3; ++i) {
    for (const auto& [label, s] : settings.items()) {
      const std::string key = names[i] + "." + label;
      const std::vector<int64_t> shape = file.shape(key + ".f32.step1");
      const size_t n = elements(shape);
      const std::vector<float> start = golden::noise(800 + i, n, 1);
      for (const std::string dtype : {"f32", "bf16"}) {
        OptimizerRun run(GetParam(),
                         {{"momentum", std::to_string(s.value("momentum", 0.95))},
                          {"nesterov", s.value("nesterov", true) ? "true" : "false"},
                          {"ns_steps", std::to_string(s.value("ns_steps", 5))},
                          {"weight_decay", s["weight_decay"].dump()},
                          {"adjust_lr_fn", s.value("adjust_lr_fn", "original")},
                          {"ns_dtype", dtype}},
                         {{shape, start, TN_ROLE_GATE}});
        for (uint32_t t = 1; t <= 6; ++t) {
          run.step(0, golden::noise(810 + 10 * i + t, n, 1), {.lr = s["lr"].get<double>()});
          const std::string name = key + "." + dtype + ".step" + std::to_string(t);
          if (!file.has(name)) continue;
          EXPECT_LT(relative_distance(moved(run.weights(), start), moved(file.f32(name), start)),
                    dtype == "f32" ? 3e-4 : 4e-2)
              << name;
        }
      }
    }
  }
}

TEST_P(Muon, SingularValuesComeNearOne) {
  const std::vector<float> o = orthogonalized(normals(60 * 40, 3), 60, 40);
  const reference::Svd svd(reference::Values(o.begin(), o.end()), 60, 40);
  EXPECT_LT(svd.sigma[0], 1.134);
  EXPECT_GT(svd.sigma[39], 0.682);
}

// The polar factor of G = U S Vᵀ is G V S⁻¹ Vᵀ.
TEST_P(Muon, PointsAlongThePolarFactor) {
  const std::vector<float> g = normals(60 * 40, 3), o = orthogonalized(g, 60, 40);
  const reference::Svd svd(reference::Values(g.begin(), g.end()), 60, 40);
  reference::Values scaled = svd.v;
  for (size_t k = 0; k < 40; ++k)
    for (size_t j = 0; j < 40; ++j) scaled[k * 40 + j] /= svd.sigma[k];
  const reference::Values polar =
      reference::product(reference::Values(g.begin(), g.end()),
                         reference::product(reference::transposed(svd.v, 40, 40), scaled, 40, 40, 40), 60, 40, 40);
  double dot = 0;
  for (size_t i = 0; i < o.size(); ++i) dot += o[i] * polar[i];
  EXPECT_GT(dot / (norm(o) * reference::frobenius(polar)), 0.95);
}

TEST_P(Muon, TransposeAndScalePassThrough) {
  const std::vector<float> g = normals(48 * 30, 5), o = orthogonalized(g, 48, 30);
  const reference::Values t = reference::transposed(reference::Values(g.begin(), g.end()), 48, 30);
  const std::vector<float> ot = orthogonalized(narrow(t), 30, 48);
  EXPECT_LT(relative_distance(reference::transposed(reference::Values(ot.begin(), ot.end()), 30, 48), o), 1e-5);
  for (const float c : {1e-4f, 3e3f}) {
    std::vector<float> scaled = g;
    for (float& x : scaled) x *= c;
    EXPECT_LT(relative_distance(orthogonalized(scaled, 48, 30), o), 2e-3) << c;
  }
}

TEST_P(Muon, KnownValues) {
  EXPECT_NEAR(orthogonalized({1}, 1, 1)[0], 0.69644, 2e-5);
  EXPECT_EQ(orthogonalized(std::vector<float>(12), 3, 4), std::vector<float>(12));
  const std::vector<float> u = normals(20, 1), v = normals(30, 2);
  std::vector<float> g(600), expected(600);
  for (size_t i = 0; i < 600; ++i) {
    g[i] = u[i / 30] * v[i % 30];
    expected[i] = static_cast<float>(0.69644 * u[i / 30] * v[i % 30] / (norm(u) * norm(v)));
  }
  EXPECT_LT(relative_distance(orthogonalized(g, 20, 30), expected), 1e-3);  // rank one
}

TEST_P(Muon, OrthogonalMatricesKeepTheirDirection) {
  const std::vector<float> g = normals(24 * 24, 9);
  const reference::Svd svd(reference::Values(g.begin(), g.end()), 24, 24);
  const std::vector<float> q = narrow(svd.v), o = orthogonalized(q, 24, 24);
  const float factor = o[0] / q[0];
  EXPECT_GT(factor, 0.68f);
  EXPECT_LT(factor, 1.14f);
  for (size_t i = 0; i < q.size(); ++i) EXPECT_NEAR(o[i], factor * q[i], 1e-4);
}

TEST_P(Muon, Bf16ProductsStayNearF32) {
  const std::vector<float> g = normals(200 * 300, 4), exact = orthogonalized(g, 200, 300);
  EXPECT_LT(relative_distance(orthogonalized(g, 200, 300, {{"ns_dtype", "bf16"}}), exact), 0.02);
}

TEST_P(Muon, LeavesTheRestToAdamW) {
  const std::vector<float> start = normals(64, 1);
  OptimizerRun run(GetParam(), {{"adam_lr_ratio", "0.5"}},
                   {{{8, 8}, start, TN_ROLE_EMBEDDING}, {{8, 8}, start, TN_ROLE_HEAD}, {{64}, start, TN_ROLE_NORM}});
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(run.state_names(i), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
    const std::vector<float> g = normals(64, 7);
    run.step(i, g, {.lr = 0.1});  // Adam's first step has the length of its rate
    for (size_t k = 0; k < 64; ++k) EXPECT_NEAR(run.weights(i)[k], start[k] - (g[k] > 0 ? 0.05f : -0.05f), 1e-6);
  }
}

TEST_P(Muon, StatesHaveTheCardsSize) {
  const std::vector<Parameter> p = {matrix(40, 30), {{30}, normals(30, 1), TN_ROLE_NORM}};
  expect_state_bytes({GetParam(), {}, p}, {4 * 1200, 8 * 30});
  expect_state_bytes({GetParam(), {{"state_dtype", "bf16"}}, p}, {2 * 1200, 4 * 30});
}

TEST_P(Muon, IsSound) {
  for (const char* dtype : {"f32", "bf16"})
    expect_sound({GetParam(),
                  {{"state_dtype", dtype}, {"ns_dtype", dtype}, {"ns_steps", "2"}, {"adam_lr_ratio", "1"}},
                  {matrix(170, 100), matrix(20, 48), {{64}, normals(64, 1), TN_ROLE_NORM}},
                  0.02});
}

}  // namespace
}  // namespace tenon::sdk::testing
