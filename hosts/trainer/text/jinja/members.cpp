// Attributes, items and methods of the values, as Python has them.
#include <algorithm>

#include "hosts/trainer/text/jinja/evaluator.h"
#include "hosts/trainer/text/jinja/strings.h"

namespace tenon::trainer::jinja {
namespace {

Value loop_attribute(const LoopState& loop, const std::string& name) {
  if (!loop.items) fail("a loop is used after its end");
  const auto size = int64_t(loop.items->size()), i = int64_t(loop.index);
  if (name == "index") return i + 1;
  if (name == "index0") return i;
  if (name == "revindex") return size - i;
  if (name == "revindex0") return size - i - 1;
  if (name == "first") return i == 0;
  if (name == "last") return i + 1 == size;
  if (name == "length") return size;
  if (name == "depth") return 1;
  if (name == "depth0") return 0;
  if (name == "previtem") return i ? (*loop.items)[size_t(i - 1)] : Value(Undefined{"loop.previtem"});
  if (name == "nextitem") return i + 1 < size ? (*loop.items)[size_t(i + 1)] : Value(Undefined{"loop.nextitem"});
  unsupported("\"loop." + name + "\"");
}

std::string text_argument(const Arguments& a, size_t at, const char* name, const std::string& method) {
  const Value* v = a.get(at, name);
  if (!v || !v->string()) fail(method + "() takes a string");
  return *v->string();
}

int64_t count_argument(const Arguments& a, size_t at, const char* name) {
  const Value* v = a.get(at, name);
  int64_t n = -1;
  if (v && !integer(*v, n)) fail(std::string(name) + " must be a whole number");
  return n;
}

bool edge(const std::string& text, const Arguments& a, const std::string& method) {
  const auto matches = [&](const Value& v) {
    if (!v.string()) fail(method + "() takes a string or a tuple of strings");
    return method == "startswith" ? text.starts_with(*v.string()) : text.ends_with(*v.string());
  };
  if (a.list.size() != 1) fail(method + "() takes one argument");
  const auto* several = a.list[0].sequence();
  return several ? std::any_of(several->items.begin(), several->items.end(), matches) : matches(a.list[0]);
}

Value list_of(std::vector<std::string> texts) {
  List items;
  for (auto& t : texts) items.emplace_back(std::move(t));
  return make_list(std::move(items));
}

Value string_method(Evaluator& evaluator, const std::string& s, const std::string& name, const Arguments& a) {
  evaluator.charge(s.size());
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Value* chars = a.get(0, "chars");
    const std::string* set = chars ? chars->string() : nullptr;
    if (chars && !chars->none() && !set) fail(name + "() takes a string");
    return std::string(strip(s, set, name != "rstrip", name != "lstrip"));
  }
  if (name == "startswith" || name == "endswith") return edge(s, a, name);
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string part = text_argument(a, 0, "", name);
    if (name == "removeprefix") return s.starts_with(part) ? s.substr(part.size()) : s;
    return s.ends_with(part) ? s.substr(0, s.size() - part.size()) : s;
  }
  if (name == "split" || name == "rsplit") {
    const Value* separator = a.get(0, "sep");
    const int64_t limit = count_argument(a, 1, "maxsplit");
    if (!separator || separator->none()) return list_of(split_words(s, limit, name == "rsplit"));
    const std::string by = text_argument(a, 0, "sep", name);
    if (by.empty()) fail(name + "() takes a separator that is not empty");
    evaluator.charge(64 * s.size() / by.size());
    return list_of(split_text(s, by, limit, name == "rsplit"));
  }
  if (name == "splitlines") return list_of(split_lines(s));
  if (name == "replace") {
    const std::string from = text_argument(a, 0, "old", name), to = text_argument(a, 1, "new", name);
    evaluator.charge((s.size() / std::max<size_t>(1, from.size()) + 1) * (to.size() + 1));
    return replace(s, from, to, count_argument(a, 2, "count"));
  }
  if (name == "join") {
    if (a.list.size() != 1) fail("join() takes one list");
    std::string out;
    bool first = true;
    for (const Value& v : evaluator.iterate(a.list[0])) {
      if (!v.string()) fail(std::string("join() meets a ") + type_name(v));
      evaluator.charge(s.size() + v.string()->size());
      out += (first ? "" : s) + *v.string();
      first = false;
    }
    return out;
  }
  if (name == "upper") return upper(s);
  if (name == "lower") return lower(s);
  if (name == "title") return title(s);
  if (name == "capitalize") return capitalize(s);
  if (name == "find" || name == "rfind" || name == "index" || name == "count") {
    const std::string part = text_argument(a, 0, "sub", name);
    if (name == "count") return int64_t(split_text(s, part.empty() ? "\n" : part, -1, false).size()) - 1;
    const size_t at = name == "rfind" ? s.rfind(part) : s.find(part);
    if (at == std::string::npos && name == "index") fail("index() does not find the string");
    return at == std::string::npos ? int64_t{-1} : int64_t(characters(std::string_view(s).substr(0, at)).size());
  }
  if (name == "isdigit" || name == "isalpha" || name == "isalnum" || name == "isspace" || name == "isupper" ||
      name == "islower" || name == "isnumeric")
    return is_class(s, name);
  unsupported("the method \"" + name + "\" of strings");
}

Value dict_method(Evaluator& evaluator, const Dict& d, const std::string& name, const Arguments& a) {
  evaluator.charge(64 * d.entries.size());
  if (name == "get") {
    const Value* key = a.get(0, "key");
    const Value* found = key && key->string() ? d.find(*key->string()) : nullptr;
    const Value* fallback = a.get(1, "default");
    return found ? *found : fallback ? *fallback : Value(None{});
  }
  List out;
  for (const auto& [key, value] : d.entries) {
    if (name == "keys")
      out.emplace_back(key);
    else if (name == "values")
      out.push_back(value);
    else
      out.push_back(make_list({Value(key), value}, true));
  }
  return make_list(std::move(out));
}

}  // namespace

Value Evaluator::attribute(const Value& object, const std::string& name) const {
  if (const auto* d = object.dict()) {
    const Value* v = d->find(name);
    return v ? *v : Value(Undefined{name});
  }
  if (const auto* space = object.as<std::shared_ptr<Namespace>>()) {
    const Value* v = (*space)->find(name);
    return v ? *v : Value(Undefined{name});
  }
  if (const auto* loop = object.as<std::shared_ptr<LoopState>>()) return loop_attribute(**loop, name);
  return Undefined{name};
}

Value Evaluator::item(const Value& object, const Value& key) const {
  int64_t i;
  if (key.string()) return attribute(object, *key.string());
  if (const auto* s = object.sequence(); s && integer(key, i)) {
    const auto size = int64_t(s->items.size());
    if (i < 0) i += size;
    return i >= 0 && i < size ? s->items[size_t(i)] : Value(Undefined{"item " + std::to_string(i)});
  }
  if (const auto* s = object.string(); s && integer(key, i)) {
    const auto all = characters(*s);
    if (i < 0) i += int64_t(all.size());
    return i >= 0 && size_t(i) < all.size() ? Value(std::string(all[size_t(i)]))
                                            : Value(Undefined{"character " + std::to_string(i)});
  }
  return Undefined{to_text(key)};
}

Value call_method(Evaluator& evaluator, const Value& object, const std::string& name, const Arguments& a) {
  if (const auto* s = object.string()) return string_method(evaluator, *s, name, a);
  if (const auto* d = object.dict()) {
    if (name == "items" || name == "keys" || name == "values" || name == "get")
      return dict_method(evaluator, *d, name, a);
  }
  if (const auto* s = object.sequence(); s && a.list.size() == 1 && (name == "index" || name == "count")) {
    const auto same = [&](const Value& v) { return equal(v, a.list[0]); };
    if (name == "count") return int64_t(std::count_if(s->items.begin(), s->items.end(), same));
    const auto at = std::find_if(s->items.begin(), s->items.end(), same);
    if (at == s->items.end()) fail("index() does not find the value");
    return int64_t(at - s->items.begin());
  }
  if (object.as<std::shared_ptr<LoopState>>() && name == "cycle" && !a.list.empty()) {
    const Value index = evaluator.attribute(object, "index0");
    return a.list[size_t(*index.as<int64_t>()) % a.list.size()];
  }
  unsupported("the method \"" + name + "\" of a " + type_name(object));
}

}  // namespace tenon::trainer::jinja
