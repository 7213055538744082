// Outputs and gradients against the dense f64 evaluator, over shapes, masks and options.
#include "sdk/testing/attention.h"

namespace tenon::flash::testing {

using namespace sdk::testing::attention;
namespace {

class Values : public Objects {};

std::vector<std::pair<std::string, Case>> cases() {
  std::vector<std::pair<std::string, Case>> out{
      {"one token", {.mask = {causal()}}},
      {"one key head a query head",
       {.batch = 2, .t_q = 150, .t_k = 150, .heads = 3, .kv_heads = 3, .mask = {causal()}}},
      {"two queries a key head", {.batch = 2, .t_q = 101, .t_k = 101, .heads = 4, .kv_heads = 2, .mask = {causal()}}},
      {"the model's heads", {.t_q = 257, .t_k = 257, .heads = 9, .kv_heads = 3, .mask = {causal()}}},
      {"four queries a key head", {.batch = 2, .t_q = 77, .t_k = 77, .heads = 8, .kv_heads = 2, .mask = {causal()}}},
      {"eight queries a key head", {.t_q = 90, .t_k = 300, .heads = 8, .kv_heads = 1}},
      {"whole tiles", {.t_q = 96, .t_k = 384, .heads = 2, .kv_heads = 2}},
      {"width 40", {.t_q = 70, .t_k = 131, .heads = 2, .kv_heads = 1, .d = 40, .e = 40}},
      {"different widths", {.t_q = 70, .t_k = 131, .heads = 2, .kv_heads = 1, .d = 72, .e = 24}},
      {"width 1", {.t_q = 20, .t_k = 30, .d = 1, .e = 1}},
      {"width 128", {.t_q = 200, .t_k = 200, .heads = 2, .kv_heads = 1, .d = 128, .e = 128, .mask = {causal()}}},
      {"width 512", {.t_q = 33, .t_k = 65, .d = 512, .e = 512, .mask = {causal()}}},
      {"fewer keys than queries, later ones masked",
       {.t_q = 64, .t_k = 20, .heads = 2, .kv_heads = 1, .mask = {causal()}, .k_pos = 30}},
      {"a later slice of queries",
       {.t_q = 33, .t_k = 200, .heads = 2, .kv_heads = 1, .mask = {causal()}, .q_pos = 167}},
      {"window", {.t_q = 300, .t_k = 300, .heads = 2, .kv_heads = 1, .mask = {causal(), window(40, 0)}}},
      {"window to both sides", {.t_q = 300, .t_k = 300, .heads = 2, .kv_heads = 1, .mask = {window(17, 9)}}},
      {"window and sink",
       {.t_q = 500, .t_k = 500, .heads = 2, .kv_heads = 1, .mask = {causal(), window(31, 0), sink(4)}}},
      {"window and wide sink",
       {.t_q = 260, .t_k = 260, .heads = 1, .kv_heads = 1, .mask = {causal(), sink(150), window(5, -1)}}},
      {"sink without window", {.t_q = 60, .t_k = 60, .mask = {causal(), sink(3)}}},
      {"sink before a later window", {.t_q = 70, .t_k = 600, .mask = {window(10, 3), sink(20)}, .q_pos = 400}},
      {"softcap",
       {.t_q = 140, .t_k = 140, .heads = 2, .kv_heads = 1, .mask = {causal()}, .softcap = 5, .amplitude = 2}},
      {"scale", {.t_q = 140, .t_k = 140, .heads = 2, .kv_heads = 1, .mask = {causal()}, .scale = -0.3}},
      {"sink logit",
       {.batch = 2, .t_q = 140, .t_k = 140, .heads = 4, .kv_heads = 2, .mask = {causal()}, .sink_logit = true}},
      {"gradient of L",
       {.batch = 2,
        .t_q = 70,
        .t_k = 70,
        .heads = 2,
        .kv_heads = 1,
        .mask = {causal()},
        .sink_logit = true,
        .d_lse = true}},
      {"dropout",
       {.batch = 2,
        .t_q = 150,
        .t_k = 210,
        .heads = 4,
        .kv_heads = 2,
        .mask = {causal()},
        .q_pos = 60,
        .dropout = 0.3}},
      {"dropout with everything",
       {.t_q = 150,
        .t_k = 210,
        .heads = 4,
        .kv_heads = 2,
        .mask = {causal(), window(50, 0), sink(5)},
        .q_pos = 61,
        .k_pos = 1,
        .softcap = 4,
        .dropout = 0.2,
        .sink_logit = true,
        .d_lse = true}},
      {"no keys", {.t_q = 5, .t_k = 0, .heads = 2, .kv_heads = 1}},
      {"no keys but a sink logit", {.t_q = 5, .t_k = 0, .heads = 2, .kv_heads = 1, .sink_logit = true, .d_lse = true}},
      {"no queries", {.t_q = 0, .t_k = 5, .heads = 2, .kv_heads = 1}},
      {"decoding",
       {.batch = 2,
        .t_q = 1,
        .t_k = 3000,
        .heads = 6,
        .kv_heads = 2,
        .mask = {causal()},
        .q_pos = 2999,
        .phase = TN_PHASE_DECODE}},
      {"decoding a few",
       {.t_q = 5,
        .t_k = 1201,
        .heads = 8,
        .kv_heads = 1,
        .mask = {causal(), window(900, 0), sink(4)},
        .q_pos = 1196,
        .dropout = 0.1,
        .sink_logit = true,
        .phase = TN_PHASE_DECODE}},
      {"many (batch, head) pairs",
       {.batch = 40,
        .t_q = 3,
        .t_k = 70,
        .heads = 4,
        .kv_heads = 2,
        .d = 16,
        .e = 16,
        .mask = {causal()},
        .q_pos = 67}},
  };
  Case ragged{.t_q = 400, .t_k = 420, .heads = 6, .kv_heads = 2, .mask = {causal()}};
  ragged.segments = {{0, 130, 0, 130, 0, 0},
                     {130, 1, 130, 1, 0, 0},
                     {131, 0, 131, 0, 0, 0},
                     {131, 200, 140, 200, 0, 0},
                     {340, 60, 360, 60, 0, 0}};
  out.emplace_back("ragged with uncovered rows", ragged);
  Case shared{.t_q = 120, .t_k = 300, .heads = 2, .kv_heads = 1, .mask = {causal()}, .dropout = 0.1};
  shared.segments = {{0, 50, 0, 150, 100, 0}, {50, 40, 0, 300, 150, -110}, {90, 30, 200, 0, 0, 0}};
  out.emplace_back("segments that share keys", shared);
  Case batch{.t_q = 4, .t_k = 1000, .heads = 4, .kv_heads = 2, .mask = {causal()}, .phase = TN_PHASE_DECODE};
  batch.segments = {{0, 1, 0, 400, 399, 0}, {1, 1, 400, 1, 0, 0}, {2, 2, 401, 599, 597, 0}};
  out.emplace_back("ragged decoding", batch);
  return out;
}

TEST_P(Values, F32MatchesTheDenseFormula) {
  for (const auto& [name, c] : cases()) {
    SCOPED_TRACE(name);
    Runner run(GetParam(), c);
    expect_forward(run, 2e-6);
    expect_backward(run, c, 1e-5);
  }
}

// The same-dtype formula: f32 sums over the stored inputs, weights and results rounded to the storage type.
double naive_error(Runner& run, const Case& c) {
  const auto exact = run.dense().forward();
  auto rounded = exact.o;
  const sdk::DenseAttention dense = run.dense();
  double worst = 0, top = 0;
  std::vector<double> weights(static_cast<size_t>(c.t_k));
  for (int64_t i = 0; i < c.t_q; ++i)
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t kv = h / (c.heads / c.kv_heads);
      for (int64_t j = 0; j <= i; ++j) {
        double s = 0;
        for (int64_t x = 0; x < c.d; ++x)
          s += dense.q[(i * c.heads + h) * c.d + x] * dense.k[(j * c.kv_heads + kv) * c.d + x];
        const float p =
            static_cast<float>(std::exp(s / std::sqrt(static_cast<double>(c.d)) - exact.lse[h * c.t_q + i]));
        weights[j] =
            sdk::with_float_type(c.dtype, "weights", [&]<class T>(T) { return sdk::to_float(sdk::from_float<T>(p)); });
      }
      for (int64_t x = 0; x < c.e; ++x) {
        double o = 0;
        for (int64_t j = 0; j <= i; ++j) o += weights[j] * dense.v[(j * c.kv_heads + kv) * c.e + x];
        const double stored = sdk::with_float_type(c.dtype, "o", [&]<class T>(T) {
          return static_cast<double>(sdk::to_float(sdk::from_float<T>(static_cast<float>(o))));
        });
        const double want = exact.o[(i * c.heads + h) * c.e + x];
        worst = std::max(worst, std::abs(stored - want)), top = std::max(top, std::abs(want));
      }
    }
  return worst / top;
}

TEST_P(Values, HalfTypesErrAtMostTwiceAsMuchAsTheNaiveFormula) {
  for (const tn_dtype dtype : {sdk::kBF16, sdk::kF16}) {
    const Case c{.t_q = 200, .t_k = 200, .heads = 6, .kv_heads = 2, .mask = {causal()}, .dtype = dtype};
    Runner run(GetParam(), c);
    const double naive = naive_error(run, c);
    expect_forward(run, 2 * naive);
    const double step = dtype.code == TN_BFLOAT ? 0x1p-8 : 0x1p-11;
    expect_backward(run, c, 4 * step);
  }
}

TEST_P(Values, HugeScoresStayFinite) {
  Case c{.t_q = 40, .t_k = 200, .heads = 2, .kv_heads = 1, .scale = 1, .amplitude = 35};  // scores of ±1e4
  Runner run(GetParam(), c);
  expect_forward(run, 2e-2);
  ASSERT_EQ(run.backward(), TN_OK);
  for (uint32_t port : {TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV})
    for (float x : run.values(port)) ASSERT_TRUE(std::isfinite(x));
}

TEST_P(Values, EqualKeysGiveUniformWeights) {
  const Case c{.t_q = 3, .t_k = 100, .heads = 1, .kv_heads = 1, .d = 8, .e = 8};
  Runner run(GetParam(), c);
  run.bindings.at(TN_PORT_K).assign(std::vector<float>(800, 0.7f));
  expect_forward(run, 2e-6);
  const auto o = run.values(TN_PORT_O), v = run.values(TN_PORT_V);
  for (int64_t x = 0; x < 8; ++x) {
    double mean = 0;
    for (int64_t j = 0; j < 100; ++j) mean += v[j * 8 + x] / 100;
    EXPECT_NEAR(o[x], mean, 1e-6);
  }
}

// The analytic gradient agrees with central differences of the plugin's own f32 output, so both passes speak of one
// function.
TEST_P(Values, GradientsMatchCentralDifferences) {
  const Case c{.t_q = 9,
               .t_k = 11,
               .heads = 2,
               .kv_heads = 1,
               .d = 16,
               .e = 16,
               .mask = {causal()},
               .q_pos = 3,
               .softcap = 3,
               .dropout = 0.2,
               .sink_logit = true};
  Runner run(GetParam(), c);
  ASSERT_EQ(run.forward(), TN_OK);
  ASSERT_EQ(run.backward(), TN_OK);
  const auto d_o = run.values(TN_PORT_DO);
  const auto objective = [&] {
    EXPECT_EQ(run.forward(), TN_OK);
    const auto o = run.values(TN_PORT_O);
    double sum = 0;
    for (size_t i = 0; i < o.size(); ++i) sum += static_cast<double>(o[i]) * d_o[i];
    return sum;
  };
  const std::pair<uint32_t, uint32_t> pairs[] = {{TN_PORT_Q, TN_PORT_DQ},
                                                 {TN_PORT_K, TN_PORT_DK},
                                                 {TN_PORT_V, TN_PORT_DV},
                                                 {TN_PORT_SINK_LOGIT, TN_PORT_D_SINK_LOGIT}};
  for (const auto& [port, gradient] : pairs) {
    const auto values = run.values(port), want = run.values(gradient);
    for (size_t i = 0; i < values.size(); i += values.size() / 13 + 1) {
      const float step = 1e-2f;
      auto moved = values;
      moved[i] = values[i] + step, run.bindings.at(port).assign(moved);
      const double up = objective();
      moved[i] = values[i] - step, run.bindings.at(port).assign(moved);
      const double down = objective();
      run.bindings.at(port).assign(values);
      EXPECT_NEAR((up - down) / (2 * step), want[i], 2e-3) << "port " << port << " element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Values, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::flash::testing
