// Template source to tokens, with Jinja's white-space control (trim_blocks and lstrip_blocks on, as transformers sets
// them).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/jinja/value.h"

namespace tenon::trainer::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kPrintBegin,
  kPrintEnd,
  kName,
  kString,
  kNumber,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind;
  std::string text;  // data, name, operator, or the unescaped string
  Value number{};
  int line = 1;
};

// Ends with one kEnd. Throws Error (TN_E_FORMAT) naming the line.
std::vector<Token> tokenize_template(std::string_view source);

}  // namespace tenon::trainer::jinja
