// Statements. Expressions are in parse_expression.cpp.
#include "hosts/trainer/text/jinja/parser.h"

#include <algorithm>

namespace tenon::trainer::jinja {

void TokenStream::error(const std::string& what) const {
  fail("line " + std::to_string(peek().line) + ": " + what);
}

void TokenStream::refuse(const std::string& what) const {
  unsupported("line " + std::to_string(peek().line) + ": " + what);
}

std::string TokenStream::describe() const {
  const Token& t = peek();
  switch (t.kind) {
    case TokenKind::kEnd:
      return "the end of the template";
    case TokenKind::kBlockEnd:
      return "%}";
    case TokenKind::kPrintEnd:
      return "}}";
    case TokenKind::kString:
      return "a string";
    default:
      return "\"" + t.text + "\"";
  }
}

void TokenStream::expect(std::string_view op) {
  if (!accept(op)) error("\"" + std::string(op) + "\" was expected, not " + describe());
}

std::string TokenStream::expect_name() {
  if (peek().kind != TokenKind::kName) error("a name was expected, not " + describe());
  return next().text;
}

namespace {

using Body = std::vector<Statement>;

class Parser {
 public:
  explicit Parser(std::string_view source) : in_(tokenize_template(source)) {}

  Template run() {
    Template t;
    std::string ended_by;
    t.body = body({}, ended_by);
    return t;
  }

 private:
  // Statements up to a block that starts with one of `ends`; leaves the stream behind that word.
  Body body(const std::vector<std::string_view>& ends, std::string& ended_by) {
    const DepthGuard guard(in_);
    Body out;
    for (;;) {
      const Token& t = in_.peek();
      if (t.kind == TokenKind::kEnd) {
        if (!ends.empty()) in_.error("the template ends before " + std::string(ends.front()));
        return out;
      }
      if (t.kind == TokenKind::kData) {
        Statement s{Action::kText, t.line};
        s.text = t.text;
        in_.next();
        out.push_back(std::move(s));
      } else if (t.kind == TokenKind::kPrintBegin) {
        Statement s{Action::kPrint, t.line};
        in_.next();
        s.exprs.push_back(parse_tuple(in_));
        if (in_.peek().kind != TokenKind::kPrintEnd) in_.error("}} was expected, not " + in_.describe());
        in_.next();
        out.push_back(std::move(s));
      } else {
        in_.next();
        const int line = in_.peek().line;
        const std::string word = in_.expect_name();
        if (std::find(ends.begin(), ends.end(), word) != ends.end()) {
          ended_by = word;
          return out;
        }
        statement(word, line, out);
      }
    }
  }

  Body body_until(std::string_view end) {
    std::string ended_by;
    Body b = body({end}, ended_by);
    end_block();
    return b;
  }

  void end_block() {
    if (in_.peek().kind != TokenKind::kBlockEnd) in_.error("%} was expected, not " + in_.describe());
    in_.next();
  }

  void statement(const std::string& word, int line, Body& out) {
    Statement s{Action::kGeneration, line};
    if (word == "if") {
      parse_if(s);
    } else if (word == "for") {
      parse_for(s);
    } else if (word == "set") {
      parse_set(s);
    } else if (word == "macro") {
      parse_macro(s);
    } else if (word == "break" || word == "continue") {
      if (loops_ == 0) in_.error(word + " stands outside a loop");
      s.action = word == "break" ? Action::kBreak : Action::kContinue;
      end_block();
    } else if (word == "generation") {  // marks the assistant's answers; it prints its body
      end_block();
      s.bodies.push_back(body_until("endgeneration"));
    } else if (word == "filter") {
      s.action = Action::kFilterBlock;
      s.exprs.push_back(parse_filters(in_, nullptr));
      end_block();
      s.bodies.push_back(body_until("endfilter"));
    } else if (word == "include" || word == "import" || word == "from" || word == "extends" || word == "block" ||
               word == "call" || word == "with" || word == "do" || word == "autoescape" || word == "trans") {
      in_.refuse("the statement \"" + word + "\"");
    } else {
      in_.error("the statement \"" + word + "\" is unknown, or closes what is not open");
    }
    out.push_back(std::move(s));
  }

  void parse_if(Statement& s) {
    s.action = Action::kIf;
    std::string ended_by = "elif";
    while (ended_by == "elif") {
      s.exprs.push_back(parse_tuple(in_));
      end_block();
      s.bodies.push_back(body({"endif", "elif", "else"}, ended_by));
    }
    if (ended_by == "else") {
      end_block();
      s.bodies.push_back(body({"endif"}, ended_by));
    } else {
      s.bodies.emplace_back();
    }
    end_block();
  }

  void parse_for(Statement& s) {
    s.action = Action::kFor;
    s.targets = target_names();
    if (!in_.accept_name("in")) in_.error("\"in\" was expected, not " + in_.describe());
    s.exprs.push_back(parse_tuple(in_, false));
    s.exprs.push_back(in_.accept_name("if") ? parse_expression(in_) : nullptr);
    if (in_.peek_name("recursive")) in_.refuse("a recursive loop");
    end_block();
    std::string ended_by;
    ++loops_;
    s.bodies.push_back(body({"endfor", "else"}, ended_by));
    --loops_;
    s.bodies.emplace_back();
    if (ended_by == "else") {
      end_block();
      s.bodies.back() = body({"endfor"}, ended_by);
    }
    end_block();
  }

  std::vector<std::string> target_names() {
    std::vector<std::string> names;
    const bool bracket = in_.accept("(");
    do {
      names.push_back(in_.expect_name());
    } while (in_.accept(","));
    if (bracket) in_.expect(")");
    return names;
  }

  void parse_set(Statement& s) {
    s.targets = target_names();
    if (in_.accept(".")) s.targets.back() += "." + in_.expect_name();
    if (in_.accept("=")) {
      s.action = Action::kSet;
      s.exprs.push_back(parse_tuple(in_));
      return end_block();
    }
    if (s.targets.size() != 1) in_.error("\"=\" was expected, not " + in_.describe());
    s.action = Action::kSetBlock;
    s.exprs.push_back(in_.peek_operator("|") ? parse_filters(in_, nullptr, true) : nullptr);
    end_block();
    s.bodies.push_back(body_until("endset"));
  }

  void parse_macro(Statement& s) {
    s.action = Action::kMacro;
    s.text = in_.expect_name();
    in_.expect("(");
    while (!in_.accept(")")) {
      if (!s.targets.empty()) in_.expect(",");
      s.targets.push_back(in_.expect_name());
      s.defaults.push_back(in_.accept("=") ? parse_expression(in_) : nullptr);
    }
    end_block();
    const int loops = std::exchange(loops_, 0);
    s.bodies.push_back(body_until("endmacro"));
    loops_ = loops;
  }

  TokenStream in_;
  int loops_ = 0;
};

}  // namespace

Template parse_template(std::string_view source) {
  return Parser(source).run();
}

}  // namespace tenon::trainer::jinja
