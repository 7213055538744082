// Every kind of tokenizer.json against what Hugging Face `tokenizers` made of the same texts
// (tests/reference/tokenizers).
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "core/files/json.h"
#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

const std::string kFolder = TENON_SOURCE_DIR "/tests/reference/tokenizers/";

const Json& goldens() {
  static const Json all = Json::parse(read_file(kFolder + "goldens.json"));
  return all;
}

class TokenizerGolden : public testing::TestWithParam<std::string> {
 protected:
  Tokenizer tokenizer_ = Tokenizer::from_json(read_file(kFolder + GetParam() + ".json"), GetParam() + ".json");
  const Json& golden_ = goldens()["cases"][GetParam()];
  std::vector<std::string> texts_ = goldens()["texts"].get<std::vector<std::string>>();
};

TEST_P(TokenizerGolden, EncodesAsTheReference) {
  for (size_t i = 0; i < texts_.size(); ++i)
    EXPECT_EQ(tokenizer_.encode(texts_[i]), golden_["ids"][i].get<std::vector<int32_t>>())
        << "text " << i << ": " << texts_[i];
}

TEST_P(TokenizerGolden, AddsTheSpecialTokensOfThePostProcessor) {
  EXPECT_EQ(tokenizer_.encode(texts_[0], true), golden_["special"].get<std::vector<int32_t>>());
}

TEST_P(TokenizerGolden, DecodesAsTheReference) {
  for (size_t i = 0; i < texts_.size(); ++i) {
    const Json& decoded = golden_["decoded"][i];
    EXPECT_EQ(tokenizer_.decode(golden_["ids"][i].get<std::vector<int32_t>>()),
              decoded.is_null() ? texts_[i] : decoded.get<std::string>())
        << "text " << i;
  }
}

TEST_P(TokenizerGolden, StreamsTheTextThatDecodingAtOnceGives) {
  for (const auto& ids : golden_["ids"].get<std::vector<std::vector<int32_t>>>()) {
    StreamDecoder stream(tokenizer_);
    std::string text;
    for (const int32_t id : ids) text += stream.push(id);
    text += stream.finish();
    EXPECT_EQ(text, tokenizer_.decode(ids));
  }
}

// A long text is worked off in parts; the second half of the repeated text then lies in later parts.
TEST_P(TokenizerGolden, LongTextsEqualTheirPiecewiseEncoding) {
  std::string unit;
  for (const auto& t : texts_) unit += t + "word\n";
  std::string text = unit;
  while (text.size() < 700000) text += unit;
  const std::vector<int32_t> once = tokenizer_.encode(unit), all = tokenizer_.encode(text);
  ASSERT_GT(all.size(), 2 * once.size());
  const std::string tail(text.end() - std::ptrdiff_t(unit.size()), text.end());
  const size_t repeats = text.size() / unit.size();
  const std::vector<int32_t> twice = tokenizer_.encode(unit + unit);
  const size_t period = twice.size() - once.size();
  EXPECT_EQ(all.size(), once.size() + period * (repeats - 1));
  for (size_t i = once.size(); i + period < all.size(); ++i) ASSERT_EQ(all[i], all[i + period]) << i;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, value] : goldens()["cases"].items()) all.push_back(name);
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tenon::trainer
