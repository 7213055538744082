// The kernels on matrix units, executed by emulated waves of NVIDIA's (32) and AMD's (64) kind, against the dense f64 formula. CPU objects
// run the same cases.
#include "sdk/testing/attention.h"

namespace tenon::flash::testing {

using namespace sdk::testing::attention;
namespace {

class Tiles : public Objects {};
INSTANTIATE_TEST_SUITE_P(Objects, Tiles, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

std::vector<std::pair<std::string, Case>> tile_cases() {
  std::vector<std::pair<std::string, Case>> out{
      {"one row, one key", {.mask = {causal()}}},
      {"whole tiles", {.t_q = 128, .t_k = 128, .mask = {causal()}}},
      {"a row more than a tile", {.t_q = 129, .t_k = 129, .mask = {causal()}}},
      {"nothing masked", {.t_q = 70, .t_k = 131, .heads = 2, .kv_heads = 2}},
      {"two batch entries, three heads a key head", {.batch = 2, .t_q = 75, .t_k = 75, .heads = 6, .kv_heads = 2, .mask = {causal()}}},
      {"seven heads a key head", {.t_q = 31, .t_k = 90, .heads = 7, .kv_heads = 1, .mask = {causal()}, .q_pos = 59}},
      {"width 128", {.t_q = 150, .t_k = 150, .heads = 2, .kv_heads = 1, .d = 128, .e = 128, .mask = {causal()}}},
      {"width 128, more keys than queries", {.t_q = 67, .t_k = 200, .d = 128, .e = 128, .mask = {causal()}, .q_pos = 133}},
      {"more queries than keys", {.t_q = 140, .t_k = 50, .heads = 2, .kv_heads = 1, .mask = {causal()}, .k_pos = 30}},
      {"window", {.t_q = 260, .t_k = 260, .mask = {causal(), window(70, 0)}}},
      {"window to both sides", {.t_q = 150, .t_k = 150, .heads = 2, .kv_heads = 1, .mask = {window(17, 9)}}},
      {"window and sink", {.t_q = 230, .t_k = 230, .mask = {causal(), window(31, 0), sink(4)}}},
      {"sink before a later window", {.t_q = 70, .t_k = 400, .mask = {window(10, 3), sink(20)}, .q_pos = 300}},
      {"sink logit and gradient of L", {.t_q = 100, .t_k = 100, .heads = 4, .kv_heads = 2, .mask = {causal()}, .sink_logit = true, .d_lse = true}},
      {"decoding", {.batch = 2, .t_q = 1, .t_k = 300, .heads = 6, .kv_heads = 2, .d = 128, .e = 128, .mask = {causal()}, .q_pos = 299, .phase = TN_PHASE_DECODE}},
      {"no keys", {.t_q = 5, .t_k = 0, .heads = 2, .kv_heads = 1}},
      {"no queries", {.t_q = 0, .t_k = 5, .heads = 2, .kv_heads = 1}},
      {"a scale", {.t_q = 90, .t_k = 90, .mask = {causal()}, .scale = 0.3}},
      {"what the plain kernels take: a negative scale", {.t_q = 20, .t_k = 20, .mask = {causal()}, .scale = -0.2}},
      {"what the plain kernels take: a soft cap", {.t_q = 20, .t_k = 20, .mask = {causal()}, .softcap = 5}},
      {"what the plain kernels take: dropout", {.t_q = 20, .t_k = 20, .mask = {causal()}, .dropout = 0.3}},
      {"what the plain kernels take: width 80", {.t_q = 20, .t_k = 20, .d = 80, .e = 80, .mask = {causal()}}},
  };
  Case ragged{.t_q = 260, .t_k = 260, .heads = 4, .kv_heads = 2, .mask = {causal()}};
  ragged.segments = {{0, 130, 0, 130, 0, 0}, {130, 1, 130, 1, 0, 0}, {131, 0, 131, 0, 0, 0}, {131, 129, 131, 129, 0, 0}};
  out.emplace_back("ragged", ragged);
  Case gaps{.t_q = 200, .t_k = 220, .heads = 2, .kv_heads = 1, .mask = {causal()}};
  gaps.segments = {{0, 100, 0, 100, 0, 0}, {110, 60, 130, 80, 20, 0}};
  out.emplace_back("ragged with uncovered rows", gaps);
  Case shared{.t_q = 120, .t_k = 200, .heads = 2, .kv_heads = 1, .mask = {causal()}};
  shared.segments = {{0, 50, 0, 150, 100, 0}, {50, 40, 0, 200, 150, -50}, {90, 30, 200, 0, 0, 0}};
  out.emplace_back("segments that share keys", shared);
  return out;
}

TEST_P(Tiles, MatchTheDenseFormula) {
  int number = 0;
  for (auto [name, c] : tile_cases()) {
    SCOPED_TRACE(name);
    c.dtype = number++ % 2 ? sdk::kF16 : sdk::kBF16;
    const double step = c.dtype.code == TN_BFLOAT ? 0x1p-8 : 0x1p-11;
    Runner run(GetParam(), c);
    expect_forward(run, 2 * step);
    expect_backward(run, c, 4 * step);
  }
}

// A part of the keys answers O in f32 and L of these keys, which is what merging needs.
TEST_P(Tiles, PartialResultsAreInF32) {
  const Case c{.t_q = 70, .t_k = 150, .heads = 4, .kv_heads = 2, .mask = {causal()}, .q_pos = 80, .dtype = sdk::kBF16, .partial = true};
  Runner run(GetParam(), c);
  expect_forward(run, 0x1p-8);
  EXPECT_TRUE(sdk::same(run.bindings.at(TN_PORT_O).get()->dtype, sdk::kF32));
}

TEST_P(Tiles, GradientsAreTheSameBitsEveryTimeAndAccumulate) {
  const Case c{.t_q = 140, .t_k = 140, .heads = 4, .kv_heads = 2, .mask = {causal(), window(60, 0)}, .dtype = sdk::kBF16};
  std::map<uint32_t, std::vector<uint8_t>> first;
  for (int time = 0; time < 2; ++time) {
    Runner run(GetParam(), c);
    ASSERT_EQ(run.forward(), TN_OK) << run.error();
    ASSERT_EQ(run.backward(), TN_OK) << run.error();
    for (uint32_t port : {TN_PORT_O, TN_PORT_LSE, TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) {
      const auto [at, fresh] = first.emplace(port, run.bindings.at(port).raw());
      EXPECT_EQ(at->second, run.bindings.at(port).raw()) << "port " << port;
    }
    if (time == 0) continue;
    for (uint32_t port : {TN_PORT_DQ, TN_PORT_DK, TN_PORT_DV}) {
      run.bindings.gradient_flags = TN_BIND_ACCUMULATE;
      const std::vector<float> once = run.values(port);
      ASSERT_EQ(run.backward(), TN_OK) << run.error();
      const std::vector<float> twice = run.values(port);
      for (size_t i = 0; i < once.size(); ++i) ASSERT_NEAR(twice[i], 2 * once[i], 0x1p-7 * std::abs(once[i]) + 1e-6) << "port " << port << " element " << i;
      break;  // the others have been added to as well
    }
  }
}

// Rows that lie apart, as slices of one projection; and rows whose addresses do not take whole pieces, which the plain kernels serve.
TEST_P(Tiles, StridesAreRead) {
  const Case c{.batch = 2, .t_q = 40, .t_k = 40, .heads = 4, .kv_heads = 2, .mask = {causal()}, .dtype = sdk::kBF16};
  for (const int64_t shift : {8, 3}) {
    Runner run(GetParam(), c);
    const int64_t width = 8 * 64 + 16;
    Tensor fused(sdk::kBF16, {2, 40, width + 8});
    const auto slice = [&](int64_t heads, int64_t from) {
      return std::make_unique<sdk::testing::View>(fused.as<sdk::bf16>() + from, sdk::kBF16, std::initializer_list<int64_t>{2, 40, heads, 64},
                                                  std::initializer_list<int64_t>{40 * width, width, 64, 1});
    };
    const auto q = slice(4, shift), k = slice(2, shift + 256), v = slice(2, shift + 384);
    for (const auto& [port, view] : {std::pair{TN_PORT_Q, q.get()}, {TN_PORT_K, k.get()}, {TN_PORT_V, v.get()}}) {
      const auto* from = run.bindings.at(port).as<sdk::bf16>();
      for (int64_t r = 0; r < 2 * 40; ++r)
        for (int64_t x = 0; x < view->shape[2] * 64; ++x) static_cast<sdk::bf16*>(view->tensor.data)[r * width + x] = *from++;
    }
    run.bindings.views = {{TN_PORT_Q, &q->tensor}, {TN_PORT_K, &k->tensor}, {TN_PORT_V, &v->tensor}};
    expect_forward(run, 0x1p-7);
    expect_backward(run, c, 0x1p-6);
  }
}

}  // namespace
}  // namespace tenon::flash::testing
