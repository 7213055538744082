#include "sdk/testing/gradients.h"
#include "sdk/testing/optimizer_checks.h"
#include "sdk/testing/oracle.h"
#include "tests/reference/golden.h"

namespace tenon::sdk::testing {
namespace {

class Soap : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Soap, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

std::string text(const nlohmann::json& s, const char* key, const char* fallback) {
  return s.contains(key) ? s[key].dump() : fallback;
}

TEST_P(Soap, EqualsTheAuthors) {
  const golden::File file("soap/soap.safetensors");
  const nlohmann::json settings = file.setting("settings");
  const std::string names[] = {"square", "tall", "wide", "vector"};
  for (const auto& [label, s] : settings.items()) {
    for (uint32_t i = 0; i < 4; ++i) {
      const std::string& name = names[i];
      const std::vector<int64_t> shape = file.shape(name + "." + label + ".step2");
      const size_t n = elements(shape);
      const std::vector<float> start = golden::noise(1100 + i, n, 1), all = file.f32(name + ".gradients");
      OptimizerRun run(GetParam(),
                       {{"beta1", s.contains("betas") ? s["betas"][0].dump() : "0.95"},
                        {"beta2", s.contains("betas") ? s["betas"][1].dump() : "0.95"},
                        {"shampoo_beta", text(s, "shampoo_beta", "-1")},
                        {"weight_decay", text(s, "weight_decay", "0.01")},
                        {"precondition_frequency", text(s, "precondition_frequency", "10")},
                        {"max_precond_dim", text(s, "max_precond_dim", "10000")},
                        {"normalize_grads", text(s, "normalize_grads", "false")},
                        {"correct_bias", text(s, "correct_bias", "true")}},
                       {{shape, start, TN_ROLE_UP}});
      for (size_t t = 1; t <= 9; ++t) {
        run.step(0, {all.begin() + (t - 1) * n, all.begin() + t * n}, {.lr = s["lr"].get<double>()});
        if (t == 1) {
          EXPECT_EQ(run.weights(), start);
        }
        const std::string key = name + "." + label + ".step" + std::to_string(t);
        if (!file.has(key)) continue;
        EXPECT_LT(relative_distance(moved(run.weights(), start), moved(file.f32(key), start)), t == 2 ? 1e-3 : 1e-2)
            << key;
      }
    }
  }
}

double orthonormality(const std::vector<float>& q, size_t n) {
  double worst = 0;
  for (size_t a = 0; a < n; ++a)
    for (size_t b = 0; b < n; ++b) {
      double s = 0;
      for (size_t i = 0; i < n; ++i) s += static_cast<double>(q[i * n + a]) * q[i * n + b];
      worst = std::max(worst, std::abs(s - (a == b)));
    }
  return worst;
}

TEST_P(Soap, BasesAreOrthonormal) {
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{150, 70}, {70, 150}, {90, 90}}) {
    OptimizerRun run(GetParam(), {{"precondition_frequency", "2"}}, {matrix(m, n)});
    for (int t = 1; t <= 5; ++t) {
      run.step(0, gradient(static_cast<size_t>(m), static_cast<size_t>(n), 12, 0.7, 0.1 * t));  // of low rank
      EXPECT_LT(orthonormality(run.state(0, "basis_left").floats(), static_cast<size_t>(m)), 1e-5) << m << " " << t;
      EXPECT_LT(orthonormality(run.state(0, "basis_right").floats(), static_cast<size_t>(n)), 1e-5) << n << " " << t;
    }
  }
}

// On a fixed gradient the basis converges to eigenvectors: the covariance in it becomes diagonal, falling.
TEST_P(Soap, BasesConvergeToEigenvectors) {
  OptimizerRun run(GetParam(), {{"precondition_frequency", "1"}, {"shampoo_beta", "0.5"}}, {matrix(40, 40)});
  run.step(0, normals(1600, 1));
  const std::vector<float> g = gradient(40, 40, 40, 0.8);
  for (int t = 0; t < 60; ++t) run.step(0, g);
  const std::vector<float> q = run.state(0, "basis_left").floats(), c = run.state(0, "covariance_left").floats();
  const reference::Values Q(q.begin(), q.end()), C(c.begin(), c.end());
  const reference::Values D =
      reference::product(reference::transposed(Q, 40, 40), reference::product(C, Q, 40, 40, 40), 40, 40, 40);
  for (size_t i = 0; i < 40; ++i)
    for (size_t j = 0; j < 40; ++j) {
      if (i != j) {
        EXPECT_LT(std::abs(D[i * 40 + j]), 1e-3 * D[0]) << i << " " << j;
      } else if (i > 0) {
        EXPECT_LE(D[i * 41], D[(i - 1) * 41] + 1e-5 * D[0]);
      }
    }
}

// No side: Adam, one step late.
TEST_P(Soap, WithoutSidesIsAdamOneStepLate) {
  OptimizerRun run(GetParam(), {{"max_precond_dim", "0"}}, {matrix(20, 30)});
  OptimizerRun vector(GetParam(), {}, {{{600}, matrix(20, 30).start, TN_ROLE_NORM}});
  for (int t = 1; t <= 5; ++t) run.step(0, normals(600, t)), vector.step(0, normals(600, t));
  EXPECT_EQ(run.weights(), vector.weights());
  std::vector<double> w(600), m(600), v(600);
  for (int t = 1; t <= 4; ++t) {
    const std::vector<float> g = normals(600, t + 1);
    for (size_t i = 0; i < 600; ++i) {
      m[i] = 0.95 * m[i] + 0.05 * g[i], v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
      const double c = 1 - std::pow(0.95, t), x = t == 1 ? matrix(20, 30).start[i] : w[i];
      w[i] = (x - 1e-3 * std::sqrt(c) / c * m[i] / (std::sqrt(v[i]) + 1e-8)) * (1 - 1e-5);
    }
  }
  EXPECT_LT(relative_distance(run.weights(), w), 1e-6);
}

// Covariances of gradients that are diagonal matrices are diagonal: the bases are unit vectors, and turning in and out is nothing.
// A large eps keeps Adam from taking the rounding beside the diagonal for a direction.
TEST_P(Soap, AlongUnitVectorsItIsAdamOneStepLate) {
  OptimizerRun run(GetParam(), {{"precondition_frequency", "2"}, {"eps", "1e-2"}}, {matrix(20, 20)});
  OptimizerRun plain(GetParam(), {{"max_precond_dim", "0"}, {"eps", "1e-2"}}, {matrix(20, 20)});
  for (int t = 1; t <= 6; ++t) {
    std::vector<float> g(400);
    for (int i = 0; i < 20; ++i) g[i * 21] = (2.0f + std::sin(static_cast<float>(t))) * std::pow(0.97f, static_cast<float>(i * 7 % 20));
    run.step(0, g), plain.step(0, g);
  }
  EXPECT_LT(relative_distance(run.weights(), plain.weights()), 1e-5);
}

// W ← A W C and G ← A G C for orthogonal A and C turn the update likewise.
TEST_P(Soap, RotationsPassThrough) {
  constexpr size_t n = 32;
  const auto orthogonal = [](uint32_t stream) {
    const std::vector<float> g = normals(n * n, stream);
    return reference::Svd(reference::Values(g.begin(), g.end()), n, n).v;
  };
  const reference::Values a = orthogonal(1), c = orthogonal(2);
  const auto turned = [&](const std::vector<float>& x) {
    const reference::Values y =
        reference::product(reference::product(a, reference::Values(x.begin(), x.end()), n, n, n), c, n, n, n);
    return std::vector<float>(y.begin(), y.end());
  };
  const std::vector<float> start = normals(n * n, 3);
  OptimizerRun plain(GetParam(), {{"precondition_frequency", "2"}}, {{{n, n}, start, TN_ROLE_O}}),
      other(GetParam(), {{"precondition_frequency", "2"}}, {{{n, n}, turned(start), TN_ROLE_O}});
  for (int t = 1; t <= 6; ++t) {
    const std::vector<float> g = gradient(n, n, n, 0.98, 0.2 * t);
    plain.step(0, g), other.step(0, turned(g));
  }
  EXPECT_LT(relative_distance(moved(other.weights(), turned(start)), turned(moved(plain.weights(), start))), 2e-2);
}

// Two diagonal covariances whose order changes: the second moment changes places with its direction.
TEST_P(Soap, SecondMomentFollowsTheOrder) {
  OptimizerRun run(GetParam(), {{"precondition_frequency", "1"}, {"shampoo_beta", "0.01"}, {"beta2", "0.99"}},
                   {matrix(2, 2)});
  run.step(0, {2, 0, 0, 1}), run.step(0, {2, 0, 0, 1});
  const std::vector<float> before = run.state(0, "exp_avg_sq").floats();
  EXPECT_NEAR(before[0], 0.04, 1e-6);
  EXPECT_NEAR(before[3], 0.01, 1e-6);
  run.step(0, {0.001f, 0, 0, 3});
  const std::vector<float> after = run.state(0, "exp_avg_sq").floats();
  EXPECT_NEAR(after[0], 0.99 * 0.01 + 0.01 * 9, 1e-5);
  EXPECT_NEAR(after[3], 0.99 * 0.04, 1e-5);
}

TEST_P(Soap, StatesHaveTheCardsSize) {
  const std::vector<Parameter> p = {
      matrix(60, 40), matrix(60, 40, TN_ROLE_EMBEDDING), {{64}, normals(64, 1), TN_ROLE_NORM}};
  expect_state_bytes({GetParam(), {}, p}, {8 * 2400 + 8 * 3600 + 8 * 1600, 8 * 2400 + 8 * 3600 + 8 * 1600, 8 * 64});
  expect_state_bytes({GetParam(), {{"max_precond_dim", "50"}}, p}, {8 * 2400 + 8 * 1600, 8 * 2400 + 8 * 1600, 8 * 64});
}

TEST_P(Soap, IsSound) {
  const auto check = [&](const char* largest, Parameter large) {
    expect_sound({GetParam(),
                  {{"precondition_frequency", "3"}, {"max_precond_dim", largest}},
                  {large, matrix(20, 48), {{64}, normals(64, 1), TN_ROLE_NORM}},
                  1e-3,
                  1});
  };
  check("10000", matrix(30, 70)), check("40", matrix(500, 40));
}

// The first bases are those of the first gradient: in them it is diagonal and falls, and nothing of it is in the complement.
TEST_P(Soap, FirstBasesDiagonaliseTheFirstGradient) {
  const int64_t d = is_emulated(GetParam()) ? 20 : 70, l = is_emulated(GetParam()) ? 45 : 160;
  for (const auto& [m, n] : {std::pair{d, l}, {l, d}, {d, d}}) {
    OptimizerRun run(GetParam(), {}, {matrix(m, n)});
    const std::vector<float> g = gradient(m, n, d, 1 - 1.5 / static_cast<double>(d));
    run.step(0, g);
    const auto wide = [](const std::vector<float>& x) { return reference::Values(x.begin(), x.end()); };
    const reference::Values left = wide(run.state(0, "basis_left").floats()), right = wide(run.state(0, "basis_right").floats());
    const reference::Values seen = reference::product(reference::product(reference::transposed(left, m, m), wide(g), m, m, n), right, m, n, n);
    EXPECT_LT(orthonormality(run.state(0, "basis_left").floats(), m), 2e-5);
    EXPECT_LT(orthonormality(run.state(0, "basis_right").floats(), n), 2e-5);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        if (i != j) {
          EXPECT_LT(std::abs(seen[i * n + j]), 1e-3 * std::abs(seen[0])) << i << " " << j;
        } else if (i > 0) {
          EXPECT_LT(std::abs(seen[i * n + i]), std::abs(seen[(i - 1) * (n + 1)]) + 1e-4 * std::abs(seen[0])) << i;
        }
      }
  }
}

}  // namespace
}  // namespace tenon::sdk::testing
