// What becomes of the matches when a pattern splits a text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/unicode/regex.h"

namespace tenon::trainer {

enum class Behavior { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };

// Throws Error naming an unknown behavior.
Behavior parse_behavior(const std::string& name, const std::string& where);

// Appends the pieces of `text`, whose `spans` cover it in order; `invert` swaps matches and the rest.
void apply_behavior(std::string_view text, std::vector<Span>& spans, Behavior behavior, bool invert,
                    std::vector<std::string_view>& out);

}  // namespace tenon::trainer
