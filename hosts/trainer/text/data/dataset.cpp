#include "hosts/trainer/text/data/dataset.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "hosts/trainer/text/data/batch_order.h"

namespace tenon::trainer {
namespace {

constexpr uint64_t kSplitStream = 0x73706C6974;  // apart from every epoch's order

// n indices in two sorted parts, the second with about held_out of them and neither empty.
std::pair<std::vector<size_t>, std::vector<size_t>> part(size_t n, double held_out, uint64_t seed) {
  const auto count = std::clamp<size_t>(size_t(std::llround(double(n) * held_out)), 1, n - 1);
  const std::vector<uint64_t> order = permutation(n, seed, kSplitStream);
  std::vector<size_t> rest(order.begin() + std::ptrdiff_t(count), order.end()),
      held(order.begin(), order.begin() + std::ptrdiff_t(count));
  std::sort(rest.begin(), rest.end());
  std::sort(held.begin(), held.end());
  return {std::move(rest), std::move(held)};
}

}  // namespace

Dataset::Dataset(Documents documents, const WindowOptions& options)
    : documents_(std::make_shared<const Documents>(std::move(documents))),
      options_(options),
      windows_(cut(*documents_, options)) {}

std::vector<Dataset::Window> Dataset::cut(const Documents& documents, const WindowOptions& options) {
  if (options.length < 2)
    throw Error(TN_E_ARGUMENT, "the sequence length (--seq-len) is " + std::to_string(options.length) +
                                   ", but a window needs at least 2 tokens to predict one; raise it");
  std::vector<Window> windows;
  const auto length = uint64_t(options.length);
  const auto cut_range = [&](uint64_t begin, uint64_t end, bool keep_short, bool only_first) {
    for (uint64_t at = begin; at < end; at += length) {
      const uint64_t left = std::min(length, end - at);
      if (left == length || (keep_short && left >= 2)) windows.push_back({at, uint32_t(left)});
      if (only_first || end - at <= length) break;
    }
  };
  if (options.pack)
    cut_range(0, documents.tokens.size(), options.keep_short, false);
  else
    for (size_t d = 0; d < documents.size(); ++d)
      cut_range(documents.begin(d), documents.end(d), true, options.long_documents == LongDocuments::kTruncate);
  if (windows.empty())
    throw Error(TN_E_ARGUMENT, documents.source + ": the text has " + std::to_string(documents.tokens.size()) +
                                   " tokens, fewer than one window of " + std::to_string(options.length) +
                                   " (--seq-len); give more text or shorten the window");
  return windows;
}

int64_t Dataset::fill(const Window& window, int32_t* tokens, int32_t* targets, std::vector<int32_t>& starts) const {
  const Documents& d = *documents_;
  const uint64_t end = window.begin + window.length;
  starts.assign(1, 0);
  for (auto s = std::upper_bound(d.starts.begin(), d.starts.end(), window.begin); s != d.starts.end() && *s < end; ++s)
    starts.push_back(int32_t(*s - window.begin));
  int64_t predicted = 0;
  for (uint32_t i = 0; i < window.length; ++i) {
    const uint64_t at = window.begin + i;
    tokens[i] = d.tokens[at];
    if (i + 1 == window.length || (!d.counts.empty() && !d.counts[at + 1])) continue;
    targets[i] = d.tokens[at + 1];
  }
  if (options_.isolate_documents)
    for (size_t s = 1; s < starts.size(); ++s) targets[starts[s] - 1] = kIgnored;
  for (uint32_t i = 0; i < window.length; ++i) predicted += targets[i] != kIgnored;
  return predicted;
}

Batch Dataset::batch(const std::vector<uint64_t>& windows) const {
  Batch b;
  b.rows = int64_t(windows.size());
  for (const uint64_t w : windows) b.length = std::max<int64_t>(b.length, windows_.at(w).length);
  b.tokens.assign(size_t(b.rows * b.length), options_.pad_id);
  b.targets.assign(size_t(b.rows * b.length), kIgnored);
  b.segment_starts.resize(windows.size());
  for (size_t r = 0; r < windows.size(); ++r) {
    const Window& w = windows_[windows[r]];
    const size_t row = r * size_t(b.length);
    b.predicted += fill(w, b.tokens.data() + row, b.targets.data() + row, b.segment_starts[r]);
    b.lengths.push_back(int32_t(w.length));
  }
  return b;
}

std::pair<Dataset, Dataset> Dataset::split(Documents documents, const WindowOptions& options, double held_out,
                                           uint64_t seed) {
  if (!(held_out > 0 && held_out < 1))
    throw Error(TN_E_ARGUMENT, "the held-out fraction is " + std::to_string(held_out) + "; it must be between 0 and 1");
  if (documents.size() > 1) {
    const auto [rest, held] = part(documents.size(), held_out, seed);
    WindowOptions evaluation = options;
    evaluation.keep_short = true;
    return {Dataset(documents.subset(rest), options), Dataset(documents.subset(held), evaluation)};
  }
  auto shared = std::make_shared<const Documents>(std::move(documents));
  const std::vector<Window> windows = cut(*shared, options);
  if (windows.size() < 2)
    throw Error(TN_E_ARGUMENT,
                shared->source + ": the text makes one window, so that none can be held out; give more text");
  const auto [rest, held] = part(windows.size(), held_out, seed);
  const auto pick = [&](const std::vector<size_t>& indices) {
    std::vector<Window> picked;
    for (const size_t i : indices) picked.push_back(windows[i]);
    return Dataset(shared, options, std::move(picked));
  };
  return {pick(rest), pick(held)};
}

}  // namespace tenon::trainer
