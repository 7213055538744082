#include <gtest/gtest.h>
#include <omp.h>

#include "reference.h"
#include "tests/reference/golden.h"

namespace tenon::lact::testing {
namespace {

using sdk::testing::MixerRows;
using sdk::testing::MixerSizes;
using sdk::testing::relative_distance;
using sdk::testing::TestMixer;
using Options = std::map<std::string, std::string>;

Values widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }
std::vector<float> noise(int64_t n, uint32_t stream, float scale = 1) { return sdk::testing::normals(static_cast<size_t>(n), stream, scale); }
const std::map<uint32_t, std::string> kRoles{{TN_ROLE_Q, "q"}, {TN_ROLE_K, "k"}, {TN_ROLE_V, "v"}, {TN_ROLE_O, "o"}};

// Chunks of four tokens and two fast heads, unless `o` says otherwise.
Options with(Options o) {
  o.emplace("chunk", "4"), o.emplace("fw_heads", "2");
  return o;
}

// A bound mixer whose parameters are all random, so that no gradient hides behind a zero. Rates are large enough to matter beside momentum.
struct Layer {
  TestMixer mixer;
  Options options;

  explicit Layer(const std::string& object, const Options& o = {}, const MixerSizes& sizes = {}) : mixer(object, with(o), sizes), options(with(o)) {
    mixer.must(mixer.bind());
    mixer.start();
    uint32_t stream = 40;
    for (auto& p : mixer.params) {
      if (p.info.flags & TN_MIXER_PARAM_BUFFER) continue;
      std::vector<float> x = noise(p.value.size(), stream++, 0.4f);
      for (float& v : x) v += p.key == "ttt_norm.weight" || p.key == "qk_scale.weight" ? 1.0f : p.key == "lr_proj.bias" ? 5.0f : 0.0f;
      p.value.assign(x);
    }
  }
  Reference reference() {
    const auto on = [&](const char* key, bool fallback) { return options.count(key) ? options.at(key) == "true" : fallback; };
    const auto number = [&](const char* key, int64_t fallback) { return options.count(key) ? std::stoll(options.at(key)) : fallback; };
    Reference r;
    r.z = mixer.sizes;
    r.chunk = number("chunk", 2048), r.window = number("window", 2048), r.fast_heads = number("fw_heads", 4), r.multi = number("inter_multi", 1), r.rank = number("low_rank", 0);
    r.muon = on("muon", true), r.momentum = on("momentum", true), r.prenorm = on("prenorm", false), r.activation = on("qkv_silu", true), r.rope = on("rope", true);
    r.scaled = on("ttt_scale", true);
    if (options.count("base_lr")) r.base_rate = std::stod(options.at("base_lr"));
    for (const auto& [role, name] : kRoles) r.w[name] = widen(mixer.linears.at(role).weight);
    for (auto& p : mixer.params) r.w[p.key] = widen(p.value.floats());
    return r;
  }
};

// Newton-Schulz multiplies a singular value near zero, and the rounding in it, by up to 490; each of many steps adds its share.
double tolerance(const Layer& layer, const MixerRows& rows) {
  const bool muon = !layer.options.count("muon") || layer.options.at("muon") == "true";
  return !muon ? 1e-5 : rows.length > 10 * std::stoll(layer.options.at("chunk")) ? 1e-3 : 3e-5;
}

// Of documents in a batch, each on its own.
Values expected(const Reference& r, const MixerRows& rows, const Values& x) {
  Values y(x.size());
  auto documents = rows.documents;
  if (documents.empty())
    for (int64_t s = 0; s < rows.sequences; ++s) documents.emplace_back(s * rows.length, rows.length);
  for (const auto& [begin, length] : documents) {
    const Values part = r(Values(x.begin() + begin * r.z.hidden, x.begin() + (begin + length) * r.z.hidden));
    std::copy(part.begin(), part.end(), y.begin() + begin * r.z.hidden);
  }
  return y;
}

// The emulated GPU is slow: it gets the short cases.
class Lact : public ::testing::TestWithParam<std::string> {
 protected:
  bool brief() const { return sdk::testing::is_emulated(GetParam()); }
};
class LactAtLength : public Lact {};  // what only the CPU's objects are asked
std::vector<std::string> cpu_objects() {
  std::vector<std::string> out;
  for (const std::string& o : sdk::testing::plugin_objects())
    if (!sdk::testing::is_emulated(o)) out.push_back(o);
  return out;
}

const Options kVariants[] = {{},
                             {{"muon", "false"}},
                             {{"muon", "false"}, {"momentum", "false"}, {"window", "5"}},
                             {{"momentum", "false"}, {"recompute", "true"}},
                             {{"prenorm", "true"}, {"window", "0"}},
                             {{"prenorm", "true"}, {"muon", "false"}, {"momentum", "false"}, {"ttt_scale", "false"}},
                             {{"inter_multi", "2"}, {"recompute", "true"}},
                             {{"low_rank", "2"}, {"qkv_silu", "false"}, {"rope", "false"}},
                             {{"low_rank", "2"}, {"inter_multi", "2"}, {"prenorm", "true"}, {"chunk", "6"}}};
const MixerSizes kSizes{.hidden = 8, .heads = 2, .kv_heads = 1, .d = 8};
const MixerRows kRows[] = {{1, 1}, {1, 4}, {1, 5}, {2, 13}, {1, 70}, {1, 27, {{0, 12}, {12, 1}, {13, 14}}}, {2, 12, {{0, 9}, {9, 15}}}};

TEST_P(Lact, IsItsEquations) {
  for (const Options& o : kVariants)
    for (const MixerRows& rows : kRows) {
      if (brief() && rows.rows() > 13) continue;
      Layer layer(GetParam(), o, kSizes);
      const auto x = noise(rows.rows() * 8, 3);
      EXPECT_LT(relative_distance(layer.mixer.forward(rows, x), expected(layer.reference(), rows, widen(x))), tolerance(layer, rows)) << rows.sequences << " x " << rows.length;
    }
}

TEST_P(Lact, QueryHeadsOfAGroupReadOneKey) {
  for (const int64_t kv : {1, 2, 4}) {
    Layer layer(GetParam(), {}, {.hidden = 8, .heads = 4, .kv_heads = kv, .d = 4, .window = kv == 2 ? 3 : 0});
    const MixerRows rows{2, 11};
    const auto x = noise(rows.rows() * 8, 3);
    EXPECT_LT(relative_distance(layer.mixer.forward(rows, x), expected(layer.reference(), rows, widen(x))), 1e-5);
  }
}

// dL/dx, of every parameter and of the linears, L = Σ y ∘ dy, against central differences of the f64 equations.
void expect_gradients(Layer& layer, const MixerRows& rows, double tolerance) {
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
      const Values y = expected(r, rows, wide);
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
    EXPECT_LT(relative_distance(got, want), tolerance) << name;
  };
  compare("x", wide, widen(dx));
  for (const auto& [role, name] : kRoles) compare(name, r.w.at(name), layer.mixer.linears.at(role).gradient);
  for (auto& p : layer.mixer.params)
    if (!(p.info.flags & TN_MIXER_PARAM_BUFFER)) compare(p.key, r.w.at(p.key), widen(p.grad.floats()));
}

TEST_P(Lact, GradientsAreThoseOfTheEquations) {
  for (const Options& o : kVariants) {
    SCOPED_TRACE([&] {
      std::string text;
      for (const auto& [key, value] : o) text += key + "=" + value + " ";
      return text;
    }());
    if (brief() && o.size() < 3) continue;
    Layer layer(GetParam(), o, {.hidden = 4, .heads = 2, .kv_heads = 1, .d = brief() ? 4 : 8});
    expect_gradients(layer, {1, brief() ? 9 : 12}, o.count("muon") ? 1e-4 : 5e-4);
  }
  if (brief()) return;
  Layer packed(GetParam(), {}, {.hidden = 4, .heads = 2, .kv_heads = 2, .d = 4});
  expect_gradients(packed, {1, 21, {{0, 9}, {9, 1}, {10, 11}}}, 5e-4);
}

// By autograd, inner gradients included (tests/reference/lact.py).
TEST_P(Lact, GoldenVectors) {
  const golden::File file("lact/lact.safetensors");
  const auto settings = file.setting("settings"), order = file.setting("order");
  for (const auto& [label, s] : settings.items()) {
    Options o;
    for (const auto& [key, value] : s.items()) o[key] = value.is_boolean() ? (value.get<bool>() ? "true" : "false") : value.dump();
    TestMixer m(GetParam(), o, {.hidden = 12, .heads = 4, .kv_heads = 2, .d = 4});
    m.must(m.bind());
    m.start();
    uint32_t seed = 3000;
    for (const std::string name : order.at(label)) {
      const float shift = name == "qk_scale.weight" || name == "ttt_norm.weight" ? 1.0f : name == "lr_proj.bias" ? 5.0f : 0.0f;
      const auto fill = [&](size_t n) {
        std::vector<float> x = golden::noise(seed, n, 1);
        for (float& v : x) v += shift;
        return x;
      };
      const auto role = std::find_if(kRoles.begin(), kRoles.end(), [&](const auto& r) { return r.second == name; });
      if (role != kRoles.end())
        m.linears.at(role->first).weight = fill(m.linears.at(role->first).weight.size());
      else
        m.param(name).value.assign(fill(static_cast<size_t>(m.param(name).value.size())));
      ++seed;
    }
    const MixerRows rows{1, 19};
    const auto x = golden::noise(3100, 19 * 12, 1), dy = golden::noise(3101, 19 * 12, 1);
    const auto near = [&](const std::vector<float>& got, const std::string& name, double tolerance) {
      EXPECT_LT(relative_distance(got, widen(file.f32(label + "." + name))), tolerance) << label << " " << name;
    };
    near(m.forward(rows, x), "y", 1e-5);
    near(m.backward(rows, x, dy), "dx", 5e-4);
    for (const std::string name : order.at(label)) {
      const auto role = std::find_if(kRoles.begin(), kRoles.end(), [&](const auto& r) { return r.second == name; });
      if (role == kRoles.end()) {
        near(m.param(name).grad.floats(), "grad." + name, 5e-4);
      } else {
        const auto& g = m.linears.at(role->first).gradient;
        near({g.begin(), g.end()}, "grad." + name, 5e-4);
      }
    }
  }
}

// Up to one chunk the fast weights are the initial ones: rates and momentum do not matter, nor do keys and values behind attention.
TEST_P(Lact, OneChunkMeetsTheInitialWeights) {
  Layer layer(GetParam(), {{"chunk", "16"}, {"window", "0"}}, kSizes);
  const MixerRows rows{1, 16};
  const auto x = noise(16 * 8, 3), before = layer.mixer.forward(rows, x);
  for (const char* key : {"lr_proj.bias", "momentum_proj.bias"}) layer.mixer.param(key).value.assign(noise(layer.mixer.param(key).value.size(), 8));
  for (const uint32_t role : {TN_ROLE_K, TN_ROLE_V}) std::fill(layer.mixer.linears.at(role).weight.begin(), layer.mixer.linears.at(role).weight.end(), 0.0f);
  EXPECT_EQ(layer.mixer.forward(rows, x), before);
  layer.mixer.backward(rows, x, x);
  for (const char* key : {"lr_proj.weight", "lr_proj.bias", "momentum_proj.weight", "momentum_proj.bias"})
    for (const float g : layer.mixer.param(key).grad.floats()) EXPECT_EQ(g, 0.0f);
}

// At rate 0 there is no step: the layer is that of one endless chunk, but for the floor of the row norms.
TEST_P(Lact, WithoutRateTheMlpIsStatic) {
  for (const char* muon : {"true", "false"}) {
    Layer learning(GetParam(), {{"muon", muon}}, kSizes), fixed(GetParam(), {{"muon", muon}, {"chunk", "100"}}, kSizes);
    for (Layer* l : {&learning, &fixed}) {
      auto& w = l->mixer.param("lr_proj.weight").value;
      w.assign(std::vector<float>(static_cast<size_t>(w.size())));
      l->mixer.param("lr_proj.bias").value.assign(std::vector<float>(6, -200.0f));
    }
    const auto x = noise(19 * 8, 3);
    EXPECT_LT(relative_distance(learning.mixer.forward({1, 19}, x), widen(fixed.mixer.forward({1, 19}, x))), 1e-4);
  }
}

TEST(LactEquations, InnerGradientIsThatOfItsObjective) {
  constexpr int64_t d = 5, h = 7;
  const auto draw = [](int64_t n, uint32_t stream) { return widen(noise(n, stream)); };
  FastHead w{d, h, draw(h * d, 1), draw(d * h, 2), draw(h * d, 3)}, g{d, h, Values(h * d), Values(h * d), Values(h * d)};
  const Values k = draw(d, 4), v = draw(d, 5);
  const double rates[3] = {0.3, 0.7, 1.1};
  w.gradient(k.data(), v.data(), rates, g);
  Values FastHead::*const parts[3] = {&FastHead::w0, &FastHead::w1, &FastHead::w2};
  for (int i = 0; i < 3; ++i)
    for (size_t at = 0; at < (w.*parts[i]).size(); ++at) {
      double& x = (w.*parts[i])[at];
      const auto objective = [&](double value) {
        const double before = x;
        x = value;
        const Values y = w.apply(k.data());
        x = before;
        double sum = 0;
        for (int64_t j = 0; j < d; ++j) sum += v[j] * y[j];
        return sum;
      };
      EXPECT_NEAR((g.*parts[i])[at], rates[i] * (objective(x + 1e-6) - objective(x - 1e-6)) / 2e-6, 1e-8);
    }
}

// Singular values from 0.005 of the norm on come out between 0.7 and 1.2, of wide and tall matrices.
TEST(LactEquations, NewtonSchulzBringsSingularValuesNearOne) {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{1, 1}, {1, 4}, {4, 1}}) {
    Values x(static_cast<size_t>(m * n), 0.25);
    double squares = 0;
    for (const double v : newton_schulz(x, m, n)) squares += v * v;
    EXPECT_NEAR(std::sqrt(squares), 0.95, 0.25);
  }
  for (double share = 0.005; share < 1; share *= 1.1) {
    const Values y = newton_schulz({share, 0, 0, 0, 0, std::sqrt(1 - share * share)}, 2, 3);
    EXPECT_GT(y[0], 0.7) << share;
    EXPECT_LT(y[0], 1.2) << share;
    EXPECT_GT(y[5], 0.7) << share;
    EXPECT_LT(y[5], 1.2) << share;
  }
}

TEST_P(Lact, RowsKeepTheirLength) {
  for (const char* prenorm : {"false", "true"}) {
    Layer layer(GetParam(), {{"prenorm", prenorm}}, kSizes);
    const Reference r = layer.reference();
    const int64_t rows = 22, n = r.n();
    const auto draw = [&](int64_t size, uint32_t stream) { return widen(noise(size, stream)); };
    FastHead last{}, start = r.initial(1);
    r.fast(1, draw(rows * n, 1), draw(rows * n, 2), draw(rows * n, 3), Values(rows * 6, 0.5), Values(rows * 2, 0.9), &last);
    for (Values FastHead::*const part : {&FastHead::w0, &FastHead::w1, &FastHead::w2}) {
      double change = 0;
      for (int64_t row = 0; row < 8; ++row) {
        double then = 0, now = 0;
        for (int64_t i = 0; i < 8; ++i) {
          const double a = (start.*part)[row * 8 + i], b = (last.*part)[row * 8 + i];
          then += a * a, now += b * b, change += std::abs(a - b);
        }
        EXPECT_NEAR(std::sqrt(now / then), 1, 1e-4);
      }
      EXPECT_GT(change, 1);
    }
  }
}

TEST_P(Lact, DecodingContinuesWhatTrainingSees) {
  for (const Options& o : kVariants)
    for (const tn_dtype compute : {sdk::kF32, sdk::kBF16}) {
      if (brief() && o.size() != 2) continue;
      Layer layer(GetParam(), o, kSizes);
      const int64_t n = brief() ? 13 : 31, prompt = n * 2 / 3;
      const auto x = noise(n * 8, 3);
      const auto whole = layer.mixer.forward({1, n, {}, compute}, x, false);
      auto s = layer.mixer.sequence(n, compute);
      std::vector<float> parts;
      for (int64_t at = 0, step; at < n; at += step) {  // a prompt, then single tokens, then a few at once
        step = at == 0 ? prompt : at < prompt + 4 ? 1 : std::min<int64_t>(6, n - at);
        const auto y = layer.mixer.decode(s, {x.begin() + at * 8, x.begin() + (at + step) * 8}, compute);
        parts.insert(parts.end(), y.begin(), y.end());
      }
      EXPECT_LT(relative_distance(parts, whole), compute.bits == 32 ? 1e-5 : 3e-2);
      auto single = layer.mixer.sequence(n, compute);
      parts.clear();
      for (int64_t at = 0; at < n; ++at) {
        const auto y = layer.mixer.decode(single, {x.begin() + at * 8, x.begin() + (at + 1) * 8}, compute);
        parts.insert(parts.end(), y.begin(), y.end());
      }
      EXPECT_LT(relative_distance(parts, whole), compute.bits == 32 ? 1e-5 : 3e-2);
    }
}

// A sequence within one chunk keeps keys and values alone; behind that the state holds the fast weights too and no longer grows.
TEST_P(Lact, TheDecodeStateStopsGrowing) {
  Layer layer(GetParam(), {{"chunk", "64"}, {"window", "32"}}, {.hidden = 8, .heads = 4, .kv_heads = 2, .d = 8});
  const auto bytes = [&](int64_t tokens) {
    tn_attention_state s{};
    s.struct_size = sizeof s;
    layer.mixer.must(layer.mixer.api.state(layer.mixer.self, &sdk::kBF16, tokens, &s));
    EXPECT_EQ(s.kind, uint32_t{TN_STATE_RING});
    return s.bytes;
  };
  EXPECT_EQ(bytes(16), 2u * 16 * 16 * 2);  // k and v of 16 numbers in bf16
  EXPECT_EQ(bytes(64), 2u * 32 * 16 * 2);
  const uint64_t fast = 3 * 2 * 16 * 16 * 4, pending = 64 * (2 * 16 + 6 + 2) * 2;
  EXPECT_EQ(bytes(65), bytes(64) + 2 * fast + pending);
  EXPECT_EQ(bytes(1000000), bytes(65));
}

TEST_P(Lact, AStateThatIsTooSmallIsRefused) {
  Layer layer(GetParam(), {}, kSizes);
  auto s = layer.mixer.sequence(4);
  layer.mixer.decode(s, noise(4 * 8, 3));
  EXPECT_THROW(layer.mixer.decode(s, noise(8, 4)), sdk::Failure);
  EXPECT_NE(layer.mixer.host.error.find("at most 4 tokens"), std::string::npos);
}

TEST_P(LactAtLength, RecomputingSavesMemoryAndChangesNothing) {
  const MixerRows rows{2, 30, {{0, 25}, {25, 35}}};
  const auto x = noise(rows.rows() * 8, 3), dy = noise(rows.rows() * 8, 4);
  std::vector<std::vector<float>> results;
  std::vector<uint64_t> saved;
  for (const char* recompute : {"false", "true"}) {
    Layer layer(GetParam(), {{"recompute", recompute}}, kSizes);
    std::vector<float> all = layer.mixer.forward(rows, x);
    saved.push_back(layer.mixer.saved_bytes());
    const auto dx = layer.mixer.backward(rows, x, dy);
    all.insert(all.end(), dx.begin(), dx.end());
    for (auto& p : layer.mixer.params)
      for (const float g : p.grad.floats()) all.push_back(g);
    results.push_back(all);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(saved[0] - saved[1], 14u * 2 * 3 * 2 * 8 * 8 * 4);  // 6 + 8 steps: weights and momentum
}

// A pretrained model begins as its own attention over the window, and only the gate of the fast weights has a gradient.
TEST_P(Lact, FreshWeightsAreAttentionAlone) {
  TestMixer m(GetParam(), with({{"window", "3"}}), kSizes);
  m.must(m.bind());
  m.start();
  Reference r;
  r.z = m.sizes, r.window = 3;
  for (const auto& [role, name] : kRoles) r.w[name] = widen(m.linears.at(role).weight);
  for (auto& p : m.params) r.w[p.key] = widen(p.value.floats());
  const auto x = noise(14 * 8, 3);
  const auto y = m.forward({1, 14}, x);
  EXPECT_LT(relative_distance(y, r(widen(x))), 1e-5);
  r.w["ttt_norm.weight"].assign(8, 0.0);
  EXPECT_LT(relative_distance(y, r(widen(x))), 1e-5);
  m.backward({1, 14}, x, noise(14 * 8, 4));
  EXPECT_GT(sdk::testing::norm(m.param("ttt_scale_proj.weight").grad.floats()), 0);
  EXPECT_EQ(sdk::testing::norm(m.param("w1.weight").grad.floats()), 0);
  EXPECT_NEAR(sdk::testing::norm(m.param("w1.weight").value.floats()), std::sqrt(16.0), 1);  // 2 · 8 rows of length 1 on average
}

TEST_P(LactAtLength, TwoBackwardsDoubleAndThreadsChangeNothing) {
  const MixerRows rows{2, 70};
  const auto x = noise(rows.rows() * 8, 3), dy = noise(rows.rows() * 8, 4);
  const auto once = [&](int threads, int times) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    Layer layer(GetParam(), {{"chunk", "20"}}, {.hidden = 8, .heads = 4, .kv_heads = 2, .d = 16});
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
  EXPECT_LT(relative_distance(g2, twice), 1e-6);
}

TEST_P(LactAtLength, TheForecastMakesTheSameAllocations) {
  for (const Options& o : kVariants)
    for (const MixerRows& rows : kRows) {
      Layer real(GetParam(), o, kSizes), planned(GetParam(), o, kSizes);
      const auto x = noise(rows.rows() * 8, 3);
      real.mixer.allocations.clear(), planned.mixer.allocations.clear();
      real.mixer.forward(rows, x), real.mixer.backward(rows, x, x);
      planned.mixer.plan(rows, true);
      EXPECT_EQ(real.mixer.allocations, planned.mixer.allocations);
    }
}

TEST_P(Lact, Bf16StaysWithinItsRounding) {
  Layer layer(GetParam(), {{"chunk", "40"}}, {.hidden = 16, .heads = 4, .kv_heads = 2, .d = 8});
  const MixerRows rows{1, brief() ? 50 : 150, {}, sdk::kBF16};
  auto x = noise(rows.rows() * 16, 3);
  for (float& v : x) v = sdk::to_float(sdk::from_float<sdk::bf16>(v));
  EXPECT_LT(relative_distance(layer.mixer.forward(rows, x), expected(layer.reference(), rows, widen(x))), 0.02);
  for (const float g : layer.mixer.backward(rows, x, noise(rows.rows() * 16, 4))) ASSERT_TRUE(std::isfinite(g));
}

TEST_P(Lact, WithoutInputGradientParametersStillGetTheirs) {
  const MixerRows rows{1, 14};
  const auto x = noise(rows.rows() * 8, 3), dy = noise(rows.rows() * 8, 4);
  Layer a(GetParam(), {}, kSizes), b(GetParam(), {}, kSizes);
  a.mixer.forward(rows, x), a.mixer.backward(rows, x, dy);
  b.mixer.forward(rows, x), b.mixer.backward(rows, x, dy, false);
  for (size_t i = 0; i < a.mixer.params.size(); ++i) EXPECT_EQ(a.mixer.params[i].grad.floats(), b.mixer.params[i].grad.floats());
}

TEST_P(Lact, RefusesInWords) {
  TestMixer m(GetParam(), with({}), kSizes);
  EXPECT_EQ(m.bind(TN_MIXER_LAYER_QK_NORM), TN_E_UNSUPPORTED);
  EXPECT_NE(m.host.error.find("q_norm"), std::string::npos);
  const auto refusal = [&](const Options& o, const MixerSizes& sizes) -> std::string {
    try {
      TestMixer(GetParam(), o, sizes);
    } catch (const sdk::Failure& e) {
      return e.sentence;
    }
    return "";
  };
  EXPECT_NE(refusal({}, {.hidden = 8, .heads = 3, .kv_heads = 2, .d = 4}).find("divide"), std::string::npos);
  EXPECT_NE(refusal({{"fw_heads", "3"}}, kSizes).find("fw_heads that divides it"), std::string::npos);
  EXPECT_NE(refusal({{"fw_heads", "4"}, {"low_rank", "5"}}, kSizes).find("low_rank 5 is more than the 4 columns"), std::string::npos);
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Objects, LactAtLength, ::testing::ValuesIn(cpu_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });
INSTANTIATE_TEST_SUITE_P(Objects, Lact, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace tenon::lact::testing
