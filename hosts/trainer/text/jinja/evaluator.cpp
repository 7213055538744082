// Statements and scopes. Expressions are in evaluate_expression.cpp.
#include "hosts/trainer/text/jinja/evaluator.h"

#include "core/error.h"

namespace tenon::trainer::jinja {

const Value* Arguments::get(size_t position, std::string_view name) const {
  if (position < list.size()) return &list[position];
  for (const auto& [n, v] : named)
    if (n == name) return &v;
  return nullptr;
}

Evaluator::Evaluator(std::vector<std::pair<std::string, Value>> globals, std::time_t now) : scopes_(2), now_(now) {
  for (const char* name : {"range", "namespace", "dict", "raise_exception", "strftime_now"})
    scopes_[0][name] = Builtin{name};
  for (auto& [name, value] : globals) scopes_[0][name] = std::move(value);
}

void Evaluator::charge(uint64_t cost) {
  spent_ += cost;
  if (cost > kBudget || spent_ > kBudget)
    fail("the template takes more than " + std::to_string(kBudget) + " steps, as one that never ends would");
}

std::string Evaluator::render(const Template& t) {
  std::string out;
  output_ = &out;
  try {
    run(t.body, out);
  } catch (const Error& e) {
    throw Error(e.code(), "line " + std::to_string(line_) + ": " + e.what());
  }
  return out;
}

Evaluator::Flow Evaluator::run(const std::vector<Statement>& body, std::string& out) {
  for (const Statement& s : body) {
    charge(1);
    const Flow flow = step(s, out);
    if (out.size() > kLongestOutput) fail("the template prints more than " + std::to_string(kLongestOutput) + " bytes");
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::step(const Statement& s, std::string& out) {
  line_ = s.line;
  switch (s.action) {
    case Action::kText:
      charge(s.text.size());
      out += s.text;
      break;
    case Action::kPrint: {
      const Value value = evaluate(*s.exprs[0]);
      const std::string text = to_text(value);
      charge(text.size());
      out += text;
      break;
    }
    case Action::kIf:
      for (size_t i = 0; i < s.exprs.size(); ++i)
        if (truthy(evaluate(*s.exprs[i]))) return run(s.bodies[i], out);
      return run(s.bodies.back(), out);
    case Action::kFor:
      return run_loop(s, out);
    case Action::kSet:
      assign(s, evaluate(*s.exprs[0]));
      break;
    case Action::kSetBlock:
    case Action::kFilterBlock: {
      std::string text;
      scopes_.emplace_back();
      const Flow flow = run(s.bodies[0], text);
      scopes_.pop_back();
      if (flow != Flow::kNext) return flow;
      Value value = std::move(text);
      if (s.exprs[0]) value = filter(*s.exprs[0], &value);
      if (s.action == Action::kSetBlock)
        assign(s, value);
      else
        out += to_text(value);
      break;
    }
    case Action::kMacro:
      scopes_.back()[s.text] = Value(&s);
      break;
    case Action::kGeneration: {
      const size_t begin = out.size();
      const Flow flow = run(s.bodies[0], out);
      if (&out == output_) answers_.push_back({begin, out.size()});
      return flow;
    }
    case Action::kBreak:
      return Flow::kBreak;
    case Action::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Evaluator::Flow Evaluator::run_loop(const Statement& s, std::string& out) {
  List items = iterate(evaluate(*s.exprs[0]));
  if (s.exprs[1]) {
    List kept;
    for (Value& v : items) {
      charge(1);
      scopes_.emplace_back();
      bind(s.targets, v);
      const bool keep = truthy(evaluate(*s.exprs[1]));
      scopes_.pop_back();
      if (keep) kept.push_back(std::move(v));
    }
    items.swap(kept);
  }
  if (items.empty()) return run(s.bodies[1], out);
  auto loop = std::make_shared<LoopState>();
  loop->items = &items;
  Flow flow = Flow::kNext;
  for (size_t i = 0; i < items.size(); ++i) {
    charge(1);
    loop->index = i;
    scopes_.emplace_back();
    bind(s.targets, items[i]);
    scopes_.back()["loop"] = Value(loop);
    flow = run(s.bodies[0], out);
    scopes_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  loop->items = nullptr;  // a macro or variable that kept the loop must not see the freed items
  return Flow::kNext;
}

void Evaluator::bind(const std::vector<std::string>& names, const Value& value) {
  if (names.size() == 1) {
    scopes_.back()[names[0]] = value;
    return;
  }
  const List parts = iterate(value);
  if (parts.size() != names.size())
    fail(std::to_string(parts.size()) + " values cannot be given to " + std::to_string(names.size()) + " names");
  for (size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = parts[i];
}

void Evaluator::assign(const Statement& s, const Value& value) {
  const size_t dot = s.targets[0].find('.');
  if (s.targets.size() > 1 || dot == std::string::npos) return bind(s.targets, value);
  const std::string object = s.targets[0].substr(0, dot);
  const Value* target = lookup(object);
  const auto* space = target ? target->as<std::shared_ptr<Namespace>>() : nullptr;
  if (!space) fail("\"" + object + "\" is no namespace, so that its attributes cannot be set");
  (*space)->set(s.targets[0].substr(dot + 1), value);
}

const Value* Evaluator::lookup(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto it = scope->find(name); it != scope->end()) return &it->second;
  return nullptr;
}

List Evaluator::iterate(const Value& v) {
  List items;
  if (const auto* s = v.sequence()) {
    items = s->items;
  } else if (const auto* d = v.dict()) {
    for (const auto& [key, value] : d->entries) items.emplace_back(key);
  } else if (const auto* text = v.string()) {
    charge(text->size());
    for (const auto c : characters(*text)) items.emplace_back(std::string(c));
  } else if (!v.undefined()) {
    fail(std::string("a ") + type_name(v) + " cannot be iterated over");
  }
  charge(items.size());
  return items;
}

Value Evaluator::call_macro(const Statement& macro, const Arguments& arguments) {
  if (arguments.list.size() > macro.targets.size())
    fail("the macro " + macro.text + " takes " + std::to_string(macro.targets.size()) + " arguments, not " +
         std::to_string(arguments.list.size()));
  for (const auto& [name, value] : arguments.named) {
    bool known = false;
    for (const auto& t : macro.targets) known = known || t == name;
    if (!known) fail("the macro " + macro.text + " has no argument \"" + name + "\"");
  }
  // A macro sees the template's variables, not those of its caller.
  std::vector<Scope> callers(std::make_move_iterator(scopes_.begin() + 2), std::make_move_iterator(scopes_.end()));
  scopes_.resize(2);
  scopes_.emplace_back();
  for (size_t i = 0; i < macro.targets.size(); ++i) {
    const Value* given = arguments.get(i, macro.targets[i]);
    Value value = given               ? *given
                  : macro.defaults[i] ? evaluate(*macro.defaults[i])
                                      : Value(Undefined{macro.targets[i]});
    scopes_.back()[macro.targets[i]] = std::move(value);
  }
  std::string out;
  run(macro.bodies[0], out);
  scopes_.resize(2);
  for (auto& s : callers) scopes_.push_back(std::move(s));
  return out;
}

}  // namespace tenon::trainer::jinja
