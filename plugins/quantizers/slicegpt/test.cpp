// slicegpt's plan and its bases, by themselves; what they do to a model is tested with the trainer (tests/unit/trainer/edits_test.cpp).
#include "quantizers/slicegpt/basis.h"
#include "sdk/testing/codec.h"
#include "sdk/testing/device.h"
#include "sdk/testing/jacobi.h"
#include "sdk/testing/threads.h"
#include "tenon/edits.h"

namespace tenon::slicegpt {
namespace {

using namespace sdk::testing;
using sdk::kF32;

class SliceGpt : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, SliceGpt, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

struct Planned {
  std::vector<tn_edit_matrix> matrices;
  std::vector<tn_edit> edits;
};

// One instance, driven as a host drives it.
struct Plugin {
  explicit Plugin(const std::string& object, const std::map<std::string, std::string>& hypers = {})
      : codec(object, hypers), api(*static_cast<const tn_edits*>(codec.plugin.get_extension(TN_EXT_EDITS))) {}

  Planned plan(int64_t layers, int64_t hidden, bool tied) {
    Planned out;
    const tn_edit_model model{sizeof model, tied ? uint32_t{TN_EDIT_MODEL_TIED} : 0u, layers, hidden, 2 * hidden, 4, 4, hidden / 4, 100, 1e-5};
    const tn_edit_sink sink{sizeof sink, 0, &out,
                            [](void* self, const tn_edit_matrix* m) -> int32_t { return static_cast<Planned*>(self)->matrices.push_back(*m), TN_OK; },
                            [](void* self, const tn_edit* e) -> int32_t { return static_cast<Planned*>(self)->edits.push_back(*e), TN_OK; }};
    codec.expect(api.plan(codec.self, &model, &sink));
    return out;
  }
  int32_t try_matrix(const tn_edit_matrix& m, const Tensor* gram, int64_t tokens, Tensor& out) {
    tn_estimate e{};
    e.struct_size = sizeof e;
    codec.expect(api.estimate(codec.self, cpu_device_api(), cpu_device(), &m, &e));
    Exec exec(e.workspace_bytes);
    const tn_rng rng{5, m.id, 1};
    const tn_edit_ops ops{sizeof ops, 0, nullptr, exec.get(), gram ? gram->get() : nullptr, tokens, &rng, nullptr};
    const int32_t status = api.matrix(codec.self, &ops, &m, out.get());
    EXPECT_TRUE(exec.intact() && out.intact());
    return status;
  }
  std::vector<float> matrix(const tn_edit_matrix& m, const std::vector<float>& gram, int64_t tokens) {
    Tensor out(kF32, {m.rows, m.columns}), g(kF32, {m.rows, m.rows}, gram);
    codec.expect(try_matrix(m, &g, tokens, out));
    return out.floats();
  }
  TestCodec codec;
  const tn_edits& api;
};

constexpr int64_t kWidth = 48, kTokens = 400;

tn_edit_matrix basis_of(int64_t columns, uint32_t statistic = TN_EDIT_STATISTIC_GRAM) {
  return {sizeof(tn_edit_matrix), 3, statistic, 3, kWidth, columns};
}

// Tokens whose channels depend on each other and are of different sizes.
std::vector<float> tokens() {
  std::vector<float> x = normals(kTokens * kWidth, 7);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t j = 1; j < kWidth; ++j) {
      float& v = x[t * kWidth + j];
      v = v * std::exp2(static_cast<float>(j * 5 % kWidth) / 12 - 2) + 0.9f * x[t * kWidth + j - 1];
    }
  return x;
}
std::vector<double> gram_of(const std::vector<float>& x) {
  std::vector<double> g(kWidth * kWidth);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kWidth; ++i)
      for (int64_t j = 0; j < kWidth; ++j) g[i * kWidth + j] += double{x[t * kWidth + i]} * x[t * kWidth + j];
  return g;
}
std::vector<float> narrow(const std::vector<double>& v) { return {v.begin(), v.end()}; }

// Σ‖x − P Pᵀ x‖² over the tokens.
double lost(const std::vector<float>& x, const std::vector<float>& p, int64_t k) {
  double sum = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    std::vector<double> rest(x.begin() + t * kWidth, x.begin() + (t + 1) * kWidth), c(k);
    for (int64_t j = 0; j < k; ++j)
      for (int64_t i = 0; i < kWidth; ++i) c[j] += double{x[t * kWidth + i]} * p[i * k + j];
    for (int64_t i = 0; i < kWidth; ++i) {
      for (int64_t j = 0; j < k; ++j) rest[i] -= c[j] * p[i * k + j];
      sum += rest[i] * rest[i];
    }
  }
  return sum;
}

TEST_P(SliceGpt, WhatIsLostIsTheTailOfTheEigenvalues) {
  const std::vector<float> x = tokens();
  const std::vector<double> gram = gram_of(x), values = jacobi(gram, kWidth);
  for (const char* orientation : {"pca", "random"})
    for (const int64_t k : {int64_t{12}, int64_t{36}, kWidth}) {
      Plugin plugin(GetParam(), {{"final_orientation", orientation}});
      const std::vector<float> p = plugin.matrix(basis_of(k), narrow(gram), kTokens);
      double tail = 0, all = 0;
      for (int64_t i = 0; i < kWidth; ++i) all += values[i], tail += i >= k ? values[i] : 0;
      EXPECT_NEAR(lost(x, p, k), tail, 1e-5 * tail + 1e-9 * all) << orientation << ' ' << k;
    }
}

TEST_P(SliceGpt, BasesAreOrthonormal) {
  const std::vector<double> gram = gram_of(tokens());
  for (const auto& [hypers, statistic] : std::initializer_list<std::pair<std::map<std::string, std::string>, uint32_t>>{
           {{}, TN_EDIT_STATISTIC_GRAM}, {{{"final_orientation", "random"}}, TN_EDIT_STATISTIC_GRAM}, {{{"basis", "random"}}, TN_EDIT_STATISTIC_NONE}}) {
    Plugin plugin(GetParam(), hypers);
    const std::vector<float> p = plugin.matrix(basis_of(40, statistic), narrow(gram), kTokens);
    for (int64_t a = 0; a < 40; ++a)
      for (int64_t b = 0; b <= a; ++b) {
        double s = 0;
        for (int64_t i = 0; i < kWidth; ++i) s += double{p[i * 40 + a]} * p[i * 40 + b];
        ASSERT_NEAR(s, a == b, 1e-6);
      }
  }
}

TEST(SliceGptBasis, InF64ToTenDigitsAndTheDirectionsAreEigenvectors) {
  constexpr int64_t n = 120, k = 90;
  std::vector<float> gram(n * n);
  const std::vector<float> x = normals(200 * n, 3);
  for (int64_t t = 0; t < 200; ++t)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j) gram[i * n + j] += x[t * n + i] * x[t * n + j] / static_cast<float>(1 + i % 7 + j % 7);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) gram[j * n + i] = gram[i * n + j];
  std::vector<double> values(k), rows(k * n), scratch(directions_scratch(n));
  std::vector<int64_t> order(n);
  ASSERT_TRUE(principal_directions(gram.data(), n, k, values.data(), rows.data(), scratch.data(), order.data()));
  const auto orthonormal = [&](const std::vector<double>& r, int64_t count) {
    double error = 0;
    for (int64_t a = 0; a < count; ++a)
      for (int64_t b = 0; b < count; ++b) {
        double s = 0;
        for (int64_t i = 0; i < n; ++i) s += r[a * n + i] * r[b * n + i];
        error = std::max(error, std::fabs(s - (a == b)));
      }
    return error;
  };
  EXPECT_LT(orthonormal(rows, k), 1e-10);
  for (int64_t a = 0; a < k; ++a)
    for (int64_t i = 0; i < n; ++i) {
      double s = 0;
      for (int64_t j = 0; j < n; ++j) s += double{gram[i * n + j]} * rows[a * n + j];
      ASSERT_NEAR(s, values[a] * rows[a * n + i], 1e-9 * values[0]);
    }
  std::vector<double> turn(k * k), some(k * n);
  random_directions({1, 2, 3}, k, k, turn.data());
  turn_within(turn.data(), k, n, rows.data(), scratch.data());
  EXPECT_LT(orthonormal(rows, k), 1e-10);
  random_directions({1, 2, 3}, n, k, some.data());
  EXPECT_LT(orthonormal(some, k), 1e-10);
}

TEST_P(SliceGpt, ThePlanHasABasisForEveryBoundary) {
  const Planned p = Plugin(GetParam(), {{"sparsity", "0.25"}}).plan(3, 80, true);
  ASSERT_EQ(p.matrices.size(), 7u);
  for (int32_t b = 0; b < 7; ++b) {
    EXPECT_EQ(p.matrices[b].boundary, b);
    EXPECT_EQ(p.matrices[b].rows, 80);
    EXPECT_EQ(p.matrices[b].columns, b < 6 ? 64 : 80);  // 60 to the nearest multiple of 8; the head's input stays
  }
  EXPECT_EQ(p.edits[0].kind, uint32_t{TN_EDIT_UNTIE});
  std::map<uint32_t, int> kinds;
  for (const tn_edit& e : p.edits) ++kinds[e.kind];
  EXPECT_EQ(kinds[TN_EDIT_FOLD_NORM], 7);
  EXPECT_EQ(kinds[TN_EDIT_NORM_COUNT], 6);
  EXPECT_EQ(kinds[TN_EDIT_INPUT], 3 * (3 + 2 + 2) + 1);
  EXPECT_EQ(kinds[TN_EDIT_OUTPUT], 3 * 4 + 1);
  const Planned whole = Plugin(GetParam(), {{"sparsity", "0"}}).plan(1, 36, false), head = Plugin(GetParam(), {{"slice_head", "true"}, {"round_interval", "1"}}).plan(1, 36, false);
  for (const tn_edit_matrix& m : whole.matrices) EXPECT_EQ(m.columns, 36);
  for (const tn_edit_matrix& m : head.matrices) EXPECT_EQ(m.columns, 27);
  EXPECT_EQ(whole.edits[0].kind, uint32_t{TN_EDIT_FOLD_NORM});
  tn_edit_text text{sizeof text, 0, 0, 0};
  Plugin plain(GetParam(), {{"samples", "5"}, {"sample_length", "70"}}), random(GetParam(), {{"basis", "random"}});
  plain.codec.expect(plain.api.text(plain.codec.self, &text));
  EXPECT_EQ(text.sequences, 5);
  EXPECT_EQ(text.length, 70);
  random.codec.expect(random.api.text(random.codec.self, &text));
  EXPECT_EQ(text.sequences, 0);
}

TEST_P(SliceGpt, AnyNumberOfThreadsGivesTheSameBits) {
  Plugin plugin(GetParam());
  const std::vector<float> gram = narrow(gram_of(tokens()));
  const std::vector<float> p = plugin.matrix(basis_of(36), gram, kTokens);
  for (const int n : {1, 3}) {
    const Threads threads(n);
    EXPECT_EQ(plugin.matrix(basis_of(36), gram, kTokens), p);
  }
}

TEST_P(SliceGpt, WhatCannotBeIsRefused) {
  Plugin plugin(GetParam());
  Tensor out(kF32, {kWidth, 36});
  std::vector<float> gram = narrow(gram_of(tokens()));
  gram[77] = NAN;
  const Tensor bad(kF32, {kWidth, kWidth}, gram), small(kF32, {8, 8}, std::vector<float>(64));
  EXPECT_EQ(plugin.try_matrix(basis_of(36), &bad, kTokens, out), TN_E_NUMERIC);
  EXPECT_EQ(plugin.try_matrix(basis_of(36), nullptr, 0, out), TN_E_ARGUMENT);
  EXPECT_EQ(plugin.try_matrix(basis_of(36), &small, kTokens, out), TN_E_ARGUMENT);
  EXPECT_EQ(plugin.try_matrix(basis_of(35), &bad, kTokens, out), TN_E_ARGUMENT);
  const tn_target target = make_target({8, 8});
  const tn_component_sink sink{sizeof sink, 0, nullptr, nullptr};
  EXPECT_EQ(plugin.codec.api.plan(plugin.codec.self, &target, &sink), TN_E_UNSUPPORTED);
}

}  // namespace
}  // namespace tenon::slicegpt
