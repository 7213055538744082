// Which modules are taken, and with which rank: PEFT's rules, in PEFT's order.
#include <nlohmann/json.hpp>

#include "sdk/testing/adapter.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

using Names = std::vector<std::string>;

class LoraMatching : public ::testing::TestWithParam<std::string> {
 protected:
  static std::vector<SiteSpec> llama(int blocks, int64_t hidden, int64_t feed_forward, int64_t vocabulary) {
    std::vector<SiteSpec> out;
    for (int b = 0; b < blocks; ++b) {
      const std::string at = "model.layers." + std::to_string(b) + ".";
      for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
        out.push_back({at + "self_attn." + name, hidden, hidden});
      for (const char* name : {"gate_proj", "up_proj"}) out.push_back({at + "mlp." + name, feed_forward, hidden});
      out.push_back({at + "mlp.down_proj", hidden, feed_forward});
    }
    out.push_back({"lm_head", vocabulary, hidden, TN_ROLE_HEAD});
    return out;
  }
  // Paths taken by a configuration, without the common prefix.
  Names taken(const nlohmann::ordered_json& config) {
    nlohmann::ordered_json j = {{"peft_type", "LORA"}};
    j.update(config);
    TestAdapter lora(GetParam(), {}, j.dump().c_str());
    const std::vector<SiteSpec> sites = llama(3, 8, 12, 20);
    status_ = lora.bind(sites);
    error_ = lora.host.error;
    Names out;
    for (const auto& [site, retention] : lora.retention) {
      const std::string& path = sites[site].path;
      out.push_back(path.starts_with("model.layers.") ? path.substr(13) : path);
    }
    ranks_.clear();
    for (const auto& p : lora.params)
      if (p.key.ends_with("lora_A.weight")) ranks_.push_back(p.info.shape[0]);
    return out;
  }
  int32_t status_ = TN_OK;
  std::string error_;
  std::vector<int64_t> ranks_;
};
INSTANTIATE_TEST_SUITE_P(Cpu, LoraMatching, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(LoraMatching, ByTheEndOfAPathAfterADot) {
  EXPECT_EQ(taken({{"target_modules", {"q_proj", "1.mlp.up_proj", "proj", "ad"}}}),
            (Names{"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.up_proj", "2.self_attn.q_proj"}));
  EXPECT_EQ(taken({{"target_modules", {"lm_head"}}}), Names{"lm_head"});
}

TEST_P(LoraMatching, ByARegularExpressionOnTheWholePath) {
  EXPECT_EQ(taken({{"target_modules", R"(.*\.[02]\.self_attn\.(q|v)_proj)"}}),
            (Names{"0.self_attn.q_proj", "0.self_attn.v_proj", "2.self_attn.q_proj", "2.self_attn.v_proj"}));
  EXPECT_EQ(taken({{"target_modules", R"(model\.layers\.(?!1)\d+\.mlp\.up_proj)"}}),
            (Names{"0.mlp.up_proj", "2.mlp.up_proj"}));
  taken({{"target_modules", "q_proj"}});  // one text is an expression, not a suffix
  EXPECT_EQ(status_, TN_E_NOT_FOUND);
}

TEST_P(LoraMatching, AllLinearLeavesOutTheHead) {
  const Names all = taken({{"target_modules", "all-linear"}});
  EXPECT_EQ(all.size(), 21u);
  EXPECT_EQ(std::count(all.begin(), all.end(), "lm_head"), 0);
  EXPECT_EQ(
      taken({{"target_modules", "all-linear"}, {"exclude_modules", {"self_attn.q_proj", "1.mlp.up_proj"}}}).size(),
      17u);
}

TEST_P(LoraMatching, ExclusionComesFirst) {
  EXPECT_EQ(taken({{"target_modules", {"q_proj"}}, {"exclude_modules", {"1.self_attn.q_proj"}}}),
            (Names{"0.self_attn.q_proj", "2.self_attn.q_proj"}));
  EXPECT_EQ(taken({{"target_modules", {"q_proj"}}, {"exclude_modules", R"(.*\.[01]\..*)"}}),
            (Names{"2.self_attn.q_proj"}));
  EXPECT_EQ(taken({{"target_modules", ".*q_proj"}, {"exclude_modules", {"model.layers.2.self_attn.q_proj"}}}),
            (Names{"0.self_attn.q_proj", "1.self_attn.q_proj"}));
}

TEST_P(LoraMatching, LayersFilterWhatMatchedByItsEnd) {
  EXPECT_EQ(taken({{"target_modules", {"q_proj"}}, {"layers_to_transform", {0, 2}}}),
            (Names{"0.self_attn.q_proj", "2.self_attn.q_proj"}));
  EXPECT_EQ(taken({{"target_modules", {"q_proj", "lm_head"}}, {"layers_to_transform", 1}}),
            (Names{"1.self_attn.q_proj", "lm_head"}));
  EXPECT_EQ(taken({{"target_modules", {"q_proj"}}, {"layers_to_transform", nlohmann::json::array()}}).size(), 3u);
  // A full name is taken whatever its layer.
  EXPECT_EQ(taken({{"target_modules", {"model.layers.0.self_attn.q_proj", "v_proj"}}, {"layers_to_transform", {2}}}),
            (Names{"0.self_attn.q_proj", "2.self_attn.v_proj"}));
}

TEST_P(LoraMatching, LayersPatternSaysWhatIsNumbered) {
  const auto with = [&](const nlohmann::json& pattern) {
    return taken({{"target_modules", {"q_proj"}}, {"layers_to_transform", {1}}, {"layers_pattern", pattern}});
  };
  EXPECT_EQ(with("layers"), Names{"1.self_attn.q_proj"});
  EXPECT_EQ(with({"h", "model.layers"}), Names{"1.self_attn.q_proj"});
  EXPECT_EQ(with("h"), Names{});
  EXPECT_EQ(status_, TN_E_NOT_FOUND);
}

TEST_P(LoraMatching, TheFirstNumberOfAPathIsItsLayer) {
  TestAdapter lora(GetParam(), {}, R"({"peft_type": "LORA", "target_modules": ["up_proj"], "layers_to_transform": [1]})");
  ASSERT_EQ(lora.bind({{"model.layers.0.experts.1.up_proj", 4, 4}, {"model.layers.1.experts.0.up_proj", 4, 4}}), TN_OK);
  EXPECT_EQ(lora.retention.size(), 1u);
  EXPECT_TRUE(lora.retention.contains(1));
}

TEST_P(LoraMatching, TheFirstPatternThatMatchesGivesTheRank) {
  const auto ranks = [&](const nlohmann::ordered_json& patterns) {
    taken({{"target_modules", {"q_proj"}}, {"r", 4}, {"rank_pattern", patterns}});
    return ranks_;
  };
  using R = std::vector<int64_t>;
  EXPECT_EQ(ranks({{"1.self_attn.q_proj", 2}, {"q_proj", 3}}), (R{3, 2, 3}));
  EXPECT_EQ(ranks({{"q_proj", 3}, {"1.self_attn.q_proj", 2}}), (R{3, 3, 3}));
  EXPECT_EQ(ranks({{R"((0|2)\..*q_proj)", 7}}), (R{7, 4, 7}));
  EXPECT_EQ(ranks({{"^model.layers.2.self_attn.q_proj", 9}}), (R{4, 4, 9}));
  EXPECT_EQ(ranks({{"proj", 9}, {"q_pro", 9}, {"_proj", 9}, {"l_attn.q_proj", 9}}), (R{4, 4, 4}));
  EXPECT_EQ(ranks({{"1.self_attn.q_proj", 2}, {"v_proj", 3}}), (R{4, 2, 4}));
}

// alpha_pattern scales what rank_pattern sized: with B A = 1 the delta is alpha / r alone.
TEST_P(LoraMatching, AlphaAndRankPatternsScaleEachModule) {
  const auto delta = [&](const char* more) {
    const std::string text =
        std::string(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["up_proj"])") + more + "}";
    TestAdapter lora(GetParam(), {}, text.c_str());
    EXPECT_EQ(lora.bind({{"model.layers.0.mlp.up_proj", 1, 1}}), TN_OK);
    for (auto& p : lora.params) {
      std::vector<float> first(p.value.size());
      first[0] = 1;
      p.value.assign(first);
    }
    Tensor w(kF32, {1, 1});
    EXPECT_EQ(lora.merge(0, 0, 1, *w.get()), TN_OK);
    return w.floats()[0];
  };
  EXPECT_FLOAT_EQ(delta(""), 1.5f);
  EXPECT_FLOAT_EQ(delta(R"(, "use_rslora": true)"), 3);
  EXPECT_FLOAT_EQ(delta(R"(, "alpha_pattern": {"up_proj": 2})"), 0.5f);
  EXPECT_FLOAT_EQ(delta(R"(, "alpha_pattern": {"down_proj": 2})"), 1.5f);
  EXPECT_FLOAT_EQ(delta(R"(, "rank_pattern": {"up_proj": 16}, "use_rslora": true)"), 1.5f);
}

TEST_P(LoraMatching, NoMatchIsAnErrorThatNamesTheTargets) {
  EXPECT_EQ(taken({{"target_modules", {"c_attn", "query"}}}), Names{});
  EXPECT_EQ(status_, TN_E_NOT_FOUND);
  EXPECT_EQ(error_,
            "target_modules c_attn+query names no linear of this model (exclude_modules and layers_to_transform "
            "applied); one of them is "
            "model.layers.0.self_attn.q_proj");
  taken({{"target_modules", {"q_proj"}}, {"exclude_modules", ".*"}});
  EXPECT_EQ(status_, TN_E_NOT_FOUND);
}

TEST_P(LoraMatching, ExpressionsStayCheap) {
  // Catastrophic for a backtracking engine.
  taken({{"target_modules", "(((m|o|d|e|l|.)*)*)*x"}});
  EXPECT_EQ(status_, TN_E_NOT_FOUND);
  for (const char* pattern : {"(((a?){100}){100}){100}", "a{99999999999999999999}", "(a{1,5000}){7}"}) {
    try {
      taken({{"target_modules", pattern}});
      FAIL() << pattern;
    } catch (const Failure& e) {
      EXPECT_EQ(e.status, TN_E_ARGUMENT);
      EXPECT_NE(e.sentence.find("too large"), std::string::npos) << e.sentence;
    }
  }
}

TEST_P(LoraMatching, InvalidExpressionsAreNamed) {
  for (const nlohmann::ordered_json& config :
       std::vector<nlohmann::ordered_json>{{{"target_modules", "((q_proj"}},
                                           {{"target_modules", {"q_proj"}}, {"exclude_modules", "((q_proj"}},
                                           {{"target_modules", {"q_proj"}}, {"rank_pattern", {{"((q_proj", 4}}}}}) {
    try {
      taken(config);
      FAIL();
    } catch (const Failure& e) {
      EXPECT_EQ(e.status, TN_E_ARGUMENT);
      EXPECT_NE(e.sentence.find("((q_proj"), std::string::npos) << e.sentence;
    }
  }
}

TEST_P(LoraMatching, HyperParametersNameModulesToo) {
  const auto count = [&](const char* targets, const char* excluded = "") {
    TestAdapter lora(GetParam(), {{"target_modules", targets}, {"exclude_modules", excluded}});
    return lora.bind(llama(3, 8, 12, 20)) == TN_OK ? lora.retention.size() : 0;
  };
  EXPECT_EQ(count("q_proj+v_proj"), 6u);
  EXPECT_EQ(count("all-linear"), 21u);
  EXPECT_EQ(count("all-linear", "q_proj+1.mlp.up_proj"), 17u);
  EXPECT_EQ(count("regex:.*1.*proj", "regex:.*mlp.*"), 4u);
  EXPECT_EQ(count("nothing"), 0u);
}

TEST_P(LoraMatching, Llama2SevenBillionHasThePublishedTrainables) {
  TestAdapter lora(GetParam(), {{"r", "16"}, {"target_modules", "all-linear"}});
  ASSERT_EQ(lora.bind(llama(32, 4096, 11008, 32000), false), TN_OK);
  EXPECT_EQ(lora.trainables(), 39976960);
  EXPECT_EQ(lora.keys()[1], "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
  EXPECT_TRUE(lora.host.log.empty());
}

TEST_P(LoraMatching, ARankBeyondTheMatrixIsToldOnce) {
  TestAdapter lora(GetParam(), {{"r", "16"}, {"target_modules", "all-linear"}});
  ASSERT_EQ(lora.bind(llama(2, 8, 32, 20)), TN_OK);
  ASSERT_EQ(lora.host.log.size(), 1u);
  EXPECT_NE(lora.host.log[0].find("14 linears"), std::string::npos) << lora.host.log[0];
}

}  // namespace
}  // namespace tenon::lora::testing
