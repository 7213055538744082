// Shared by the two halves of the parser: the stream of tokens, and the entries into expressions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/jinja/lexer.h"
#include "hosts/trainer/text/jinja/syntax.h"

namespace tenon::trainer::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek() const { return tokens_[at_]; }
  const Token& peek_after() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }  // stays on kEnd
  bool peek_operator(std::string_view op) const { return peek().kind == TokenKind::kOperator && peek().text == op; }
  bool peek_name(std::string_view name) const { return peek().kind == TokenKind::kName && peek().text == name; }
  bool accept(std::string_view op) { return peek_operator(op) && (next(), true); }
  bool accept_name(std::string_view name) { return peek_name(name) && (next(), true); }
  void expect(std::string_view op);
  std::string expect_name();

  [[noreturn]] void error(const std::string& what) const;   // a syntax error on the line of the next token
  [[noreturn]] void refuse(const std::string& what) const;  // a construct outside the subset
  std::string describe() const;                             // the next token, for an error

  int depth = 0;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

// Bounds the parser's recursion.
struct DepthGuard {
  explicit DepthGuard(TokenStream& in) : in_(in) {
    if (++in.depth > 150) in.error("the template is nested too deeply");
  }
  ~DepthGuard() { --in_.depth; }
  TokenStream& in_;
};

ExpressionPtr parse_expression(TokenStream& in);
// One expression, or several with commas between them: a tuple. `choice`: whether "a if b" may stand here.
ExpressionPtr parse_tuple(TokenStream& in, bool choice = true);
// The filters from "|" on, applied to `base`; with `leading_bar` false the first stands without its bar.
ExpressionPtr parse_filters(TokenStream& in, ExpressionPtr base, bool leading_bar = false);

}  // namespace tenon::trainer::jinja
