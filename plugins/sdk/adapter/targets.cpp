#include "sdk/adapter/targets.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <regex>

namespace tenon::sdk {
namespace {

// Bounds the states of the automaton, over which matching recurses.
constexpr uint64_t kLargestPattern = 10000;

// Length times the product of the repetition counts in braces: no expression has many more states.
uint64_t size_of(const std::string& pattern) {
  uint64_t size = pattern.size();
  for (size_t at = pattern.find('{'); at != std::string::npos; at = pattern.find('{', at + 1)) {
    const size_t end = std::min(pattern.find('}', at), pattern.size());
    uint64_t count = 1;
    for (size_t i = at + 1; i < end; ++i) {
      if (pattern[i] < '0' || pattern[i] > '9') continue;
      const uint64_t number = std::strtoull(pattern.c_str() + i, nullptr, 10);
      count = std::max(count, std::min(number, kLargestPattern + 1));
      while (i + 1 < end && pattern[i + 1] >= '0' && pattern[i + 1] <= '9') ++i;
    }
    size = std::min(size * count, kLargestPattern + 1);
  }
  return size;
}

std::regex compile(const std::string& pattern) {
  const std::string name = "\"" + pattern.substr(0, 120) + "\"";
  if (size_of(pattern) > kLargestPattern)
    fail(TN_E_ARGUMENT,
              name +
                  " is too large for an expression over module names; its length times its counts in braces may be " +
                  std::to_string(kLargestPattern));
  auto options = std::regex::ECMAScript | std::regex::nosubs;
#ifdef __GLIBCXX__
  options |= std::regex_constants::__polynomial;
#endif
  try {
    return std::regex(pattern, options);
  } catch (const std::regex_error&) {
    fail(TN_E_ARGUMENT, name + " is not a valid regular expression for module names");
  }
}

bool plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

bool named(const std::string& path, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& n) { return path == n || path.ends_with("." + n); });
}

// The number of the first segment that is one, after `pattern` where one is given; -1: none.
int64_t layer_after(const std::string& path, const std::string* pattern) {
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    const size_t end = path.find('.', dot + 1);
    if (end == std::string::npos) return -1;
    int64_t number = -1;
    const auto [p, error] = std::from_chars(path.data() + dot + 1, path.data() + end, number);
    if (error != std::errc() || p != path.data() + end || number < 0) continue;
    if (!pattern || named(path.substr(0, dot), {*pattern})) return number;
  }
  return -1;
}

int64_t layer_of(const std::string& path, const std::vector<std::string>& patterns) {
  if (patterns.empty()) return layer_after(path, nullptr);
  for (const std::string& pattern : patterns)
    if (const int64_t layer = layer_after(path, &pattern); layer >= 0) return layer;
  return -1;
}

template <class T>
T first_match(const std::vector<std::pair<PathPattern, T>>& patterns, const std::string& path, T fallback) {
  for (const auto& [pattern, value] : patterns)
    if (pattern.matches(path)) return value;
  return fallback;
}

}  // namespace

struct PathPattern::Compiled {
  std::regex regex;
};

PathPattern::PathPattern(const std::string& pattern, bool suffix)
    : literal_(std::all_of(pattern.begin(), pattern.end(), plain)), suffix_(suffix), pattern_(pattern) {
  if (!literal_)
    compiled_ = std::make_shared<Compiled>(Compiled{compile(suffix ? "(.*\\.)?(" + pattern + ")" : pattern)});
}

bool PathPattern::matches(const std::string& path) const {
  if (!literal_) return std::regex_match(path, compiled_->regex);
  if (pattern_.size() > path.size()) return false;
  const size_t start = path.size() - pattern_.size();
  if (start > 0 && (!suffix_ || path[start - 1] != '.')) return false;
  return std::equal(pattern_.begin(), pattern_.end(), path.begin() + static_cast<std::ptrdiff_t>(start),
                    [](char p, char c) { return p == '.' || p == c; });
}

Targets::Targets(const Selection& selection) : selection_(selection) {
  if (selection.target_regex) target_.emplace_back(*selection.target_regex);
  if (selection.excluded_regex) excluded_.emplace_back(*selection.excluded_regex);
  for (const auto& [key, rank] : selection.rank_pattern) ranks_.emplace_back(PathPattern(key, true), rank);
  for (const auto& [key, alpha] : selection.alpha_pattern) alphas_.emplace_back(PathPattern(key, true), alpha);
}

bool Targets::takes(const tn_site& site) const {
  const std::string path = site.path;
  if (excluded_.empty() ? named(path, selection_.excluded) : excluded_[0].matches(path)) return false;
  if (selection_.all_linear) return site.place != TN_PLACE_LOOKUP && site.role != TN_ROLE_HEAD;
  if (!target_.empty()) return target_[0].matches(path);
  if (std::find(selection_.targets.begin(), selection_.targets.end(), path) != selection_.targets.end())
    return true;  // by its full name, whatever the layer
  if (!named(path, selection_.targets)) return false;
  if (selection_.layers.empty()) return true;
  return std::find(selection_.layers.begin(), selection_.layers.end(), layer_of(path, selection_.layers_pattern)) !=
         selection_.layers.end();
}

void Targets::refuse_lookups(const char* who, const tn_site* const* sites, uint64_t n) const {
  for (uint64_t i = 0; i < n; ++i)
    if (sites[i]->place == TN_PLACE_LOOKUP && takes(*sites[i]))
      fail(TN_E_UNSUPPORTED, "target_modules " + described() + " takes " + sites[i]->path + ", an embedding, which " + who +
                                 " does not adapt; leave it out, or adapt it with lora");
}

int64_t Targets::rank_of(const std::string& path, int64_t fallback) const {
  return first_match(ranks_, path, fallback);
}
double Targets::alpha_of(const std::string& path, double fallback) const {
  return first_match(alphas_, path, fallback);
}

void Targets::none_taken(const tn_site* const* sites, uint64_t n) const {
  fail(TN_E_NOT_FOUND, "target_modules " + described() +
                           " names no linear of this model (exclude_modules and layers_to_transform applied); " +
                           (n ? "one of them is " + std::string(sites[0]->path) : "it has none"));
}

std::string Targets::described() const {
  if (selection_.all_linear) return "all-linear";
  if (selection_.target_regex) return "regex:" + selection_.target_regex->substr(0, 120);
  std::string out;
  for (const std::string& name : selection_.targets) {
    if (!out.empty()) out += '+';
    if (out.size() > 120) return out + "...";
    out += name.substr(0, 120);
  }
  return out;
}

}  // namespace tenon::sdk
