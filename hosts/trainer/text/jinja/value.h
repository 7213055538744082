// Values of the template language, with Python's meaning of equality, truth and printing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "hosts/trainer/text/json_input.h"

namespace tenon::trainer::jinja {

struct Value;
using List = std::vector<Value>;

// Lists, tuples and dicts never change once made, so that values share them and no cycle can arise.
struct Sequence {
  List items;
  bool tuple = false;
  int depth = 1;  // 1 + that of the deepest item
};
struct Dict {
  std::vector<std::pair<std::string, Value>> entries;  // in order of insertion; keys are strings, as in JSON
  int depth = 1;
  const Value* find(std::string_view key) const;
};
// The one mutable thing: what namespace() makes. It cannot be stored in another value.
struct Namespace {
  std::vector<std::pair<std::string, Value>> entries;
  Value* find(std::string_view key);
  void set(const std::string& key, Value value);
};
struct LoopState {
  const List* items = nullptr;
  size_t index = 0;
  int depth = 1;
};
struct Statement;  // of the syntax tree: a macro
struct Undefined {
  std::string name;
};
struct None {};
struct Builtin {
  std::string name;
};

struct Value {
  std::variant<Undefined, None, bool, int64_t, double, std::string, std::shared_ptr<const Sequence>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<LoopState>, const Statement*,
               Builtin>
      data;

  Value() : data(Undefined{}) {}
  template <class T>
  requires(!std::is_same_v<std::decay_t<T>, Value>) Value(T v)
      : data(std::move(v)) {}  // NOLINT: a value is made from any of its alternatives
  Value(const char* text) : data(std::string(text)) {}
  Value(int v) : data(int64_t(v)) {}

  template <class T>
  const T* as() const {
    return std::get_if<T>(&data);
  }
  const std::string* string() const { return as<std::string>(); }
  const Sequence* sequence() const {
    const auto* p = as<std::shared_ptr<const Sequence>>();
    return p ? p->get() : nullptr;
  }
  const Dict* dict() const {
    const auto* p = as<std::shared_ptr<const Dict>>();
    return p ? p->get() : nullptr;
  }
  bool undefined() const { return as<Undefined>() != nullptr; }
  bool none() const { return as<None>() != nullptr; }
  bool number() const { return as<int64_t>() || as<double>() || as<bool>(); }
};

// Throw Error for containers nested deeper than 200 and for a namespace or loop inside a container.
Value make_list(List items, bool tuple = false);
Value make_dict(std::vector<std::pair<std::string, Value>> entries);  // of equal keys the last one counts

Value from_json(const OrderedJson& json);

bool truthy(const Value& v);
bool equal(const Value& a, const Value& b);
// -1, 0, 1; throws Error for kinds without an order between them.
int compare(const Value& a, const Value& b);
// `item in container`; throws Error when the container is none.
bool contains(const Value& container, const Value& item);
const char* type_name(const Value& v);
double to_double(const Value& v);            // of a number
bool integer(const Value& v, int64_t& out);  // int or bool

// str(v) and repr(v) of Python.
std::string to_text(const Value& v);
std::string repr(const Value& v);
std::string float_text(double v);

struct JsonStyle {
  int indent = -1;  // -1: one line
  bool ascii = false, sort_keys = false;
  std::string item_separator, key_separator;  // empty: Python's default for the indent
};
// json.dumps(v). Throws Error for values that JSON does not have.
std::string dump_json(const Value& v, const JsonStyle& style);

// Characters of a text: Python counts and slices code points. Ill-formed input was refused before.
std::vector<std::string_view> characters(std::string_view text);

[[noreturn]] void fail(const std::string& what);         // TN_E_FORMAT; the evaluator prepends the line
[[noreturn]] void unsupported(const std::string& what);  // TN_E_UNSUPPORTED

}  // namespace tenon::trainer::jinja
