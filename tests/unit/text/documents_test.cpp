// Reading plain text and JSON lines, and what is refused.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "hosts/trainer/text/data/documents.h"

namespace tenon::trainer {
namespace {

// One token per letter, "<e>" ends a document.
TextModel letters() {
  std::string vocab = R"("<e>":0)";
  for (int i = 1; i < 96; ++i) {
    const char c = char(31 + i);
    vocab += std::string(",\"") + (c == '"' || c == '\\' ? "\\" : "") + c + "\":" + std::to_string(i);
  }
  const std::string json =
      R"({"model":{"type":"BPE","vocab":{)" + vocab +
      R"(},"merges":[]},"decoder":{"type":"Fuse"},"added_tokens":[{"id":0,"content":"<e>","special":true}]})";
  TextModel model{Tokenizer::from_json(json, "t"), {}, {}, 0, {}, "", "<e>"};
  model.chat_template.emplace(
      "{% for m in messages %}{{ '(' + m.role[0] + m.content + ')' }}{% endfor %}{% if add_generation_prompt %}{{ '(a' "
      "}}{% endif %}",
      "t");
  return model;
}

// The documents as text, the tokens that do not count in brackets.
std::vector<std::string> shown(const Documents& d, const TextModel& model) {
  std::vector<std::string> out;
  for (size_t i = 0; i < d.size(); ++i) {
    std::string text;
    for (uint64_t t = d.begin(i); t < d.end(i); ++t) {
      const std::string one = model.tokenizer.decode(std::vector<int32_t>{d.tokens[t]});
      text += d.counts.empty() || d.counts[t] ? one : "[" + one + "]";
    }
    out.push_back(text);
  }
  return out;
}

TEST(Documents, PlainTextIsOneDocumentWithNothingAdded) {
  const TextModel model = letters();
  EXPECT_EQ(shown(parse_documents("{\"text\":1}", "a.txt", model), model), std::vector<std::string>{"{\"text\":1}"});
}

TEST(Documents, LinesOfEveryKind) {
  const TextModel model = letters();
  const Documents d = parse_documents(
      "{\"text\":\"ab\"}\r\n\n{\"prompt\":\"p\",\"completion\":\"qr\"}\n{\"messages\":[{\"role\":\"user\",\"content\":"
      "\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}]}\n"
      "{\"text\":\"done<e>\"}",
      "a.jsonl", model);
  EXPECT_EQ(shown(d, model), (std::vector<std::string>{"ab<e>", "[p]qr<e>", "[(][u][x][)][(][a]y)", "done<e>"}));
}

TEST(Documents, EverythingCountsWithoutPrompts) {
  const TextModel model = letters();
  EXPECT_TRUE(parse_documents("{\"text\":\"ab\"}\n{\"text\":\"c\"}\n", "a.jsonl", model).counts.empty());
}

TEST(Documents, OptionsNameTheFieldAndTheEnd) {
  const TextModel model = letters();
  ReadOptions options;
  options.text_field = "body";
  options.add_eos = false;
  EXPECT_EQ(shown(parse_documents("{\"body\":\"ab\",\"text\":7}", "a.jsonl", model, options), model),
            std::vector<std::string>{"ab"});
}

std::string refusal(const std::string& bytes, const std::string& source, bool chat = true) {
  TextModel model = letters();
  if (!chat) model.chat_template.reset();
  try {
    parse_documents(bytes, source, model);
  } catch (const Error& e) {
    return e.what();
  }
  return "read";
}

TEST(Documents, RefusalsNameTheFileThePlaceAndTheFault) {
  struct {
    const char *bytes, *source, *word, *word2;
  } const cases[] = {{"", "a.txt", "empty", ""},
                     {"good \xff\xfe", "a.txt", "UTF-8", "byte 5"},
                     {"{\"text\":\"a\"}\n{\"text\": \n", "a.jsonl", "line 2", "JSON"},
                     {"{\"text\":\"a\"}\n{\"text\":\"\xff\"}\n", "a.jsonl", "line 2", "UTF-8"},
                     {"{\"foo\":1}\n", "a.jsonl", "\"text\"", "line 1"},
                     {"{\"text\":5}\n", "a.jsonl", "\"text\"", "number"},
                     {"{\"prompt\":\"a\"}\n", "a.jsonl", "completion", "absent"},
                     {"[1]\n", "a.jsonl", "\"text\"", "line 1"},
                     {"\n \n", "a.jsonl", "no documents", ""},
                     {"{\"messages\":[]}", "a.jsonl", "messages", "line 1"},
                     {"{\"messages\":[{\"content\":\"x\"}]}", "a.jsonl", "role", "line 1"},
                     {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "a.jsonl", "line 1", "rendered"}};
  for (const auto& c : cases) {
    const std::string what = refusal(c.bytes, c.source);
    EXPECT_TRUE(what.starts_with(c.source)) << what;
    EXPECT_NE(what.find(c.word), std::string::npos) << what;
    EXPECT_NE(what.find(c.word2), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }
  EXPECT_NE(
      refusal("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "a.jsonl", false).find("no chat template"),
      std::string::npos);
}

// 'a' has the id 66, 'b' 67: a model of 67 rows can read the first and not the second.
TEST(Documents, TokensWithoutARowAreRefusedWhereTheyStand) {
  TextModel model = letters();
  model.rows = 67;
  EXPECT_EQ(shown(parse_documents("aA", "a.txt", model), model), std::vector<std::string>{"aA"});
  const auto refused = [&](const std::string& bytes, const std::string& source) -> std::string {
    try {
      parse_documents(bytes, source, model);
    } catch (const Error& e) {
      return e.what();
    }
    return "read";
  };
  for (const std::string& what : {refused("aab", "a.txt"), refused("{\"text\":\"aab\"}", "a.jsonl")}) {
    EXPECT_TRUE(what.starts_with("a.")) << what;
    for (const char* word : {"'b'", "67", "vocabulary of 67"}) EXPECT_NE(what.find(word), std::string::npos) << what;
  }
  EXPECT_NE(refused("{\"text\":\"a\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n", "a.jsonl").find("line 2"), std::string::npos);
  model.eos_id = 80;  // the end of a document is a token like any other
  EXPECT_NE(refused("{\"text\":\"a\"}", "a.jsonl").find("80"), std::string::npos);
}

TEST(Documents, FilesAreReadByPath) {
  const TextModel model = letters();
  const std::string path = testing::TempDir() + "/tenon_documents_test.jsonl";
  std::ofstream(path) << "{\"text\":\"abc\"}\n";
  EXPECT_EQ(shown(read_documents(path, model), model), std::vector<std::string>{"abc<e>"});
  std::filesystem::remove(path);
  EXPECT_THROW(read_documents(path, model), Error);
}

}  // namespace
}  // namespace tenon::trainer
