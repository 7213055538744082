#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hosts/trainer/text/jinja/evaluator.h"

namespace tenon::trainer::jinja {
namespace {

constexpr int kDeepest = 400;
constexpr int64_t kLongestRange = 1 << 20;

[[noreturn]] void undefined(const Value& v) {
  const auto* u = v.as<Undefined>();
  fail(u->name.empty() ? "an undefined value is used" : "\"" + u->name + "\" is undefined");
}

Value sized_text(Evaluator& evaluator, const Value& a, const Value& b) {
  std::string text = to_text(a);
  const std::string tail = to_text(b);
  evaluator.charge(text.size() + tail.size());
  return std::move(text += tail);
}

Value repeat(Evaluator& evaluator, const Value& what, int64_t times) {
  const uint64_t n = times > 0 ? uint64_t(times) : 0;
  if (n > Evaluator::kBudget) fail("a value is repeated " + std::to_string(n) + " times");
  if (const auto* s = what.string()) {
    evaluator.charge(n * (s->size() + 1));
    std::string out;
    for (uint64_t i = 0; i < n; ++i) out += *s;
    return out;
  }
  const auto* s = what.sequence();
  if (s->items.size() > Evaluator::kBudget / 64 || n * s->items.size() > Evaluator::kBudget / 64)
    fail("a list becomes too long");
  evaluator.charge(n * (64 * s->items.size() + 1));
  List items;
  for (uint64_t i = 0; i < n; ++i) items.insert(items.end(), s->items.begin(), s->items.end());
  return make_list(std::move(items), s->tuple);
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) fail("a division by zero");
  if (b == -1) {
    int64_t negated;
    if (__builtin_sub_overflow(int64_t{0}, a, &negated)) fail("a whole number is out of range");
    return negated;
  }
  return a / b - (a % b != 0 && (a % b < 0) != (b < 0));
}

Value whole(const std::string& op, int64_t a, int64_t b) {
  int64_t r = 0;
  bool over = false;
  if (op == "+") {
    over = __builtin_add_overflow(a, b, &r);
  } else if (op == "-") {
    over = __builtin_sub_overflow(a, b, &r);
  } else if (op == "*") {
    over = __builtin_mul_overflow(a, b, &r);
  } else if (op == "/") {
    if (b == 0) fail("a division by zero");
    return double(a) / double(b);
  } else if (op == "//") {
    r = floor_divide(a, b);
  } else if (op == "%") {
    r = b == -1 ? 0 : a - floor_divide(a, b) * b;
  } else {
    if (b < 0) return std::pow(double(a), double(b));
    r = 1;
    for (int64_t i = 0; i < b && !over && r != 0 && !(a == 1 || (a == -1 && i >= 2 && i % 2 == b % 2)); ++i)
      over = __builtin_mul_overflow(r, a, &r);
  }
  if (over) fail("a whole number is out of range");
  return r;
}

}  // namespace

Value arithmetic(Evaluator& evaluator, const std::string& op, const Value& a, const Value& b) {
  if (a.undefined()) undefined(a);
  if (b.undefined()) undefined(b);
  int64_t i, j;
  if (integer(a, i) && integer(b, j)) return whole(op, i, j);
  if (a.number() && b.number()) {
    const double x = to_double(a), y = to_double(b);
    if (op == "+") return x + y;
    if (op == "-") return x - y;
    if (op == "*") return x * y;
    if (op == "**") return std::pow(x, y);
    if (y == 0) fail("a division by zero");
    if (op == "/") return x / y;
    if (op == "//") return std::floor(x / y);
    return x - std::floor(x / y) * y;
  }
  if (op == "+" && a.string() && b.string()) return sized_text(evaluator, a, b);
  if (op == "+" && a.sequence() && b.sequence()) {
    List items = a.sequence()->items;
    const List& more = b.sequence()->items;
    evaluator.charge(64 * (items.size() + more.size()));
    items.insert(items.end(), more.begin(), more.end());
    return make_list(std::move(items), a.sequence()->tuple);
  }
  if (op == "*" && (a.string() || a.sequence()) && integer(b, j)) return repeat(evaluator, a, j);
  if (op == "*" && (b.string() || b.sequence()) && integer(a, i)) return repeat(evaluator, b, i);
  if (op == "%" && a.string()) unsupported("formatting a string with %");
  fail(std::string("a ") + type_name(a) + " and a " + type_name(b) + " do not go with " + op);
}

Value Evaluator::evaluate(const Expression& e) {
  line_ = e.line;
  charge(1);
  struct Guard {
    int& depth;
    ~Guard() { --depth; }
  } guard{++depth_};
  if (depth_ > kDeepest) fail("expressions or macros are nested deeper than " + std::to_string(kDeepest) + " levels");
  return evaluate_form(e);
}

Value Evaluator::evaluate_form(const Expression& e) {
  switch (e.form) {
    case Form::kLiteral:
      return e.value;
    case Form::kName: {
      const Value* v = lookup(e.name);
      if (v && v->string()) charge(v->string()->size() / 16);
      return v ? *v : Value(Undefined{e.name});
    }
    case Form::kList:
    case Form::kTuple: {
      List items;
      for (const auto& i : e.items) items.push_back(evaluate(*i));
      return make_list(std::move(items), e.form == Form::kTuple);
    }
    case Form::kDict: {
      std::vector<std::pair<std::string, Value>> entries;
      for (size_t i = 0; i < e.items.size(); i += 2) {
        const Value key = evaluate(*e.items[i]);
        if (!key.string()) unsupported("a dict key that is no string");
        entries.emplace_back(*key.string(), evaluate(*e.items[i + 1]));
      }
      return make_dict(std::move(entries));
    }
    case Form::kAttribute: {
      const Value object = evaluate(*e.items[0]);
      if (object.undefined()) undefined(object);
      return attribute(object, e.name);
    }
    case Form::kItem: {
      const Value object = evaluate(*e.items[0]);
      if (object.undefined()) undefined(object);
      return item(object, evaluate(*e.items[1]));
    }
    case Form::kSlice:
      return slice(e);
    case Form::kCall:
      return call(e);
    case Form::kFilter:
      return filter(e, nullptr);
    case Form::kTest:
      return apply_test(e.name, evaluate(*e.items[0]), arguments(e, 1));
    case Form::kUnary: {
      const Value v = evaluate(*e.items[0]);
      if (e.name == "not") return !truthy(v);
      return arithmetic(*this, e.name, int64_t{0}, v);
    }
    case Form::kBinary:
      return binary(e);
    case Form::kCompare:
      return compare_chain(e);
    case Form::kChoice:
      if (truthy(evaluate(*e.items[1]))) return evaluate(*e.items[0]);
      return e.items[2] ? evaluate(*e.items[2]) : Value();
  }
  return {};
}

Value Evaluator::binary(const Expression& e) {
  Value left = evaluate(*e.items[0]);
  if (e.name == "and") return truthy(left) ? evaluate(*e.items[1]) : left;
  if (e.name == "or") return truthy(left) ? left : evaluate(*e.items[1]);
  const Value right = evaluate(*e.items[1]);
  return e.name == "~" ? sized_text(*this, left, right) : arithmetic(*this, e.name, left, right);
}

Value Evaluator::compare_chain(const Expression& e) {
  Value left = evaluate(*e.items[0]);
  for (size_t i = 0; i < e.names.size(); ++i) {
    Value right = evaluate(*e.items[i + 1]);
    const std::string& op = e.names[i];
    bool holds;
    if (op == "==" || op == "!=") {
      holds = equal(left, right) == (op == "==");
    } else if (op == "in" || op == "not in") {
      if (const auto* s = right.string()) charge(s->size() / 16);
      holds = contains(right, left) == (op == "in");
    } else {
      if (left.undefined()) undefined(left);
      if (right.undefined()) undefined(right);
      const int c = jinja::compare(left, right);
      holds = op == "<" ? c < 0 : op == "<=" ? c <= 0 : op == ">" ? c > 0 : c >= 0;
    }
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::slice(const Expression& e) {
  const Value object = evaluate(*e.items[0]);
  if (object.undefined()) undefined(object);
  std::optional<int64_t> bounds[3];
  for (int i = 0; i < 3; ++i) {
    if (!e.items[i + 1]) continue;
    const Value v = evaluate(*e.items[i + 1]);
    int64_t n;
    if (v.none()) continue;
    if (!integer(v, n)) fail(std::string("a slice is bounded by a ") + type_name(v));
    bounds[i] = n;
  }
  const List items = object.sequence() || object.string() ? iterate(object) : List();
  if (!object.sequence() && !object.string()) fail(std::string("a ") + type_name(object) + " cannot be sliced");
  const auto size = int64_t(items.size());
  const int64_t step = bounds[2].value_or(1);
  if (step == 0) fail("the step of a slice is 0");
  const auto clamp = [&](int64_t at) {
    return std::clamp(at < 0 ? at + size : at, step < 0 ? int64_t{-1} : int64_t{0}, step < 0 ? size - 1 : size);
  };
  int64_t at = bounds[0] ? clamp(*bounds[0]) : step < 0 ? size - 1 : 0;
  const int64_t end = bounds[1] ? clamp(*bounds[1]) : step < 0 ? -1 : size;
  List picked;
  for (; step > 0 ? at < end : at > end; at += step) {
    picked.push_back(items[size_t(at)]);
    if (step > size || step < -size) break;
  }
  if (object.sequence()) return make_list(std::move(picked), object.sequence()->tuple);
  std::string text;
  for (const Value& c : picked) text += *c.string();
  return text;
}

Arguments Evaluator::arguments(const Expression& e, size_t first) {
  Arguments a;
  for (size_t i = first; i < e.items.size(); ++i) a.list.push_back(evaluate(*e.items[i]));
  for (const auto& [name, value] : e.named) a.named.emplace_back(name, evaluate(*value));
  return a;
}

Value Evaluator::filter(const Expression& e, const Value* input) {
  const Value base =
      e.items[0] ? (e.items[0]->form == Form::kFilter && input ? filter(*e.items[0], input) : evaluate(*e.items[0]))
                 : *input;
  line_ = e.line;
  return apply_filter(e.name, base, arguments(e, 1));
}

Value Evaluator::call(const Expression& e) {
  const Expression& callee = *e.items[0];
  const Arguments args = arguments(e, 1);
  if (callee.form == Form::kAttribute) {
    const Value object = evaluate(*callee.items[0]);
    if (object.undefined()) undefined(object);
    line_ = e.line;
    return call_method(*this, object, callee.name, args);
  }
  const Value f = evaluate(callee);
  line_ = e.line;
  if (const auto* macro = f.as<const Statement*>()) return call_macro(**macro, args);
  if (const auto* builtin = f.as<Builtin>()) return call_builtin(builtin->name, args);
  if (f.undefined()) fail("the function \"" + callee.name + "\" is undefined");
  fail(std::string("a ") + type_name(f) + " cannot be called");
}

Value Evaluator::call_builtin(const std::string& name, const Arguments& a) {
  if (name == "raise_exception") {
    const Value* message = a.get(0, "message");
    throw Error(TN_E_FORMAT,
                "the template refuses the conversation: " + (message ? to_text(*message) : "no reason is given"));
  }
  if (name == "namespace" || name == "dict") {
    std::vector<std::pair<std::string, Value>> entries = a.named;
    if (!a.list.empty()) {
      const Dict* d = a.list[0].dict();
      if (!d) fail(name + "() takes a dict or named values");
      entries.insert(entries.begin(), d->entries.begin(), d->entries.end());
    }
    if (name == "dict") return make_dict(std::move(entries));
    auto space = std::make_shared<Namespace>();
    for (auto& [key, value] : entries) space->set(key, std::move(value));
    return space;
  }
  if (name == "strftime_now") {
    const Value* format = a.get(0, "format");
    if (!format || !format->string() || format->string()->size() > 1024)
      fail("strftime_now takes a short format string");
    std::tm local{};
    localtime_r(&now_, &local);
    char buffer[4096];
    return std::string(buffer, std::strftime(buffer, sizeof buffer, format->string()->c_str(), &local));
  }
  int64_t bounds[3] = {0, 0, 1};  // range
  if (a.list.empty() || a.list.size() > 3) fail("range takes one to three whole numbers");
  for (size_t i = 0; i < a.list.size(); ++i)
    if (!integer(a.list[i], bounds[a.list.size() == 1 ? 1 : i])) fail("range takes one to three whole numbers");
  const auto [from, to, step] = bounds;
  if (step == 0) fail("the step of a range is 0");
  const long double length = ((long double)to - from) / step;
  if (length > kLongestRange) fail("a range is longer than " + std::to_string(kLongestRange));
  List items;
  for (int64_t i = 0; i < (long double)length; ++i) items.emplace_back(from + i * step);
  charge(64 * items.size());
  return make_list(std::move(items));
}

}  // namespace tenon::trainer::jinja
