// Routing of parameters to optimizers.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/unit/trainer/tiny.h"

namespace tenon::trainer {
namespace {

const ParameterTraits kTable{"model.embed_tokens.weight", TN_ROLE_EMBEDDING, -1, 2}, kNorm{"model.layers.3.input_layernorm.weight", TN_ROLE_NORM, 3, 1},
    kQuery{"model.layers.3.self_attn.q_proj.weight", TN_ROLE_Q, 3, 2}, kDown{"model.layers.9.mlp.down_proj.weight", TN_ROLE_DOWN, 9, 2},
    kBias{"model.layers.3.self_attn.q_proj.bias", TN_ROLE_BIAS, 3, 1}, kHead{"lm_head.weight", TN_ROLE_HEAD, -1, 2},
    kLora{"base_model.model.layers.3.self_attn.q_proj.lora_A.weight", TN_ROLE_ADAPTER, -1, 2};

std::string taken(const std::string& selector) {
  const Selector s = Selector::parse(selector);
  std::string out;
  const std::pair<char, const ParameterTraits*> all[] = {{'t', &kTable}, {'n', &kNorm}, {'q', &kQuery}, {'d', &kDown},
                                                         {'b', &kBias},  {'h', &kHead}, {'l', &kLora}};
  for (const auto& [letter, p] : all)
    if (s.takes(*p)) out += letter;
  return out;
}

TEST(Selector, TakesClassesRangesAndPatterns) {
  EXPECT_EQ(taken("rest"), "tnqdbhl");
  EXPECT_EQ(taken("matrices"), "qdl");
  EXPECT_EQ(taken("vectors"), "nb");
  EXPECT_EQ(taken("embeddings and head"), "th");
  EXPECT_EQ(taken("norms+biases"), "nb");
  EXPECT_EQ(taken("attention"), "q");
  EXPECT_EQ(taken("mlp"), "d");
  EXPECT_EQ(taken("adapters"), "l");
  EXPECT_EQ(taken("blocks 3"), "nqb");
  EXPECT_EQ(taken("blocks 4-"), "d");
  EXPECT_EQ(taken("matrices in blocks 0-5"), "q");
  EXPECT_EQ(taken("q in blocks 4- and head"), "h");
  EXPECT_EQ(taken("*.self_attn.*"), "qbl");
  EXPECT_EQ(taken("*_proj.weight in blocks 0-5"), "q");
}

std::string refusal(const std::string& text) {
  try {
    parse_optimizers(text);
    return "";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_ARGUMENT);
    return e.what();
  }
}

TEST(Clauses, KeepCommasOfSpecsApartFromThoseBetweenClauses) {
  const auto clauses = parse_optimizers("galore:rank=16,lr=0.02,scale=0.25 for  matrices in blocks 0-3, lisa:inner=\"sgd:momentum=0.9,nesterov=true\" for norms; adamw");
  ASSERT_EQ(clauses.size(), 3u);
  EXPECT_EQ(clauses[0].spec, "galore:rank=16,scale=0.25");
  EXPECT_EQ(clauses[0].lr, 0.02);
  EXPECT_EQ(clauses[0].selector.text(), "matrices in blocks 0-3");
  EXPECT_EQ(clauses[1].spec, "lisa:inner=\"sgd:momentum=0.9,nesterov=true\"");
  EXPECT_EQ(clauses[2].spec, "adamw");
  EXPECT_TRUE(clauses[2].selector.is_rest());
  EXPECT_FALSE(clauses[2].lr.has_value());
  EXPECT_EQ(clauses[0].with_lr_and_selector("galore:rank=16", true), "galore:rank=16,lr=0.02 for matrices in blocks 0-3");
}

TEST(Clauses, RefuseInWordsWhatTheyCannotMean) {
  EXPECT_NE(refusal("adamw for matrixes").find("matrices"), std::string::npos);
  EXPECT_NE(refusal("adamw for blocks 5-2").find("0-5"), std::string::npos);
  EXPECT_NE(refusal("adamw for q head").find("and"), std::string::npos);
  EXPECT_NE(refusal("adamw for q in head").find("blocks"), std::string::npos);
  EXPECT_NE(refusal("adamw for rest, sgd for q").find("last"), std::string::npos);
  EXPECT_NE(refusal("adamw:lr=fast").find("lr='fast'"), std::string::npos);
  EXPECT_NE(refusal("adamw:lr=1,lr=2").find("twice"), std::string::npos);
  EXPECT_NE(refusal("adamw for ").find("empty"), std::string::npos);
}

TEST(Route, LeavesNothingOutAndNothingEmpty) {
  const auto go = [](const std::string& text) {
    std::vector<Selector> selectors;
    for (const auto& c : parse_optimizers(text)) selectors.push_back(c.selector);
    return route(selectors, {kTable, kNorm, kQuery});
  };
  EXPECT_EQ(go("a for q, b for rest"), (std::vector<size_t>{1, 1, 0}));
  EXPECT_EQ(go("a for matrices, b for norms and embeddings, c for rest"), (std::vector<size_t>{1, 1, 0}));
  EXPECT_THROW(go("a for q"), Error);
  EXPECT_THROW(go("a for head, b for rest"), Error);
}

constexpr const char* kMixed = "galore:rank=4 for matrices in blocks 0, sgd:momentum=0.9,lr=0.5 for norms; adamw for rest";

// A step of several optimizers moves each parameter as its own optimizer alone would.
TEST(Routing, EveryParameterMovesAsUnderItsOptimizerAlone) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  const auto after = [&](const std::string& optimizer, double lr) {
    tiny::Run run(model, tiny::mix(optimizer), {});
    run.session->step(1, 1, {tiny::input()}, lr, 0.5);
    std::map<std::string, std::vector<float>> all;
    for (const Parameter* p : run.session->optimizer()->parameters()) all[p->name] = tiny::host_copy(*run.engine, p->value);
    return all;
  };
  const auto mixed = after(kMixed, 1e-3), galore = after("galore:rank=4", 1e-3), sgd = after("sgd:momentum=0.9", 0.25), adamw = after("adamw", 1e-3);
  for (const auto& [name, w] : mixed) {
    const bool norm = name.find("norm") != std::string::npos, first = name.find("layers.0.") != std::string::npos;
    EXPECT_EQ(w, (norm ? sgd : first ? galore : adamw).at(name)) << name;
  }
}

TEST(Routing, PlansWhatItAllocates) {
  const tiny::Folder folder;
  const std::string model = tiny::model_folder(folder, "llama");
  SessionOptions options;
  options.sequence = 14;
  tiny::Run run(model, tiny::mix(kMixed), options);
  run.session->step(1, 1, {tiny::input()}, 1e-3);
  EXPECT_EQ(run.engine->memory().use().total_peak, plan_run(run.runtime, run.source, options, {2, 14, false}, kF32).total_peak);
}

TEST(Routing, AsksTheRelationForEachOptimizer) {
  MixRequest request = tiny::mix("adamw for matrices, sgd for rest");
  request.run_tags = {"run:fused-backward"};
  EXPECT_NO_THROW(Runtime(tiny::catalog(), request));
  const Runtime runtime(tiny::catalog(), tiny::mix(kMixed));
  EXPECT_EQ(runtime.short_spec(TN_KIND_OPTIMIZER),
            "galore:rank=4 for matrices in blocks 0; sgd:momentum=0.9,lr=0.5 for norms; adamw for rest");
  EXPECT_THROW(Runtime(tiny::catalog(), tiny::mix("adamw for matrices, adamv for rest")), Error);
}

}  // namespace
}  // namespace tenon::trainer
