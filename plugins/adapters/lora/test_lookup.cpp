// LoRA on the embedding against its definition in double.
#include "sdk/testing/adapter.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

constexpr int64_t kVocabulary = 23, kWidth = 6, kTokens = 9, kRank = 4;
constexpr double kScale = 2;  // lora_alpha / r

std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// An adapted embedding with factors away from their start; some tokens come twice.
struct Problem {
  std::vector<int32_t> ids{3, 22, 0, 3, 7, 7, 7, 15, 22};
  std::vector<float> dy = normals(kTokens * kWidth, 2);
  Base base{kVocabulary, kWidth, normals(kVocabulary * kWidth, 3), {}, 0, {}};
  TestAdapter lora;

  explicit Problem(const std::string& object, TestAdapter::Options options = {})
      : lora(object, (options["r"] = "4", options["lora_alpha"] = "8", options["target_modules"] = "embed_tokens", options)) {
    EXPECT_EQ(lora.bind({site(), {"lm_head", kVocabulary, kWidth, TN_ROLE_HEAD}}), TN_OK);
    base.instead = [this](const tn_tensor& x, tn_tensor& y) {
      for (int64_t t = 0; t < x.shape[0]; ++t)
        for (int64_t j = 0; j < kWidth; ++j) Base::put(y, t, j, base.weight[data<int32_t>(x)[t] * kWidth + j]);
    };
    for (size_t i = 0; i < lora.params.size(); ++i) lora.params[i].value.assign(normals(lora.params[i].value.size(), 10 + i, 0.5f));
  }
  static SiteSpec site() { return {"model.embed_tokens", kVocabulary, kWidth, TN_ROLE_EMBEDDING, TN_PLACE_LOOKUP}; }

  // y of tokens [begin, end); gradients add up.
  std::vector<float> run(int64_t begin, int64_t end, tn_dtype dtype = kF32) {
    const int64_t T = end - begin;
    Tensor x(kI32, {T}), y(dtype, {T, kWidth}), g(dtype, {T, kWidth}, {dy.begin() + begin * kWidth, dy.begin() + end * kWidth});
    std::copy(ids.begin() + begin, ids.begin() + end, x.as<int32_t>());
    CallOptions o;
    o.row_begin = begin;
    SavedSlots saved;
    lora.forward(0, base, *x.get(), y.get(), saved, o);
    lora.backward(0, base, *g.get(), nullptr, saved, o);
    EXPECT_EQ(saved.bytes(), 0u);
    return y.floats();
  }
  std::vector<double> a() const { return wide(lora.params[0].value.floats()); }
  std::vector<double> b() const { return wide(lora.params[1].value.floats()); }
  // s Aᵀ Bᵀ [V, n]
  std::vector<double> delta() const {
    const auto a = this->a(), b = this->b();
    std::vector<double> d(kVocabulary * kWidth);
    for (int64_t v = 0; v < kVocabulary; ++v)
      for (int64_t j = 0; j < kWidth; ++j)
        for (int64_t k = 0; k < kRank; ++k) d[v * kWidth + j] += kScale * a[k * kVocabulary + v] * b[j * kRank + k];
    return d;
  }
  std::vector<float> expected_y() const {
    const auto d = delta();
    std::vector<float> y;
    for (int32_t id : ids)
      for (int64_t j = 0; j < kWidth; ++j) y.push_back(static_cast<float>(base.weight[id * kWidth + j] + d[id * kWidth + j]));
    return y;
  }
  std::pair<std::vector<float>, std::vector<float>> expected_gradients() const {
    const auto a = this->a(), b = this->b();
    std::vector<float> da(kRank * kVocabulary), db(kWidth * kRank);
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t j = 0; j < kWidth; ++j)
        for (int64_t k = 0; k < kRank; ++k) {
          da[k * kVocabulary + ids[t]] += static_cast<float>(kScale * dy[t * kWidth + j] * b[j * kRank + k]);
          db[j * kRank + k] += static_cast<float>(kScale * dy[t * kWidth + j] * a[k * kVocabulary + ids[t]]);
        }
    return {da, db};
  }
};

class LoraLookup : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cpu, LoraLookup, ::testing::ValuesIn(plugin_objects()), [](const auto& p) { return object_label(p.param); });

TEST_P(LoraLookup, ComputesTheDefinitionAndItsGradients) {
  Problem p(GetParam());
  EXPECT_EQ(p.lora.keys(), (std::vector<std::string>{"base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.model.embed_tokens.lora_embedding_B"}));
  EXPECT_LT(relative_distance(p.run(0, kTokens), p.expected_y()), 1e-6);
  const auto [da, db] = p.expected_gradients();
  EXPECT_LT(relative_distance(p.lora.params[0].grad.floats(), da), 1e-6);
  EXPECT_LT(relative_distance(p.lora.params[1].grad.floats(), db), 1e-6);
  (void)p.run(0, kTokens);
  std::vector<float> twice = da;
  for (float& v : twice) v *= 2;
  EXPECT_LT(relative_distance(p.lora.params[0].grad.floats(), twice), 1e-6);
}

TEST_P(LoraLookup, AnyCutOfTheTokensGivesTheSame) {
  Problem p(GetParam());
  std::vector<float> y = p.run(0, 4);
  for (const int64_t begin : {4, 9}) {
    const std::vector<float> more = p.run(begin, begin == 4 ? 9 : 9);
    y.insert(y.end(), more.begin(), more.end());
  }
  EXPECT_LT(relative_distance(y, p.expected_y()), 1e-6);
  const auto [da, db] = p.expected_gradients();
  EXPECT_LT(relative_distance(p.lora.params[0].grad.floats(), da), 1e-6);
  EXPECT_LT(relative_distance(p.lora.params[1].grad.floats(), db), 1e-6);
}

TEST_P(LoraLookup, InBf16AgreesWithinItsRounding) {
  Problem p(GetParam());
  EXPECT_LT(relative_distance(p.run(0, kTokens, kBF16), p.expected_y()), 0.01);
  EXPECT_LT(relative_distance(p.lora.params[0].grad.floats(), p.expected_gradients().first), 0.01);
}

TEST_P(LoraLookup, MergesByRowsOfTheTable) {
  Problem p(GetParam());
  const auto d = p.delta();
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, kVocabulary}, {5, 6}, {20, 23}}) {
    Tensor w(kF32, {end - begin, kWidth});
    ASSERT_EQ(p.lora.merge(0, begin, end, *w.get()), TN_OK);
    EXPECT_LT(relative_distance(w.floats(), std::vector<float>(d.begin() + begin * kWidth, d.begin() + end * kWidth)), 1e-6);
  }
}

TEST_P(LoraLookup, StartsAsTheModel) {
  Problem p(GetParam());
  p.lora.init(5, &p.base);
  for (const float v : p.lora.params[0].value.floats()) EXPECT_EQ(v, 0);
  double squares = 0;
  for (const float v : p.lora.params[1].value.floats()) squares += v * v;
  EXPECT_NEAR(squares / (kWidth * kRank), 1, 0.8);  // N(0, 1), as an embedding starts
}

TEST_P(LoraLookup, WhatCannotBeIsRefusedByName) {
  const auto refusal = [&](const TestAdapter::Options& options, const std::vector<SiteSpec>& sites, const char* config = nullptr) {
    TestAdapter lora(GetParam(), options, config);
    EXPECT_NE(lora.bind(sites), TN_OK);
    return lora.host.error;
  };
  const SiteSpec embedding = Problem::site(), head{"lm_head", kVocabulary, kWidth, TN_ROLE_HEAD};
  EXPECT_NE(refusal({{"target_modules", "embed_tokens"}, {"lora_bias", "true"}}, {embedding}).find("lora_bias"), std::string::npos);
  EXPECT_NE(refusal({{"target_modules", "embed_tokens"}, {"modules_to_save", "embed_tokens"}}, {embedding, head}).find("both name"), std::string::npos);
  SiteSpec tied = embedding;
  tied.flags = TN_LINEAR_TIED;
  const char* config = R"({"peft_type": "LORA", "target_modules": ["embed_tokens"], "ensure_weight_tying": true})";
  EXPECT_NE(refusal({}, {tied}, config).find("ensure_weight_tying"), std::string::npos);
  TestAdapter untied(GetParam(), {}, config);
  EXPECT_EQ(untied.bind({embedding}), TN_OK);
  TestAdapter linears(GetParam(), {{"target_modules", "all-linear"}});
  EXPECT_EQ(linears.bind({embedding, head}), TN_E_NOT_FOUND);
}

}  // namespace
}  // namespace tenon::lora::testing
