// Bounds, refusals and the ranges of the assistant's answers.
#include <gtest/gtest.h>

#include "core/error.h"
#include "hosts/trainer/text/chat_template.h"

namespace tenon::trainer {
namespace {

const OrderedJson kTalk = OrderedJson::parse(
    R"([{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"},{"role":"user","content":"Bye"},{"role":"assistant","content":"So long"}])");

std::string refusal(const std::string& source) {
  try {
    ChatTemplate(source, "m").render(kTalk, {});
  } catch (const Error& e) {
    return e.what();
  }
  return "rendered";
}

TEST(ChatTemplate, HostileTemplatesEndInASentence) {
  const std::string cases[] = {
      "{% set ns = namespace(s='ab') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{{ 'a' * 99999999999 }}",
      "{{ [1] * 99999999999 }}",
      "{{ range(99999999999) }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 999999 }}",
      "{{ (-9223372036854775807 - 1) // -1 }}",
      "{{ 'x' | replace('', 'yyyyyyyyyyyyyyyyyyyyyy') | indent(99999) }}",
      "{% set ns = namespace(n=1) %}{% set ns.me = ns %}",
      "{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}",
      "{{ 1" +
          [] {
            std::string s;
            for (int i = 0; i < 100000; ++i) s += "+1";
            return s;
          }() +
          " }}",
      [] {
        std::string s;
        for (int i = 0; i < 100000; ++i) s += "{% if 1 %}";
        return s;
      }(),
      "{{ '\\ud800' }}",
      "{{ messages | tojson(indent=9999) }}"};
  for (const std::string& source : cases) {
    const std::string what = refusal(source);
    EXPECT_TRUE(what.starts_with("m: chat template, line ")) << source.substr(0, 80) << ": " << what;
  }
}

TEST(ChatTemplate, NamesConstructsOutsideTheSubset) {
  const std::pair<const char*, const char*> cases[] = {{"{% include 'x' %}", "include"},
                                                       {"{% block x %}{% endblock %}", "block"},
                                                       {"{% for x in messages recursive %}{% endfor %}", "recursive"},
                                                       {"{{ 'a'.encode() }}", "encode"},
                                                       {"{{ messages | groupby('role') }}", "groupby"},
                                                       {"{{ f(*messages) }}", "*"},
                                                       {"{{ '%s' % 1 }}", "%"},
                                                       {"a\nb\n{% break %}", "line 3"},
                                                       {"\n{{ raise_exception('x') }}", "line 2"}};
  for (const auto& [source, word] : cases) EXPECT_NE(refusal(source).find(word), std::string::npos) << refusal(source);
}

TEST(ChatTemplate, TimeIsAnOption) {
  ChatOptions options;
  options.now = 86400 * 365;
  EXPECT_EQ(ChatTemplate("{{ strftime_now('%Y') }}", "m").render(kTalk, options), "1971");
}

std::vector<std::string> answers(const std::string& source) {
  const RenderedChat chat = ChatTemplate(source, "m").render_answers(kTalk, {});
  std::vector<std::string> out;
  for (const auto& [begin, end] : chat.answers) out.push_back(chat.text.substr(begin, end - begin));
  return out;
}

const std::string kChatMl =
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</>' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<assistant>' }}{% endif %}";

TEST(ChatTemplate, AnswersAreWhatFollowsTheGenerationPrompt) {
  EXPECT_EQ(answers(kChatMl), (std::vector<std::string>{"Hello</>", "So long</>"}));
}

TEST(ChatTemplate, GenerationBlocksMarkAnswersThemselves) {
  EXPECT_EQ(answers("{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content "
                    "}}{% endgeneration %}{% else %}{{ m.content }}{% endif %};{% endfor %}"),
            (std::vector<std::string>{"Hello", "So long"}));
}

TEST(ChatTemplate, ATemplateThatRewritesEarlierTurnsIsRefused) {
  EXPECT_THROW(answers("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"), Error);
}

}  // namespace
}  // namespace tenon::trainer
