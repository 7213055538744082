#include <gtest/gtest.h>
#include <omp.h>

#include "reference.h"

namespace tenon::deltanet::testing {
namespace {

using sdk::testing::MixerRows;
using sdk::testing::MixerSizes;
using sdk::testing::TestMixer;
using Options = std::map<std::string, std::string>;

Values widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }
std::vector<float> noise(int64_t n, uint32_t stream, float scale = 1) { return sdk::testing::normals(static_cast<size_t>(n), stream, scale); }

// A bound mixer whose parameters are all random, so that no gradient hides behind an identity.
struct Layer {
  TestMixer mixer;
  Options options;

  Layer(const std::string& object, const Options& o = {}, const MixerSizes& sizes = {}, tn_dtype storage = sdk::kF32)
      : mixer(object, o, sizes, 11, storage), options(o) {
    mixer.must(mixer.bind());
    mixer.start();
    uint32_t stream = 40;
    for (auto& p : mixer.params) {
      std::vector<float> x = noise(p.value.size(), stream++, 0.4f);
      if (p.key == "o_norm.weight")
        for (float& v : x) v += 1;
      p.value.assign(x);
    }
  }
  Reference reference() {
    const MixerSizes& z = mixer.sizes;
    const auto on = [&](const char* key, const char* value) { return options.count(key) && options.at(key) == value; };
    Reference r{z.hidden, z.heads, z.kv_heads, z.d, options.count("conv_size") ? std::stoll(options.at("conv_size")) : 4, !on("qk_activation", "identity"),
                !on("use_beta", "false"), on("allow_neg_eigval", "true"), {}};
    const std::map<uint32_t, std::string> roles{{TN_ROLE_Q, "q"}, {TN_ROLE_K, "k"}, {TN_ROLE_V, "v"}, {TN_ROLE_O, "o"}};
    for (const auto& [role, name] : roles) r.w[name] = widen(mixer.linears.at(role).weight);
    for (auto& p : mixer.params) r.w[p.key.substr(0, p.key.find('.'))] = widen(p.value.floats());
    return r;
  }
  // Of documents in a batch, each on its own.
  Values expected(const Reference& r, const MixerRows& rows, const Values& x) const {
    Values y(x.size());
    auto documents = rows.documents;
    if (documents.empty())
      for (int64_t s = 0; s < rows.sequences; ++s) documents.emplace_back(s * rows.length, rows.length);
    for (const auto& [begin, length] : documents) {
      const Values part = r(Values(x.begin() + begin * r.hidden, x.begin() + (begin + length) * r.hidden));
      std::copy(part.begin(), part.end(), y.begin() + begin * r.hidden);
    }
    return y;
  }
};

// The emulated GPU is slow: it gets the short cases.
class DeltaNet : public ::testing::TestWithParam<std::string> {
 protected:
  bool brief() const { return sdk::testing::is_emulated(GetParam()); }
};
// What only the CPU's objects are asked.
class DeltaNetAtLength : public DeltaNet {};
std::vector<std::string> cpu_objects() {
  std::vector<std::string> out;
  for (const std::string& o : sdk::testing::plugin_objects())
    if (!sdk::testing::is_emulated(o)) out.push_back(o);
  return out;
}

const Options kVariants[] = {{},
                             {{"use_gate", "true"}},
                             {{"allow_neg_eigval", "true"}, {"chunk", "16"}},
                             {{"use_beta", "false"}, {"conv_size", "1"}},
                             {{"qk_activation", "identity"}, {"chunk", "32"}, {"conv_size", "8"}}};
const MixerRows kRows[] = {{1, 1}, {1, 3}, {2, 16}, {1, 37}, {2, 130}, {1, 1100}, {1, 90, {{0, 40}, {40, 1}, {41, 49}}}, {2, 40, {{0, 25}, {25, 40}}}};

TEST_P(DeltaNet, ChunksAreTheRecurrence) {
  for (const Options& o : kVariants)
    for (const MixerRows& rows : kRows) {
      if (brief() && rows.rows() > 50) continue;
      Layer layer(GetParam(), o);
      const auto x = noise(rows.rows() * 8, 3);
      const auto y = layer.mixer.forward(rows, x);
      const Values want = layer.expected(layer.reference(), rows, widen(x));
      EXPECT_LT(sdk::testing::relative_distance(y, want), 1e-5) << rows.sequences << " x " << rows.length;
    }
}

TEST_P(DeltaNet, GroupsOfQueriesReadOneState) {
  for (const int64_t kv : {1, 2, 4}) {
    Layer layer(GetParam(), {{"chunk", "16"}}, {.hidden = 8, .heads = 4, .kv_heads = kv, .d = 6});
    const MixerRows rows{2, 37};
    const auto x = noise(rows.rows() * 8, 3);
    EXPECT_LT(sdk::testing::relative_distance(layer.mixer.forward(rows, x), layer.expected(layer.reference(), rows, widen(x))), 1e-5);
  }
}

// dL/dx, of every parameter and of the linears, L = Σ y ∘ dy, against central differences of the f64 recurrence.
void expect_gradients(Layer& layer, const MixerRows& rows) {
  const int64_t hidden = layer.mixer.sizes.hidden;
  const auto x = noise(rows.rows() * hidden, 3), dy = noise(rows.rows() * hidden, 4);
  layer.mixer.forward(rows, x);
  const auto dx = layer.mixer.backward(rows, x, dy);
  Reference r = layer.reference();
  Values wide = widen(x);
  const auto slope = [&](double& at) {
    const double step = 1e-5, before = at;
    const auto loss = [&](double value) {
      at = value;
      const Values y = layer.expected(r, rows, wide);
      double sum = 0;
      for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
      return sum;
    };
    const double up = loss(before + step), down = loss(before - step);
    at = before;
    return (up - down) / (2 * step);
  };
  const auto compare = [&](const std::string& name, Values& values, const Values& got) {
    Values want;
    for (double& v : values) want.push_back(slope(v));
    EXPECT_LT(sdk::testing::relative_distance(got, want), 1e-4) << name;
  };
  compare("x", wide, widen(dx));
  const std::map<uint32_t, std::string> roles{{TN_ROLE_Q, "q"}, {TN_ROLE_K, "k"}, {TN_ROLE_V, "v"}, {TN_ROLE_O, "o"}};
  for (const auto& [role, name] : roles) compare(name, r.w.at(name), layer.mixer.linears.at(role).gradient);
  for (auto& p : layer.mixer.params) compare(p.key, r.w.at(p.key.substr(0, p.key.find('.'))), widen(p.grad.floats()));
}

TEST_P(DeltaNet, GradientsAreThoseOfTheRecurrence) {
  for (const Options& o : kVariants) {
    Layer layer(GetParam(), o);
    expect_gradients(layer, {1, brief() ? 19 : 37});
  }
  Layer grouped(GetParam(), {{"chunk", "16"}, {"use_gate", "true"}}, {.hidden = 6, .heads = 4, .kv_heads = 2, .d = 3});
  expect_gradients(grouped, {2, 21});
  Layer packed(GetParam(), {{"chunk", "16"}});
  expect_gradients(packed, {1, 45, {{0, 20}, {20, 1}, {21, 24}}});
}

// Across windows the gradient of the state is carried back: a long sequence against its own differences along a direction.
TEST_P(DeltaNetAtLength, GradientsCrossWindows) {
  Layer layer(GetParam(), {{"chunk", "16"}}, {.hidden = 4, .heads = 1, .kv_heads = 1, .d = 4});
  const MixerRows rows{1, 1500};
  const auto x = noise(rows.rows() * 4, 3), dy = noise(rows.rows() * 4, 4), direction = noise(rows.rows() * 4, 5);
  layer.mixer.forward(rows, x);
  const auto dx = layer.mixer.backward(rows, x, dy);
  const Reference r = layer.reference();
  double got = 0;
  for (size_t i = 0; i < dx.size(); ++i) got += double{dx[i]} * direction[i];
  const auto loss = [&](double step) {
    Values moved = widen(x);
    for (size_t i = 0; i < moved.size(); ++i) moved[i] += step * direction[i];
    const Values y = r(moved);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  const double want = (loss(1e-6) - loss(-1e-6)) / 2e-6;
  EXPECT_NEAR(got, want, 1e-3 * std::abs(want));
}

TEST_P(DeltaNet, DecodingContinuesWhatTrainingSees) {
  for (const Options& o : kVariants)
    for (const tn_dtype compute : {sdk::kF32, sdk::kBF16}) {
      Layer layer(GetParam(), o, {.hidden = 8, .heads = 4, .kv_heads = 2, .d = 4});
      const int64_t n = brief() ? 33 : 75, prompt = n * 2 / 3;
      const auto x = noise(n * 8, 3);
      const auto whole = layer.mixer.forward({1, n, {}, compute}, x, false);
      auto s = layer.mixer.sequence(n, compute);
      std::vector<float> parts;
      for (int64_t at = 0, step; at < n; at += step) {  // a prompt, then single tokens, then a few at once
        step = at == 0 ? prompt : at < prompt + 6 ? 1 : std::min<int64_t>(7, n - at);
        const auto y = layer.mixer.decode(s, {x.begin() + at * 8, x.begin() + (at + step) * 8}, compute);
        parts.insert(parts.end(), y.begin(), y.end());
      }
      EXPECT_LT(sdk::testing::relative_distance(parts, whole), compute.bits == 32 ? 1e-5 : 2e-2);
    }
}

TEST_P(DeltaNet, TheDecodeStateDoesNotGrow) {
  Layer layer(GetParam(), {}, {.hidden = 8, .heads = 4, .kv_heads = 2, .d = 6});
  tn_attention_state s{};
  s.struct_size = sizeof s;
  for (const int64_t tokens : {1, 100000}) {
    layer.mixer.must(layer.mixer.api.state(layer.mixer.self, &sdk::kBF16, tokens, &s));
    EXPECT_EQ(s.kind, uint32_t{TN_STATE_FIXED});
    EXPECT_EQ(s.bytes, 4u * 2 * 6 * 6 + 2u * 3 * (4 + 2 + 2) * 6);  // states, and three tokens of each convolution
  }
}

// With orthonormal keys and β = 1 the state is an exact memory, and a second write to a key leaves the new value alone.
TEST_P(DeltaNet, OrthonormalKeysRecallTheLastValue) {
  constexpr int64_t d = 8;
  TestMixer m(GetParam(), {{"use_beta", "false"}, {"conv_size", "1"}}, {.hidden = 3 * d, .heads = 1, .kv_heads = 1, .d = d});
  m.must(m.bind());
  m.start();
  // x = (query, key, value), each in its own third.
  for (const auto& [role, third] : {std::pair<uint32_t, int64_t>{TN_ROLE_Q, 0}, {TN_ROLE_K, 1}, {TN_ROLE_V, 2}}) {
    auto& w = m.linears.at(role).weight;
    std::fill(w.begin(), w.end(), 0.0f);
    for (int64_t i = 0; i < d; ++i) w[i * 3 * d + third * d + i] = 4;
  }
  auto& o = m.linears.at(TN_ROLE_O).weight;
  std::fill(o.begin(), o.end(), 0.0f);
  for (int64_t i = 0; i < d; ++i) o[i * d + i] = 1;
  const std::vector<float> values = noise((2 * d + 1) * d, 6);
  std::vector<float> x;
  for (int64_t t = 0; t < 2 * d + 1; ++t) {  // every key once, every key again, then ask for the third
    std::vector<float> row(3 * d);
    const int64_t key = t < 2 * d ? t % d : 3;
    row[t < 2 * d ? key : 3] = 1;                         // query
    if (t < 2 * d) row[d + key] = 1;                      // key; the last token writes nothing
    for (int64_t i = 0; i < d; ++i) row[2 * d + i] = values[t * d + i];
    x.insert(x.end(), row.begin(), row.end());
  }
  const auto y = m.forward({1, 2 * d + 1}, x);
  const auto normed = [&](int64_t t) {
    std::vector<float> v;
    double squares = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double z = Reference::silu(4.0 * values[t * d + i]) / std::sqrt(static_cast<double>(d));
      v.push_back(static_cast<float>(z)), squares += z * z / d;
    }
    for (float& z : v) z = static_cast<float>(z / std::sqrt(squares + 1e-5));
    return v;
  };
  for (const auto& [token, written] : {std::pair<int64_t, int64_t>{3, 3}, {d + 3, d + 3}, {2 * d, d + 3}}) {
    const std::vector<float> got(y.begin() + token * 3 * d, y.begin() + token * 3 * d + d);
    EXPECT_LT(sdk::testing::relative_distance(got, normed(written)), 1e-5) << token;
  }
}

// β = 0: nothing is written, so a zero state stays zero and no value has a gradient.
TEST_P(DeltaNet, WithoutStrengthNothingIsWritten) {
  Layer layer(GetParam(), {});
  auto& b = layer.mixer.param("b_proj.weight");
  const MixerRows rows{1, 40};
  std::vector<float> x = noise(rows.rows() * 8, 3);
  for (int64_t t = 0; t < 40; ++t) x[t * 8] = 1;  // a constant input that drives the logits to −∞
  std::vector<float> w(static_cast<size_t>(b.value.size()));
  for (int64_t i = 0; i < b.value.size(); i += 8) w[i] = -200;
  b.value.assign(w);
  for (const float y : layer.mixer.forward(rows, x)) EXPECT_EQ(y, 0.0f);
  layer.mixer.backward(rows, x, noise(rows.rows() * 8, 4));
  for (const double g : layer.mixer.linears.at(TN_ROLE_V).gradient) EXPECT_EQ(g, 0.0);
  for (const float g : layer.mixer.param("v_conv1d.weight").grad.floats()) EXPECT_EQ(g, 0.0f);
}

TEST_P(DeltaNet, FreshWeightsLeaveTheProjectionsAlone) {
  TestMixer m(GetParam(), {{"use_gate", "true"}}, {});
  m.must(m.bind());
  m.start();
  const auto taps = m.param("q_conv1d.weight").value.floats();
  for (size_t i = 0; i < taps.size(); ++i) EXPECT_EQ(taps[i], i % 4 == 3 ? 1.0f : 0.0f);
  for (const float g : m.param("o_norm.weight").value.floats()) EXPECT_EQ(g, 1.0f);
  const auto b = m.param("b_proj.weight").value.floats(), g = m.param("g_proj.weight").value.floats();
  EXPECT_GT(sdk::testing::norm(b), 0);
  EXPECT_NE(b[0], g[0]);
}

TEST_P(DeltaNetAtLength, TwoBackwardsDoubleAndThreadsChangeNothing) {
  const MixerRows rows{2, 70};
  const auto x = noise(rows.rows() * 8, 3), dy = noise(rows.rows() * 8, 4);
  const auto once = [&](int threads, int times) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Layer layer(GetParam(), {{"use_gate", "true"}}, {.hidden = 8, .heads = 4, .kv_heads = 2, .d = 16});
    std::vector<float> all;
    for (int i = 0; i < times; ++i) {
      all = layer.mixer.forward(rows, x);
      const auto dx = layer.mixer.backward(rows, x, dy);
      all.insert(all.end(), dx.begin(), dx.end());
    }
    std::vector<float> grads;
    for (auto& p : layer.mixer.params)
      for (const float g : p.grad.floats()) grads.push_back(g);
    omp_set_num_threads(before);
    return std::pair(all, grads);
  };
  const auto [y1, g1] = once(1, 1);
  const auto [y3, g3] = once(3, 1);
  const auto [y2, g2] = once(2, 2);
  EXPECT_EQ(y1, y3);
  EXPECT_EQ(g1, g3);
  EXPECT_EQ(y1, y2);
  std::vector<float> twice = g1;
  for (float& g : twice) g *= 2;
  EXPECT_LT(sdk::testing::relative_distance(g2, twice), 1e-6);
}

TEST_P(DeltaNetAtLength, TheForecastMakesTheSameAllocations) {
  for (const MixerRows& rows : kRows) {
    Layer real(GetParam(), {{"use_gate", "true"}}), planned(GetParam(), {{"use_gate", "true"}});
    const auto x = noise(rows.rows() * 8, 3);
    real.mixer.allocations.clear(), planned.mixer.allocations.clear();
    real.mixer.forward(rows, x), real.mixer.backward(rows, x, x);
    planned.mixer.plan(rows, true);
    EXPECT_EQ(real.mixer.allocations, planned.mixer.allocations);
  }
}

TEST_P(DeltaNet, Bf16StaysWithinItsRounding) {
  Layer layer(GetParam(), {{"use_gate", "true"}}, {.hidden = 16, .heads = 4, .kv_heads = 2, .d = 8});
  const MixerRows rows{1, 150, {}, sdk::kBF16};
  auto x = noise(rows.rows() * 16, 3);
  for (float& v : x) v = sdk::to_float(sdk::from_float<sdk::bf16>(v));
  const auto y = layer.mixer.forward(rows, x);
  const Values want = layer.expected(layer.reference(), rows, widen(x));
  EXPECT_LT(sdk::testing::relative_distance(y, want), 0.02);
  const auto dx = layer.mixer.backward(rows, x, noise(rows.rows() * 16, 4));
  for (const float g : dx) ASSERT_TRUE(std::isfinite(g));
}

TEST_P(DeltaNet, WithoutInputGradientParametersStillGetTheirs) {
  const MixerRows rows{1, 30};
  const auto x = noise(rows.rows() * 8, 3), dy = noise(rows.rows() * 8, 4);
  Layer a(GetParam(), {}), b(GetParam(), {});
  a.mixer.forward(rows, x), a.mixer.backward(rows, x, dy);
  b.mixer.forward(rows, x), b.mixer.backward(rows, x, dy, false);
  for (size_t i = 0; i < a.mixer.params.size(); ++i) EXPECT_EQ(a.mixer.params[i].grad.floats(), b.mixer.params[i].grad.floats());
}

TEST_P(DeltaNet, RefusesInWords) {
  TestMixer m(GetParam(), {}, {});
  EXPECT_EQ(m.bind(TN_MIXER_LAYER_QK_NORM), TN_E_UNSUPPORTED);
  EXPECT_NE(m.host.error.find("q_norm"), std::string::npos);
  EXPECT_THROW(TestMixer(GetParam(), {}, {.hidden = 8, .heads = 3, .kv_heads = 2, .d = 4}), sdk::Failure);
}

INSTANTIATE_TEST_SUITE_P(Objects, DeltaNetAtLength, ::testing::ValuesIn(cpu_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });
INSTANTIATE_TEST_SUITE_P(Objects, DeltaNet, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::deltanet::testing
