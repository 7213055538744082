#include "hosts/trainer/text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer::jinja {
namespace {

constexpr int kDeepest = 200;

int depth_of(const Value& v) {
  if (v.as<std::shared_ptr<Namespace>>() || v.as<std::shared_ptr<LoopState>>())
    unsupported("a namespace or loop inside a list, dict or namespace");
  if (const auto* s = v.sequence()) return s->depth;
  if (const auto* d = v.dict()) return d->depth;
  return 0;
}

int checked_depth(int deepest) {
  if (deepest + 1 > kDeepest) fail("values are nested deeper than " + std::to_string(kDeepest) + " levels");
  return deepest + 1;
}

}  // namespace

void fail(const std::string& what) {
  throw Error(TN_E_FORMAT, what);
}
void unsupported(const std::string& what) {
  throw Error(TN_E_UNSUPPORTED, what + " is not supported");
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [k, v] : entries)
    if (k == key) return &v;
  return nullptr;
}

Value* Namespace::find(std::string_view key) {
  for (auto& [k, v] : entries)
    if (k == key) return &v;
  return nullptr;
}

void Namespace::set(const std::string& key, Value value) {
  depth_of(value);
  if (Value* old = find(key))
    *old = std::move(value);
  else
    entries.emplace_back(key, std::move(value));
}

Value make_list(List items, bool tuple) {
  auto s = std::make_shared<Sequence>();
  int deepest = 0;
  for (const Value& v : items) deepest = std::max(deepest, depth_of(v));
  s->depth = checked_depth(deepest);
  s->items = std::move(items);
  s->tuple = tuple;
  return std::shared_ptr<const Sequence>(std::move(s));
}

Value make_dict(std::vector<std::pair<std::string, Value>> entries) {
  auto d = std::make_shared<Dict>();
  int deepest = 0;
  for (auto& entry : entries) {
    deepest = std::max(deepest, depth_of(entry.second));
    const auto same =
        std::find_if(d->entries.begin(), d->entries.end(), [&](const auto& e) { return e.first == entry.first; });
    if (same != d->entries.end())
      same->second = std::move(entry.second);
    else
      d->entries.push_back(std::move(entry));
  }
  d->depth = checked_depth(deepest);
  return std::shared_ptr<const Dict>(std::move(d));
}

Value from_json(const OrderedJson& json) {
  if (json.is_null()) return None{};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > uint64_t(INT64_MAX)) return json.get<double>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  if (json.is_array()) {
    List items;
    for (const auto& v : json) items.push_back(from_json(v));
    return make_list(std::move(items));
  }
  auto d = std::make_shared<Dict>();  // the keys are distinct, so that make_dict's search for equal ones is not needed
  int deepest = 0;
  for (const auto& [key, v] : json.items()) {
    d->entries.emplace_back(key, from_json(v));
    deepest = std::max(deepest, depth_of(d->entries.back().second));
  }
  d->depth = checked_depth(deepest);
  return std::shared_ptr<const Dict>(std::move(d));
}

bool integer(const Value& v, int64_t& out) {
  if (const auto* i = v.as<int64_t>()) return out = *i, true;
  if (const auto* b = v.as<bool>()) return out = *b, true;
  return false;
}

double to_double(const Value& v) {
  if (const auto* d = v.as<double>()) return *d;
  int64_t i = 0;
  integer(v, i);
  return double(i);
}

bool truthy(const Value& v) {
  if (v.undefined() || v.none()) return false;
  if (v.number()) return to_double(v) != 0;
  if (const auto* s = v.string()) return !s->empty();
  if (const auto* s = v.sequence()) return !s->items.empty();
  if (const auto* d = v.dict()) return !d->entries.empty();
  return true;
}

bool equal(const Value& a, const Value& b) {
  int64_t i, j;
  if (integer(a, i) && integer(b, j)) return i == j;
  if (a.number() && b.number()) return to_double(a) == to_double(b);
  if (a.data.index() != b.data.index()) return false;
  if (const auto* s = a.string()) return *s == *b.string();
  if (const auto* s = a.sequence()) {
    const auto* t = b.sequence();
    return s == t || (s->tuple == t->tuple && s->items.size() == t->items.size() &&
                      std::equal(s->items.begin(), s->items.end(), t->items.begin(), equal));
  }
  if (const auto* d = a.dict()) {
    const auto* e = b.dict();
    return d == e || (d->entries.size() == e->entries.size() &&
                      std::all_of(d->entries.begin(), d->entries.end(), [&](const auto& x) {
                        const Value* y = e->find(x.first);
                        return y && equal(x.second, *y);
                      }));
  }
  return a.undefined() || a.none();
}

int compare(const Value& a, const Value& b) {
  int64_t i, j;
  if (integer(a, i) && integer(b, j)) return i < j ? -1 : i > j;
  if (a.number() && b.number()) {
    const double x = to_double(a), y = to_double(b);
    return x < y ? -1 : x > y;
  }
  if (a.string() && b.string()) {
    const int c = a.string()->compare(*b.string());  // the order of UTF-8 bytes is that of code points
    return c < 0 ? -1 : c > 0;
  }
  if (a.sequence() && b.sequence()) {
    const List &x = a.sequence()->items, &y = b.sequence()->items;
    for (size_t k = 0; k < x.size() && k < y.size(); ++k)
      if (!equal(x[k], y[k])) return compare(x[k], y[k]);
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  fail(std::string("a ") + type_name(a) + " and a " + type_name(b) + " have no order");
}

bool contains(const Value& container, const Value& item) {
  if (const auto* s = container.string()) {
    if (!item.string()) fail(std::string("a ") + type_name(item) + " cannot be in a string");
    return s->find(*item.string()) != std::string::npos;
  }
  if (const auto* s = container.sequence())
    return std::any_of(s->items.begin(), s->items.end(), [&](const Value& v) { return equal(v, item); });
  if (const auto* d = container.dict()) return item.string() && d->find(*item.string());
  if (container.undefined()) return false;
  fail(std::string("nothing can be in a ") + type_name(container));
}

const char* type_name(const Value& v) {
  static constexpr const char* kNames[] = {"undefined value", "None",   "bool",  "int",
                                           "float",           "string", "list",  "dict",
                                           "namespace",       "loop",   "macro", "function"};
  return kNames[v.data.index()];
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> all;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    next_utf8(text, i);
    all.push_back(text.substr(at, i - at));
  }
  return all;
}

}  // namespace tenon::trainer::jinja
