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

class ChatTemplate {
 public:
  // `where` names the file in errors. Throws Error naming the line: TN_E_FORMAT for a syntax error, TN_E_UNSUPPORTED
  // for a construct of Jinja that no known chat template uses.
  ChatTemplate(std::string_view source, const std::string& where);

  // `messages` is an array of objects with "role" and "content". Throws Error for what the template refuses, for
  // undefined values that it uses, and when it exceeds the bounds on steps, nesting and output. [any-thread]
  std::string render(const OrderedJson& messages, const ChatOptions& options) const;

 private:
  struct Parsed;
  std::shared_ptr<const Parsed> parsed_;
  std::string where_;
};

}  // namespace tenon::trainer
