#include "hosts/trainer/text/chat_template.h"

#include "core/error.h"
#include "hosts/trainer/text/jinja/evaluator.h"

namespace tenon::trainer {
namespace {

constexpr size_t kLongestTemplate = 1 << 20;

template <class F>
auto naming(const std::string& where, F f) {
  try {
    return f();
  } catch (const Error& e) {
    throw Error(e.code(), where + ": chat template, " + e.what());
  }
}

}  // namespace

struct ChatTemplate::Parsed : jinja::Template {};

ChatTemplate::ChatTemplate(std::string_view source, const std::string& where) : where_(where) {
  if (source.size() > kLongestTemplate)
    throw Error(TN_E_FORMAT, where + ": the chat template has " + std::to_string(source.size()) +
                                 " bytes, over the limit of " + std::to_string(kLongestTemplate));
  parsed_ = std::make_shared<Parsed>(Parsed{naming(where, [&] { return jinja::parse_template(source); })});
}

std::string ChatTemplate::render(const OrderedJson& messages, const ChatOptions& options) const {
  return run(messages, options).text;
}

RenderedChat ChatTemplate::render_answers(const OrderedJson& messages, ChatOptions options) const {
  options.add_generation_prompt = false;
  RenderedChat whole = run(messages, options);
  if (!whole.answers.empty()) return whole;
  OrderedJson before = OrderedJson::array();
  for (const auto& message : messages) {
    const bool answer = message.is_object() && message.contains("role") && message["role"] == "assistant";
    std::string prompt;
    if (answer) {
      options.add_generation_prompt = true;
      prompt = run(before, options).text;
      options.add_generation_prompt = false;
    }
    before.push_back(message);
    if (!answer) continue;
    const std::string after = before.size() == messages.size() ? whole.text : run(before, options).text;
    // Templates that trim spaces may end the prompt with one that the answer then lacks.
    while (prompt.ends_with(' ') && !after.starts_with(prompt)) prompt.pop_back();
    if (!after.starts_with(prompt) || !whole.text.starts_with(after))
      throw Error(TN_E_UNSUPPORTED,
                  where_ +
                      ": the chat template rewrites earlier turns, so that the assistant's answers cannot be "
                      "told apart; put {% generation %} around them in the template");
    whole.answers.emplace_back(prompt.size(), after.size());
  }
  return whole;
}

RenderedChat ChatTemplate::run(const OrderedJson& messages, const ChatOptions& options) const {
  using jinja::Value;
  return naming(where_, [&] {
    std::vector<std::pair<std::string, Value>> globals = {
        {"messages", jinja::from_json(messages)},   {"add_generation_prompt", options.add_generation_prompt},
        {"bos_token", options.bos_token},           {"eos_token", options.eos_token},
        {"tools", jinja::from_json(options.tools)}, {"documents", jinja::from_json(options.documents)}};
    for (const auto& [name, value] : options.variables) globals.emplace_back(name, jinja::from_json(value));
    jinja::Evaluator evaluator(std::move(globals), options.now ? options.now : std::time(nullptr));
    std::string text = evaluator.render(*parsed_);
    return RenderedChat{std::move(text), evaluator.answers()};
  });
}

}  // namespace tenon::trainer
