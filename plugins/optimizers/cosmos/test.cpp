#include "sdk/testing/gradients.h"
#include "sdk/testing/optimizer_checks.h"
#include "sdk/testing/oracle.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

class Cosmos : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Cosmos, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(Cosmos, EqualsTheAuthors) {
  const golden::File file("cosmos/cosmos.safetensors");
  const nlohmann::json settings = file.setting("settings");
  const std::string names[] = {"tall", "wide", "square", "vector"};
  for (const auto& [label, s] : settings.items()) {
    for (uint32_t i = 0; i < 4; ++i) {
      const std::string& name = names[i];
      const std::vector<int64_t> shape = file.shape(name + "." + label + ".step1");
      const size_t n = elements(shape);
      const std::vector<float> start = golden::noise(1300 + i, n, 1), all = file.f32(name + ".gradients");
      OptimizerRun run(GetParam(),
                       {{"rank", s["rank"].dump()},
                        {"beta1", s.contains("betas") ? s["betas"][0].dump() : "0.9"},
                        {"beta2", s.contains("betas") ? s["betas"][1].dump() : "0.999"},
                        {"lr_ratio", s.contains("lr_ratio") ? s["lr_ratio"].dump() : "0.1"},
                        {"gamma", s.contains("gamma") ? s["gamma"].dump() : "0.2"},
                        {"weight_decay", s.contains("weight_decay") ? s["weight_decay"].dump() : "0"},
                        {"ns_dtype", "f32"}},
                       {{shape, start, TN_ROLE_UP}});
      // The authors average the first moment of vectors by beta1 and 0.1, which is an average for 0.9 alone.
      if (name == "vector" && label == "readme") continue;
      for (size_t t = 1; t <= 6; ++t) {
        run.step(0, {all.begin() + (t - 1) * n, all.begin() + t * n}, {.lr = s["lr"].get<double>()});
        const std::string key = name + "." + label + ".step" + std::to_string(t);
        if (!file.has(key)) continue;
        EXPECT_LT(relative_distance(moved(run.weights(), start), moved(file.f32(key), start)), 2e-3) << key;
      }
    }
  }
}

// However large the gradient: |dW| = lr · lr_ratio · sqrt(m n).
TEST_P(Cosmos, StepsHaveTheRatesLength) {
  for (const float scale : {1e-4f, 1.0f, 1e4f}) {
    OptimizerRun run(GetParam(), {{"rank", "6"}}, {{{50, 40}, std::vector<float>(2000), TN_ROLE_Q}});
    std::vector<float> before(2000);
    for (int t = 1; t <= 3; ++t) {
      std::vector<float> g = gradient(50, 40, 30, 0.9, 0.1 * t);
      for (float& x : g) x *= scale;
      run.step(0, g, {.lr = 0.01});
      EXPECT_NEAR(norm(moved(run.weights(), before)), 0.01 * 0.1 * std::sqrt(2000.0), 1e-7);
      before = run.weights();
    }
  }
}

struct Basis {
  reference::Values p, s;
};
Basis basis_of(OptimizerRun& run) {
  const std::vector<float> p = run.state(0, "exp_avg_P").floats(), s = run.state(0, "exp_avg_GG").floats();
  return {{p.begin(), p.end()}, {s.begin(), s.end()}};
}

TEST_P(Cosmos, BasisStaysOrthonormalAndItsImageSymmetric) {
  for (const auto& [m, n, r] :
       std::vector<std::tuple<size_t, size_t, size_t>>{{60, 50, 9}, {20, 70, 32}, {300, 290, 80}}) {
    OptimizerRun run(GetParam(), {{"rank", std::to_string(r)}},
                     {matrix(static_cast<int64_t>(m), static_cast<int64_t>(n))});
    for (int t = 1; t <= 5; ++t) {
      run.step(
          0, t == 4 ? std::vector<float>(m * n) : gradient(m, n, 6, 0.7, 0.1 * t));  // fewer directions than r, or none
      const auto [p, s] = basis_of(run);
      const reference::Values gram = reference::product(reference::transposed(p, n, r), p, r, n, r);
      for (size_t i = 0; i < r; ++i)
        for (size_t j = 0; j < r; ++j) {
          ASSERT_NEAR(gram[i * r + j], i == j, 1e-5) << m << " " << t;
          ASSERT_NEAR(s[i * r + j], s[j * r + i], 1e-5 * (s[0] + s[i * r + i]));
        }
      const reference::Svd svd(s, r, r);
      double trace = 0, sum = 0;
      for (size_t i = 0; i < r; ++i) trace += s[i * r + i], sum += svd.sigma[i];
      EXPECT_NEAR(trace, sum, 1e-4 * sum);  // no negative eigenvalue
    }
  }
}

// With a fixed Gᵀ G the basis finds its leading eigenvectors.
TEST_P(Cosmos, BasisConverges) {
  constexpr size_t m = 40, n = 30, r = 4;
  OptimizerRun run(GetParam(), {{"rank", "4"}, {"beta2", "0.5"}}, {matrix(m, n)});
  run.step(0, normals(m * n, 1));
  const std::vector<float> g = gradient(m, n, 12, 0.6);
  for (int t = 0; t < 40; ++t) run.step(0, g);
  const reference::Svd svd(reference::Values(g.begin(), g.end()), m, n);
  const reference::Values p = basis_of(run).p;
  double inside = 0;
  for (size_t k = 0; k < r; ++k)
    for (size_t a = 0; a < r; ++a) {
      double dot = 0;
      for (size_t i = 0; i < n; ++i) dot += p[i * r + a] * svd.v[k * n + i];
      inside += dot * dot / r;
    }
  EXPECT_GT(inside, 0.999);
}

// Without the part inside, as where its second moment is huge, the step is Muon's direction; with it alone and a basis
// of the whole input side it is Adam in the eigenbasis. Both of unit root mean square.
TEST_P(Cosmos, EndsAreMuonAndSoap) {
  constexpr size_t m = 30, n = 24;
  const std::vector<float> g = gradient(m, n, 24, 0.9);
  const auto direction = [&](Settings h) {
    h.insert({{"ns_dtype", "f32"}, {"lr_ratio", "1"}});
    OptimizerRun run(GetParam(), h, {{{m, n}, std::vector<float>(m * n), TN_ROLE_Q}});
    run.step(0, g, {.lr = 1});
    std::vector<float> u = run.weights();
    for (float& x : u) x = -x;
    return u;
  };
  // eps of 1e6 makes Adam's part nothing; rank 1 takes one direction from Newton-Schulz.
  const std::vector<float> muon = direction({{"rank", "1"}, {"eps", "0"}, {"gamma", "1e9"}});
  const reference::Svd svd(reference::Values(g.begin(), g.end()), m, n);
  const reference::Values gv =
      reference::product(reference::Values(g.begin(), g.end()), reference::transposed(svd.v, n, n), m, n, n);
  double along = 0;  // Σ_k>0 uₖᵀ O vₖ over √(n − 1): 1 if all these singular values are equal
  for (size_t k = 1; k < n; ++k)
    for (size_t i = 0; i < m; ++i)
      for (size_t j = 0; j < n; ++j) along += gv[i * n + k] / svd.sigma[k] * muon[i * n + j] * svd.v[k * n + j];
  EXPECT_GT(along / (norm(muon) * std::sqrt(n - 1.0)), 0.95);

  // At t = 1 Adam's direction is the sign of G V, so U = sign(G V) Vᵀ.
  const std::vector<float> soap = direction({{"rank", "24"}, {"gamma", "0"}});
  reference::Values sign(m * n);
  for (size_t i = 0; i < m * n; ++i) sign[i] = gv[i] > 0 ? 1 : -1;
  const reference::Values expected = reference::product(sign, svd.v, m, n, n);
  EXPECT_LT(relative_distance(soap, expected), 1e-3);
}

TEST_P(Cosmos, StatesHaveTheCardsSize) {
  const std::vector<Parameter> p = {matrix(60, 40), {{64}, normals(64, 1), TN_ROLE_NORM}, matrix(60, 5)};
  expect_state_bytes({GetParam(), {{"rank", "16"}}, p},
                     {4 * (2400 + 60 * 16 + 40 * 16 + 256), 8 * 64, 4 * (300 + 60 * 5 + 25 + 25)});
}

TEST_P(Cosmos, LeavesLongMatricesToAdamW) {
  OptimizerRun run(GetParam(), {{"beta1", "0"}}, {{{10001, 2}, std::vector<float>(20002), TN_ROLE_EMBEDDING}});
  EXPECT_EQ(run.state_names(), (std::vector<std::string>{"exp_avg", "exp_avg_sq"}));
  run.step(0, std::vector<float>(20002, 3.0f), {.lr = 0.5});
  EXPECT_NEAR(run.weights()[7], -0.5f, 1e-6);
  EXPECT_NEAR(run.state(0, "exp_avg").floats()[7], 0.3f, 1e-6);  // beta1 of 0.9
}

TEST_P(Cosmos, IsSound) {
  for (const char* dtype : {"f32", "bf16"})
    expect_sound({GetParam(),
                  {{"rank", "8"}, {"ns_dtype", dtype}, {"ns_steps", "2"}},
                  {matrix(170, 100), matrix(40, 96), {{64}, normals(64, 1), TN_ROLE_NORM}}});
}

}  // namespace
}  // namespace tenon::sdk::testing
