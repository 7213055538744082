// The arithmetic of LoRA against the oracle in double.
#include "adapters/lora/reference.h"
#include "sdk/testing/adapter.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

using reference::Values;

Values wide(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

struct Size {
  int64_t m, n, T, r;
};
const Size kSizes[] = {{5, 7, 3, 2}, {7, 5, 3, 2}, {5, 7, 3, 12}, {5, 7, 1, 1}, {1, 9, 4, 3}, {33, 17, 65, 8}};

// One adapted linear with factors away from their start.
struct Problem {
  Size size;
  std::vector<float> x, dy;
  Base base;
  TestAdapter lora;

  Problem(const std::string& object, Size s, TestAdapter::Options options = {})
      : size(s),
        x(normals(s.T * s.n, 1)),
        dy(normals(s.T * s.m, 2)),
        base{s.m, s.n, normals(s.m * s.n, 3), {}, 0, {}},
        lora(object, (options["r"] = std::to_string(s.r), options)) {
    EXPECT_EQ(lora.bind({{"model.layers.0.self_attn.q_proj", s.m, s.n}}), TN_OK);
    for (size_t i = 0; i < lora.params.size(); ++i)
      lora.params[i].value.assign(normals(lora.params[i].value.size(), 10 + i, 0.5f));
  }
  std::vector<float>& rows(std::vector<float>& of, int64_t begin, int64_t end, int64_t width) {
    return scratch = {of.begin() + begin * width, of.begin() + end * width};
  }
  reference::Lora oracle(double s) const {
    reference::Lora o{size.m,
                      size.n,
                      size.T,
                      size.r,
                      s,
                      wide(base.weight),
                      wide(lora.params[0].value.floats()),
                      wide(lora.params[1].value.floats()),
                      {},
                      {}};
    if (lora.params.size() == 3) o.bias = wide(lora.params[2].value.floats());
    return o;
  }
  // y and dx of rows [begin, end); parameter gradients add up.
  std::pair<std::vector<float>, std::vector<float>> run(int64_t begin, int64_t end, CallOptions o = {},
                                                        tn_dtype dtype = kF32) {
    const int64_t T = end - begin;
    Tensor tx(dtype, {T, size.n}, rows(x, begin, end, size.n)), ty(dtype, {T, size.m}),
        tdy(dtype, {T, size.m}, rows(dy, begin, end, size.m)), tdx(dtype, {T, size.n});
    o.row_begin = begin;
    SavedSlots saved;
    lora.forward(0, base, *tx.get(), ty.get(), saved, o);
    lora.backward(0, base, *tdy.get(), tdx.get(), saved, o);
    EXPECT_TRUE(tx.intact() && ty.intact() && tdy.intact() && tdx.intact());
    return {ty.floats(), tdx.floats()};
  }
  auto run(const CallOptions& o = {}) { return run(0, size.T, o); }
  std::vector<float> grad(size_t i) const { return lora.params[i].grad.floats(); }
  std::vector<float> scratch;
};

class Lora : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, Lora, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

// The oracle's own gradients: the loss is linear in each of X, A, B and b, so a central difference is exact up to
// rounding.
TEST(LoraOracle, HasTheGradientsOfItsForward) {
  for (const Size& s : kSizes) {
    reference::Lora o{s.m,
                      s.n,
                      s.T,
                      s.r,
                      0.7,
                      wide(normals(s.m * s.n, 3)),
                      wide(normals(s.r * s.n, 4)),
                      wide(normals(s.m * s.r, 5)),
                      wide(normals(s.m, 6)),
                      {}};
    for (int64_t i = 0; i < s.T * s.n; ++i) o.keep.push_back(i % 3 ? 1.5 : 0);
    Values X = wide(normals(s.T * s.n, 1));
    const Values dY = wide(normals(s.T * s.m, 2));
    const auto g = o.backward(X, dY);
    const auto loss = [&] {
      const Values Y = o.forward(X);
      double sum = 0;
      for (size_t i = 0; i < Y.size(); ++i) sum += Y[i] * dY[i];
      return sum;
    };
    const auto check = [&](Values& at, const Values& gradient) {
      for (size_t i = 0; i < at.size(); i += 1 + at.size() / 40) {
        const double h = 1e-3, was = at[i];
        at[i] = was + h;
        const double up = loss();
        at[i] = was - h;
        const double down = loss();
        at[i] = was;
        EXPECT_NEAR((up - down) / (2 * h), gradient[i], 1e-8 * (1 + std::abs(gradient[i])));
      }
    };
    check(X, g.dX), check(o.A, g.dA), check(o.B, g.dB), check(o.bias, g.db);
  }
}

TEST_P(Lora, FollowsTheOracle) {
  for (const Size& s : kSizes) {
    for (const char* bias : {"false", "true"}) {
      for (const bool rs : {false, true}) {
        Problem p(GetParam(), s, {{"lora_alpha", "3"}, {"lora_bias", bias}, {"use_rslora", rs ? "true" : "false"}});
        const auto o = p.oracle(0.5 * 3 / (rs ? std::sqrt(double(s.r)) : double(s.r)));
        const auto [y, dx] = p.run({.scale = 0.5});
        const auto g = o.backward(wide(p.x), wide(p.dy));
        EXPECT_LT(relative_distance(y, o.forward(wide(p.x))), 1e-6);
        EXPECT_LT(relative_distance(dx, g.dX), 1e-6);
        EXPECT_LT(relative_distance(p.grad(0), g.dA), 1e-6);
        EXPECT_LT(relative_distance(p.grad(1), g.dB), 1e-6);
        if (p.lora.params.size() == 3) {
          EXPECT_LT(relative_distance(p.grad(2), g.db), 1e-6);
        }
      }
    }
  }
}

TEST_P(Lora, FollowsTheOracleInBf16) {
  Problem p(GetParam(), {33, 17, 65, 8});
  const auto o = p.oracle(1);
  const auto [y, dx] = p.run(0, 65, {}, kBF16);
  const auto g = o.backward(wide(p.x), wide(p.dy));
  EXPECT_LT(relative_distance(y, o.forward(wide(p.x))), 6e-3);
  EXPECT_LT(relative_distance(dx, g.dX), 6e-3);
  EXPECT_LT(relative_distance(p.grad(0), g.dA), 6e-3);
  EXPECT_LT(relative_distance(p.grad(1), g.dB), 6e-3);
}

TEST_P(Lora, StartsAsTheBaseBitForBit) {
  for (const char* init : {"true", "gaussian"}) {
    for (const tn_dtype dtype : {kF32, kBF16}) {
      Problem p(GetParam(), {33, 17, 8, 4},
                {{"init_lora_weights", init}, {"lora_bias", "true"}, {"lora_dropout", "0.3"}});
      p.lora.init();
      Tensor x(dtype, {8, 17}, p.x), y(dtype, {8, 33}), expected(dtype, {8, 33});
      SavedSlots saved;
      p.lora.forward(0, p.base, *x.get(), y.get(), saved);
      Base::forward(&p.base, x.get(), 1, 0, expected.get());
      EXPECT_EQ(y.raw(), expected.raw());
    }
  }
}

TEST_P(Lora, FirstGradientOfAIsZero) {
  Problem p(GetParam(), {5, 7, 3, 2});
  p.lora.init();
  p.run();
  EXPECT_EQ(norm(p.grad(0)), 0);
  EXPECT_GT(norm(p.grad(1)), 0);
}

TEST_P(Lora, StartsWithTheSpreadOfTheReference) {
  Problem p(GetParam(), {64, 400, 1, 32});
  p.lora.init();
  const std::vector<float> a = p.lora.params[0].value.floats();
  for (const float v : a) EXPECT_LE(std::abs(v), 1 / std::sqrt(400.0f));
  EXPECT_NEAR(norm(a) / std::sqrt(double(a.size())), 1 / std::sqrt(3 * 400.0), 1e-3);
  EXPECT_EQ(norm(p.lora.params[1].value.floats()), 0);

  Problem g(GetParam(), {64, 400, 1, 32}, {{"init_lora_weights", "gaussian"}});
  g.lora.init();
  EXPECT_NEAR(norm(g.lora.params[0].value.floats()) / std::sqrt(32 * 400.0), 1 / 32.0, 1e-3);
  EXPECT_EQ(norm(g.lora.params[1].value.floats()), 0);

  Problem both(GetParam(), {64, 400, 1, 32}, {{"init_lora_weights", "false"}});
  both.lora.init();
  EXPECT_NEAR(norm(both.lora.params[1].value.floats()) / std::sqrt(64 * 32.0), 1 / std::sqrt(3 * 32.0), 5e-3);
}

TEST_P(Lora, DropsInputsOfTheAdapterAlone) {
  for (const Size& s : kSizes) {
    Problem p(GetParam(), s, {{"lora_dropout", "0.25"}});
    // The mask as the adapter's path shows it: base and up-projection aside, U of one-hot rows of A tells every kept
    // element.
    Problem probe(GetParam(), {s.n, s.n, s.T, s.n}, {{"lora_dropout", "0.25"}, {"lora_alpha", std::to_string(s.n)}});
    std::vector<float> one(s.n * s.n);
    for (int64_t i = 0; i < s.n; ++i) one[i * s.n + i] = 1;
    probe.lora.params[0].value.assign(one), probe.lora.params[1].value.assign(one);
    probe.base.weight.assign(s.n * s.n, 0);
    probe.x.assign(s.T * s.n, 1);
    auto o = p.oracle(8.0 / s.r);
    o.keep = wide(probe.run().first);
    for (const double k : o.keep) EXPECT_TRUE(k == 0 || std::abs(k - 4.0 / 3) < 1e-6) << k;
    const auto g = o.backward(wide(p.x), wide(p.dy));
    const auto [y, dx] = p.run();
    EXPECT_LT(relative_distance(y, o.forward(wide(p.x))), 1e-6);
    EXPECT_LT(relative_distance(dx, g.dX), 1e-6);
    EXPECT_LT(largest_difference(p.grad(0), g.dA), 1e-4);
    EXPECT_LT(relative_distance(p.grad(1), g.dB), 1e-6);
  }
}

TEST_P(Lora, DropsTheShareThatWasAsked) {
  Problem p(GetParam(), {1, 1000, 100, 1}, {{"lora_dropout", "0.1"}, {"lora_alpha", "1"}});
  p.base.weight.assign(1000, 0);
  p.x.assign(100000, 1);
  p.lora.params[0].value.assign(std::vector<float>(1000, 1)), p.lora.params[1].value.assign({1});
  double sum = 0;
  for (const float v : p.run().first) sum += v;
  EXPECT_NEAR(sum / 100000, 1, 0.005);  // five standard deviations of the mean
}

TEST_P(Lora, ReplaysTheSameMask) {
  Problem p(GetParam(), {33, 17, 65, 8}, {{"lora_dropout", "0.5"}});
  const auto first = p.run();
  const std::vector<float> da = p.grad(0), db = p.grad(1);
  p.lora.zero_gradients();
  EXPECT_EQ(p.run(), first);
  EXPECT_EQ(p.grad(0), da);
  EXPECT_EQ(p.grad(1), db);
  p.lora.zero_gradients();
  EXPECT_NE(p.run({.stream = 2}), first);
}

TEST_P(Lora, TilesOfRowsDropWhatTheWholeDrops) {
  Problem p(GetParam(), {33, 17, 65, 8}, {{"lora_dropout", "0.5"}});
  const auto whole = p.run();
  const std::vector<float> da = p.grad(0), db = p.grad(1);
  p.lora.zero_gradients();
  std::vector<float> y, dx;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 30}, {30, 64}, {64, 65}}) {
    const auto tile = p.run(begin, end);
    y.insert(y.end(), tile.first.begin(), tile.first.end());
    dx.insert(dx.end(), tile.second.begin(), tile.second.end());
  }
  EXPECT_EQ(y, whole.first);
  EXPECT_EQ(dx, whole.second);
  EXPECT_LT(relative_distance(p.grad(0), da), 1e-6);
  EXPECT_LT(relative_distance(p.grad(1), db), 1e-6);
}

TEST_P(Lora, DropsNothingOutsideTraining) {
  Problem dropping(GetParam(), {5, 7, 3, 2}, {{"lora_dropout", "0.9"}}), plain(GetParam(), {5, 7, 3, 2});
  const CallOptions evaluation{.flags = TN_CALL_SAVE | TN_CALL_NEED_DX};
  EXPECT_EQ(dropping.run(evaluation), plain.run(evaluation));
}

TEST_P(Lora, RecomputesWhatBackwardNeedsWithoutTheBase) {
  Problem p(GetParam(), {5, 7, 3, 2}, {{"lora_dropout", "0.5"}});
  Tensor x(kF32, {3, 7}, p.x), y(kF32, {3, 5}), dy(kF32, {3, 5}, p.dy), dx(kF32, {3, 7});
  SavedSlots nothing, again;
  p.lora.forward(0, p.base, *x.get(), y.get(), nothing, {.flags = TN_CALL_TRAIN});
  EXPECT_TRUE(nothing.own.empty() && nothing.inputs.empty()) << "nothing may be saved without TN_CALL_SAVE";
  const int64_t calls = p.base.calls;
  p.lora.forward(0, p.base, *x.get(), nullptr, again, {.flags = TN_CALL_TRAIN | TN_CALL_SAVE | TN_CALL_RECOMPUTE});
  EXPECT_EQ(p.base.calls, calls);
  p.lora.backward(0, p.base, *dy.get(), dx.get(), again);
  const std::vector<float> da = p.grad(0), db = p.grad(1);
  p.lora.zero_gradients();
  const auto direct = p.run();
  EXPECT_EQ(y.floats(), direct.first);
  EXPECT_EQ(dx.floats(), direct.second);
  EXPECT_EQ(p.grad(0), da);
  EXPECT_EQ(p.grad(1), db);
}

TEST_P(Lora, GradientsAccumulate) {
  Problem p(GetParam(), {5, 7, 6, 2}, {{"lora_bias", "true"}});
  p.run();
  const std::vector<float> da = p.grad(0), db = p.grad(1), dbias = p.grad(2);
  p.lora.zero_gradients();
  for (int64_t i = 0; i < 6; i += 2) p.run(i, i + 2);
  EXPECT_LT(relative_distance(p.grad(0), da), 1e-6);
  EXPECT_LT(relative_distance(p.grad(1), db), 1e-6);
  EXPECT_LT(relative_distance(p.grad(2), dbias), 1e-6);
}

TEST_P(Lora, AddsToTheGradientOfItsInput) {
  Problem p(GetParam(), {5, 7, 3, 2});
  const auto fresh = p.run().second;
  Tensor x(kF32, {3, 7}, p.x), dy(kF32, {3, 5}, p.dy), dx(kF32, {3, 7}, std::vector<float>(21, 100));
  SavedSlots saved;
  p.lora.forward(0, p.base, *x.get(), nullptr, saved);
  p.lora.backward(0, p.base, *dy.get(), dx.get(), saved, {.beta = 1});
  const std::vector<float> sum = dx.floats();
  for (size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(sum[i], 100 + fresh[i], 1e-4);
}

TEST_P(Lora, ZeroGradientsGiveZeros) {
  Problem p(GetParam(), {5, 7, 3, 2}, {{"lora_bias", "true"}, {"lora_dropout", "0.5"}});
  std::fill(p.dy.begin(), p.dy.end(), 0.0f);
  EXPECT_EQ(norm(p.run().second), 0);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(norm(p.grad(i)), 0);
}

TEST_P(Lora, AnEmptyBatchChangesNothing) {
  Problem p(GetParam(), {5, 7, 3, 2}, {{"lora_bias", "true"}, {"lora_dropout", "0.5"}});
  const auto [y, dx] = p.run(1, 1);
  EXPECT_TRUE(y.empty() && dx.empty());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(norm(p.grad(i)), 0);
}

TEST_P(Lora, FrozenFactorsPassTheGradientOn) {
  Problem p(GetParam(), {5, 7, 3, 2}), frozen(GetParam(), {5, 7, 3, 2});
  frozen.lora.train_params = false;
  EXPECT_EQ(frozen.run(), p.run());
  EXPECT_EQ(norm(frozen.grad(0)) + norm(frozen.grad(1)), 0);
  // A linear whose input needs no gradient.
  Tensor x(kF32, {3, 7}, p.x), dy(kF32, {3, 5}, p.dy);
  const std::vector<float> da = p.grad(0);
  p.lora.zero_gradients();
  SavedSlots saved;
  p.lora.forward(0, p.base, *x.get(), nullptr, saved);
  p.lora.backward(0, p.base, *dy.get(), nullptr, saved);
  EXPECT_EQ(p.grad(0), da);
}

// r = n and A = 1: dB is s times the full gradient of the weight.
TEST_P(Lora, SpansTheWholeWeightAtFullRank) {
  Problem p(GetParam(), {5, 7, 3, 7}, {{"lora_alpha", "14"}});
  std::vector<float> one(49);
  for (int i = 0; i < 7; ++i) one[i * 8] = 1;
  p.lora.params[0].value.assign(one);
  p.run();
  Values full(35);
  reference::accumulate(full, wide(p.dy), wide(p.x), 5, 7, 3, true, false, 2);
  EXPECT_LT(relative_distance(p.grad(1), full), 1e-6);
}

TEST_P(Lora, MergedEqualsUnmerged) {
  for (const Size& s : kSizes) {
    Problem p(GetParam(), s, {{"use_rslora", "true"}});
    const std::vector<float> apart = p.run().first, before = p.base.weight;
    Tensor w(kF32, {s.m, s.n}, p.base.weight);
    for (int64_t begin = 0; begin < s.m; begin += 2) {  // in pieces of rows
      const int64_t end = std::min(begin + 2, s.m);
      View rows(w.as<float>() + begin * s.n, kF32, {end - begin, s.n}, {s.n, 1});
      ASSERT_EQ(p.lora.merge(0, begin, end, rows.tensor), TN_OK);
    }
    EXPECT_TRUE(w.intact());
    Base merged{s.m, s.n, w.floats(), {}, 0, {}};
    Tensor x(kF32, {s.T, s.n}, p.x), y(kF32, {s.T, s.m});
    Base::forward(&merged, x.get(), 1, 0, y.get());
    EXPECT_LT(relative_distance(y.floats(), apart), 1e-6);
  }
}

TEST_P(Lora, ABiasCannotBeMerged) {
  Problem p(GetParam(), {5, 7, 3, 2}, {{"lora_bias", "true"}});
  Tensor w(kF32, {5, 7});
  EXPECT_EQ(p.lora.merge(0, 0, 5, *w.get()), TN_E_UNSUPPORTED);
  EXPECT_NE(p.lora.host.error.find("lora_bias"), std::string::npos);
}

TEST_P(Lora, SavesTheInputAndU) {
  for (const tn_dtype dtype : {kF32, kBF16}) {
    Problem p(GetParam(), {33, 17, 65, 8}, {{"lora_dropout", "0.1"}});
    Tensor x(dtype, {65, 17}, p.x), y(dtype, {65, 33});
    SavedSlots saved;
    p.lora.forward(0, p.base, *x.get(), y.get(), saved);
    EXPECT_EQ(p.lora.retention.at(0), uint32_t{TN_RETAIN_ROWS});
    EXPECT_EQ(saved.inputs.size(), 1u);
    EXPECT_EQ(saved.bytes(), 65u * 8 * dtype.bits / 8);
    const tn_estimate e = p.lora.estimate(0, 65, dtype, false);
    EXPECT_GE(e.saved_bytes, saved.bytes());
    EXPECT_LT(e.saved_bytes, saved.bytes() + TN_ALIGNMENT);
    EXPECT_EQ(e.state_bytes, 4u * 8 * (33 + 17));
    EXPECT_EQ(e.flops, 2.0 * 65 * 8 * (33 + 17));
  }
}

TEST_P(Lora, ComputesInF32AndBf16Alone) {
  TestAdapter lora(GetParam());
  tn_query q{};
  q.struct_size = sizeof q;
  for (const tn_dtype dtype : {kF32, kBF16}) {
    q.compute = dtype;
    EXPECT_EQ(lora.api.supports(lora.self, &q), TN_OK);
  }
  q.compute = kF16;
  EXPECT_EQ(lora.api.supports(lora.self, &q), TN_E_UNSUPPORTED);
}

TEST_P(Lora, RefusesASiteThatItDidNotTake) {
  TestAdapter lora(GetParam());
  ASSERT_EQ(lora.bind({{"a.q_proj", 4, 4}, {"a.k_proj", 4, 4}}), TN_OK);
  tn_estimate e{};
  EXPECT_EQ(lora.api.estimate(lora.self, cpu_device_api(), cpu_device(), 1, 8, &kF32, 0, &e), TN_E_ARGUMENT);
  EXPECT_EQ(lora.host.error, "lora did not take site 1");
}

}  // namespace
}  // namespace tenon::lora::testing
