// Documents cut into chunks, ordered so that what one step of the recurrence works on lies together.
//
// Step j holds the j-th chunk of every document that has one, the longest document first: so document k of a step is the k-th of every step
// before, and states need no index. A window is a run of steps whose intermediates are in memory at once.
#pragma once

#include <algorithm>
#include <vector>

#include "sdk/device_memory.h"
#include "sdk/mixer.h"

namespace tenon::deltanet {

// Rows of one chunk; `document`, `end`: where its document begins and ends.
struct Chunk {
  int64_t row, length, document, end;
};

class Schedule {
 public:
  struct Window {
    int64_t first_step, last_step;  // [first, last)
    int64_t first_chunk, chunks;
  };

  Schedule(std::vector<sdk::MixerPass::Document> documents, int64_t chunk_rows) {
    std::stable_sort(documents.begin(), documents.end(), [](const auto& a, const auto& b) { return a.length > b.length; });
    while (!documents.empty() && documents.back().length == 0) documents.pop_back();
    documents_ = static_cast<int64_t>(documents.size());
    const int64_t steps = documents.empty() ? 0 : (documents[0].length + chunk_rows - 1) / chunk_rows;
    begin_.push_back(0);
    for (int64_t j = 0; j < steps; ++j) {
      for (const auto& d : documents)
        if (d.length > j * chunk_rows) chunks_.push_back({d.begin + j * chunk_rows, std::min(chunk_rows, d.length - j * chunk_rows), d.begin, d.begin + d.length});
      begin_.push_back(static_cast<int64_t>(chunks_.size()));
    }
    const int64_t target = std::max<int64_t>(1, kWindowRows / chunk_rows);
    for (int64_t j = 0; j < steps;) {
      const int64_t first = j++;
      while (j < steps && begin_[j + 1] - begin_[first] <= target) ++j;
      windows_.push_back({first, j, begin_[first], begin_[j] - begin_[first]});
      most_chunks_ = std::max(most_chunks_, windows_.back().chunks);
    }
  }

  int64_t documents() const { return documents_; }
  int64_t chunks() const { return static_cast<int64_t>(chunks_.size()); }
  int64_t most_chunks() const { return most_chunks_; }  // of a window
  const std::vector<Window>& windows() const { return windows_; }
  int64_t begin(int64_t step) const { return begin_[step]; }
  int64_t count(int64_t step) const { return begin_[step + 1] - begin_[step]; }

  // The chunks where kernels read them.
  const Chunk* upload(const sdk::MixerPass& p) const {
    const auto n = static_cast<int64_t>(chunks_.size());
    auto* to = sdk::data<Chunk>(*p.alloc(sdk::kU8, {std::max<int64_t>(n, 1) * static_cast<int64_t>(sizeof(Chunk))}));
    if (!p.plans() && n > 0) sdk::copy_to_device(p.exec(), chunks_.data(), to, n);
    return to;
  }

 private:
  static constexpr int64_t kWindowRows = 1024;
  int64_t documents_ = 0, most_chunks_ = 0;
  std::vector<Chunk> chunks_;
  std::vector<int64_t> begin_;  // of each step, in chunks, and the end
  std::vector<Window> windows_;
};

}  // namespace tenon::deltanet
