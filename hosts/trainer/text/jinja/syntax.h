// The syntax tree of a template, and its parser.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hosts/trainer/text/jinja/value.h"

namespace tenon::trainer::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Form {
  kLiteral,    // value
  kName,       // name
  kList,       // items
  kTuple,      // items
  kDict,       // items: key, value, key, value …
  kAttribute,  // items[0].name
  kItem,       // items[0][items[1]]
  kSlice,      // items[0][items[1]:items[2]:items[3]], absent ones null
  kCall,       // items[0](items[1…], named)
  kFilter,     // items[0] | name(items[1…], named); items[0] null inside a filtered set block
  kTest,       // items[0] is name(items[1…])
  kUnary,      // name: "-" "+" "not"
  kBinary,     // name: an operator, "and", "or", "in", "not in"
  kCompare,    // items[0] names[0] items[1] names[1] items[2] …
  kChoice,     // items[0] if items[1] else items[2] (null: undefined)
};

struct Expression {
  Form form;
  int line;
  std::string name{};
  Value value{};
  std::vector<ExpressionPtr> items{};
  std::vector<std::pair<std::string, ExpressionPtr>> named{};
  std::vector<std::string> names{};
};

enum class Action { kText, kPrint, kIf, kFor, kSet, kSetBlock, kMacro, kGeneration, kFilterBlock, kBreak, kContinue };

struct Statement {
  Action action;
  int line;
  std::string text{};  // kText; the name of a kMacro
  std::vector<ExpressionPtr>
      exprs{};  // kPrint, kSet: value; kIf: one condition per branch; kFor: sequence, filter (or null); kFilterBlock
  std::vector<std::string> targets{};            // kFor, kSet: names ("ns.x" for an attribute); kMacro: parameters
  std::vector<ExpressionPtr> defaults{};         // kMacro: per parameter, null when it has none
  std::vector<std::vector<Statement>> bodies{};  // kIf: one per condition; kIf and kFor: then else, maybe empty
};

struct Template {
  std::vector<Statement> body;
};

// Throws Error naming the line: TN_E_FORMAT for a syntax error, TN_E_UNSUPPORTED for a construct outside the subset.
Template parse_template(std::string_view source);

}  // namespace tenon::trainer::jinja
