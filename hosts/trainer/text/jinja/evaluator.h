// Runs a parsed template within bounds that no honest template reaches.
#pragma once

#include <ctime>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/jinja/syntax.h"

namespace tenon::trainer::jinja {

struct Arguments {
  std::vector<Value> list;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at a position or of a name; nullptr when absent.
  const Value* get(size_t position, std::string_view name) const;
};

class Evaluator {
 public:
  // Evaluated bytes and steps together: a conversation of a megabyte costs a few million.
  static constexpr uint64_t kBudget = uint64_t{1} << 27;
  static constexpr size_t kLongestOutput = 64 << 20;

  // `globals` are the template's variables; `now` is what strftime_now prints. The template must outlive the evaluator.
  Evaluator(std::vector<std::pair<std::string, Value>> globals, std::time_t now);

  // Throws Error for what the template raises or does wrong, naming the line, and for a spent budget.
  std::string render(const Template& t);

  // The byte ranges of the last output that {% generation %} blocks of the template itself (not of a macro) printed.
  const std::vector<std::pair<size_t, size_t>>& answers() const { return answers_; }

  // For filters, tests and methods.
  void charge(uint64_t cost);
  Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);
  bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);
  Value attribute(const Value& object, const std::string& name) const;
  Value item(const Value& object, const Value& key) const;
  // What a loop runs over: items, keys or characters.
  List iterate(const Value& v);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  using Scope = std::map<std::string, Value, std::less<>>;

  Flow run(const std::vector<Statement>& body, std::string& out);
  Flow step(const Statement& s, std::string& out);
  Flow run_loop(const Statement& s, std::string& out);
  void assign(const Statement& s, const Value& value);
  void bind(const std::vector<std::string>& names, const Value& value);
  const Value* lookup(const std::string& name) const;

  Value evaluate(const Expression& e);
  Value evaluate_form(const Expression& e);
  Value binary(const Expression& e);
  Value compare_chain(const Expression& e);
  Value slice(const Expression& e);
  Value filter(const Expression& e, const Value* input);
  Value call(const Expression& e);
  Value call_builtin(const std::string& name, const Arguments& arguments);
  Value call_macro(const Statement& macro, const Arguments& arguments);
  Arguments arguments(const Expression& e, size_t first);

  std::vector<Scope> scopes_;
  const std::string* output_ = nullptr;
  std::vector<std::pair<size_t, size_t>> answers_;
  std::time_t now_;
  uint64_t spent_ = 0;
  int depth_ = 0;
  int line_ = 0;
};

// The parts of the library. `method` is a call of object.name(...).
Value call_method(Evaluator& evaluator, const Value& object, const std::string& name, const Arguments& arguments);
Value arithmetic(Evaluator& evaluator, const std::string& op, const Value& a, const Value& b);

}  // namespace tenon::trainer::jinja
