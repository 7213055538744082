#include "targets.h"

#include <algorithm>
#include <charconv>
#include <regex>

namespace tenon::lora {
namespace {

// Python's re.fullmatch; a pattern that does not compile is the user's to mend.
bool full_match(const std::string& text, const std::string& pattern) {
  try {
    return std::regex_match(text, std::regex(pattern, std::regex::ECMAScript));
  } catch (const std::regex_error&) {
    sdk::fail(TN_E_ARGUMENT, "\"" + pattern.substr(0, 120) + "\" is not a valid regular expression for module names");
  }
}

bool named(const std::string& path, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& n) { return path == n || path.ends_with("." + n); });
}

// The number of the first numbered segment after a layers pattern (any segment where none is given); -1: none.
int64_t layer_of(const std::string& path, const std::vector<std::string>& patterns) {
  std::string previous;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string segment = path.substr(begin, end - begin);
    int64_t number = -1;
    const auto [p, error] = std::from_chars(segment.data(), segment.data() + segment.size(), number);
    if (error == std::errc() && p == segment.data() + segment.size() &&
        (patterns.empty() || std::find(patterns.begin(), patterns.end(), previous) != patterns.end()))
      return number;
    previous = segment;
    begin = end + 1;
  }
  return -1;
}

template <class T>
T pattern_value(const std::vector<std::pair<std::string, T>>& patterns, const std::string& path, T fallback) {
  for (const auto& [key, value] : patterns)
    if (full_match(path, "^(.*\\.)?(" + key + ")$")) return value;
  return fallback;
}

}  // namespace

bool is_target(const Config& c, const tn_site& site) {
  const std::string path = site.path;
  if (c.excluded_regex ? full_match(path, *c.excluded_regex) : named(path, c.excluded)) return false;
  if (c.all_linear) return site.role != TN_ROLE_HEAD;
  if (c.target_regex) return full_match(path, *c.target_regex);
  if (!named(path, c.targets)) return false;
  if (c.layers.empty()) return true;
  return std::find(c.layers.begin(), c.layers.end(), layer_of(path, c.layers_pattern)) != c.layers.end();
}

int64_t rank_of(const Config& c, const std::string& path) { return pattern_value(c.rank_pattern, path, c.r); }
double alpha_of(const Config& c, const std::string& path) { return pattern_value(c.alpha_pattern, path, c.alpha); }

}  // namespace tenon::lora
