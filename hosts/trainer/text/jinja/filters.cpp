// Jinja's filters, as far as chat templates use them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "hosts/trainer/text/jinja/evaluator.h"
#include "hosts/trainer/text/jinja/strings.h"

namespace tenon::trainer::jinja {
namespace {

bool flag(const Arguments& a, size_t at, const char* name, bool fallback = false) {
  const Value* v = a.get(at, name);
  return v ? truthy(*v) : fallback;
}

std::string text_or(const Arguments& a, size_t at, const char* name, std::string fallback) {
  const Value* v = a.get(at, name);
  return v && !v->none() ? to_text(*v) : fallback;
}

int64_t integer_or(const Arguments& a, size_t at, const char* name, int64_t fallback) {
  const Value* v = a.get(at, name);
  int64_t n = fallback;
  if (v && !v->none() && !integer(*v, n)) fail(std::string(name) + " must be a whole number");
  return n;
}

Value dump(const Value& input, const Arguments& a) {
  JsonStyle style;
  style.ascii = flag(a, 0, "ensure_ascii");
  if (const Value* indent = a.get(1, "indent"); indent && !indent->none()) {
    const int64_t n = integer_or(a, 1, "indent", 0);
    if (n < 0 || n > 16) fail("the indent of tojson must be from 0 to 16");
    style.indent = int(n);
  }
  if (const Value* separators = a.get(2, "separators");
      separators && separators->sequence() && separators->sequence()->items.size() == 2) {
    style.item_separator = to_text(separators->sequence()->items[0]);
    style.key_separator = to_text(separators->sequence()->items[1]);
  }
  style.sort_keys = flag(a, 3, "sort_keys");
  return dump_json(input, style);
}

// The attribute "a.b" or item of an element.
Value member_of(Evaluator& evaluator, Value v, const Value& path) {
  if (!path.string()) return evaluator.item(v, path);
  for (const std::string& part : split_text(*path.string(), ".", -1, false)) {
    int64_t index;
    const auto r = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool number = r.ec == std::errc() && r.ptr == part.data() + part.size();
    v = number ? evaluator.item(v, index) : evaluator.attribute(v, part);
  }
  return v;
}

Value select(Evaluator& evaluator, const std::string& name, const Value& input, const Arguments& a) {
  const bool by_attribute = name.ends_with("attr"), wanted = name.starts_with("select");
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && a.list.empty()) fail(name + " takes the name of an attribute");
  Arguments rest;
  for (size_t i = test_at + 1; i < a.list.size(); ++i) rest.list.push_back(a.list[i]);
  List kept;
  for (Value& v : evaluator.iterate(input)) {
    const Value tested = by_attribute ? member_of(evaluator, v, a.list[0]) : v;
    const bool holds =
        a.list.size() > test_at ? evaluator.apply_test(to_text(a.list[test_at]), tested, rest) : truthy(tested);
    if (holds == wanted) kept.push_back(std::move(v));
  }
  return make_list(std::move(kept));
}

Value map_filter(Evaluator& evaluator, const Value& input, const Arguments& a) {
  const Value* attribute = a.get(~size_t{0}, "attribute");
  const Value* fallback = a.get(~size_t{0}, "default");
  if (!attribute && a.list.empty()) fail("map takes a filter or attribute=");
  Arguments rest;
  for (size_t i = 1; i < a.list.size(); ++i) rest.list.push_back(a.list[i]);
  List out;
  for (const Value& v : evaluator.iterate(input)) {
    Value mapped =
        attribute ? member_of(evaluator, v, *attribute) : evaluator.apply_filter(to_text(a.list[0]), v, rest);
    out.push_back(mapped.undefined() && fallback ? *fallback : std::move(mapped));
  }
  return make_list(std::move(out));
}

Value sorted(Evaluator& evaluator, const Value& input, const Arguments& a) {
  List items = evaluator.iterate(input);
  const bool reverse = flag(a, 0, "reverse"), sensitive = flag(a, 1, "case_sensitive");
  const Value* attribute = a.get(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& v : items) {
    Value key = attribute ? member_of(evaluator, v, *attribute) : v;
    if (!sensitive && key.string()) key = lower(*key.string());
    if (!keyed.empty())
      compare(keyed.back().first, key);  // refuses kinds without an order before std::sort relies on one
    keyed.emplace_back(std::move(key), std::move(v));
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& x, const auto& y) {
    return reverse ? compare(y.first, x.first) < 0 : compare(x.first, y.first) < 0;
  });
  List out;
  for (auto& [key, v] : keyed) out.push_back(std::move(v));
  return make_list(std::move(out));
}

Value unique(Evaluator& evaluator, const Value& input) {
  List out;
  for (Value& v : evaluator.iterate(input)) {
    evaluator.charge(out.size());
    if (std::none_of(out.begin(), out.end(), [&](const Value& o) { return equal(o, v); })) out.push_back(std::move(v));
  }
  return make_list(std::move(out));
}

Value to_number(const Value& input, const Arguments& a, bool whole) {
  const Value* fallback = a.get(0, "default");
  const Value otherwise = fallback ? *fallback : whole ? Value(0) : Value(0.0);
  int64_t i;
  if (integer(input, i)) return whole ? Value(i) : Value(double(i));
  double d = 0;
  if (const auto* real = input.as<double>()) {
    d = *real;
  } else if (const auto* s = input.string()) {
    std::string_view text = strip(*s, nullptr, true, true);
    if (text.starts_with('+')) text.remove_prefix(1);
    const char* end = text.data() + text.size();
    if (whole) {
      const auto r = std::from_chars(text.data(), end, i);
      if (r.ec == std::errc() && r.ptr == end) return i;
    }
    const auto r = std::from_chars(text.data(), end, d);
    if (r.ec != std::errc() || r.ptr != end) return otherwise;
  } else {
    return otherwise;
  }
  if (!whole) return d;
  return std::isfinite(d) && std::fabs(d) < 9e18 ? Value(int64_t(d)) : otherwise;
}

Value indent(Evaluator& evaluator, const Value& input, const Arguments& a) {
  const Value* width = a.get(0, "width");
  const int64_t n = width && width->string() ? 0 : integer_or(a, 0, "width", 4);
  if (n < 0 || n > 1024) fail("the width of indent must be from 0 to 1024");
  const std::string pad = width && width->string() ? *width->string() : std::string(size_t(n), ' ');
  const bool first = flag(a, 1, "first"), blank = flag(a, 2, "blank");
  const std::vector<std::string> lines = split_text(to_text(input), "\n", -1, false);
  evaluator.charge(lines.size() * (pad.size() + 1));
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i) out += '\n';
    if (i ? blank || !lines[i].empty() : first) out += pad;
    out += lines[i];
  }
  return out;
}

Value joined(Evaluator& evaluator, const Value& input, const Arguments& a) {
  const std::string by = text_or(a, 0, "d", "");
  const Value* attribute = a.get(1, "attribute");
  std::string out;
  bool first = true;
  for (const Value& v : evaluator.iterate(input)) {
    const std::string text = to_text(attribute ? member_of(evaluator, v, *attribute) : v);
    evaluator.charge(by.size() + text.size());
    out += (first ? "" : by) + text;
    first = false;
  }
  return out;
}

Value length(const Value& v) {
  if (const auto* s = v.string()) return int64_t(characters(*s).size());
  if (const auto* s = v.sequence()) return int64_t(s->items.size());
  if (const auto* d = v.dict()) return int64_t(d->entries.size());
  if (v.undefined()) return 0;
  fail(std::string("a ") + type_name(v) + " has no length");
}

Value rounded(const Value& v, const Arguments& a) {
  if (!v.number()) fail(std::string("a ") + type_name(v) + " cannot be rounded");
  const int64_t digits = integer_or(a, 0, "precision", 0);
  const std::string how = text_or(a, 1, "method", "common");
  const double scale = std::pow(10.0, double(std::clamp<int64_t>(digits, -300, 300)));
  const double x = to_double(v) * scale;
  const double r = how == "ceil" ? std::ceil(x) : how == "floor" ? std::floor(x) : std::nearbyint(x);
  return r / scale;
}

Value extreme(Evaluator& evaluator, const std::string& name, const Value& input) {
  const List items = evaluator.iterate(input);
  if (items.empty()) return Undefined{name};
  const Value* best = &items[0];
  for (const Value& v : items)
    if (name == "max" ? compare(v, *best) > 0 : compare(v, *best) < 0) best = &v;
  return *best;
}

Value pairs(Evaluator& evaluator, const Value& input, bool sort) {
  if (input.undefined()) return make_list({});
  if (!input.dict()) fail(std::string("a ") + type_name(input) + " has no items");
  const Value list = call_method(evaluator, input, "items", {});
  if (!sort) return list;
  List items = list.sequence()->items;
  std::stable_sort(items.begin(), items.end(), [](const Value& a, const Value& b) {
    return lower(*a.sequence()->items[0].string()) < lower(*b.sequence()->items[0].string());
  });
  return make_list(std::move(items));
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&#34;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return out;
}

}  // namespace

Value Evaluator::apply_filter(const std::string& name, const Value& input, const Arguments& a) {
  charge(1);
  if (const auto* s = input.string()) charge(s->size());
  if (name == "default" || name == "d") {
    const Value* fallback = a.get(0, "default_value");
    const bool use = input.undefined() || (flag(a, 1, "boolean") && !truthy(input));
    return !use ? input : fallback ? *fallback : Value("");
  }
  if (name == "tojson") return dump(input, a);
  if (name == "length" || name == "count") return length(input);
  if (name == "trim") {
    const Value* chars = a.get(0, "chars");
    return std::string(strip(to_text(input), chars ? chars->string() : nullptr, true, true));
  }
  if (name == "upper") return upper(to_text(input));
  if (name == "lower") return lower(to_text(input));
  if (name == "title") return title(to_text(input));
  if (name == "capitalize") return capitalize(to_text(input));
  if (name == "string") return to_text(input);
  if (name == "safe") return input;
  if (name == "escape" || name == "e") return escaped(to_text(input));
  if (name == "int") return to_number(input, a, true);
  if (name == "float") return to_number(input, a, false);
  if (name == "round") return rounded(input, a);
  if (name == "abs") {
    if (!input.number()) fail(std::string("a ") + type_name(input) + " has no absolute value");
    return to_double(input) < 0 ? arithmetic(*this, "-", 0, input) : input;
  }
  if (name == "replace") {
    const std::string text = to_text(input), from = text_or(a, 0, "old", ""), to = text_or(a, 1, "new", "");
    charge((text.size() / std::max<size_t>(1, from.size()) + 1) * (to.size() + 1));
    return replace(text, from, to, integer_or(a, 2, "count", -1));
  }
  if (name == "join") return joined(*this, input, a);
  if (name == "indent") return indent(*this, input, a);
  if (name == "first" || name == "last") {
    const List items = iterate(input);
    return items.empty() ? Value(Undefined{name}) : name == "first" ? items.front() : items.back();
  }
  if (name == "list") return make_list(iterate(input));
  if (name == "items" || name == "dictsort") return pairs(*this, input, name == "dictsort");
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr")
    return select(*this, name, input, a);
  if (name == "map") return map_filter(*this, input, a);
  if (name == "sort") return sorted(*this, input, a);
  if (name == "unique") return unique(*this, input);
  if (name == "min" || name == "max") return extreme(*this, name, input);
  if (name == "sum") {
    Value total = 0;
    const Value* attribute = a.get(0, "attribute");
    for (const Value& v : iterate(input))
      total = arithmetic(*this, "+", total, attribute ? member_of(*this, v, *attribute) : v);
    return total;
  }
  if (name == "reverse") {
    List items = iterate(input);
    std::reverse(items.begin(), items.end());
    if (!input.string()) return make_list(std::move(items));
    std::string out;
    for (const Value& c : items) out += *c.string();
    return out;
  }
  unsupported("the filter \"" + name + "\"");
}

}  // namespace tenon::trainer::jinja
