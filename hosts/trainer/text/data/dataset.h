// Windows of token ids, cut from documents, and batches of them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hosts/trainer/text/data/documents.h"

namespace tenon::trainer {

constexpr int32_t kIgnored = -100;  // a target that does not count, by the name that the field gave it

enum class LongDocuments { kSplit, kTruncate };

struct WindowOptions {
  int64_t length = 0;  // T, at least 2
  bool pack = true;    // documents follow each other without a gap; else a window holds part of one and is padded
  bool keep_short =
      false;  // evaluation keeps the last, shorter window of a packed stream when it has at least 2 tokens
  // Not packed: what becomes of documents longer than T.
  LongDocuments long_documents = LongDocuments::kSplit;
  // Packed: no target crosses from one document into the next, as when attention is restricted to a document.
  bool isolate_documents = false;
  int32_t pad_id = 0;  // any id; padding never counts
};

struct Batch {
  int64_t rows = 0, length = 0;
  std::vector<int32_t> tokens;   // rows × length
  std::vector<int32_t> targets;  // rows × length: the token that follows, or kIgnored
  std::vector<int32_t> lengths;  // rows: tokens before the padding
  // Per row, where documents start inside the window, ascending, the first always 0.
  std::vector<std::vector<int32_t>> segment_starts;
  int64_t predicted = 0;  // targets that count
};

class Dataset {
 public:
  // Throws Error when T is below 2 or there is not one window.
  Dataset(Documents documents, const WindowOptions& options);

  size_t size() const { return windows_.size(); }
  int64_t length() const { return options_.length; }
  const std::string& source() const { return documents_->source; }

  // The batch of these windows. Its length is T, or, when every window is shorter, that of the longest. [any-thread]
  Batch batch(const std::vector<uint64_t>& windows) const;

  // A deterministic share of the data apart from the rest: whole documents when there are several, otherwise windows.
  // Both have at least one. Throws Error when that is impossible or the fraction is not inside (0, 1).
  static std::pair<Dataset, Dataset> split(Documents documents, const WindowOptions& options, double held_out,
                                           uint64_t seed);

 private:
  struct Window {
    uint64_t begin;
    uint32_t length;
  };
  Dataset(std::shared_ptr<const Documents> documents, const WindowOptions& options, std::vector<Window> windows)
      : documents_(std::move(documents)), options_(options), windows_(std::move(windows)) {}
  static std::vector<Window> cut(const Documents& documents, const WindowOptions& options);
  int64_t fill(const Window& window, int32_t* tokens, int32_t* targets, std::vector<int32_t>& starts) const;

  std::shared_ptr<const Documents> documents_;
  WindowOptions options_;
  std::vector<Window> windows_;
};

}  // namespace tenon::trainer
