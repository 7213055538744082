// Loading a model's tokenizer, special tokens and chat template.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "hosts/trainer/text/text_model.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

class TextModelFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              ("tenon_text_model_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::create_directories(folder_);
    write("tokenizer.json", R"({"model":{"type":"BPE","vocab":{"a":0,"<s>":1,"</s>":2,"<p>":3},"merges":[]}})");
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
  TextModel load() { return load_text_model(folder_.string()); }
  std::string refusal() {
    try {
      load();
    } catch (const Error& e) {
      return e.what();
    }
    return "loaded";
  }
  fs::path folder_;
};

TEST_F(TextModelFolder, TokenizerAloneIsEnough) {
  const TextModel m = load();
  EXPECT_FALSE(m.eos_id || m.bos_id || m.pad_id || m.chat_template);
}

TEST_F(TextModelFolder, TokenizerConfigNamesTokensAndTemplate) {
  write("tokenizer_config.json",
        R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","pad_token":"<p>","chat_template":"{{ eos_token }}"})");
  const TextModel m = load();
  EXPECT_EQ(m.bos_id, 1);
  EXPECT_EQ(m.eos_id, 2);
  EXPECT_EQ(m.pad_id, 3);
  EXPECT_EQ(m.eos_token, "</s>");
  ASSERT_TRUE(m.chat_template);
  ChatOptions options;
  options.eos_token = m.eos_token;
  EXPECT_EQ(m.chat_template->render(OrderedJson::array(), options), "</s>");
}

TEST_F(TextModelFolder, ConfigNamesIdsWhenTheTokenizerDoesNot) {
  write("config.json", R"({"bos_token_id":1,"eos_token_id":[2,3],"pad_token_id":-1})");
  const TextModel m = load();
  EXPECT_EQ(m.bos_id, 1);
  EXPECT_EQ(m.eos_id, 2);
  EXPECT_EQ(m.eos_token, "</s>");
  EXPECT_EQ(m.pad_id, std::nullopt);
}

TEST_F(TextModelFolder, NamedTemplatesAndTemplateFiles) {
  write("tokenizer_config.json",
        R"({"chat_template":[{"name":"rag","template":"{{ bad"},{"name":"default","template":"one"}]})");
  EXPECT_EQ(load().chat_template->render(OrderedJson::array(), {}), "one");
  write("chat_template.jinja", "two\n");
  EXPECT_EQ(load().chat_template->render(OrderedJson::array(), {}), "two");
}

TEST_F(TextModelFolder, TheFileAloneStandsForItsFolder) {
  EXPECT_EQ(load_text_model((folder_ / "tokenizer.json").string()).path, folder_.string());
}

TEST_F(TextModelFolder, RefusalsNameTheFile) {
  write("tokenizer_config.json", R"({"eos_token":7})");
  EXPECT_NE(refusal().find("tokenizer_config.json"), std::string::npos);
  write("tokenizer_config.json", R"({"chat_template":"{{ x"})");
  EXPECT_NE(refusal().find("line 1"), std::string::npos);
  fs::remove(folder_ / "tokenizer.json");
  EXPECT_NE(refusal().find("no tokenizer.json"), std::string::npos);
  write("tokenizer.model", "sentencepiece");
  EXPECT_NE(refusal().find("save the tokenizer again with transformers"), std::string::npos);
  fs::remove_all(folder_);
  EXPECT_NE(refusal().find("no such file"), std::string::npos);
}

}  // namespace
}  // namespace tenon::trainer
