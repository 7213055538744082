// Damaged and hostile tokenizer.json and GGUF vocabularies: one sentence that names the file, never a crash.
#include <gtest/gtest.h>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {
namespace {

std::string refusal(const std::string& json) {
  try {
    Tokenizer::from_json(json, "t.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

std::string bpe(const std::string& vocab, const std::string& merges, const std::string& more = "",
                const std::string& outer = "") {
  return R"({"model":{"type":"BPE","vocab":)" + vocab + R"(,"merges":)" + merges + more + "}" + outer + "}";
}

struct Case {
  std::string json, word;
};

class TokenizerRefusal : public testing::TestWithParam<Case> {};

TEST_P(TokenizerRefusal, NamesTheFileAndTheFault) {
  const std::string what = refusal(GetParam().json);
  EXPECT_TRUE(what.starts_with("t.json: ")) << what;
  EXPECT_NE(what.find(GetParam().word), std::string::npos) << what;
  EXPECT_EQ(what.find('\n'), std::string::npos) << what;
}

INSTANTIATE_TEST_SUITE_P(
    All, TokenizerRefusal,
    testing::Values(
        Case{"", "JSON"}, Case{"{]", "JSON"}, Case{std::string(200000, '['), "deeper"}, Case{"[]", "object"},
        Case{"{}", "model"}, Case{R"({"model":5})", "model"}, Case{R"({"model":{"type":"WordPiece"}})", "WordPiece"},
        Case{bpe("[1,2]", R"({"a":1})"), "vocab"}, Case{bpe("{}", "[]"), "empty"},
        Case{bpe(R"({"a":0})", R"({"a":1})"), "merges"}, Case{bpe(R"({"a":-1})", "[]"), "vocab"},
        Case{bpe(R"({"a":1.5})", "[]"), "vocab"}, Case{bpe(R"({"a":18446744073709551615})", "[]"), "vocab"},
        Case{bpe(R"({"a":9223372036854775807})", "[]"), "vocab"}, Case{bpe(R"({"a":16777215})", "[]"), "out of range"},
        Case{bpe(R"({"a":0,"b":0})", "[]"), "share the id"}, Case{bpe(R"({"a":0,"b":1})", R"(["a b"])"), "\"ab\""},
        Case{bpe(R"({"a":0})", R"([["a","z"]])"), "\"z\""}, Case{bpe(R"({"a":0})", R"(["a b c"])"), "one space"},
        Case{bpe(R"({"a":0})", R"([["a"]])"), "merges"},
        Case{bpe(R"({"a":0})", "[]", R"(,"unk_token":"<unk>")"), "<unk>"},
        Case{bpe(R"({"a":0})", "[]", R"(,"fuse_unk":"yes")"), "fuse_unk"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"normalizer":{"type":"Precompiled"})"), "Precompiled"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"normalizer":3)"), "normalizer"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"pre_tokenizer":{"type":"UnicodeScripts"})"), "UnicodeScripts"},
        Case{bpe(R"({"a":0})", "[]", "",
                 R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})"),
             "compile"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"pre_tokenizer":{"type":"Split","pattern":7,"behavior":"Isolated"})"),
             "pattern"},
        Case{bpe(R"({"a":0})", "[]", "",
                 R"(,"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Mine"})"),
             "Mine"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"pre_tokenizer":{"type":"Metaspace","replacement":""})"), "replacement"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"pre_tokenizer":{"type":"Metaspace","prepend_scheme":"maybe"})"),
             "prepend_scheme"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"decoder":{"type":"CTC"})"), "CTC"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"decoder":{"type":"Strip","content":" ","start":-1,"stop":0})"), "start"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"post_processor":{"type":"Other"})"), "Other"},
        Case{bpe(R"({"a":0})", "[]", "",
                 R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}}]})"),
             "<s>"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"post_processor":{"type":"BertProcessing","cls":["a",0],"sep":["b",99]})"),
             "post_processor"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"added_tokens":[{"id":16777214,"content":"x"}])"), "out of range"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"added_tokens":[{"id":"1","content":"x"}])"), "id"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"added_tokens":[{"id":1}])"), "content"},
        Case{bpe(R"({"a":0})", "[]", "", R"(,"added_tokens":{})"), "added_tokens"},
        Case{R"({"model":{"type":"Unigram","vocab":[["a",-1]]}})", "unk_id"},
        Case{R"({"model":{"type":"Unigram","vocab":[["a",-1]],"unk_id":5}})", "unk_id"},
        Case{R"({"model":{"type":"Unigram","vocab":[["a"]],"unk_id":0}})", "vocab"},
        Case{R"({"model":{"type":"Unigram","vocab":[],"unk_id":0}})", "empty"}));

TEST(Tokenizer, NestedStepsAreBounded) {
  std::string spec = "null";
  for (int i = 0; i < 20; ++i) spec = R"({"type":"Sequence","normalizers":[)" + spec + "]}";
  EXPECT_NE(refusal(bpe(R"({"a":0})", "[]", "", ",\"normalizer\":" + spec)).find("nested"), std::string::npos);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8NamingTheByte) {
  const Tokenizer t = Tokenizer::from_json(bpe(R"({"a":0})", "[]"), "t.json");
  try {
    t.encode("aaa\xFFz");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("UTF-8 at byte 3"), std::string::npos) << e.what();
  }
}

TEST(Tokenizer, IdsWithoutATokenDecodeToNothing) {
  const Tokenizer t = Tokenizer::from_json(bpe(R"({"a":0,"b":5})", "[]"), "t.json");
  EXPECT_EQ(t.vocabulary_size(), 6u);
  EXPECT_EQ(t.decode(std::vector<int32_t>{0, 3, 5, -1, 1 << 30}), "a b");
  EXPECT_EQ(t.token_of(3), "");
  EXPECT_EQ(t.id_of("b"), 5);
  EXPECT_EQ(t.id_of("c"), std::nullopt);
}

TEST(Tokenizer, SpecialTokensCanBeLeftOut) {
  const Tokenizer t = Tokenizer::from_json(
      bpe(R"({"a":0})", "[]", "",
          R"(,"decoder":{"type":"Fuse"},"added_tokens":[{"id":1,"content":"<s>","special":true}])"),
      "t.json");
  const std::vector<int32_t> ids = t.encode("a<s>a");
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 0}));
  EXPECT_EQ(t.decode(ids), "a<s>a");
  EXPECT_EQ(t.decode(ids, true), "aa");
  EXPECT_TRUE(t.is_special(1));
  EXPECT_FALSE(t.is_special(0));
}

}  // namespace
}  // namespace tenon::trainer
