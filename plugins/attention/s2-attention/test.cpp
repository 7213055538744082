// The sharding against its formula and dense attention under it; decoding with the cache against the whole sequence.
#include "sdk/testing/attention.h"

namespace tenon::s2::testing {
namespace {

using namespace sdk::testing::attention;
using Hypers = std::map<std::string, std::string>;

// The emulated GPU is slow: it gets the short cases.
class S2 : public Objects {
 protected:
  bool brief() const { return sdk::testing::is_emulated(GetParam()); }
};
const Hypers kSmall{{"block", "16"}, {"local_blocks", "2"}, {"vert_stride", "4"}};

TEST_P(S2, StrideOneIsDenseCausal) {
  const Case c{.t_q = 200, .t_k = 200, .heads = 4, .kv_heads = 2, .d = 16, .e = 16, .mask = {causal()}};
  Runner run(GetParam(), c, {{"block", "16"}, {"local_blocks", "1"}, {"vert_stride", "1"}});
  ASSERT_EQ(run.forward(), TN_OK) << run.error();
  sdk::DenseAttention dense = run.dense();
  dense.factor = nullptr;
  EXPECT_LT(error(run.values(TN_PORT_O), dense.forward().o), 2e-6);
}

// visible(i, j, g) = j <= i and (i − j < local or (j + g·step + offset) mod stride = 0), by tiles.
TEST_P(S2, ShardsFollowTheFormula) {
  for (const int64_t stride : {4, 8}) {
    Case c{.t_q = 1, .t_k = 1, .heads = 8, .kv_heads = 4, .mask = {causal()}};
    Runner run(GetParam(), c,
               {{"block", "16"},
                {"local_blocks", "3"},
                {"vert_stride", std::to_string(stride)},
                {"head_sliding_offset", "1"},
                {"num_dense_heads", "1"}});
    const auto dense = run.dense();
    for (int64_t h = 0; h < 8; ++h)
      for (int64_t i = 0; i < 30; ++i)
        for (int64_t j = 0; j < 30; ++j) {
          const bool want = j <= i && (h / 2 == 3 || i - j < 3 || (j + h / 2 + 1) % stride == 0);
          ASSERT_EQ(dense.factor(h, i * 16 + 5, j * 16 + 5) != 0, want) << h << " " << i << " " << j;
        }
  }
}

TEST_P(S2, HeadsTogetherSeeEverything) {
  Runner run(GetParam(), {.t_q = 4096, .t_k = 4096, .heads = 8, .kv_heads = 8, .mask = {causal()}},
             {{"local_blocks", "2"}});
  const auto dense = run.dense();
  int64_t seen = 0;
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      int64_t heads = 0;
      for (int64_t h = 0; h < 8; ++h) heads += dense.factor(h, i * 64, j * 64) != 0;
      EXPECT_GT(heads, 0) << i << " " << j;
      seen += heads;
    }
  EXPECT_NEAR(static_cast<double>(seen) / (8 * 64 * 65 / 2), 0.178, 0.002);
}

TEST_P(S2, ARankHoldsItsShareOfTheHeads) {
  const Case all{.t_q = 1, .t_k = 1, .heads = 8, .kv_heads = 4, .mask = {causal()}};
  Case slice = all;
  slice.heads = 4, slice.kv_heads = 2, slice.head_offset = 4, slice.heads_global = 8;
  const Hypers hypers{{"block", "16"}, {"local_blocks", "1"}, {"vert_stride", "4"}, {"num_dense_heads", "1"}};
  Runner whole(GetParam(), all, hypers), rank(GetParam(), slice, hypers);
  for (int64_t h = 0; h < 4; ++h)
    for (int64_t j = 0; j < 20; ++j)
      EXPECT_EQ(rank.dense().factor(h, 320, j * 16), whole.dense().factor(4 + h, 320, j * 16));
}

TEST_P(S2, ForwardAndBackwardAreDenseUnderTheShards) {
  Case plain{.batch = 2, .t_q = 300, .t_k = 300, .heads = 6, .kv_heads = 2, .d = 24, .e = 16, .mask = {causal()}};
  if (brief()) plain.t_q = plain.t_k = 120, plain.batch = 1, plain.heads = 4, plain.d = plain.e = 8;
  Case slice = plain;
  slice.t_q = 50, slice.q_pos = slice.t_k - 50;
  Case extras = plain;
  extras.mask.push_back(window(150, 0)), extras.mask.push_back(sink(3)), extras.dropout = 0.2, extras.sink_logit = true;
  Case ragged = plain;
  const int64_t first = 77, rest = plain.t_q - first;
  ragged.batch = 1, ragged.segments = {{0, first, 0, first, 0, 0}, {first, rest, first, rest, 0, 0}};
  for (const Case& c : {plain, slice, extras, ragged})
    for (const Hypers& hypers :
         {kSmall, Hypers{{"block", "64"}, {"local_blocks", "1"}, {"vert_stride", "2"}, {"num_dense_heads", "1"}}}) {
      Runner run(GetParam(), c, hypers);
      expect_forward(run, 2e-6);
      expect_backward(run, c, 1e-5);
    }
}

// What kernels on matrix units take: 16-bit types in widths of 64 and 128.
TEST_P(S2, SixteenBitTypesInWholeTiles) {
  for (const int64_t width : {64, 128}) {
    const tn_dtype dtype = width == 64 ? sdk::kBF16 : sdk::kF16;
    const Case c{.t_q = 150, .t_k = 150, .heads = 4, .kv_heads = 2, .d = width, .e = width, .mask = {causal()}, .dtype = dtype};
    const double step = dtype.code == TN_BFLOAT ? 0x1p-8 : 0x1p-11;
    Runner run(GetParam(), c, {{"block", width == 64 ? "16" : "32"}, {"local_blocks", "2"}, {"vert_stride", "3"}});
    expect_forward(run, 2 * step);
    expect_backward(run, c, 4 * step);
  }
}

// Tokens one by one (and a few at once) with the cache, from several prompts on, against the whole sequence.
void expect_decoding(const std::string& object, const Case& c, const Hypers& hypers, int64_t prompt, double tolerance) {
  Runner whole(object, c, hypers);
  ASSERT_EQ(whole.forward(), TN_OK) << whole.error();
  tn_attention_state info{};
  ASSERT_EQ(whole.api()->state(whole.self(), &c.dtype, c.t_q + 10, &info), TN_OK);
  sdk::testing::Tensor state(sdk::kU8, {c.batch, static_cast<int64_t>(info.bytes)});
  std::memset(state.as<char>(), 0xFF, static_cast<size_t>(c.batch) * info.bytes);
  for (int64_t at = 0, n; at < c.t_q; at += n) {
    n = at == 0 ? prompt : std::min<int64_t>(at % 5 == 0 ? 3 : 1, c.t_q - at);
    Case part = c;
    part.t_q = part.t_k = n, part.q_pos = part.k_pos = at, part.state_tokens = c.t_q + 10,
    part.phase = at == 0 ? TN_PHASE_PREFILL : TN_PHASE_DECODE;
    Runner run(object, part, hypers);
    const auto rows = [&](uint32_t port) {
      const auto all = whole.values(port);
      const int64_t width = static_cast<int64_t>(all.size()) / (c.batch * c.t_q);
      std::vector<float> out;
      for (int64_t b = 0; b < c.batch; ++b)
        out.insert(out.end(), all.begin() + (b * c.t_q + at) * width, all.begin() + (b * c.t_q + at + n) * width);
      return out;
    };
    for (const uint32_t port : {TN_PORT_Q, TN_PORT_K, TN_PORT_V}) run.bindings.at(port).assign(rows(port));
    for (const uint32_t port : {TN_PORT_STATE_IN, TN_PORT_STATE_OUT})
      if (port == TN_PORT_STATE_OUT || at > 0) run.bindings.tensors.emplace(port, state.clone());
    const bool in_place = at % 2 == 0;
    if (at > 0 && in_place) run.bindings.views[TN_PORT_STATE_IN] = run.bindings.at(TN_PORT_STATE_OUT).get();
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    std::memcpy(state.as<char>(), run.bindings.at(TN_PORT_STATE_OUT).as<char>(), static_cast<size_t>(c.batch) * info.bytes);
    ASSERT_LT(error(run.values(TN_PORT_O), widen(rows(TN_PORT_O))), tolerance) << "position " << at << " after a prompt of " << prompt;
  }
}

TEST_P(S2, DecodingWithEvictionEqualsPrefill) {
  Case c{.t_q = 190, .t_k = 190, .heads = 6, .kv_heads = 3, .d = 16, .e = 8, .mask = {causal()}};
  if (brief()) c.t_q = c.t_k = 120, c.d = 8;
  for (const Hypers& hypers :
       {kSmall, Hypers{{"block", "16"}, {"local_blocks", "1"}, {"vert_stride", "3"}, {"num_dense_heads", "1"}}})
    for (const int64_t prompt : brief() ? std::vector<int64_t>{79} : std::vector<int64_t>{1, 40, 129})
      expect_decoding(GetParam(), c, hypers, prompt, 1e-5);
}

TEST_P(S2, DecodingInBatchesOfASixteenBitType) {
  const Case c{.batch = 2, .t_q = 110, .t_k = 110, .heads = 4, .kv_heads = 2, .mask = {causal()}, .dtype = sdk::kBF16};
  expect_decoding(GetParam(), c, {{"block", "16"}, {"local_blocks", "2"}, {"vert_stride", "2"}, {"num_dense_heads", "1"}}, 89, 0x1p-7);
}

// b · (n_l + ceil((T/b − n_l)/v)) tokens of each sharded key head.
TEST_P(S2, TheCacheHoldsTheBandAndAShareOfTheRest) {
  const auto bytes = [&](const Hypers& hypers, int64_t tokens) {
    Runner run(GetParam(), {.t_q = 1, .t_k = 1, .heads = 8, .kv_heads = 4, .d = 32, .e = 32, .mask = {causal()}},
               hypers);
    tn_attention_state state{};
    EXPECT_EQ(run.api()->state(run.self(), &sdk::kBF16, tokens, &state), TN_OK);
    EXPECT_EQ(state.kind, uint32_t{TN_STATE_RING});
    return state.bytes;
  };
  const Hypers usual{{"local_blocks", "16"}, {"vert_stride", "8"}};
  EXPECT_EQ(bytes(usual, 65536), uint64_t{4} * 64 * (16 + (1024 - 16) / 8) * 64 * 2);
  EXPECT_EQ(bytes(usual, 640), uint64_t{4} * 640 * 64 * 2);
  Hypers dense = usual;
  dense["num_dense_heads"] = "1";
  EXPECT_EQ(bytes(dense, 65536), (uint64_t{3} * 64 * (16 + (1024 - 16) / 8) + 65536) * 64 * 2);
}

// A value that one key alone carries comes out of some head, whatever tile the key is in.
TEST_P(S2, ANeedleAnywhereIsFoundBySomeHead) {
  const Case c{.t_q = 512, .t_k = 512, .heads = 4, .kv_heads = 4, .d = 8, .e = 8, .mask = {causal()}, .scale = 1};
  for (int64_t tile = 0; tile < 32; tile += brief() ? 13 : 1) {
    Runner run(GetParam(), c, {{"block", "16"}, {"local_blocks", "2"}, {"vert_stride", "4"}});
    std::vector<float> q(512 * 32), k(512 * 32), v(512 * 32);
    for (int64_t h = 0; h < 4; ++h)
      q[(511 * 4 + h) * 8] = 30, k[((tile * 16 + 3) * 4 + h) * 8] = 1, v[((tile * 16 + 3) * 4 + h) * 8] = 1;
    run.bindings.at(TN_PORT_Q).assign(q), run.bindings.at(TN_PORT_K).assign(k), run.bindings.at(TN_PORT_V).assign(v);
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    const auto o = run.values(TN_PORT_O);
    float best = 0;
    for (int64_t h = 0; h < 4; ++h) best = std::max(best, o[(511 * 4 + h) * 8]);
    EXPECT_GT(best, 0.99f) << tile;
  }
}

TEST_P(S2, RefusalsAndWarnings) {
  Runner acausal(GetParam(), {.t_q = 4, .t_k = 4});
  EXPECT_EQ(acausal.forward(), TN_E_UNSUPPORTED);
  EXPECT_NE(acausal.error().find("causal"), std::string::npos) << acausal.error();
  Runner window_state(
      GetParam(), {.t_q = 4, .t_k = 4, .mask = {causal(), window(2, 0)}, .phase = TN_PHASE_PREFILL, .state_tokens = 8});
  EXPECT_EQ(window_state.forward(), TN_E_UNSUPPORTED);
  EXPECT_NE(window_state.error().find("windows"), std::string::npos) << window_state.error();
  Runner past(
      GetParam(),
      {.t_q = 1, .t_k = 1, .mask = {causal()}, .q_pos = 8, .k_pos = 8, .phase = TN_PHASE_DECODE, .state_tokens = 8});
  EXPECT_EQ(past.forward(), TN_E_ARGUMENT);
  EXPECT_NE(past.error().find("8 tokens"), std::string::npos) << past.error();

  sdk::testing::FakeHost host;
  const tn_plugin& plugin = sdk::testing::load_plugin(host, GetParam());
  const auto create = [&](uint32_t kv_heads, const Hypers& hypers) {
    const sdk::testing::HyperValues values(plugin, hypers);
    const tn_attention_config config{sizeof config, kv_heads, kv_heads, 8, 8, 0, 1, 0, kv_heads, 0, 0, 0};
    const auto* api = static_cast<const tn_attention_api*>(plugin.api);
    tn_attention* self = nullptr;
    host.log.clear();
    const int32_t status = api->create(host.get(), values.data(), values.size(), &config, &self);
    if (status >= 0) api->destroy(self);
    return status;
  };
  EXPECT_EQ(create(3, {}), TN_OK);
  ASSERT_EQ(host.log.size(), 1u);
  EXPECT_NE(host.log[0].find("keep 3 of every 8 tiles"), std::string::npos) << host.log[0];
  EXPECT_EQ(create(8, {}), TN_OK);
  EXPECT_TRUE(host.log.empty());
  EXPECT_EQ(create(3, {{"num_dense_heads", "1"}}), TN_OK);
  EXPECT_TRUE(host.log.empty());
  EXPECT_EQ(create(3, {{"num_dense_heads", "4"}}), TN_E_ARGUMENT);
  EXPECT_EQ(create(3, {{"block", "48"}}), TN_E_ARGUMENT);
}

INSTANTIATE_TEST_SUITE_P(Cpu, S2, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::s2::testing
