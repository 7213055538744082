#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/fast_splits.h"
#include "hosts/trainer/text/unicode/regex.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

TEST(Utf8, FindsTheFirstIllFormedByte) {
  EXPECT_EQ(find_invalid_utf8("plain ascii, longer than eight bytes"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("é€😀\U0010FFFF"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("0123456789\xFF"), 10u);
  EXPECT_EQ(find_invalid_utf8("a\x80"), 1u);             // a continuation byte alone
  EXPECT_EQ(find_invalid_utf8("a\xC0\x80"), 1u);         // overlong
  EXPECT_EQ(find_invalid_utf8("\xE0\x80\x80"), 0u);      // overlong
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // a surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // over U+10FFFF
  EXPECT_EQ(find_invalid_utf8("ab\xE2\x82"), 2u);        // cut short
}

TEST(Utf8, ReplacesEachMaximalPrefixOnce) {
  EXPECT_EQ(replace_invalid_utf8("a\xE2\x82z\xFF\xF0\x9F"), "a\uFFFDz\uFFFD\uFFFD");
  EXPECT_EQ(replace_invalid_utf8("é"), "é");
}

TEST(Utf8, WalksBothWays) {
  const std::string text = "aé€😀";
  std::u32string forward, backward;
  for (size_t i = 0; i < text.size();) forward += next_utf8(text, i);
  for (size_t i = text.size(); i > 0;) backward.insert(backward.begin(), previous_utf8(text, i));
  EXPECT_EQ(forward, U"aé€😀");
  EXPECT_EQ(backward, forward);
  std::string again;
  for (const char32_t c : forward) append_utf8(again, c);
  EXPECT_EQ(again, text);
}

TEST(Regex, CoversTheTextInOrderWithByteOffsets) {
  const Regex r("[0-9]+", "t");
  std::vector<Span> spans;
  r.find_all("é12😀3", spans);
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[0].end, 2u);
  EXPECT_TRUE(spans[1].match);
  EXPECT_EQ(spans[1].end, 4u);
  EXPECT_EQ(spans[3].begin, 8u);
  EXPECT_EQ(spans[3].end, 9u);
}

TEST(Regex, BacktrackingIsBounded) {
  const Regex r("(a*)*(a*)*(a*)*b", "t.json");
  std::vector<Span> spans;
  try {
    r.find_all(std::string(2000, 'a'), spans);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("t.json"), std::string::npos);
  }
}

// The hand-written matchers against the regular expressions that they replace, on random text of awkward characters.
TEST(FastSplits, EqualTheirPatterns) {
  const std::vector<std::string> alphabet = {
      "a",  "B",      "é",      "中",     "1",      "٣",      "½", " ",      " ",  "\n", "\r",
      "\t", "\u00a0", "\u3000", "\u0085", "\x0b",   "'",      "s", "T",      "re", "VE", "ll",
      "ſ",  "!",      "€",      "😀",      "\u0301", "\u200d", "_", "\u2028", "'D", ".",  "ǅ"};
  const Regex gpt2(kGpt2Pattern, "t"), llama3(kLlama3Pattern, "t"), qwen2(kQwen2Pattern, "t");
  std::mt19937 random(7);
  const auto expect_same = [](const Regex& pattern, const std::string& text,
                              const std::vector<std::string_view>& pieces) {
    std::vector<Span> spans;
    pattern.find_all(text, spans);
    ASSERT_EQ(pieces.size(), spans.size()) << text;
    for (size_t i = 0; i < spans.size(); ++i) {
      ASSERT_TRUE(spans[i].match);
      ASSERT_EQ(pieces[i], std::string_view(text).substr(spans[i].begin, spans[i].end - spans[i].begin)) << text;
    }
  };
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    for (size_t n = random() % 24; n > 0; --n) text += alphabet[random() % alphabet.size()];
    std::vector<std::string_view> a, b, c;
    split_gpt2(text, a);
    split_cl100k(text, 3, b);
    split_cl100k(text, 1, c);
    expect_same(gpt2, text, a);
    expect_same(llama3, text, b);
    expect_same(qwen2, text, c);
  }
}

}  // namespace
}  // namespace tenon::trainer
