#include "hosts/trainer/text/tokenizer/split_behavior.h"

#include <algorithm>

#include "core/error.h"

namespace tenon::trainer {

Behavior parse_behavior(const std::string& name, const std::string& where) {
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Contiguous") return Behavior::kContiguous;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  throw Error(TN_E_FORMAT, where + ": \"behavior\" is \"" + name +
                               "\"; it must be Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
}

void apply_behavior(std::string_view text, std::vector<Span>& spans, Behavior behavior, bool invert,
                    std::vector<std::string_view>& out) {
  if (invert)
    for (Span& s : spans) s.match = !s.match;
  std::vector<Span> kept;
  bool previous = false;  // whether the span before was a match; the reference starts from "no" at either end
  const auto extend = [&](const Span& s, bool join) {
    if (join && !kept.empty()) {
      kept.back().begin = std::min(kept.back().begin, s.begin);
      kept.back().end = std::max(kept.back().end, s.end);
    } else {
      kept.push_back(s);
    }
    previous = s.match;
  };
  switch (behavior) {
    case Behavior::kIsolated:
      for (const Span& s : spans) out.push_back(text.substr(s.begin, s.end - s.begin));
      return;
    case Behavior::kRemoved:
      for (const Span& s : spans)
        if (!s.match) out.push_back(text.substr(s.begin, s.end - s.begin));
      return;
    case Behavior::kContiguous:
      for (const Span& s : spans) extend(s, s.match == previous);
      break;
    case Behavior::kMergedWithPrevious:
      for (const Span& s : spans) extend(s, s.match && !previous);
      break;
    case Behavior::kMergedWithNext:
      for (auto s = spans.rbegin(); s != spans.rend(); ++s) extend(*s, s->match && !previous);
      std::reverse(kept.begin(), kept.end());
      break;
  }
  for (const Span& s : kept) out.push_back(text.substr(s.begin, s.end - s.begin));
}

}  // namespace tenon::trainer
