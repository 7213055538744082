#include "hosts/trainer/optim/route.h"

#include <fnmatch.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/files/bytes.h"
#include "core/plugins/nearest.h"
#include "core/plugins/spec.h"

namespace tenon::trainer {
namespace {

struct Class {
  const char* name;
  bool (*takes)(const ParameterTraits&);
};

bool in_stack(uint32_t role) { return role >= TN_ROLE_Q && role <= TN_ROLE_DOWN; }
template <uint32_t... kRoles>
bool has_role(const ParameterTraits& p) {
  return ((p.role == kRoles) || ...);
}

constexpr Class kClasses[] = {
    // What the papers call hidden matrices: neither the embedding nor the head.
    {"matrices", [](const ParameterTraits& p) { return p.ndim == 2 && (in_stack(p.role) || has_role<TN_ROLE_ADAPTER, TN_ROLE_OTHER>(p)); }},
    {"vectors", [](const ParameterTraits& p) { return p.ndim == 1; }},
    {"embeddings", has_role<TN_ROLE_EMBEDDING>},
    {"head", has_role<TN_ROLE_HEAD>},
    {"norms", has_role<TN_ROLE_NORM>},
    {"biases", has_role<TN_ROLE_BIAS>},
    {"attention", has_role<TN_ROLE_Q, TN_ROLE_K, TN_ROLE_V, TN_ROLE_O>},
    {"mlp", has_role<TN_ROLE_GATE, TN_ROLE_UP, TN_ROLE_DOWN>},
    {"q", has_role<TN_ROLE_Q>},
    {"k", has_role<TN_ROLE_K>},
    {"v", has_role<TN_ROLE_V>},
    {"o", has_role<TN_ROLE_O>},
    {"gate", has_role<TN_ROLE_GATE>},
    {"up", has_role<TN_ROLE_UP>},
    {"down", has_role<TN_ROLE_DOWN>},
    {"adapters", has_role<TN_ROLE_ADAPTER>},
    {"scales", has_role<TN_ROLE_SCALE>},
};

const Class* find_class(std::string_view name) {
  const auto* at = std::find_if(std::begin(kClasses), std::end(kClasses), [&](const Class& c) { return name == c.name; });
  return at == std::end(kClasses) ? nullptr : at;
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> list(1);
  for (char c : text) {
    if (c == ' ' || c == '+') {
      if (!list.back().empty()) list.emplace_back();
      if (c == '+') list.back() = "and", list.emplace_back();
    } else {
      list.back() += c;
    }
  }
  if (list.back().empty()) list.pop_back();
  return list;
}

[[noreturn]] void refuse(std::string_view text, const std::string& why) {
  throw Error(TN_E_ARGUMENT, "--optimizer: " + quote_name(text) + " does not name parameters: " + why);
}

// "3", "0-5" or "12-"; last = -1: to the end.
void parse_range(std::string_view text, const std::string& word, int32_t& first, int32_t& last) {
  const char* end = word.data() + word.size();
  auto [at, error] = std::from_chars(word.data(), end, first);
  last = first;
  bool good = error == std::errc() && first >= 0;
  if (good && at != end) {
    good = *at++ == '-';
    last = -1;
    if (good && at != end) {
      const auto [stop, bad] = std::from_chars(at, end, last);
      good = bad == std::errc() && stop == end && last >= first;
    }
  }
  if (!good) refuse(text, quote_name(word) + " is not a range of blocks; write it as 3, 0-5 or 12-");
}

// The next place of " for ", or of one of `stops`, outside double quotes.
size_t find_outside_quotes(std::string_view text, size_t from, std::string_view needle, std::string_view stops) {
  bool quoted = false;
  for (size_t i = from; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    if (quoted) continue;
    if (!needle.empty() && text.substr(i).starts_with(needle)) return i;
    if (stops.find(text[i]) != std::string_view::npos) return i;
  }
  return std::string_view::npos;
}

std::string in_quotes(const std::string& value) {
  // Blanks of any kind, commas and semicolons would end the value where it is read back.
  const auto plain = [](unsigned char c) { return c > 0x20 && c < 0x7F && c != ',' && c != ';' && c != '"' && c != '\\'; };
  if (std::all_of(value.begin(), value.end(), plain)) return value;
  std::string out = "\"";
  for (char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

// Takes the host's key `lr` out of a spec.
OptimizerClause cut_lr(std::string_view text) {
  const SpecText cut = cut_spec(text);
  OptimizerClause clause{cut.id, {}, {}};
  char separator = ':';
  for (const SpecText::Item& item : cut.items) {
    // What is read here is written again, for the optimizers inside: a quote or a blank in a name would be read otherwise.
    const auto of_a_name = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; };
    if (!std::all_of(item.key.begin(), item.key.end(), of_a_name))
      throw Error(TN_E_ARGUMENT, "--optimizer: " + quote_name(item.key) + " cannot be a parameter of " + quote_name(cut.id) + "; names have letters, digits and _ alone");
    if (item.key != "lr") {
      clause.spec += separator + item.key + '=' + in_quotes(item.value);
      separator = ',';
      continue;
    }
    double lr = 0;
    const char* end = item.value.data() + item.value.size();
    const auto [at, error] = std::from_chars(item.value.data(), end, lr);
    if (error != std::errc() || at != end || !(lr >= 0) || !std::isfinite(lr))
      throw Error(TN_E_ARGUMENT, quote_name(cut.id) + ": lr=" + quote_name(item.value) + " is not a learning rate; give a number of at least 0");
    if (clause.lr) throw Error(TN_E_ARGUMENT, quote_name(cut.id) + ": lr is given twice; keep one of the two");
    clause.lr = lr;
  }
  return clause;
}

}  // namespace

Selector Selector::parse(std::string_view text) {
  Selector s;
  const std::vector<std::string> list = words(text);
  if (list.empty()) refuse(text, "it is empty; write what follows `for`, such as matrices or rest");
  s.text_.clear();
  for (const std::string& w : list) s.text_ += (s.text_.empty() ? "" : " ") + w;
  if (s.text_ == "rest" || s.text_ == "all") {
    s.text_ = "rest";
    return s;
  }
  for (size_t i = 0; i < list.size();) {
    Term t;
    const auto blocks = [&] {
      if (i + 1 >= list.size()) refuse(text, "a range must follow `blocks`, such as 0-5");
      parse_range(text, list[i + 1], t.first, t.last);
      i += 2;
    };
    if (list[i] == "blocks") {
      blocks();
    } else {
      t.what = list[i++];
      t.pattern = t.what.find_first_of("*?[.") != std::string::npos;
      if (!t.pattern && !find_class(t.what)) {
        std::vector<std::string> names{"rest", "blocks"};
        for (const Class& c : kClasses) names.emplace_back(c.name);
        refuse(text, quote_name(t.what) + " is not a class of parameters" + suggestion(t.what, names, "there are") +
                         "; a pattern of names has a * in it");
      }
      if (i < list.size() && list[i] == "in") {
        if (++i >= list.size() || list[i] != "blocks") refuse(text, "`in` must be followed by blocks and a range");
        blocks();
      }
    }
    s.terms_.push_back(t);
    if (i < list.size() && list[i++] != "and") refuse(text, "its parts are joined by `and`");
  }
  return s;
}

bool Selector::takes(const ParameterTraits& p) const {
  return terms_.empty() || std::any_of(terms_.begin(), terms_.end(), [&](const Term& t) {
           if (t.last != -2 && (p.block < t.first || (t.last >= 0 && p.block > t.last))) return false;
           if (t.what.empty()) return true;
           if (t.pattern) return fnmatch(t.what.c_str(), std::string(p.name).c_str(), 0) == 0;
           return find_class(t.what)->takes(p);
         });
}

std::string OptimizerClause::with_lr_and_selector(const std::string& form, bool routed) const {
  std::string out = form;
  if (lr) {
    char text[32];
    const auto [end, error] = std::to_chars(text, text + sizeof text, *lr);
    out += (form.find(':') == std::string::npos ? ":lr=" : ",lr=") + std::string(text, end);
  }
  return routed ? out + " for " + selector.text() : out;
}

std::vector<OptimizerClause> parse_optimizers(std::string_view text) {
  std::vector<OptimizerClause> clauses;
  for (size_t at = 0; at < text.size();) {
    const size_t blank = find_outside_quotes(text, at, " for ", ";");
    const bool selects = blank != std::string_view::npos && text[blank] == ' ';
    clauses.push_back(cut_lr(text.substr(at, blank == std::string_view::npos ? blank : blank - at)));
    at = blank == std::string_view::npos ? text.size() : blank;
    if (selects) {
      const size_t end = std::min(find_outside_quotes(text, at + 5, "", ",;"), text.size());
      clauses.back().selector = Selector::parse(text.substr(at + 5, end - at - 5));
      at = end;
    }
    if (at < text.size()) ++at;
  }
  for (size_t i = 0; i + 1 < clauses.size(); ++i)
    if (clauses[i].selector.is_rest())
      throw Error(TN_E_ARGUMENT, "--optimizer: " + quote_name(clauses[i].spec) + " takes everything that is left, so nothing remains for " +
                                     quote_name(clauses[i + 1].spec) + "; put `for rest` last");
  return clauses;
}

std::vector<size_t> route(const std::vector<Selector>& selectors, const std::vector<ParameterTraits>& parameters) {
  std::vector<size_t> out;
  std::vector<bool> used(selectors.size());
  for (const ParameterTraits& p : parameters) {
    const auto at = std::find_if(selectors.begin(), selectors.end(), [&](const Selector& s) { return s.takes(p); });
    if (at == selectors.end())
      throw Error(TN_E_ARGUMENT, "--optimizer: no optimizer takes " + quote_name(p.name) + "; end it with one `for rest`");
    out.push_back(static_cast<size_t>(at - selectors.begin()));
    used[out.back()] = true;
  }
  for (size_t i = 0; i < selectors.size(); ++i)
    if (!used[i] && !selectors[i].is_rest())
      throw Error(TN_E_ARGUMENT, "--optimizer: nothing that trains in this run is left for " + quote_name(selectors[i].text()) +
                                     "; drop that part (a tied head counts among the embeddings)");
  return out;
}

}  // namespace tenon::trainer
