// Chat templates against jinja2 configured as transformers does (tests/reference/chat_templates).
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "hosts/trainer/text/chat_template.h"

namespace tenon::trainer {
namespace {

const OrderedJson& goldens() {
  static const OrderedJson all = [] {
    std::ifstream in(TENON_SOURCE_DIR "/tests/reference/chat_templates/goldens.json");
    return OrderedJson::parse(in);
  }();
  return all;
}

class ChatTemplateGolden : public testing::TestWithParam<size_t> {};

TEST_P(ChatTemplateGolden, RendersAsTheReference) {
  const OrderedJson& g = goldens()[GetParam()];
  ChatOptions options;
  options.bos_token = "<s>";
  options.eos_token = "</s>";
  for (const auto& [key, value] : g["options"].items()) {
    if (key == "add_generation_prompt")
      options.add_generation_prompt = value.get<bool>();
    else if (key == "tools")
      options.tools = value;
    else
      options.variables.emplace_back(key, value);
  }
  const auto render = [&] {
    return ChatTemplate(g["template"].get<std::string>(), "model").render(g["messages"], options);
  };
  SCOPED_TRACE(g["name"].get<std::string>());
  if (g.contains("expected")) {
    EXPECT_EQ(render(), g["expected"].get<std::string>());
    return;
  }
  try {
    const std::string text = render();
    FAIL() << "rendered: " << text;
  } catch (const Error& e) {
    const std::string what = e.what();
    EXPECT_TRUE(what.starts_with("model: chat template, line ")) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    const std::string word = g["name"].get<std::string>().starts_with("error") ? g["error"].get<std::string>() : "";
    EXPECT_NE(what.find(word), std::string::npos) << what;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ChatTemplateGolden, testing::Range(size_t{0}, goldens().size()));

}  // namespace
}  // namespace tenon::trainer
