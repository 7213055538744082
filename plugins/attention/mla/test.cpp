#include <gtest/gtest.h>

#include "low_rank.h"
#include "sdk/testing/mixer.h"
#include "sdk/testing/oracle.h"

namespace tenon::mla::testing {
namespace {

using sdk::testing::MixerRows;
using sdk::testing::MixerSizes;
using sdk::testing::relative_distance;
using sdk::testing::TestMixer;
using Options = std::map<std::string, std::string>;
using Values = std::vector<double>;

std::vector<float> noise(int64_t n, uint32_t stream, float scale = 1) { return sdk::testing::normals(static_cast<size_t>(n), stream, scale); }
Values widen(const std::vector<float>& x) { return {x.begin(), x.end()}; }

class Mla : public ::testing::TestWithParam<std::string> {};

Values project(const Values& x, const Values& w, int64_t rows, int64_t in) {
  const int64_t out = static_cast<int64_t>(w.size()) / in;
  Values y(static_cast<size_t>(rows * out));
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j) y[t * out + i] += x[t * in + j] * w[i * in + j];
  return y;
}

// Rotates pairs (low + i, high + i) of vectors of `width`, of which `heads` stand in a row.
void rotate(Values& x, int64_t rows, int64_t heads, int64_t width, int64_t low, int64_t high, const std::vector<float>& freq, int64_t length) {
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t h = 0; h < heads; ++h)
      for (size_t i = 0; i < freq.size(); ++i) {
        double &a = x[(t * heads + h) * width + low + static_cast<int64_t>(i)], &b = x[(t * heads + h) * width + high + static_cast<int64_t>(i)];
        const double angle = static_cast<double>(t % length) * freq[i], c = std::cos(angle), s = std::sin(angle), before = a;
        a = before * c - b * s, b = b * c + before * s;
      }
}

// The model's own attention sub-layer in f64: projections, rotation, grouped heads, causal softmax, output.
Values source_model(TestMixer& m, const Values& x, const MixerRows& rows) {
  const MixerSizes& z = m.sizes;
  sdk::DenseAttention a{rows.sequences, rows.length, rows.length, z.heads, z.kv_heads, z.d, z.d};
  a.mask = {{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0}};
  if (z.window) a.mask.push_back({sizeof(tn_mask_term), TN_MASK_WINDOW, z.window - 1, -1, 0});
  const auto of = [&](uint32_t role) { return project(x, widen(m.linears.at(role).weight), rows.rows(), z.hidden); };
  a.q = of(TN_ROLE_Q), a.k = of(TN_ROLE_K), a.v = of(TN_ROLE_V);
  rotate(a.q, rows.rows(), z.heads, z.d, 0, z.d / 2, z.inv_freq, rows.length);
  rotate(a.k, rows.rows(), z.kv_heads, z.d, 0, z.d / 2, z.inv_freq, rows.length);
  return project(a.forward().o, widen(m.linears.at(TN_ROLE_O).weight), rows.rows(), z.heads * z.d);
}

// What the mixer computes from its parameters, in f64; gradients by central differences.
struct Reference {
  MixerSizes z;
  int64_t still, turning;
  bool pairs;
  std::map<std::string, Values> w;
  int64_t frequency_step() const { return pairs || turning == 0 ? 1 : z.d / turning; }

  Values operator()(const Values& x, const MixerRows& rows) const {
    const int64_t n = rows.rows(), width = still + turning, rank = static_cast<int64_t>(w.at("kv_a_proj").size()) / z.hidden;
    const Values c = project(x, w.at("kv_a_proj"), n, z.hidden), k_still = project(c, w.at("k_b_proj"), n, rank);
    Values shared = turning ? project(x, w.at("k_rope_proj"), n, z.hidden) : Values();
    std::vector<float> freq;
    for (int64_t i = 0; i < turning / 2; ++i) freq.push_back(z.inv_freq[i * frequency_step()]);
    if (turning) rotate(shared, n, 1, turning, 0, turning / 2, freq, rows.length);
    sdk::DenseAttention a{rows.sequences, rows.length, rows.length, z.heads, z.heads, width, z.d};
    a.mask = {{sizeof(tn_mask_term), TN_MASK_CAUSAL, 0, 0, 0}};
    if (!rows.documents.empty()) {
      a.batch = 1, a.t_q = a.t_k = n;
      for (const auto& [b, l] : rows.documents) a.segments.push_back({b, l, b, l, 0, 0});
    }
    a.v = project(c, w.at("v_b_proj"), n, rank);
    a.q.resize(static_cast<size_t>(n * z.heads * width)), a.k.resize(a.q.size());
    const bool latent_q = w.count("q_a_proj") > 0;
    const Values q = latent_q ? project(project(x, w.at("q_a_proj"), n, z.hidden), w.at("q_b_proj"), n, static_cast<int64_t>(w.at("q_a_proj").size()) / z.hidden)
                              : project(x, w.at("q"), n, z.hidden);
    for (int64_t t = 0; t < n; ++t)
      for (int64_t h = 0; h < z.heads; ++h) {
        double *const to_q = &a.q[(t * z.heads + h) * width], *const to_k = &a.k[(t * z.heads + h) * width];
        const double* const from = &q[(t * z.heads + h) * (latent_q ? width : z.d)];
        for (int64_t c2 = 0; c2 < still; ++c2) {
          const int64_t half = turning / 2, at = latent_q || !pairs ? c2 : c2 < z.d / 2 - half ? half + c2 : z.d / 2 + half + c2 - (z.d / 2 - half);
          to_q[c2] = from[at], to_k[c2] = k_still[(t * z.heads + h) * still + c2];
        }
        for (int64_t i = 0; i < turning; ++i) {
          const int64_t half = turning / 2, at = latent_q ? still + i : pairs ? (i < half ? i : z.d / 2 + i - half) : z.d - turning + i;
          to_q[still + i] = from[at], to_k[still + i] = shared[t * turning + i];
        }
      }
    if (turning) rotate(a.q, n, z.heads, width, still, still + turning / 2, freq, rows.length);
    return project(a.forward().o, w.at("o"), n, z.heads * z.d);
  }
};

struct Layer {
  TestMixer mixer;
  Reference reference;
  Layer(const std::string& object, const Options& o, const MixerSizes& sizes, tn_dtype storage = sdk::kF32) : mixer(object, o, sizes, 11, storage) {
    mixer.must(mixer.bind());
    mixer.start();
    const int64_t turning = o.count("qk_rope_head_dim") ? std::stoll(o.at("qk_rope_head_dim")) : sizes.d / 2;
    const int64_t still = o.count("qk_nope_head_dim") ? std::stoll(o.at("qk_nope_head_dim")) : sizes.d - turning;
    reference = {mixer.sizes, still, turning, !(o.count("split") && o.at("split") == "last"), {}};
    refresh();
  }
  void refresh() {
    reference.w.clear();
    for (const auto& [role, name] : std::map<uint32_t, std::string>{{TN_ROLE_Q, "q"}, {TN_ROLE_O, "o"}}) reference.w[name] = widen(mixer.linears.at(role).weight);
    for (auto& p : mixer.params) reference.w[p.key.substr(0, p.key.find('.'))] = widen(p.value.floats());
  }
};

const MixerSizes kSizes{.hidden = 24, .heads = 4, .kv_heads = 2, .d = 8};
const Options kVariants[] = {{{"kv_lora_rank", "8"}},
                             {{"kv_lora_rank", "16"}, {"split", "last"}},
                             {{"kv_lora_rank", "8"}, {"qk_rope_head_dim", "0"}},
                             {{"kv_lora_rank", "8"}, {"q_lora_rank", "8"}},
                             {{"kv_lora_rank", "8"}, {"q_lora_rank", "16"}, {"split", "last"}, {"qk_rope_head_dim", "2"}, {"qk_nope_head_dim", "5"}}};

// Full rank, nothing turns in either model: the conversion is the model itself.
TEST_P(Mla, FullRankWithoutRotationIsTheSourceModel) {
  for (const auto& [heads, kv] : {std::pair<int64_t, int64_t>{4, 2}, {4, 4}, {8, 1}}) {
    MixerSizes z{.hidden = 80, .heads = heads, .kv_heads = kv, .d = 8, .inv_freq = {0, 0, 0, 0}};
    TestMixer m(GetParam(), {{"kv_lora_rank", std::to_string(2 * kv * 8)}, {"qk_rope_head_dim", "0"}}, z);
    m.must(m.bind());
    m.start();
    const MixerRows rows{2, 19};
    const auto x = noise(rows.rows() * 80, 3, 0.3f);
    EXPECT_LT(relative_distance(m.forward(rows, x), source_model(m, widen(x), rows)), 2e-5);
  }
}

// One key head and pairs that stay together: what turns is exact too, as long as the pairs left out do not turn in the source.
TEST_P(Mla, KeptPairsTurnAsInTheSourceModel) {
  for (const char* rank_q : {"0", "32"}) {
    MixerSizes z{.hidden = 40, .heads = 4, .kv_heads = 1, .d = 8, .inv_freq = {1.0f, 0.3f, 0, 0}};
    TestMixer m(GetParam(), {{"kv_lora_rank", "16"}, {"qk_rope_head_dim", "4"}, {"q_lora_rank", rank_q}}, z);
    m.must(m.bind());
    m.start();
    const MixerRows rows{1, 23};
    const auto x = noise(rows.rows() * 40, 3, 0.3f);
    EXPECT_LT(relative_distance(m.forward(rows, x), source_model(m, widen(x), rows)), 2e-5) << rank_q;
  }
}

// The shared key of several key heads is their mean, in the dimensions that turn; for `last` these are the last ones.
TEST_P(Mla, TheSharedKeyIsTheMeanOfTheHeads) {
  for (const bool pairs : {true, false}) {
    TestMixer m(GetParam(), {{"kv_lora_rank", "8"}, {"qk_rope_head_dim", "4"}, {"split", pairs ? "pairs" : "last"}}, kSizes);
    m.must(m.bind());
    m.start();
    const auto w = m.param("k_rope_proj.weight").value.floats();
    const auto& k = m.linears.at(TN_ROLE_K).weight;
    for (int64_t c = 0; c < 4; ++c) {
      const int64_t at = !pairs ? 4 + c : c < 2 ? c : 4 + c - 2;
      for (int64_t j = 0; j < 24; ++j) EXPECT_NEAR(w[c * 24 + j], (k[at * 24 + j] + k[(8 + at) * 24 + j]) / 2, 1e-6);
    }
  }
}

TEST_P(Mla, ComputesItsFormula) {
  for (const Options& o : kVariants)
    for (const MixerRows& rows : {MixerRows{1, 1}, MixerRows{2, 17}, MixerRows{1, 20, {{0, 12}, {12, 8}}}}) {
      if (!rows.documents.empty() && o.count("split")) continue;  // positions restart within a row there
      Layer layer(GetParam(), o, kSizes);
      const auto x = noise(rows.rows() * 24, 3);
      Values want;
      if (rows.documents.empty()) {
        want = layer.reference(widen(x), rows);
      } else {
        for (const auto& [begin, length] : rows.documents) {
          const Values part = layer.reference(Values(x.begin() + begin * 24, x.begin() + (begin + length) * 24), {1, length});
          want.insert(want.end(), part.begin(), part.end());
        }
      }
      EXPECT_LT(relative_distance(layer.mixer.forward(rows, x), want), 1e-5);
    }
}

TEST_P(Mla, GradientsAreThoseOfTheFormula) {
  const MixerSizes z{.hidden = 10, .heads = 2, .kv_heads = 1, .d = 8};
  const MixerRows rows{2, 7};
  for (Options o : kVariants) {
    if (o.at("kv_lora_rank") == "16") o["kv_lora_rank"] = "8";
    if (o.count("q_lora_rank")) o["q_lora_rank"] = "8";
    Layer layer(GetParam(), o, z);
    const auto x = noise(rows.rows() * 10, 3), dy = noise(rows.rows() * 10, 4);
    layer.mixer.forward(rows, x);
    const auto dx = layer.mixer.backward(rows, x, dy);
    Values wide = widen(x);
    const auto compare = [&](const std::string& name, Values& values, const Values& got) {
      Values want;
      for (double& v : values) {
        const double before = v;
        const auto loss = [&](double step) {
          v = before + step;
          const Values y = layer.reference(wide, rows);
          double sum = 0;
          for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
          return sum;
        };
        const double up = loss(1e-5), down = loss(-1e-5);
        v = before;
        want.push_back((up - down) / 2e-5);
      }
      EXPECT_LT(relative_distance(got, want), 1e-4) << name;
    };
    compare("x", wide, widen(dx));
    compare("o", layer.reference.w.at("o"), layer.mixer.linears.at(TN_ROLE_O).gradient);
    if (!o.count("q_lora_rank")) compare("q", layer.reference.w.at("q"), layer.mixer.linears.at(TN_ROLE_Q).gradient);
    for (auto& p : layer.mixer.params)
      if (!(p.info.flags & TN_MIXER_PARAM_BUFFER)) compare(p.key, layer.reference.w.at(p.key.substr(0, p.key.find('.'))), widen(p.grad.floats()));
  }
}

// Absorbed decoding on latents equals attention on unfolded keys and values, whatever the steps.
TEST_P(Mla, AbsorbedIsUnabsorbed) {
  for (const Options& o : kVariants)
    for (const tn_dtype compute : {sdk::kF32, sdk::kBF16})
      for (const int64_t prompt : {1, 13}) {
        Layer layer(GetParam(), o, kSizes);
        const int64_t n = 29;
        const auto x = noise(n * 24, 3, 0.5f);
        const auto whole = layer.mixer.forward({1, n, {}, compute}, x, false);
        auto s = layer.mixer.sequence(n, compute);
        std::vector<float> parts;
        for (int64_t at = 0, step; at < n; at += step) {
          step = at == 0 ? prompt : at < 20 ? 1 : std::min<int64_t>(4, n - at);
          const auto y = layer.mixer.decode(s, {x.begin() + at * 24, x.begin() + (at + step) * 24}, compute);
          parts.insert(parts.end(), y.begin(), y.end());
        }
        EXPECT_LT(relative_distance(parts, whole), compute.bits == 32 ? 1e-5 : 3e-2);
      }
}

// r + d_r numbers a token instead of 2 · Hkv · d: Llama-3.2-1B's 96 of 1024.
TEST_P(Mla, TheCacheHoldsTheLatentAlone) {
  TestMixer m(GetParam(), {{"kv_lora_rank", "64"}}, {.hidden = 256, .heads = 32, .kv_heads = 8, .d = 64});
  m.must(m.bind());
  tn_attention_state s{};
  s.struct_size = sizeof s;
  m.must(m.api.state(m.self, &sdk::kBF16, 1000, &s));
  EXPECT_EQ(s.kind, uint32_t{TN_STATE_PER_TOKEN});
  EXPECT_EQ(s.bytes, 1000u * 2 * 96);
  EXPECT_EQ(m.cores.at(1).n_kv_heads, 1u);
}

// |A − A_r|² / |A|² is the share of the squared singular values behind the r-th, for both shapes, and full rank gives A back.
TEST_P(Mla, TheErrorOfTheSvdIsTheEnergyOfTheTail) {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{12, 20}, {20, 12}}) {
    Values a = widen(noise(m * n, 8));
    const reference::Svd svd(a, static_cast<size_t>(m), static_cast<size_t>(n));
    for (const int64_t r : {1, 5, 12}) {
      const Factors f = best_of_rank(a, m, n, r);
      double error = 0, tail = 0, all = 0;
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double x = -a[i * n + j];
          for (int64_t k = 0; k < r; ++k) x += f.up[i * r + k] * f.down[k * n + j];
          error += x * x, all += a[i * n + j] * a[i * n + j];
        }
      for (int64_t k = r; k < 12; ++k) tail += svd.sigma[static_cast<size_t>(k)] * svd.sigma[static_cast<size_t>(k)];
      EXPECT_NEAR(error / all, tail / all, 1e-12) << m << " x " << n << ", rank " << r;
    }
  }
}

TEST_P(Mla, TheForecastMakesTheSameAllocations) {
  for (const Options& o : kVariants) {
    Layer real(GetParam(), o, kSizes), planned(GetParam(), o, kSizes);
    const MixerRows rows{2, 9};
    const auto x = noise(rows.rows() * 24, 3);
    real.mixer.allocations.clear(), planned.mixer.allocations.clear();
    real.mixer.forward(rows, x), real.mixer.backward(rows, x, x);
    planned.mixer.plan(rows, true);
    EXPECT_EQ(real.mixer.allocations, planned.mixer.allocations);
  }
}

TEST_P(Mla, BuffersComeBackWithoutWeights) {
  TestMixer m(GetParam(), {{"kv_lora_rank", "8"}}, kSizes);
  m.must(m.bind());
  m.start(5, true);
  const auto f = m.param("inv_freq").value.floats();
  for (size_t i = 0; i < f.size(); ++i) EXPECT_EQ(f[i], m.sizes.inv_freq[i]);
}

TEST_P(Mla, RefusesInWords) {
  const auto refused = [&](const Options& o, uint32_t flags, const char* word) {
    TestMixer m(GetParam(), o, kSizes);
    EXPECT_LT(m.bind(flags), 0);
    EXPECT_NE(m.host.error.find(word), std::string::npos) << m.host.error;
  };
  refused({{"kv_lora_rank", "64"}}, 0, "kv_lora_rank 64");
  refused({{"kv_lora_rank", "8"}, {"q_lora_rank", "32"}}, 0, "q_lora_rank 32");
  refused({{"kv_lora_rank", "8"}}, TN_MIXER_LAYER_QK_NORM, "k_norm");
  refused({{"kv_lora_rank", "8"}}, TN_MIXER_LAYER_QKV_BIAS, "biases");
  for (const Options& o : {Options{{"qk_rope_head_dim", "3"}}, Options{{"qk_rope_head_dim", "8"}}, Options{{"qk_rope_head_dim", "6"}, {"split", "last"}, {"qk_nope_head_dim", "1"}}})
    EXPECT_THROW(TestMixer(GetParam(), o, kSizes), sdk::Failure);
}

INSTANTIATE_TEST_SUITE_P(Objects, Mla, ::testing::ValuesIn(sdk::testing::plugin_objects()),
                         [](const auto& info) { return sdk::testing::object_label(info.param); });

}  // namespace
}  // namespace tenon::mla::testing
