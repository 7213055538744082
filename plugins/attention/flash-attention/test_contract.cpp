// What the interface promises beyond values: strides, accumulation, determinism, partial calls, memory, refusals.
#include "sdk/attention/merge.h"
#include "sdk/testing/attention.h"

namespace tenon::flash::testing {

using namespace sdk::testing::attention;
namespace {

class Contract : public Objects {};

using sdk::testing::View;

const Case kModel{
    .batch = 2, .t_q = 250, .t_k = 250, .heads = 9, .kv_heads = 3, .mask = {causal()}, .sink_logit = true};
constexpr uint32_t kOutputs[] = {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV};

TEST_P(Contract, AnyStridesAreRead) {
  const Case c{
      .batch = 2, .t_q = 50, .t_k = 70, .heads = 4, .kv_heads = 2, .d = 24, .e = 24, .mask = {causal()}, .q_pos = 20};
  Runner run(GetParam(), c);
  // q, k and v as slices of one [T, B, (4 + 2 + 2) · 24 + 5] projection; o head-major.
  const int64_t width = 8 * 24 + 5;
  Tensor fused(sdk::kF32, {70, 2, width}), o(sdk::kF32, {2, 4, 50, 24});
  const auto slice = [&](int64_t heads, int64_t tokens, int64_t from) {
    return std::make_unique<View>(fused.as<float>() + from, sdk::kF32,
                                  std::initializer_list<int64_t>{2, tokens, heads, 24},
                                  std::initializer_list<int64_t>{width, 2 * width, 24, 1});
  };
  const auto q = slice(4, 50, 3), k = slice(2, 70, 3 + 96), v = slice(2, 70, 3 + 144);
  const std::pair<uint32_t, View*> inputs[] = {{TN_PORT_Q, q.get()}, {TN_PORT_K, k.get()}, {TN_PORT_V, v.get()}};
  for (const auto& [port, view] : inputs) {
    const auto values = run.values(port);
    size_t at = 0;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < view->shape[1]; ++t)
        for (int64_t x = 0; x < view->shape[2] * 24; ++x)
          static_cast<float*>(view->tensor.data)[b * view->strides[0] + t * view->strides[1] + x] = values[at++];
  }
  ASSERT_EQ(run.forward(), TN_OK);
  const auto want = run.values(TN_PORT_O);
  View o_view(o.as<float>(), sdk::kF32, {2, 50, 4, 24}, {50 * 4 * 24, 24, 50 * 24, 1});
  run.bindings.views = {
      {TN_PORT_Q, &q->tensor}, {TN_PORT_K, &k->tensor}, {TN_PORT_V, &v->tensor}, {TN_PORT_O, &o_view.tensor}};
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  const auto got = o.floats();
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t < 50; ++t)
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t x = 0; x < 24; ++x)
          ASSERT_EQ(got[((b * 4 + h) * 50 + t) * 24 + x], want[((b * 50 + t) * 4 + h) * 24 + x]);
}

TEST_P(Contract, AccumulationDoubles) {
  Runner run(GetParam(), kModel);
  ASSERT_EQ(run.forward(), TN_OK);
  ASSERT_EQ(run.backward(), TN_OK);
  std::map<uint32_t, std::vector<float>> once;
  for (uint32_t port : {TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV, TN_PORT_D_SINK_LOGIT}) once[port] = run.values(port);
  run.bindings.gradient_flags = TN_BIND_ACCUMULATE;
  ASSERT_EQ(run.backward(), TN_OK);
  for (const auto& [port, values] : once) {
    const auto twice = run.values(port);
    for (size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(twice[i], 2 * values[i]) << "port " << port << " element " << i;
  }
}

TEST_P(Contract, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  Case decode{.t_q = 1, .t_k = 4000, .heads = 6, .kv_heads = 3, .dropout = 0.1, .phase = TN_PHASE_DECODE};
  Case ragged{.t_q = 500, .t_k = 500, .heads = 2, .kv_heads = 1, .mask = {causal(), window(300, 0), sink(7)}};
  ragged.segments = {{0, 300, 0, 300, 0, 0}, {300, 200, 100, 400, 200, 0}};
  for (const Case& c : {kModel, decode, ragged}) {
    std::map<uint32_t, std::vector<uint8_t>> first;
    for (const int threads : {1, 2, 4, 7, 4}) {
      Runner run(GetParam(), c);
      run.threads = threads;
      ASSERT_EQ(run.forward(), TN_OK) << run.error();
      ASSERT_EQ(run.backward(), TN_OK) << run.error();
      for (uint32_t port : kOutputs) {
        auto [at, fresh] = first.emplace(port, run.bindings.at(port).raw());
        EXPECT_EQ(at->second, run.bindings.at(port).raw()) << threads << " threads, port " << port;
      }
    }
  }
}

// Keys cut at random points: the merged parts are one call; the gradients of the parts, with the global L, add up to
// those of one call.
TEST_P(Contract, PartialCallsMergeToOne) {
  std::mt19937 random(11);
  for (int trial = 0; trial < 4; ++trial) {
    Case c{.batch = 2,
           .t_q = 60,
           .t_k = 300,
           .heads = 4,
           .kv_heads = 2,
           .mask = {causal()},
           .q_pos = 240,
           .partial = true};
    if (trial == 1) c.q_pos = 100;
    if (trial == 2) c.mask.push_back(window(90, 0)), c.mask.push_back(sink(10));
    if (trial == 3) c.dropout = 0.25;
    Runner whole(GetParam(), c);
    ASSERT_EQ(whole.forward(), TN_OK) << whole.error();
    ASSERT_EQ(whole.backward(), TN_OK);
    std::vector<int64_t> cuts{0, 300, std::uniform_int_distribution<int64_t>(0, 300)(random),
                              std::uniform_int_distribution<int64_t>(0, 300)(random)};
    std::sort(cuts.begin(), cuts.end());
    std::vector<float> o(2 * 60 * 4 * 64), lse(2 * 4 * 60, -INFINITY);
    std::vector<std::unique_ptr<Runner>> parts;
    std::vector<std::unique_ptr<View>> views;
    for (int part = 0; part < 3; ++part) {
      Case piece = c;
      piece.t_k = cuts[part + 1] - cuts[part], piece.k_pos = cuts[part];
      Runner& run = *parts.emplace_back(std::make_unique<Runner>(GetParam(), piece));
      for (uint32_t port : {TN_PORT_Q, TN_PORT_DO}) run.bindings.at(port).assign(whole.values(port));
      for (uint32_t port : {TN_PORT_K, TN_PORT_V, TN_PORT_DK, TN_PORT_DV}) {
        View& view =
            *views.emplace_back(std::make_unique<View>(whole.bindings.at(port).as<float>() + cuts[part] * 128,
                                                       sdk::kF32, std::initializer_list<int64_t>{2, piece.t_k, 2, 64},
                                                       std::initializer_list<int64_t>{300 * 128, 128, 64, 1}));
        if (port == TN_PORT_K || port == TN_PORT_V) run.bindings.views[port] = &view.tensor;
      }
      ASSERT_EQ(run.forward(), TN_OK) << run.error();
      const auto part_o = run.values(TN_PORT_O), part_lse = run.values(TN_PORT_LSE);
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t h = 0; h < 4; ++h)
          for (int64_t i = 0; i < 60; ++i) {
            const int64_t row = ((b * 60 + i) * 4 + h) * 64, l = (b * 4 + h) * 60 + i;
            sdk::merge_row(&o[row], lse[l], &part_o[row], part_lse[l], 64);
          }
    }
    EXPECT_LT(error(o, widen(whole.values(TN_PORT_O))), 1e-6);
    EXPECT_LT(error(lse, widen(whole.values(TN_PORT_LSE))), 1e-6);

    std::vector<float> dq(2 * 60 * 4 * 64);
    const auto whole_dk = whole.values(TN_PORT_DK);
    for (int part = 0; part < 3; ++part) {
      Runner& run = *parts[part];
      run.bindings.at(TN_PORT_O).assign(whole.values(TN_PORT_O)),
          run.bindings.at(TN_PORT_LSE).assign(whole.values(TN_PORT_LSE));
      ASSERT_EQ(run.backward(), TN_OK) << run.error();
      const auto part_dq = run.values(TN_PORT_DQ), part_dk = run.values(TN_PORT_DK);
      for (size_t i = 0; i < dq.size(); ++i) dq[i] += part_dq[i];
      const int64_t n = cuts[part + 1] - cuts[part];
      for (int64_t b = 0; b < 2; ++b)
        for (int64_t x = 0; x < n * 128; ++x)
          ASSERT_NEAR(part_dk[b * n * 128 + x], whole_dk[b * 300 * 128 + cuts[part] * 128 + x], 1e-5);
    }
    EXPECT_LT(error(dq, widen(whole.values(TN_PORT_DQ))), 1e-5);
  }
}

TEST_P(Contract, MaskedRowsAreZeroEvenWithHostileMemory) {
  const Case c{.t_q = 10, .t_k = 40, .heads = 2, .kv_heads = 1, .mask = {causal()}, .k_pos = 6};
  Runner run(GetParam(), c);
  for (uint32_t port : kOutputs) run.bindings.at(port).assign(std::vector<float>(run.bindings.at(port).size(), NAN));
  expect_backward(run, c, 1e-5);
  const auto o = run.values(TN_PORT_O), lse = run.values(TN_PORT_LSE), dq = run.values(TN_PORT_DQ);
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(lse[i], -INFINITY);
    for (int64_t x = 0; x < 128; ++x) {
      EXPECT_EQ(o[i * 128 + x], 0.0f);
      EXPECT_EQ(dq[i * 128 + x], 0.0f);
    }
  }
}

TEST_P(Contract, NanInputsShow) {
  Runner run(GetParam(), {.t_q = 4, .t_k = 4, .mask = {causal()}});
  auto q = run.values(TN_PORT_Q);
  std::fill(q.begin() + 128, q.begin() + 192, NAN);
  run.bindings.at(TN_PORT_Q).assign(q);
  ASSERT_EQ(run.forward(), TN_OK);
  const auto o = run.values(TN_PORT_O);
  EXPECT_TRUE(std::isfinite(o[127]) && std::isnan(o[128]) && std::isfinite(o[192]));
}

TEST_P(Contract, MemoryGrowsWithTheSequenceNotItsSquare) {
  const auto bytes = [&](int64_t t) {
    Runner run(GetParam(), {.t_q = t, .t_k = t, .d = 128, .e = 128, .mask = {causal()}});
    tn_attention_plan plan{};
    EXPECT_EQ(run.plan(plan), TN_OK);
    EXPECT_EQ(plan.forward.saved_bytes, 0u);
    return std::pair{static_cast<double>(plan.forward.workspace_bytes),
                     static_cast<double>(plan.backward.workspace_bytes)};
  };
  const auto small = bytes(8192), large = bytes(16384);
  EXPECT_LE(large.first, 2.1 * small.first);  // a GPU's forward pass needs none
  EXPECT_LE(large.second, 2.1 * small.second);
  EXPECT_LT(large.first, 16384.0 * 16384 * 4 / 50);  // a dense score matrix of one head
}

TEST_P(Contract, PlanCountsTheVisibleWork) {
  Runner run(GetParam(),
             {.batch = 2, .t_q = 100, .t_k = 100, .heads = 4, .kv_heads = 2, .d = 32, .e = 16, .mask = {causal()}});
  tn_attention_plan plan{};
  ASSERT_EQ(run.plan(plan), TN_OK);
  EXPECT_EQ(plan.forward.flops, 2.0 * 2 * 4 * 5050 * 48);
  EXPECT_EQ(plan.backward.flops, 2.5 * plan.forward.flops);
  EXPECT_GT(plan.tile_q, 0u);
  EXPECT_GT(plan.tile_k, 0u);
  tn_attention_state state{};
  ASSERT_EQ(run.api()->state(run.self(), &sdk::kBF16, 100, &state), TN_OK);
  EXPECT_EQ(state.bytes, 100u * 2 * 48 * 2);
}

TEST_P(Contract, RefusalsNameTheReason) {
  const auto refuses = [&](Case c, int32_t status, const char* words) {
    Runner run(GetParam(), c);
    EXPECT_EQ(run.forward(), status);
    EXPECT_NE(run.error().find(words), std::string::npos) << run.error();
  };
  tn_mask_term strange = causal();
  strange.kind = 99;
  refuses({.mask = {strange}}, TN_E_UNSUPPORTED, "mask kind 99");
  refuses({.mask = {window(-2, 0)}}, TN_E_ARGUMENT, "window");
  refuses({.dropout = 1.0}, TN_E_ARGUMENT, "dropout");
  refuses({.t_q = 4, .t_k = 4, .segments = {{0, 5, 0, 4, 0, 0}}}, TN_E_ARGUMENT, "query rows outside");
  refuses({.t_q = 4, .t_k = 4, .segments = {{0, 2, 3, 2, 0, 0}}}, TN_E_ARGUMENT, "key rows outside");
  refuses({.t_q = 4, .t_k = 4, .segments = {{0, 2, 0, 4, 0, 0}, {1, 2, 0, 4, 0, 0}}}, TN_E_ARGUMENT,
          "must not overlap");
  refuses({.batch = 2, .t_q = 4, .t_k = 4, .segments = {{0, 4, 0, 4, 0, 0}}}, TN_E_ARGUMENT, "batch = 1");

  Runner missing(GetParam(), {.t_q = 4, .t_k = 4});
  missing.bindings.tensors.erase(TN_PORT_V);
  EXPECT_EQ(missing.forward(), TN_E_ARGUMENT);
  EXPECT_NE(missing.error().find("port V is not bound"), std::string::npos) << missing.error();

  Runner shape(GetParam(), {.t_q = 4, .t_k = 4});
  View wrong(shape.bindings.at(TN_PORT_K).as<float>(), sdk::kF32, {1, 3, 1, 64}, {256, 64, 64, 1});
  shape.bindings.views[TN_PORT_K] = &wrong.tensor;
  EXPECT_EQ(shape.forward(), TN_E_ARGUMENT);
  EXPECT_NE(shape.error().find("[1, 3, 1, 64]"), std::string::npos) << shape.error();

  Runner memory(GetParam(), {.t_q = 4, .t_k = 4});
  memory.threads = 1, memory.workspace_shortfall = 64;
  // On a GPU only the backward pass needs one.
  EXPECT_EQ(sdk::testing::is_emulated(GetParam()) ? memory.backward() : memory.forward(), TN_E_ARGUMENT);
  EXPECT_NE(memory.error().find("workspace"), std::string::npos) << memory.error();

  sdk::testing::FakeHost host;
  const auto* api = static_cast<const tn_attention_api*>(sdk::testing::load_plugin(host, GetParam()).api);
  tn_attention_config config{sizeof config, 5, 2, 64, 64, 0, 1, 0, 5, 0, 0, 0};
  tn_attention* self = nullptr;
  EXPECT_EQ(api->create(host.get(), nullptr, 0, &config, &self), TN_E_ARGUMENT);
  config.n_kv_heads = 5, config.d_v = 513;
  EXPECT_EQ(api->create(host.get(), nullptr, 0, &config, &self), TN_E_UNSUPPORTED);
}

INSTANTIATE_TEST_SUITE_P(Cpu, Contract, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::flash::testing
