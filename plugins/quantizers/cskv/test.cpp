#include "sdk/testing/codec.h"
#include "sdk/testing/device.h"
#include "tenon/kv.h"

namespace tenon::cskv {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF32;

constexpr int64_t kHidden = 40, kWidth = 24, kGroup = 32;

class Cskv : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, Cskv, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

// One layer's cache, driven as a host drives it.
struct Layer {
  Layer(const std::string& object, const std::map<std::string, std::string>& hypers, int64_t groups, tn_dtype dtype = kF32)
      : codec(object, hypers), kv(*static_cast<const tn_kv*>(codec.plugin.get_extension(TN_EXT_KV))),
        info{sizeof(tn_kv_layer), 0, kHidden, kWidth, kWidth, dtype, 0}, groups(groups) {
    const auto declare = [](void* to, const tn_component* c) -> int32_t {
      Coded& coded = *static_cast<Coded*>(to);
      coded.names.emplace_back(c->name);
      coded.parts.emplace_back(c->dtype, std::vector<int64_t>(c->shape, c->shape + c->ndim));
      return TN_OK;
    };
    tn_component_sink sink{sizeof sink, 0, &factors, declare};
    codec.expect(kv.factors(codec.self, &info, &sink));
    sink.self = &store;
    codec.expect(kv.store(codec.self, &info, groups, &sink));
  }
  uint64_t workspace(uint32_t op, int64_t n) {
    tn_estimate e{};
    e.struct_size = sizeof e;
    codec.expect(kv.estimate(codec.self, cpu_device_api(), cpu_device(), &info, op, n, &e));
    return e.workspace_bytes;
  }
  void fit(const std::vector<float>& w_k, const std::vector<float>& w_v, const std::vector<float>& x) {
    Tensor k(kF32, {kWidth, kHidden}, w_k), v(kF32, {kWidth, kHidden}, w_v), gram(kF32, {kHidden, kHidden}, gram_of(x));
    Exec exec(workspace(TN_KV_FIT, 1));
    codec.expect(kv.fit(codec.self, exec.get(), &info, k.get(), v.get(), gram.get(), static_cast<int64_t>(x.size()) / kHidden, factors.pointers().data()));
    EXPECT_TRUE(exec.intact() && factors.intact());
  }
  static std::vector<float> gram_of(const std::vector<float>& x) {
    std::vector<float> g(kHidden * kHidden);
    for (size_t t = 0; t < x.size(); t += kHidden)
      for (int64_t i = 0; i < kHidden; ++i)
        for (int64_t j = 0; j < kHidden; ++j) g[i * kHidden + j] += x[t + i] * x[t + j];
    return g;
  }
  void write(const std::vector<float>& x, int64_t first, int64_t n) {
    Tensor in(info.dtype, {n * kGroup, kHidden}, x);
    Exec exec(workspace(TN_KV_WRITE, n));
    codec.expect(kv.write(codec.self, exec.get(), &info, in.get(), factors.pointers().data(), groups, first, n, store.pointers().data()));
    EXPECT_TRUE(exec.intact() && store.intact());
  }
  std::pair<std::vector<float>, std::vector<float>> read(int64_t first, int64_t n) {
    Tensor k(info.dtype, {n * kGroup, kWidth}), v(info.dtype, {n * kGroup, kWidth});
    Exec exec(workspace(TN_KV_READ, n));
    codec.expect(kv.read(codec.self, exec.get(), &info, factors.pointers().data(), groups, first, n, store.pointers().data(), k.get(), v.get()));
    EXPECT_TRUE(exec.intact() && k.intact() && v.intact());
    return {k.floats(), v.floats()};
  }
  TestCodec codec;
  const tn_kv& kv;
  tn_kv_layer info;
  int64_t groups;
  Coded factors, store;
};

std::vector<float> project(const std::vector<float>& x, const std::vector<float>& w) {
  std::vector<float> y(x.size() / kHidden * kWidth);
  for (size_t t = 0; t < x.size() / kHidden; ++t)
    for (int64_t i = 0; i < kWidth; ++i) {
      double s = 0;
      for (int64_t j = 0; j < kHidden; ++j) s += double{x[t * kHidden + j]} * w[i * kHidden + j];
      y[t * kWidth + i] = static_cast<float>(s);
    }
  return y;
}

// Inputs whose channels are of very different sizes and depend on each other.
std::vector<float> skewed(int64_t tokens, uint64_t seed) {
  std::vector<float> x = normals(tokens * kHidden, seed);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < kHidden; ++j) {
      float& v = x[t * kHidden + j];
      v *= std::exp2(static_cast<float>(j * 7 % kHidden) / 8 - 2);
      if (j % 3) v += 0.8f * x[t * kHidden + j - 1];
    }
  return x;
}

TEST_P(Cskv, FullRankInF32IsTheProjection) {
  Layer layer(GetParam(), {{"ratio_k", "1"}, {"ratio_v", "1"}, {"bits", "32"}}, 3);
  const std::vector<float> w_k = normals(kWidth * kHidden, 1), w_v = normals(kWidth * kHidden, 2), x = skewed(2 * kGroup, 3);
  layer.fit(w_k, w_v, x);
  layer.write(x, 1, 2);
  const auto [k, v] = layer.read(1, 2);
  const std::vector<float> want_k = project(x, w_k), want_v = project(x, w_v);
  EXPECT_LT(relative_mse(want_k, k), 1e-12);
  EXPECT_LT(relative_mse(want_v, v), 1e-12);
}

TEST_P(Cskv, TheFitForTheInputsIsBestAndTheWeightedOneBetterThanThePlain) {
  const std::vector<float> w_k = normals(kWidth * kHidden, 1), w_v = normals(kWidth * kHidden, 2), seen = skewed(2000, 3), fresh = skewed(10 * kGroup, 4);
  const auto error = [&](const char* fit) {
    Layer layer(GetParam(), {{"ratio_k", "0.3"}, {"ratio_v", "0.5"}, {"bits", "32"}, {"fit", fit}}, 10);
    layer.fit(w_k, w_v, seen);
    layer.write(fresh, 0, 10);
    const auto [k, v] = layer.read(0, 10);
    return std::pair{relative_mse(project(fresh, w_k), k), relative_mse(project(fresh, w_v), v)};
  };
  const auto gram = error("gram"), weighted = error("weighted"), plain = error("plain");
  EXPECT_LT(gram.first, weighted.first);
  EXPECT_LT(weighted.first, plain.first);
  EXPECT_LT(gram.second, weighted.second);
  EXPECT_LT(weighted.second, plain.second);
  EXPECT_GT(gram.first, gram.second);  // fewer channels, more error
}

TEST_P(Cskv, ErrorOfTheFitIsTheEnergyThatIsLeftOut) {
  // With the Gram matrix of exactly these inputs the squared error is the sum of the left-out eigenvalues: no rank-r product has less.
  const std::vector<float> w = normals(kWidth * kHidden, 1), x = skewed(4 * kGroup, 5);
  double before = 1;
  for (const char* ratio : {"0.25", "0.5", "0.75"}) {
    Layer layer(GetParam(), {{"ratio_k", ratio}, {"ratio_v", ratio}, {"bits", "32"}}, 4);
    layer.fit(w, w, x);
    layer.write(x, 0, 4);
    const std::vector<float> k = layer.read(0, 4).first, want = project(x, w);
    const double e = relative_mse(want, k);
    EXPECT_LT(e, before);
    before = e;
    double cross = 0, power = 0;  // the error is orthogonal to what is kept
    for (size_t i = 0; i < k.size(); ++i) cross += double{k[i]} * (double{want[i]} - k[i]), power += double{want[i]} * want[i];
    EXPECT_NEAR(cross / power, 0, 1e-5);
  }
}

TEST_P(Cskv, BitsOfFeaturesCostWhatTheyShould) {
  const std::vector<float> w_k = normals(kWidth * kHidden, 1), w_v = normals(kWidth * kHidden, 2), x = skewed(4 * kGroup, 3);
  const auto run = [&](const char* bits) {
    Layer layer(GetParam(), {{"ratio_k", "1"}, {"ratio_v", "1"}, {"bits", bits}}, 4);
    layer.fit(w_k, w_v, x);
    layer.write(x, 0, 4);
    const auto [k, v] = layer.read(0, 4);
    return std::tuple{relative_mse(project(x, w_k), k), relative_mse(project(x, w_v), v), layer.store.bytes()};
  };
  const auto [k16, v16, b16] = run("16");
  const auto [k4, v4, b4] = run("4");
  EXPECT_LT(k16, 1e-5);
  EXPECT_LT(v16, 1e-5);
  EXPECT_LT(k4, 0.02);
  EXPECT_LT(v4, 0.03);
  EXPECT_GT(k4, 1e-4);
  EXPECT_GT(v4, 1e-4);
  EXPECT_EQ(b16, 4u * kGroup * kWidth * 2 * 2);
  // Half a byte a feature; keys: two bf16 a channel and group, values: two a token.
  EXPECT_EQ(b4, 4u * (kGroup * kWidth / 2 * 2 + kWidth * 4 + kGroup * 4));
}

TEST_P(Cskv, GroupsAreIndependent) {
  for (const char* bits : {"32", "16", "4"}) {
    Layer all(GetParam(), {{"bits", bits}}, 3), parts(GetParam(), {{"bits", bits}}, 3);
    const std::vector<float> w = normals(kWidth * kHidden, 1), x = skewed(3 * kGroup, 3);
    all.fit(w, w, x), parts.fit(w, w, x);
    all.write(x, 0, 3);
    for (int64_t g : {2, 0, 1}) parts.write({x.begin() + g * kGroup * kHidden, x.begin() + (g + 1) * kGroup * kHidden}, g, 1);
    const std::vector<float> whole = all.read(0, 3).second;
    const auto [k, v] = parts.read(1, 1);
    for (size_t i = 0; i < v.size(); ++i) ASSERT_NEAR(v[i], whole[kGroup * kWidth + i], 1e-5 * (1 + std::fabs(v[i])));
  }
}

TEST_P(Cskv, Bf16InputsAndOutputsAreRoundedOnce) {
  const std::vector<float> w = normals(kWidth * kHidden, 1), x = Tensor(kBF16, {kGroup * kHidden}, skewed(kGroup, 3)).floats();
  Layer wide(GetParam(), {{"bits", "32"}}, 1), narrow(GetParam(), {{"bits", "32"}}, 1, kBF16);
  wide.fit(w, w, x), narrow.fit(w, w, x);
  wide.write(x, 0, 1), narrow.write(x, 0, 1);
  EXPECT_EQ(Tensor(kBF16, {kGroup * kWidth}, wide.read(0, 1).first).floats(), narrow.read(0, 1).first);
}

TEST_P(Cskv, RefusesWhatItCannotDo) {
  Layer layer(GetParam(), {}, 2);
  const std::vector<float> w = normals(kWidth * kHidden, 1);
  Tensor weight(kF32, {kWidth, kHidden}, w), x(kF32, {kGroup, kHidden});
  Exec exec(layer.workspace(TN_KV_FIT, 1) + layer.workspace(TN_KV_WRITE, 1));
  EXPECT_EQ(layer.kv.fit(layer.codec.self, exec.get(), &layer.info, weight.get(), weight.get(), nullptr, 0, layer.factors.pointers().data()), TN_E_ARGUMENT);
  EXPECT_NE(layer.codec.host.error.find("fit=plain"), std::string::npos);
  EXPECT_TRUE(exec.intact());
  std::vector<float> bad(kHidden * kHidden, NAN);
  Tensor gram(kF32, {kHidden, kHidden}, bad);
  EXPECT_EQ(layer.kv.fit(layer.codec.self, exec.get(), &layer.info, weight.get(), weight.get(), gram.get(), 5, layer.factors.pointers().data()), TN_E_NUMERIC);
  EXPECT_EQ(layer.kv.write(layer.codec.self, exec.get(), &layer.info, x.get(), layer.factors.pointers().data(), 2, 2, 1, layer.store.pointers().data()), TN_E_ARGUMENT);
  tn_target target = make_target({kGroup, kWidth});
  target.site = TN_SITE_KV_CACHE;
  const tn_component_sink sink{sizeof sink, 0, nullptr, [](void*, const tn_component*) -> int32_t { return TN_OK; }};
  EXPECT_EQ(layer.codec.api.plan(layer.codec.self, &target, &sink), TN_E_UNSUPPORTED);
}

}  // namespace
}  // namespace tenon::cskv
