// The nearest of a list of names, for messages: "did you mean 'rank'?".
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tenon {

// Damerau-Levenshtein distance (insert, delete, replace, swap of neighbours), letters compared without case.
size_t edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `name`, or "" when none is near enough to be what was meant.
std::string nearest(std::string_view name, const std::vector<std::string>& candidates);

// "; did you mean 'rank'?" or, when nothing is near, "; it knows a, b and c" (at most twelve names); "" without
// candidates.
std::string suggestion(std::string_view name, const std::vector<std::string>& candidates, std::string_view knows);

}  // namespace tenon
