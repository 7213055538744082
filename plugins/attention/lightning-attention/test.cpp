// Against the quadratic masked form (the plugin's own form, evaluated densely in f64), formulas written out here, and
// central differences.
#include "sdk/testing/attention.h"

namespace tenon::lightning::testing {
namespace {

using namespace sdk::testing::attention;
using Hypers = std::map<std::string, std::string>;

// The emulated GPU is slow: it gets the short cases.
class Lightning : public Objects {
 protected:
  bool brief() const { return sdk::testing::is_emulated(GetParam()); }
};
const Hypers kPlain{{"norm", "false"}};

std::vector<std::pair<std::string, Case>> cases() {
  std::vector<std::pair<std::string, Case>> out{
      {"a tail", {.batch = 2, .t_q = 213, .t_k = 213, .heads = 4, .kv_heads = 2, .d = 24, .e = 40, .mask = {causal()}}},
      {"one token", {.t_q = 1, .t_k = 1, .heads = 3, .kv_heads = 3, .d = 8, .e = 8, .mask = {causal()}}},
      {"many spans", {.t_q = 913, .t_k = 913, .heads = 2, .kv_heads = 1, .d = 16, .e = 16, .mask = {causal()}}},
      {"a later layer",
       {.t_q = 70,
        .t_k = 70,
        .heads = 6,
        .kv_heads = 1,
        .d = 16,
        .e = 16,
        .mask = {causal()},
        .layer = 2,
        .layers = 4}},
      {"a later slice",
       {.t_q = 33, .t_k = 200, .heads = 2, .kv_heads = 1, .d = 16, .e = 16, .mask = {causal()}, .q_pos = 167}},
      {"keys long before",
       {.t_q = 33,
        .t_k = 90,
        .heads = 2,
        .kv_heads = 1,
        .d = 16,
        .e = 16,
        .mask = {causal()},
        .q_pos = 300,
        .k_pos = 9}},
      {"rows that see nothing",
       {.t_q = 40, .t_k = 40, .heads = 2, .kv_heads = 1, .d = 16, .e = 16, .mask = {causal()}, .k_pos = 25}},
      {"later keys",
       {.t_q = 20, .t_k = 90, .heads = 2, .kv_heads = 1, .d = 16, .e = 16, .mask = {causal()}, .q_pos = 3}}};
  Case ragged{.t_q = 300, .t_k = 310, .heads = 4, .kv_heads = 2, .d = 16, .e = 24, .mask = {causal()}};
  ragged.segments = {{0, 130, 0, 130, 0, 0},
                     {130, 1, 130, 1, 0, 0},
                     {131, 0, 131, 0, 0, 0},
                     {131, 100, 140, 100, 0, 0},
                     {240, 30, 250, 60, 30, 0}};
  out.emplace_back("ragged with uncovered rows", ragged);
  return out;
}

TEST_P(Lightning, EqualsTheMaskedForm) {
  for (const Hypers& hypers : {Hypers{}, kPlain, Hypers{{"chunk", "16"}}, Hypers{{"chunk", "128"}, {"norm", "false"}},
                               Hypers{{"decay", "none"}}})
    for (const auto& [name, c] : cases()) {
      SCOPED_TRACE(name);
      if (!hypers.empty() && c.t_q > (brief() ? 150 : 400)) continue;
      Runner run(GetParam(), c, hypers);
      expect_forward(run, 1e-5);
      expect_backward(run, c, 1e-4);
    }
}

TEST_P(Lightning, WithoutDecayItIsACumulativeSum) {
  const Case c{.t_q = 150, .t_k = 150, .d = 16, .e = 8, .mask = {causal()}};
  Runner run(GetParam(), c, {{"norm", "false"}, {"decay", "none"}});
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  const auto q = run.values(TN_PORT_Q), k = run.values(TN_PORT_K), v = run.values(TN_PORT_V), o = run.values(TN_PORT_O);
  std::vector<double> sum(16 * 8);
  double worst = 0, top = 0;
  for (int64_t t = 0; t < 150; ++t)
    for (int64_t x = 0; x < 8; ++x) {
      double want = 0;
      for (int64_t r = 0; r < 16; ++r)
        sum[r * 8 + x] += static_cast<double>(k[t * 16 + r]) * v[t * 8 + x], want += q[t * 16 + r] * sum[r * 8 + x];
      worst = std::max(worst, std::abs(want - o[t * 8 + x])), top = std::max(top, std::abs(want));
    }
  EXPECT_LT(worst / top, 1e-5);
}

// Slopes of the released code: 2^(−8(h+1)/H), interleaved for 6 heads as ALiBi does it, times 1 − l/(L−1) + 1e-5.
TEST_P(Lightning, DecaysFollowHeadAndLayer) {
  const double eight[] = {0.5, 0.25, 0.125, 0.0625}, six[] = {0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125};
  const auto decay = [&](const Case& c, int64_t h) {
    Runner run(GetParam(), c);
    return -std::log(run.dense().factor(h, 1, 0));
  };
  const Case wide{.t_q = 1, .t_k = 1, .heads = 8, .kv_heads = 8, .d = 4, .e = 4, .mask = {causal()}};
  Case rest = wide;
  rest.heads = rest.kv_heads = 6;
  for (int64_t h = 0; h < 4; ++h) EXPECT_NEAR(decay(wide, h), eight[h] * (1 + 1e-5), 1e-9);
  for (int64_t h = 0; h < 6; ++h) EXPECT_NEAR(decay(rest, h), six[h] * (1 + 1e-5), 1e-9);
  Case last = wide;
  last.layer = 3, last.layers = 4;
  EXPECT_NEAR(decay(last, 1), 0.25 * 1e-5, 1e-9);
  Case slice = wide;  // a rank that holds the last four heads of eight
  slice.heads = slice.kv_heads = 4, slice.head_offset = 4, slice.heads_global = 8;
  EXPECT_NEAR(decay(slice, 1), decay(wide, 5), 1e-12);
}

void bind_state(Runner& run, uint32_t port, const Case& c, const std::vector<float>& values) {
  const int64_t n = c.heads * c.d * c.e;
  sdk::testing::Tensor t(sdk::kU8, {c.batch, n * 4});
  std::memcpy(t.as<float>(), values.data(), values.size() * sizeof(float));
  run.bindings.tensors.erase(port);
  run.bindings.tensors.emplace(port, std::move(t));
}
std::vector<float> floats_of(Runner& run, uint32_t port) {
  const auto& t = run.bindings.at(port);
  return {t.as<float>(), t.as<float>() + t.bytes() / 4};
}

// Rows [begin, end) of the inputs of a whole sequence.
std::vector<float> rows(Runner& run, uint32_t port, const Case& c, int64_t begin, int64_t end) {
  const auto all = run.values(port);
  const int64_t width = static_cast<int64_t>(all.size()) / (c.batch * c.t_q);
  std::vector<float> out;
  for (int64_t b = 0; b < c.batch; ++b)
    out.insert(out.end(), all.begin() + (b * c.t_q + begin) * width, all.begin() + (b * c.t_q + end) * width);
  return out;
}

TEST_P(Lightning, CarriedStatesAreOneCall) {
  const Case c{.batch = 2, .t_q = 300, .t_k = 300, .heads = 4, .kv_heads = 2, .d = 24, .e = 16, .mask = {causal()}};
  for (const Hypers& hypers : {Hypers{}, kPlain, Hypers{{"chunk", "1"}}}) {
    Runner whole(GetParam(), c, hypers);
    ASSERT_EQ(whole.forward(), TN_OK) << whole.error();
    std::vector<float> state;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 137}, {137, 138}, {138, 139}, {139, 300}}) {
      Case part = c;
      part.t_q = part.t_k = end - begin, part.q_pos = part.k_pos = begin, part.state_tokens = 300;
      part.phase = begin == 0 ? TN_PHASE_PREFILL : TN_PHASE_DECODE;
      Runner run(GetParam(), part, hypers);
      for (const uint32_t port : {TN_PORT_Q, TN_PORT_K, TN_PORT_V})
        run.bindings.at(port).assign(rows(whole, port, c, begin, end));
      if (begin > 0) bind_state(run, TN_PORT_STATE_IN, part, state);
      bind_state(run, TN_PORT_STATE_OUT, part, std::vector<float>(c.batch * c.heads * c.d * c.e, NAN));
      ASSERT_EQ(run.forward(), TN_OK) << run.error();
      state = floats_of(run, TN_PORT_STATE_OUT);
      EXPECT_LT(error(run.values(TN_PORT_O), widen(rows(whole, TN_PORT_O, c, begin, end))), 1e-5) << begin;
    }
  }
}

// All inputs, the state that comes in and the one that goes out.
TEST_P(Lightning, GradientsMatchCentralDifferences) {
  const Case c{.t_q = 37, .t_k = 37, .heads = 2, .kv_heads = 1, .d = 6, .e = 5, .mask = {causal()}};
  for (const Hypers& hypers : {Hypers{{"chunk", "4"}}, Hypers{{"chunk", "4"}, {"norm", "false"}}}) {
    Runner run(GetParam(), c, hypers);
    std::mt19937 random(3);
    const int64_t n = c.heads * c.d * c.e;
    bind_state(run, TN_PORT_STATE_IN, c, noise(n, 1, random)),
        bind_state(run, TN_PORT_STATE_OUT, c, std::vector<float>(n));
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    const auto d_state = noise(n, 1, random);
    bind_state(run, TN_PORT_D_STATE_OUT, c, d_state), bind_state(run, TN_PORT_D_STATE_IN, c, std::vector<float>(n));
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    const auto d_o = run.values(TN_PORT_DO);
    const auto objective = [&] {
      EXPECT_EQ(run.forward(), TN_OK) << run.error();
      double sum = 0;
      const auto o = run.values(TN_PORT_O), state = floats_of(run, TN_PORT_STATE_OUT);
      for (size_t i = 0; i < o.size(); ++i) sum += static_cast<double>(o[i]) * d_o[i];
      for (size_t i = 0; i < state.size(); ++i) sum += static_cast<double>(state[i]) * d_state[i];
      return sum;
    };
    const auto check = [&](float* values, const std::vector<float>& want, size_t count, const char* name) {
      for (size_t i = 0; i < count; i += count / 11 + 1) {
        const float step = 1e-2f, kept = values[i];
        values[i] = kept + step;
        const double up = objective();
        values[i] = kept - step;
        const double down = objective();
        values[i] = kept;
        EXPECT_NEAR((up - down) / (2 * step), want[i], 5e-3 * std::max(1.0f, std::abs(want[i]))) << name << " " << i;
      }
    };
    const auto dq = run.values(TN_PORT_DQ), dk = run.values(TN_PORT_DK), dv = run.values(TN_PORT_DV),
               ds = floats_of(run, TN_PORT_D_STATE_IN);
    check(run.bindings.at(TN_PORT_Q).as<float>(), dq, dq.size(), "q");
    check(run.bindings.at(TN_PORT_K).as<float>(), dk, dk.size(), "k");
    check(run.bindings.at(TN_PORT_V).as<float>(), dv, dv.size(), "v");
    check(run.bindings.at(TN_PORT_STATE_IN).as<float>(), ds, ds.size(), "state");
  }
}

TEST_P(Lightning, HalfTypesStayWithinTheirRounding) {
  for (const tn_dtype dtype : {sdk::kBF16, sdk::kF16}) {
    const Case c{
        .t_q = 200, .t_k = 200, .heads = 4, .kv_heads = 2, .d = 32, .e = 32, .mask = {causal()}, .dtype = dtype};
    Runner run(GetParam(), c);
    const double step = dtype.code == TN_BFLOAT ? 0x1p-8 : 0x1p-11;
    expect_forward(run, step);
    expect_backward(run, c, 4 * step);
  }
}

TEST_P(Lightning, SameBitsForAnyNumberOfThreadsAndAccumulationDoubles) {
  Case c{.batch = 2, .t_q = 700, .t_k = 700, .heads = 4, .kv_heads = 2, .d = 16, .e = 16, .mask = {causal()}};
  if (brief()) c.t_q = c.t_k = 130, c.heads = 2, c.kv_heads = 1;
  std::map<uint32_t, std::vector<uint8_t>> first;
  for (const int threads : {1, 2, 5}) {
    Runner run(GetParam(), c);
    run.threads = threads;
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    for (const uint32_t port : {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) {
      const auto [at, fresh] = first.emplace(port, run.bindings.at(port).raw());
      EXPECT_EQ(at->second, run.bindings.at(port).raw()) << threads << " threads, port " << port;
    }
    const auto once = run.values(TN_PORT_DK);
    run.bindings.gradient_flags = TN_BIND_ACCUMULATE;
    ASSERT_EQ(run.backward(), TN_OK);
    const auto twice = run.values(TN_PORT_DK);
    for (size_t i = 0; i < once.size(); ++i) ASSERT_EQ(twice[i], 2 * once[i]);
  }
}

TEST_P(Lightning, CostIsLinearAndTheStateConstant) {
  const auto plan = [&](int64_t t) {
    Runner run(GetParam(), {.t_q = t, .t_k = t, .heads = 4, .kv_heads = 4, .mask = {causal()}});
    tn_attention_plan p{};
    p.struct_size = sizeof p;
    EXPECT_EQ(run.plan(p), TN_OK) << run.error();
    return p;
  };
  const auto a = plan(1024), b = plan(16384);
  EXPECT_EQ(b.forward.flops, 16 * a.forward.flops);
  EXPECT_EQ(b.backward.flops, 16 * a.backward.flops);
  EXPECT_LE(b.backward.workspace_bytes, 16 * a.backward.workspace_bytes);
  Runner run(GetParam(), {.t_q = 1, .t_k = 1, .heads = 4, .kv_heads = 2, .d = 24, .e = 16, .mask = {causal()}});
  for (const int64_t tokens : {1, 1000000}) {
    tn_attention_state state{};
    ASSERT_EQ(run.api()->state(run.self(), &sdk::kBF16, tokens, &state), TN_OK);
    EXPECT_EQ(state.kind, uint32_t{TN_STATE_FIXED});
    EXPECT_EQ(state.bytes, 4u * 4 * 24 * 16);
  }
}

TEST_P(Lightning, TheHostMayGiveTheDecays) {
  Case c{.t_q = 40, .t_k = 40, .heads = 2, .kv_heads = 1, .d = 8, .e = 8, .mask = {causal()}};
  Runner run(GetParam(), c, kPlain);
  run.bindings.tensors.emplace(TN_PORT_LOG_DECAY, sdk::testing::Tensor(sdk::kF32, {2}, {-0.3f, 0.0f}));
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  sdk::DenseAttention dense = run.dense();
  dense.factor = [](int64_t h, int64_t i, int64_t j) {
    return h == 0 ? std::exp(-0.3 * static_cast<double>(i - j)) : 1.0;
  };
  EXPECT_LT(error(run.values(TN_PORT_O), dense.forward().o), 1e-5);
  run.bindings.at(TN_PORT_LOG_DECAY).assign({0.1f, 0.0f});
  EXPECT_EQ(run.forward(), TN_E_ARGUMENT);
  EXPECT_NE(run.error().find("LOG_DECAY"), std::string::npos) << run.error();
}

TEST_P(Lightning, RefusalsNameTheReason) {
  const auto refuses = [&](const Case& c, int32_t status, const char* words) {
    Runner run(GetParam(), c);
    EXPECT_EQ(run.forward(), status);
    EXPECT_NE(run.error().find(words), std::string::npos) << run.error();
  };
  refuses({.t_q = 4, .t_k = 4}, TN_E_UNSUPPORTED, "causal");
  refuses({.t_q = 4, .t_k = 4, .mask = {causal(), window(2, 0)}}, TN_E_UNSUPPORTED, "causal");
  refuses({.t_q = 4, .t_k = 4, .mask = {causal()}, .dropout = 0.1}, TN_E_UNSUPPORTED, "dropout");
  refuses({.t_q = 4, .t_k = 4, .mask = {causal()}, .sink_logit = true}, TN_E_UNSUPPORTED, "sinks");
  refuses({.t_q = 4, .t_k = 4, .mask = {causal()}, .partial = true}, TN_E_UNSUPPORTED, "state");
  refuses({.t_q = 4, .t_k = 4, .mask = {causal()}, .segments = {{0, 2, 0, 3, 1, 0}, {2, 2, 2, 2, 0, 0}}},
          TN_E_UNSUPPORTED, "share keys");
  const Case c{.t_q = 4, .t_k = 4, .d = 4, .e = 4, .mask = {causal()}};
  Runner run(GetParam(), c);
  run.bindings.tensors.emplace(TN_PORT_STATE_OUT, sdk::testing::Tensor(sdk::kU8, {1, 12}));
  EXPECT_EQ(run.forward(), TN_E_ARGUMENT);
  EXPECT_NE(run.error().find("[1, 64]"), std::string::npos) << run.error();
}

INSTANTIATE_TEST_SUITE_P(Cpu, Lightning, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::lightning::testing
