// Vocabularies from GGUF metadata against the tokenizer.json files that hold the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/files/json.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/gguf_from_json.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {
namespace {

const std::string kFolder = TENON_SOURCE_DIR "/tests/reference/tokenizers/";

Json read(const std::string& name) {
  std::ifstream in(kFolder + name);
  return Json::parse(in);
}

std::string text_of(const std::string& name) {
  std::ifstream in(kFolder + name, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

constexpr std::pair<const char*, const char*> kNamed[] = {
    {"bytes_digits", "smollm"},        {"bytes_gpt2", "gpt-2"},       {"bytes_o200k", "gpt-4o"},
    {"bytes_llama3", "llama-bpe"},     {"bytes_qwen2", "qwen2"},      {"bytes_qwen35", "qwen35"},
    {"bytes_tekken", "tekken"},        {"bytes_falcon", "falcon"},    {"bytes_deepseek_llm", "deepseek-llm"},
    {"bytes_deepseek3", "deepseek-v3"}, {"bytes_bloom", "bloom"},     {"bytes_deepseek_coder", "deepseek-coder"},
    {"bytes_viking", "viking"},        {"bytes_seed_coder", "seed-coder"}};

// What a converter writes for a tokenizer.json.
GgufVocabulary converted(const Json& spec, const std::string& model, const std::string& pre) {
  GgufVocabulary v;
  v.model = model;
  v.pre = pre;
  const Json& vocab = spec["model"]["vocab"];
  v.tokens.resize(vocab.size());
  v.token_types.assign(vocab.size(), 1);
  for (const auto& [token, id] : vocab.items()) v.tokens[id.get<size_t>()] = token;
  for (const Json& added : spec["added_tokens"]) v.token_types[added["id"].get<size_t>()] = 3;
  for (const Json& m : spec["model"]["merges"])
    v.merges.push_back(m.is_string() ? m.get<std::string>() : m[0].get<std::string>() + " " + m[1].get<std::string>());
  return v;
}

void expect_goldens(const Tokenizer& tokenizer, const std::string& name) {
  const Json goldens = read("goldens.json");
  const auto texts = goldens["texts"].get<std::vector<std::string>>();
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = goldens["cases"][name]["ids"][i].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(texts[i]), ids) << i << ": " << texts[i];
    const Json& decoded = goldens["cases"][name]["decoded"][i];
    EXPECT_EQ(tokenizer.decode(ids), decoded.is_null() ? texts[i] : decoded.get<std::string>()) << i;
  }
}

TEST(GgufTokenizer, PreTokenizersByNameEqualTheirTokenizerJson) {
  for (const auto& [name, pre] : kNamed) {
    SCOPED_TRACE(name);
    expect_goldens(Tokenizer::from_gguf(converted(read(std::string(name) + ".json"), "gpt2", pre), "m.gguf"), name);
  }
}

TEST(GgufTokenizer, TokenizerJsonBecomesTheVocabularyOfTheSameIds) {
  for (const auto& [name, pre] : kNamed) {
    SCOPED_TRACE(name);
    std::vector<std::string> notes;
    GgufVocabulary v = gguf_vocabulary_of(text_of(std::string(name) + ".json"), name, notes);
    EXPECT_EQ(v.pre, pre);
    EXPECT_TRUE(notes.empty()) << notes[0];
    expect_goldens(Tokenizer::from_gguf(v, "m.gguf"), name);
  }
  for (const char* name : {"sp_legacy", "sp_gemma"}) {
    SCOPED_TRACE(name);
    std::vector<std::string> notes;
    GgufVocabulary v = gguf_vocabulary_of(text_of(std::string(name) + ".json"), name, notes);
    EXPECT_EQ(v.model, "llama");
    EXPECT_EQ(v.add_space_prefix, name == std::string("sp_legacy"));
    expect_goldens(Tokenizer::from_gguf(v, "m.gguf"), name);
  }
}

TEST(GgufTokenizer, WhatGgufCannotNameIsRefused) {
  std::vector<std::string> notes;
  for (const char* name : {"bytes_splits", "bytes_lowered", "unigram", "words_prefix", "words_suffix", "sp_metaspace", "bytes_llama3"}) {
    std::string text = text_of(std::string(name) + ".json");
    // The pieces of Llama 3 that are tokens are taken whole; no name says the opposite together with a normalizer.
    if (name == std::string("bytes_llama3")) text.replace(text.find("\"normalizer\":null"), 17, R"("normalizer":{"type":"NFC"})");
    try {
      gguf_vocabulary_of(text, name, notes);
      ADD_FAILURE() << name << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), TN_E_UNSUPPORTED) << e.what();
      EXPECT_NE(std::string(e.what()).find("GGUF"), std::string::npos) << e.what();
    }
  }
}

// The ranks of the merges become scores of the tokens that they make, as sentencepiece has it.
TEST(GgufTokenizer, SentencepieceScoresEqualRankedMerges) {
  const Json spec = read("sp_legacy.json");
  GgufVocabulary v = converted(spec, "llama", "");
  v.scores.assign(v.tokens.size(), 0);
  for (size_t i = 0; i < v.merges.size(); ++i) {
    std::string token = v.merges[i];
    token.erase(token.find(' '), 1);
    const auto at = std::find(v.tokens.begin(), v.tokens.end(), token);
    ASSERT_NE(at, v.tokens.end());
    v.scores[size_t(at - v.tokens.begin())] = -float(i);
  }
  v.merges.clear();
  for (size_t id = 0; id < v.tokens.size(); ++id)
    if (v.tokens[id].starts_with("<0x")) v.token_types[id] = 6;
  v.unk_id = 0;
  v.bos_id = 1;
  v.eos_id = 2;
  v.add_eos = true;
  const Tokenizer t = Tokenizer::from_gguf(v, "m.gguf");
  expect_goldens(t, "sp_legacy");
  EXPECT_EQ(t.encode("Hello there!", true),
            read("goldens.json")["cases"]["sp_legacy"]["special"].get<std::vector<int32_t>>());
  EXPECT_EQ(t.bos_id(), 1);
}

std::string refusal(const GgufVocabulary& v) {
  try {
    Tokenizer::from_gguf(v, "m.gguf");
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(GgufTokenizer, RefusesWhatItCannotReproduce) {
  GgufVocabulary good;
  good.model = "gpt2";
  good.tokens = {"a", "b", "ab"};
  good.merges = {"a b"};
  EXPECT_EQ(refusal(good), "accepted");
  const auto with = [&](auto edit) {
    GgufVocabulary v = good;
    edit(v);
    return refusal(v);
  };
  EXPECT_NE(with([](auto& v) { v.model = "bert"; }).find("bert"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.pre = "nosuch"; }).find("nosuch"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.tokens.clear(); }).find("empty"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.merges = {"ab"}; }).find("merge 0"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.merges = {"a c"}; }).find("\"c\""), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.token_types = {1}; }).find("token_type"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.eos_id = 3; }).find("eos_token_id"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.tokens[1] = "\xFF"; }).find("UTF-8"), std::string::npos);
  EXPECT_NE(with([](auto& v) { v.model = "llama"; }).find("scores"), std::string::npos);
  EXPECT_NE(with([](auto& v) {
              v.model = "llama";
              v.scores = {0, 1, NAN};
            }).find("finite"),
            std::string::npos);
}

}  // namespace
}  // namespace tenon::trainer
