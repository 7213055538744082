// Jinja's tests: what may follow "is".
#include "hosts/trainer/text/jinja/evaluator.h"
#include "hosts/trainer/text/jinja/strings.h"

namespace tenon::trainer::jinja {

bool Evaluator::apply_test(const std::string& name, const Value& v, const Arguments& a) {
  charge(1);
  const auto other = [&]() -> const Value& {
    if (a.list.size() != 1) fail("the test \"" + name + "\" takes one argument");
    return a.list[0];
  };
  const auto whole = [&](const Value& x) {
    int64_t n;
    if (!integer(x, n)) fail("the test \"" + name + "\" takes whole numbers");
    return n;
  };
  if (name == "defined") return !v.undefined();
  if (name == "undefined") return v.undefined();
  if (name == "none") return v.none();
  if (name == "string") return v.string() != nullptr;
  if (name == "mapping") return v.dict() != nullptr;
  if (name == "iterable" || name == "sequence") return v.string() || v.sequence() || v.dict() || v.undefined();
  if (name == "number") return v.number();
  if (name == "integer") return v.as<int64_t>() != nullptr;
  if (name == "float") return v.as<double>() != nullptr;
  if (name == "boolean") return v.as<bool>() != nullptr;
  if (name == "true") return v.as<bool>() && *v.as<bool>();
  if (name == "false") return v.as<bool>() && !*v.as<bool>();
  if (name == "callable") return v.as<const Statement*>() || v.as<Builtin>();
  if (name == "sameas") return v.data.index() == other().data.index() && equal(v, other());
  if (name == "equalto" || name == "eq" || name == "==") return equal(v, other());
  if (name == "ne" || name == "!=") return !equal(v, other());
  if (name == "lt" || name == "lessthan" || name == "<") return compare(v, other()) < 0;
  if (name == "le" || name == "<=") return compare(v, other()) <= 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return compare(v, other()) > 0;
  if (name == "ge" || name == ">=") return compare(v, other()) >= 0;
  if (name == "in") return contains(other(), v);
  if (name == "even") return whole(v) % 2 == 0;
  if (name == "odd") return whole(v) % 2 != 0;
  if (name == "divisibleby") {
    const int64_t by = whole(other());
    if (by == 0) fail("the test \"divisibleby\" is given 0");
    return by == -1 || whole(v) % by == 0;
  }
  if (name == "upper") return v.string() && is_class(*v.string(), "isupper");
  if (name == "lower") return v.string() && is_class(*v.string(), "islower");
  unsupported("the test \"" + name + "\"");
}

}  // namespace tenon::trainer::jinja
