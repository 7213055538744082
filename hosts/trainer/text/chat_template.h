// A model's chat template: a conversation in, the prompt's text out, as transformers' apply_chat_template renders it.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hosts/trainer/text/json_input.h"

namespace tenon::trainer {

struct ChatOptions {
  bool add_generation_prompt = false;
  std::string bos_token, eos_token;
  OrderedJson tools, documents;  // null: not given
  std::vector<std::pair<std::string, OrderedJson>>
      variables;        // more of the template's variables, such as enable_thinking
  std::time_t now = 0;  // what strftime_now prints; 0: the present
};

// A rendered conversation. `answers` are the byte ranges of the assistant's words, in order.
struct RenderedChat {
  std::string text;
  std::vector<std::pair<size_t, size_t>> answers;
};

class ChatTemplate {
 public:
  // `where` names the file in errors. Throws Error naming the line: TN_E_FORMAT for a syntax error, TN_E_UNSUPPORTED
  // for a construct of Jinja that no known chat template uses.
  ChatTemplate(std::string_view source, const std::string& where);

  // `messages` is an array of objects with "role" and "content". Throws Error for what the template refuses, for
  // undefined values that it uses, and when it exceeds the bounds on steps, nesting and output. [any-thread]
  std::string render(const OrderedJson& messages, const ChatOptions& options) const;

  // A whole conversation and where the assistant speaks: what {% generation %} blocks mark, or else what a message of
  // the assistant adds to the rendering of the messages before it with the generation prompt. Throws Error when the
  // template rewrites earlier turns, so that no such ranges exist. [any-thread]
  RenderedChat render_answers(const OrderedJson& messages, ChatOptions options) const;

 private:
  RenderedChat run(const OrderedJson& messages, const ChatOptions& options) const;

  struct Parsed;
  std::shared_ptr<const Parsed> parsed_;
  std::string where_;
};

}  // namespace tenon::trainer
