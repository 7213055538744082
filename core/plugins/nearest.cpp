#include "core/plugins/nearest.h"

#include <algorithm>
#include <cctype>

namespace tenon {

size_t edit_distance(std::string_view a, std::string_view b) {
  constexpr size_t kMost = 100;  // longer texts are nobody's typing error, and the table is quadratic
  a = a.substr(0, kMost);
  b = b.substr(0, kMost);
  const auto same = [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) == std::tolower(static_cast<unsigned char>(y));
  };
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + !same(a[i - 1], b[j - 1])});
      if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1])) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

std::string nearest(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string* best = nullptr;
  size_t best_distance = SIZE_MAX;
  for (const std::string& candidate : candidates) {
    // A name that begins another ("flash" for "flash-attention") is as good as one typing error.
    const bool prefix = name.size() >= 3 && (candidate.starts_with(name) || name.starts_with(candidate));
    const size_t distance = prefix ? 1 : edit_distance(name, candidate);
    if (distance < best_distance) best = &candidate, best_distance = distance;
  }
  if (!best || best_distance > std::max<size_t>(1, std::max(name.size(), best->size()) / 2)) return "";
  return *best;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& candidates, std::string_view knows) {
  if (candidates.empty()) return "";
  if (const std::string near = nearest(name, candidates); !near.empty()) return "; did you mean '" + near + "'?";
  constexpr size_t kMost = 12;
  std::string text = "; " + std::string(knows) + ' ';
  const size_t n = std::min(kMost, candidates.size());
  for (size_t i = 0; i < n; ++i) {
    if (i > 0) text += i + 1 == n && n == candidates.size() ? " and " : ", ";
    text += candidates[i];
  }
  if (n < candidates.size()) text += ", …";
  return text;
}

}  // namespace tenon
