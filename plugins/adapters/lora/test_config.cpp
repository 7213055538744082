// adapter_config.json: what is read, what is refused and in which words, and that writing it loses nothing.
#include <nlohmann/json.hpp>

#include "sdk/testing/adapter.h"

namespace tenon::lora::testing {
namespace {

using namespace tenon::sdk;
using namespace tenon::sdk::testing;

using Json = nlohmann::ordered_json;

class LoraConfig : public ::testing::TestWithParam<std::string> {
 protected:
  static Json minimal() { return {{"peft_type", "LORA"}, {"target_modules", {"q_proj"}}}; }
  static Json with(const Json& more) {
    Json j = minimal();
    j.update(more);
    return j;
  }
  Json round_trip(const Json& config) {
    TestAdapter lora(GetParam(), {}, config.dump().c_str());
    log_ = lora.host.log;
    return Json::parse(lora.config());
  }
  Failure refusal(const std::string& text) {
    try {
      TestAdapter lora(GetParam(), {}, text.c_str());
    } catch (const Failure& e) {
      return e;
    }
    return {TN_OK, "it was read"};
  }
  void expect_refusal(const std::string& text, int32_t status, const std::string& sentence) {
    const Failure e = refusal(text);
    EXPECT_EQ(e.status, status) << text;
    EXPECT_EQ(e.sentence, "adapter_config.json: " + sentence) << text;
  }
  std::vector<std::string> log_;
};
INSTANTIATE_TEST_SUITE_P(Cpu, LoraConfig, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& p) { return object_label(p.param); });

TEST_P(LoraConfig, HasTheDefaultsOfPeft) {
  const Json j = round_trip(minimal());
  EXPECT_EQ(j["r"], 8);
  EXPECT_EQ(j["lora_alpha"], 8);
  EXPECT_EQ(j["lora_dropout"], 0.0);
  EXPECT_EQ(j["init_lora_weights"], true);
  EXPECT_EQ(j["use_rslora"], false);
  EXPECT_EQ(j["bias"], "none");
  EXPECT_EQ(j["peft_type"], "LORA");
  EXPECT_TRUE(j["task_type"].is_null());
  std::vector<std::string> keys;
  for (const auto& [key, value] : j.items()) keys.push_back(key);
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
}

TEST_P(LoraConfig, SurvivesARoundTrip) {
  for (const Json& more : std::vector<Json>{
           {{"r", 16},
            {"lora_alpha", 0.5},
            {"lora_dropout", 0.05},
            {"use_rslora", true},
            {"lora_bias", true},
            {"task_type", "CAUSAL_LM"}},
           {{"target_modules", "all-linear"}, {"exclude_modules", {"down_proj"}}, {"init_lora_weights", "gaussian"}},
           {{"target_modules", R"(.*\.(q|v)_proj)"}, {"exclude_modules", R"(.*\.0\..*)"}, {"init_lora_weights", false}},
           {{"modules_to_save", {"embed_tokens", "lm_head"}}},
           {{"layers_to_transform", {3, 1}}, {"layers_pattern", {"layers", "h"}}},
           {{"rank_pattern", {{"z", 5}, {"b.c", 2}, {"a", 1}}}, {"alpha_pattern", {{"y", 2}, {"x.*", 2.5}}}},
       }) {
    const Json config = with(more), once = round_trip(config);
    for (const auto& [key, value] : config.items()) EXPECT_EQ(once[key], value) << key;
    EXPECT_EQ(once["rank_pattern"].dump(), config.value("rank_pattern", Json::object()).dump()) << "the order counts";
    EXPECT_EQ(round_trip(once).dump(), once.dump());
  }
}

TEST_P(LoraConfig, OfHyperParametersSaysTheSame) {
  TestAdapter lora(GetParam(), {{"r", "4"},
                             {"lora_alpha", "32"},
                             {"lora_dropout", "0.1"},
                             {"target_modules", "q_proj+v_proj"},
                             {"exclude_modules", "regex:.*0.*"},
                             {"use_rslora", "true"},
                             {"init_lora_weights", "gaussian"}});
  const Json j = Json::parse(lora.config());
  EXPECT_EQ(j["r"], 4);
  EXPECT_EQ(j["lora_alpha"].dump(), "32");
  EXPECT_EQ(j["lora_dropout"], 0.1);
  EXPECT_EQ(j["target_modules"], Json({"q_proj", "v_proj"}));
  EXPECT_EQ(j["exclude_modules"], ".*0.*");
  EXPECT_EQ(j["use_rslora"], true);
  EXPECT_EQ(j["init_lora_weights"], "gaussian");
  EXPECT_EQ(j["task_type"], "CAUSAL_LM");
}

TEST_P(LoraConfig, ReadsWhatPeftWritesForFeaturesThatAreOff) {
  round_trip(with({{"auto_mapping", {{"base_model_class", "LlamaForCausalLM"}}},
                   {"base_model_name_or_path", "x"},
                   {"bias", "none"},
                   {"corda_config", nullptr},
                   {"ensure_weight_tying", false},
                   {"fan_in_fan_out", false},
                   {"inference_mode", true},
                   {"layer_replication", nullptr},
                   {"loftq_config", Json::object()},
                   {"megatron_core", "megatron.core"},
                   {"modules_to_save", nullptr},
                   {"peft_version", "0.21.2"},
                   {"qalora_group_size", 16},
                   {"trainable_token_indices", nullptr},
                   {"use_dora", false},
                   {"use_bdlora", nullptr},
                   {"r", 8.0}}));
  EXPECT_TRUE(log_.empty());
}

TEST_P(LoraConfig, UnknownKeysAreToldAndIgnored) {
  EXPECT_EQ(round_trip(with({{"shininess", 3}, {"of_the_future", nullptr}, {"and_empty", Json::object()}}))["r"], 8);
  ASSERT_EQ(log_.size(), 1u);
  EXPECT_EQ(log_[0], "adapter_config.json: key \"shininess\" is not known and is ignored");
}

TEST_P(LoraConfig, RefusesOtherMethodsByName) {
  expect_refusal(R"({"peft_type": "IA3"})", TN_E_UNSUPPORTED,
                 R"(peft_type is "IA3" but this plugin reads "LORA"; use the plugin of that method)");
  for (const char* key : {"use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out"})
    expect_refusal(with({{key, true}}).dump(), TN_E_UNSUPPORTED,
                   std::string(key) + " is not plain LoRA and is not computed by this plugin");
  for (const char* key :
       {"target_parameters", "layer_replication", "trainable_token_indices", "eva_config"})
    expect_refusal(with({{key, {"embed_tokens"}}}).dump(), TN_E_UNSUPPORTED,
                   std::string(key) + " is not offered; train the adapter without it");
  const Failure whole = refusal(with({{"modules_to_save", {"norm"}}}).dump());
  EXPECT_EQ(whole.status, TN_E_UNSUPPORTED);
  EXPECT_EQ(whole.sentence, R"(modules_to_save names "norm", but only embed_tokens and lm_head are offered; adapt it through target_modules)");
  expect_refusal(with({{"bias", "all"}}).dump(), TN_E_UNSUPPORTED,
                 R"(bias is "all", which trains biases of the base, but only "none" is offered)");
  expect_refusal(with({{"init_lora_weights", "pissa"}}).dump(), TN_E_UNSUPPORTED,
                 R"(init_lora_weights is "pissa" but only true, false and "gaussian" are offered)");
}

TEST_P(LoraConfig, RefusesWhatIsNotAnAdapter) {
  for (const char* text : {"", "[]", "3", "{", "{\"peft_type\": \"LORA\"", "\xff\xfe", "{\"a\": 1e999}"})
    expect_refusal(text, TN_E_FORMAT, "the text is not a JSON object; the file is damaged");
  expect_refusal("{}", TN_E_FORMAT, "peft_type is missing, so this is not a PEFT adapter");
  expect_refusal(std::string(100000, '['), TN_E_FORMAT, "the text is not a JSON object; the file is damaged");
  for (const char* text :
       {R"({"peft_type": "LORA"})", R"({"peft_type": "LORA", "target_modules": null})",
        R"({"peft_type": "LORA", "target_modules": []})", R"({"peft_type": "LORA", "target_modules": ""})"})
    expect_refusal(text, TN_E_FORMAT, "target_modules is missing or empty; it must name the modules that are adapted");
}

TEST_P(LoraConfig, RefusesHostileValuesInOneSentence) {
  struct Case {
    Json more;
    std::string sentence;
  };
  const std::string whole = " but must be a whole number from 1 to 65536";
  for (const Case& c : std::vector<Case>{
           {{{"r", 0}}, "r is 0" + whole},
           {{{"r", -3}}, "r is -3" + whole},
           {{{"r", 2.5}}, "r is 2.5" + whole},
           {{{"r", "8"}}, "r is \"8\"" + whole},
           {{{"r", 9223372036854775808u}}, "r is 9223372036854775808" + whole},
           {{{"r", {{"a", std::string(500, 'x')}}}}, "r is {\"a\":\"" + std::string(51, 'x') + "..." + whole},
           {{{"lora_alpha", 0}}, "lora_alpha is 0 but must be a positive number of at most 1e9"},
           {{{"lora_alpha", -1e308}}, "lora_alpha is -1e+308 but must be a positive number of at most 1e9"},
           {{{"lora_dropout", 1}}, "lora_dropout is 1 but must be a number from 0 to below 1"},
           {{{"lora_dropout", "a"}}, "lora_dropout is \"a\" but must be a number from 0 to below 1"},
           {{{"use_rslora", 1}}, "use_rslora is 1 but must be true or false"},
           {{{"lora_bias", "no"}}, "lora_bias is \"no\" but must be true or false"},
           {{{"target_modules", 7}}, "target_modules is 7 but must be a list of names or one text"},
           {{{"target_modules", {"q_proj", 7}}}, "an entry of target_modules is 7 but must be a name"},
           {{{"exclude_modules", {nullptr}}}, "an entry of exclude_modules is null but must be a name"},
           {{{"layers_to_transform", {1.5}}},
            "a layer of layers_to_transform is 1.5 but must be a whole number from 0 to 1048576"},
           {{{"layers_to_transform", -1}}, "layers_to_transform is -1 but must be a whole number from 0 to 1048576"},
           {{{"layers_pattern", "h"}},
            "layers_pattern is given without layers_to_transform, which says which layers are meant"},
           {{{"target_modules", ".*"}, {"layers_to_transform", 1}},
            "layers_to_transform goes with a list in target_modules, not with a text; put the layers into the regular "
            "expression"},
           {{{"target_modules", "all-linear"}, {"layers_to_transform", 1}},
            "layers_to_transform goes with a list in target_modules, not with a text; put the layers into the regular "
            "expression"},
           {{{"rank_pattern", {3}}}, "rank_pattern is [3] but must be an object of module names and values"},
           {{{"rank_pattern", {{"q_proj", 0}}}}, "rank_pattern[\"q_proj\"] is 0" + whole},
           {{{"alpha_pattern", {{"q_proj", true}}}},
            "alpha_pattern[\"q_proj\"] is true but must be a positive number of at most 1e9"},
           {{{"target_modules", std::vector<std::string>(16385, "q")}},
            "target_modules has 16385 entries but at most 16384 are read"},
       })
    expect_refusal(with(c.more).dump(), TN_E_FORMAT, c.sentence);
}

}  // namespace
}  // namespace tenon::lora::testing
