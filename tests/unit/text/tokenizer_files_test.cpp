// The tokenizer files beside an exported model: written from a GGUF vocabulary they encode as the GGUF did, and those
// of a folder are copied.
#include "hosts/trainer/text/tokenizer/tokenizer_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files/gguf_writer.h"
#include "hosts/trainer/text/tokenizer/gguf_vocabulary.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kTexts = {
    "hello world",
    "  hello\n\nhellohello 1234 5",
    "I'LL don't",
    "Grüße, ¿qué tal? 你好世界 Привет мир नमस्ते 👩‍🚀",
    "<|end|>hello<|end|> [tool] hello",
    "",
    "\t \r\n x  ",
    "aaaa aaa a\u00a0b"};

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

class TokenizerFiles : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "out");
  }
  void TearDown() override { fs::remove_all(folder_); }

  GgufFile gguf(const GgufMetadata& metadata) {
    const std::string path = (folder_ / "model.gguf").string();
    GgufWriter(path, metadata, {}).commit();
    return GgufFile::open(path);
  }
  std::string out(const char* name) const { return read(folder_ / "out" / name); }
  void write(const GgufFile& file) { copy_tokenizer_files(file.path(), &file, (folder_ / "out").string()); }

  // Writes the files and compares what they say with what the GGUF says.
  void expect_same(const GgufFile& file) {
    write(file);
    const Tokenizer expected = Tokenizer::from_gguf(read_gguf_vocabulary(file), "gguf");
    const Tokenizer actual = Tokenizer::from_json(out("tokenizer.json"), "tokenizer.json");
    ASSERT_EQ(actual.vocabulary_size(), expected.vocabulary_size());
    for (size_t id = 0; id < actual.vocabulary_size(); ++id)
      EXPECT_EQ(actual.is_special(int32_t(id)), expected.is_special(int32_t(id))) << actual.token_of(int32_t(id));
    for (const std::string& text : kTexts) {
      for (const bool special : {false, true}) {
        const std::vector<int32_t> ids = expected.encode(text, special);
        EXPECT_EQ(actual.encode(text, special), ids) << text;
        EXPECT_EQ(actual.decode(ids, special), expected.decode(ids, special)) << text;
      }
      EXPECT_EQ(actual.decode(actual.encode(text)), text);
    }
  }

  fs::path folder_ = fs::path(testing::TempDir()) / "tenon_tokenizer_files";
};

GgufMetadata byte_level(const std::string& pre) {
  std::vector<std::string> tokens = {"<|end|>", "[tool]"};
  std::vector<int32_t> types = {3, 4};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.emplace_back();
    append_utf8(tokens.back(), byte_to_char(static_cast<unsigned char>(byte)));
  }
  tokens.emplace_back("hello");  // the token of the merge below is a second one, which no text becomes
  const std::vector<std::string> merges = {"h e", "l l",   "he ll", "hell o", "\xC4\xA0 w",
                                           "a a", "aa aa", "1 2",   "12 3"};
  for (const std::string& m : merges) tokens.push_back(m.substr(0, m.find(' ')) + m.substr(m.find(' ') + 1));
  types.resize(tokens.size(), 1);
  GgufMetadata m;
  m.set_string("general.architecture", "llama");
  m.set_u32("llama.context_length", 2048);
  m.set_string("tokenizer.ggml.model", "gpt2");
  m.set_string("tokenizer.ggml.pre", pre);
  m.set_strings("tokenizer.ggml.tokens", tokens);
  m.set_i32s("tokenizer.ggml.token_type", types);
  m.set_strings("tokenizer.ggml.merges", merges);
  m.set_u32("tokenizer.ggml.bos_token_id", 0);
  m.set_u32("tokenizer.ggml.eos_token_id", 0);
  m.set_u32("tokenizer.ggml.padding_token_id", 1);
  m.set_string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
  return m;
}

TEST_F(TokenizerFiles, OfByteLevelVocabulariesEncodeAsTheGgufDid) {
  for (const char* pre : {"smollm", "llama-bpe", "dbrx", "qwen2", "gpt-2", "default", "gpt-4o"}) {
    SCOPED_TRACE(pre);
    expect_same(gguf(byte_level(pre)));
  }
}

TEST_F(TokenizerFiles, KeepTheTokensAroundAText) {
  GgufMetadata m = byte_level("smollm");
  m.set_bool("tokenizer.ggml.add_bos_token", true);
  m.set_bool("tokenizer.ggml.add_eos_token", true);
  const GgufFile file = gguf(m);
  expect_same(file);
  const std::vector<int32_t> ids = Tokenizer::from_json(out("tokenizer.json"), "").encode("hello", true);
  EXPECT_EQ(ids.front(), 0);
  EXPECT_EQ(ids.back(), 0);
  EXPECT_EQ(ids.size(), 3u);
}

TEST_F(TokenizerFiles, OfSentencepieceVocabulariesEncodeAsTheGgufDid) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(byte_token(static_cast<unsigned char>(byte)));
    types.push_back(6);
  }
  for (const char* piece : {"\xE2\x96\x81h", "el", "\xE2\x96\x81hel", "\xE2\x96\x81hello", "lo", "ll", "aa",
                            "\xE2\x96\x81", "h", "e", "l", "o", "a", "1", "\xE4\xBD\xA0", "<|end|>", "[tool]"})
    tokens.emplace_back(piece);
  types.resize(tokens.size(), 1);
  types.back() = 4, types[types.size() - 2] = 3;
  std::vector<float> scores(tokens.size());
  for (size_t i = 259; i < scores.size(); ++i) scores[i] = -float(i - 259);
  for (const bool prefixed : {true, false}) {
    GgufMetadata m;
    m.set_string("tokenizer.ggml.model", "llama");
    m.set_strings("tokenizer.ggml.tokens", tokens);
    m.set_i32s("tokenizer.ggml.token_type", types);
    m.set_f32s("tokenizer.ggml.scores", scores);
    m.set_u32("tokenizer.ggml.bos_token_id", 1);
    m.set_u32("tokenizer.ggml.eos_token_id", 2);
    m.set_u32("tokenizer.ggml.unknown_token_id", 0);
    m.set_bool("tokenizer.ggml.add_space_prefix", prefixed);
    const GgufFile file = gguf(m);
    write(file);
    const Tokenizer expected = Tokenizer::from_gguf(read_gguf_vocabulary(file), "gguf");
    const Tokenizer actual = Tokenizer::from_json(out("tokenizer.json"), "tokenizer.json");
    for (const std::string& text : kTexts) {
      EXPECT_EQ(actual.encode(text, true), expected.encode(text, true)) << text;
      EXPECT_EQ(actual.decode(expected.encode(text)), expected.decode(expected.encode(text))) << text;
    }
    EXPECT_EQ(actual.encode("hello", true).size(), prefixed ? 2u : 4u);  // <s> "▁hello", or <s> h el lo
  }
}

TEST_F(TokenizerFiles, NameTheSpecialTokensAndTheChatTemplate) {
  write(gguf(byte_level("smollm")));
  const nlohmann::json config = nlohmann::json::parse(out("tokenizer_config.json"));
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["bos_token"], "<|end|>");
  EXPECT_EQ(config["eos_token"], "<|end|>");
  EXPECT_EQ(config["pad_token"], "[tool]");
  EXPECT_FALSE(config.contains("unk_token"));
  EXPECT_EQ(config["model_max_length"], 2048);
  EXPECT_EQ(config["chat_template"], "{% for m in messages %}{{ m.content }}{% endfor %}");
}

TEST_F(TokenizerFiles, OfAnUnknownPreTokenizerAreRefusedBeforeAnythingIsWritten) {
  const GgufFile file = gguf(byte_level("of-the-future"));
  try {
    write(file);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), TN_E_UNSUPPORTED);
    EXPECT_NE(std::string(e.what()).find("of-the-future"), std::string::npos);
  }
  EXPECT_TRUE(fs::is_empty(folder_ / "out"));
}

TEST_F(TokenizerFiles, AreNoneWhereTheModelHasNone) {
  GgufMetadata m;
  m.set_string("general.architecture", "llama");
  write(gguf(m));
  copy_tokenizer_files("preset:60m", nullptr, (folder_ / "out").string());
  EXPECT_TRUE(fs::is_empty(folder_ / "out"));
}

TEST_F(TokenizerFiles, OfAFolderAreCopiedByteForByte) {
  const fs::path source = folder_ / "source";
  fs::create_directories(source);
  const std::string odd("{\"a\":\0 \r\n}", 10);
  for (const char* name : {"tokenizer.json", "chat_template.jinja", "model.safetensors"})
    std::ofstream(source / name, std::ios::binary) << odd;
  copy_tokenizer_files(source.string(), nullptr, (folder_ / "out").string());
  EXPECT_EQ(out("tokenizer.json"), odd);
  EXPECT_EQ(out("chat_template.jinja"), odd);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "out"), {}), 2);
  copy_tokenizer_files(source.string(), nullptr, source.string());  // an export over its own source
  EXPECT_EQ(read(source / "tokenizer.json"), odd);
}

}  // namespace
}  // namespace tenon::trainer
