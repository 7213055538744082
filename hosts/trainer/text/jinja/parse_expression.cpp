// Expressions, with the precedence of Jinja's own parser: choice, or, and, not, comparison, + -, ~, * / // %, **,
// unary, postfix.
#include <algorithm>

#include "hosts/trainer/text/jinja/parser.h"

namespace tenon::trainer::jinja {
namespace {

ExpressionPtr make(Form form, int line, std::string name = {}) {
  auto e = std::make_unique<Expression>();
  e->form = form;
  e->line = line;
  e->name = std::move(name);
  return e;
}

ExpressionPtr make(Form form, int line, std::string name, ExpressionPtr a, ExpressionPtr b = nullptr) {
  auto e = make(form, line, std::move(name));
  e->items.push_back(std::move(a));
  if (b) e->items.push_back(std::move(b));
  return e;
}

ExpressionPtr parse_or(TokenStream& in);
ExpressionPtr parse_unary(TokenStream& in, bool with_filters);

// A left-associative chain makes a tree as deep as it is long, and the evaluator recurses over it.
constexpr int kLongestChain = 200;

template <class Next>
ExpressionPtr parse_chain(TokenStream& in, std::initializer_list<std::string_view> ops, Next next) {
  ExpressionPtr left = next(in);
  for (int n = 0;
       in.peek().kind == TokenKind::kOperator && std::find(ops.begin(), ops.end(), in.peek().text) != ops.end(); ++n) {
    if (n > kLongestChain) in.error("an expression has more than 200 operators in a row");
    const Token op = in.next();
    left = make(Form::kBinary, op.line, op.text, std::move(left), next(in));
  }
  return left;
}

ExpressionPtr parse_power(TokenStream& in) {
  return parse_chain(in, {"**"}, [](TokenStream& s) { return parse_unary(s, true); });
}
ExpressionPtr parse_product(TokenStream& in) {
  return parse_chain(in, {"*", "/", "//", "%"}, parse_power);
}
ExpressionPtr parse_concat(TokenStream& in) {
  return parse_chain(in, {"~"}, parse_product);
}
ExpressionPtr parse_sum(TokenStream& in) {
  return parse_chain(in, {"+", "-"}, parse_concat);
}

ExpressionPtr parse_compare(TokenStream& in) {
  ExpressionPtr first = parse_sum(in);
  ExpressionPtr chain;
  for (;;) {
    std::string op;
    const Token& t = in.peek();
    if (t.kind == TokenKind::kOperator &&
        (t.text == "==" || t.text == "!=" || t.text == "<" || t.text == "<=" || t.text == ">" || t.text == ">=")) {
      op = in.next().text;
    } else if (in.accept_name("in")) {
      op = "in";
    } else if (in.peek_name("not") && in.peek_after().kind == TokenKind::kName && in.peek_after().text == "in") {
      in.next();
      in.next();
      op = "not in";
    } else {
      break;
    }
    if (!chain) chain = make(Form::kCompare, t.line, "", std::move(first));
    chain->names.push_back(op);
    chain->items.push_back(parse_sum(in));
  }
  return chain ? std::move(chain) : std::move(first);
}

ExpressionPtr parse_not(TokenStream& in) {
  const DepthGuard guard(in);
  const int line = in.peek().line;
  if (in.accept_name("not")) return make(Form::kUnary, line, "not", parse_not(in));
  return parse_compare(in);
}

template <class Next>
ExpressionPtr parse_logic(TokenStream& in, std::string_view word, Next next) {
  ExpressionPtr left = next(in);
  for (int n = 0; in.peek_name(word); ++n) {
    if (n > kLongestChain) in.error("an expression has more than 200 operators in a row");
    const int line = in.next().line;
    left = make(Form::kBinary, line, std::string(word), std::move(left), next(in));
  }
  return left;
}

ExpressionPtr parse_and(TokenStream& in) {
  return parse_logic(in, "and", parse_not);
}
ExpressionPtr parse_or(TokenStream& in) {
  return parse_logic(in, "or", parse_and);
}

// Arguments up to the closing bracket, after the opening one.
void parse_arguments(TokenStream& in, Expression& call) {
  bool first = true;
  while (!in.accept(")")) {
    if (!first) {
      in.expect(",");
      if (in.accept(")")) return;
    }
    first = false;
    if (in.peek_operator("*") || in.peek_operator("**")) in.refuse("a call with * or **");
    if (in.peek().kind == TokenKind::kName && in.peek_after().kind == TokenKind::kOperator &&
        in.peek_after().text == "=") {
      const std::string name = in.next().text;
      in.next();
      call.named.emplace_back(name, parse_expression(in));
    } else {
      if (!call.named.empty()) in.error("an argument without a name follows one with a name");
      call.items.push_back(parse_expression(in));
    }
  }
}

ExpressionPtr parse_subscript(TokenStream& in, ExpressionPtr base, int line) {
  ExpressionPtr parts[3];
  int part = 0;
  bool slice = false;
  while (!in.peek_operator("]")) {
    if (in.accept(":")) {
      slice = true;
      if (++part > 2) in.error("a slice has more than two colons");
    } else {
      parts[part] = parse_expression(in);
      if (!in.peek_operator(":") && !in.peek_operator("]")) in.error("\"]\" was expected, not " + in.describe());
    }
  }
  in.expect("]");
  if (!slice) {
    if (!parts[0]) in.error("a subscript is empty");
    return make(Form::kItem, line, "", std::move(base), std::move(parts[0]));
  }
  auto e = make(Form::kSlice, line, "", std::move(base));
  for (auto& p : parts) e->items.push_back(std::move(p));
  return e;
}

ExpressionPtr parse_postfix(TokenStream& in, ExpressionPtr e) {
  for (int n = 0;; ++n) {
    if (n > kLongestChain) in.error("an expression has more than 200 members in a row");
    const int line = in.peek().line;
    if (in.accept(".")) {
      if (in.peek().kind == TokenKind::kNumber) {  // "list.0"
        auto index = make(Form::kLiteral, line);
        index->value = in.next().number;
        e = make(Form::kItem, line, "", std::move(e), std::move(index));
      } else {
        const std::string name = in.expect_name();
        e = make(Form::kAttribute, line, name, std::move(e));
      }
    } else if (in.accept("[")) {
      e = parse_subscript(in, std::move(e), line);
    } else if (in.accept("(")) {
      e = make(Form::kCall, line, "", std::move(e));
      parse_arguments(in, *e);
    } else {
      return e;
    }
  }
}

ExpressionPtr literal(int line, Value v) {
  auto e = make(Form::kLiteral, line);
  e->value = std::move(v);
  return e;
}

ExpressionPtr parse_primary(TokenStream& in) {
  const Token t = in.peek();
  if (t.kind == TokenKind::kNumber) return in.next(), literal(t.line, t.number);
  if (t.kind == TokenKind::kString) {
    std::string text;
    while (in.peek().kind == TokenKind::kString) text += in.next().text;  // neighbours join, as in Python
    return literal(t.line, std::move(text));
  }
  if (t.kind == TokenKind::kName) {
    in.next();
    if (t.text == "true" || t.text == "True") return literal(t.line, true);
    if (t.text == "false" || t.text == "False") return literal(t.line, false);
    if (t.text == "none" || t.text == "None") return literal(t.line, None{});
    return make(Form::kName, t.line, t.text);
  }
  if (in.accept("(")) {
    if (in.accept(")")) return make(Form::kTuple, t.line);
    ExpressionPtr e = parse_tuple(in);
    in.expect(")");
    return e;
  }
  if (in.accept("[")) {
    auto e = make(Form::kList, t.line);
    while (!in.accept("]")) {
      if (!e->items.empty()) {
        in.expect(",");
        if (in.accept("]")) break;
      }
      e->items.push_back(parse_expression(in));
    }
    return e;
  }
  if (in.accept("{")) {
    auto e = make(Form::kDict, t.line);
    while (!in.accept("}")) {
      if (!e->items.empty()) {
        in.expect(",");
        if (in.accept("}")) break;
      }
      e->items.push_back(parse_expression(in));
      in.expect(":");
      e->items.push_back(parse_expression(in));
    }
    return e;
  }
  in.error("an expression was expected, not " + in.describe());
}

ExpressionPtr parse_test(TokenStream& in, ExpressionPtr base) {
  const int line = in.peek().line;
  const bool negated = in.accept_name("not");
  auto e = make(Form::kTest, line, in.expect_name(), std::move(base));
  const Token& t = in.peek();
  const bool bracket = t.kind == TokenKind::kOperator && (t.text == "[" || t.text == "{");
  const bool word = t.kind == TokenKind::kName && t.text != "else" && t.text != "or" && t.text != "and" &&
                    t.text != "if" && t.text != "is" && t.text != "not" && t.text != "in" && t.text != "recursive";
  if (in.accept("(")) {
    parse_arguments(in, *e);
  } else if (bracket || word || t.kind == TokenKind::kString || t.kind == TokenKind::kNumber) {
    e->items.push_back(parse_postfix(in, parse_primary(in)));
  }
  return negated ? make(Form::kUnary, line, "not", std::move(e)) : std::move(e);
}

ExpressionPtr parse_unary(TokenStream& in, bool with_filters) {
  const DepthGuard guard(in);
  const int line = in.peek().line;
  ExpressionPtr e;
  if (in.accept("-")) {
    e = make(Form::kUnary, line, "-", parse_unary(in, false));
  } else if (in.accept("+")) {
    e = make(Form::kUnary, line, "+", parse_unary(in, false));
  } else {
    e = parse_primary(in);
  }
  e = parse_postfix(in, std::move(e));
  return with_filters ? parse_filters(in, std::move(e), true) : std::move(e);
}

}  // namespace

ExpressionPtr parse_filters(TokenStream& in, ExpressionPtr e, bool leading_bar) {
  for (int n = 0;; ++n) {
    if (n > kLongestChain) in.error("an expression has more than 200 filters in a row");
    const int line = in.peek().line;
    if (in.accept("|") || !std::exchange(leading_bar, true)) {
      auto filter = make(Form::kFilter, line, in.expect_name());
      filter->items.push_back(std::move(e));
      if (in.accept("(")) parse_arguments(in, *filter);
      e = std::move(filter);
    } else if (e && in.accept_name("is")) {
      e = parse_test(in, std::move(e));
    } else if (e && in.accept("(")) {
      e = make(Form::kCall, line, "", std::move(e));
      parse_arguments(in, *e);
    } else {
      return e;
    }
  }
}

ExpressionPtr parse_expression(TokenStream& in) {
  const DepthGuard guard(in);
  ExpressionPtr e = parse_or(in);
  while (in.peek_name("if")) {
    const int line = in.next().line;
    auto choice = make(Form::kChoice, line, "", std::move(e));
    choice->items.push_back(parse_or(in));
    choice->items.push_back(in.accept_name("else") ? parse_expression(in) : nullptr);
    e = std::move(choice);
  }
  return e;
}

ExpressionPtr parse_tuple(TokenStream& in, bool choice) {
  const int line = in.peek().line;
  ExpressionPtr e = choice ? parse_expression(in) : parse_or(in);
  if (!in.peek_operator(",")) return e;
  auto tuple = make(Form::kTuple, line, "", std::move(e));
  while (in.accept(",")) {
    const Token& t = in.peek();
    const bool ends = t.kind == TokenKind::kBlockEnd || t.kind == TokenKind::kPrintEnd || in.peek_operator(")") ||
                      in.peek_operator("=");
    if (ends) break;
    tuple->items.push_back(choice ? parse_expression(in) : parse_or(in));
  }
  return tuple;
}

}  // namespace tenon::trainer::jinja
