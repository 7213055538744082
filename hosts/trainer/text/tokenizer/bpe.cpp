// Byte-pair encoding (Sennrich et al. 2016), as Hugging Face tokenizers applies it: the best-ranked merge first,
// leftmost among equals.
#include <algorithm>
#include <array>
#include <queue>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kNone = ~uint32_t{0};
constexpr size_t kShortWord = 48;  // below this a scan for the best merge is faster than a heap

uint64_t pair_key(uint32_t a, uint32_t b) {
  return uint64_t(a) << 32 | b;
}

struct Merge {
  uint32_t rank = kNone, id = kNone;
};

class Bpe final : public Model {
 public:
  Bpe(const Vocabulary& vocabulary, const BpeOptions& options, const std::string& where);
  void tokenize(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const override;
  bool separates(char32_t a, char32_t b) const override;

 private:
  void word(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const;
  void initial_symbols(std::string_view piece, std::vector<uint32_t>& symbols) const;
  void merge_short(std::vector<uint32_t>& symbols) const;
  void merge_long(std::vector<uint32_t>& symbols) const;
  void learn_joints();
  const uint32_t* find(std::string_view token) const { return raw_ids_.find(token); }

  BpeOptions options_;
  std::vector<std::string> raw_tokens_;  // what the ids spell in the pieces' alphabet
  StringTable raw_ids_;                  // of raw_tokens_
  std::array<uint32_t, 256> byte_ids_;                      // raw_bytes: the byte; byte_fallback: the token "<0x..>"
  bool all_bytes_ = true;
  uint32_t unk_id_ = kNone;
  FlatTable<Merge> merges_;
  // Characters (a, b) that some merge joins. Between any other two a piece may be cut without changing a token, which
  // turns sentencepiece's one-word texts into short cached words.
  FlatTable<char> joints_;
  bool can_cut_ = false;
};

Bpe::Bpe(const Vocabulary& vocabulary, const BpeOptions& options, const std::string& where)
    : options_(options), merges_(options.merges.size()) {
  const auto& o = options;
  raw_tokens_.resize(vocabulary.tokens.size());
  raw_ids_.start(raw_tokens_);
  for (uint32_t id = 0; id < raw_tokens_.size(); ++id) {
    if (!vocabulary.present[id]) continue;
    if (!o.raw_bytes) {
      raw_tokens_[id] = vocabulary.tokens[id];
    } else if (!spelled_bytes(vocabulary.tokens[id], raw_tokens_[id])) {
      raw_tokens_[id].clear();
      continue;
    }
    raw_ids_.insert(id);
  }
  for (int b = 0; b < 256; ++b) {
    const auto* id = find(o.raw_bytes ? std::string(1, char(b)) : byte_token(static_cast<unsigned char>(b)));
    byte_ids_[b] = id ? *id : kNone;
    if (!id) all_bytes_ = false;
  }
  if (o.has_unk) {
    const auto* id = vocabulary.find(o.unk_token);
    if (!id)
      throw Error(TN_E_FORMAT,
                  where + ": the unknown token \"" + o.unk_token + "\" is not in the vocabulary; the file is damaged");
    unk_id_ = *id;
  }
  std::string joined;
  for (uint32_t i = 0; i < o.merges.size(); ++i) {
    const auto& [a, b] = o.merges[i];
    const bool prefixed = !o.subword_prefix.empty() && b.size() > o.subword_prefix.size();
    joined.assign(a).append(b, prefixed ? o.subword_prefix.size() : 0);
    const auto *ia = vocabulary.find(a), *ib = vocabulary.find(b), *ij = vocabulary.find(joined);
    if (!ia || !ib || !ij)
      throw Error(TN_E_FORMAT, where + ": merge " + std::to_string(i) + " (\"" + a + "\" \"" + b +
                                   "\") names the token \"" +
                                   (!ia   ? a
                                    : !ib ? b
                                          : joined) +
                                   "\", which is not in the vocabulary; the file is damaged");
    merges_[pair_key(*ia, *ib)] = {o.ranks.empty() ? i : o.ranks[i], *ij};
  }
  learn_joints();
  options_.merges.clear();
  options_.merges.shrink_to_fit();
}

void Bpe::learn_joints() {
  can_cut_ = !options_.raw_bytes && !options_.ignore_merges && options_.subword_prefix.empty() &&
             options_.word_suffix.empty() && (!options_.byte_fallback || all_bytes_);
  for (const auto& [a, b] : options_.merges) {
    if (a.empty() || b.empty()) continue;
    if (byte_of_token(a) >= 0 || byte_of_token(b) >= 0) can_cut_ = false;  // merged fallback bytes are not characters
    if (!can_cut_) return;
    size_t end = a.size(), start = 0;
    const char32_t last = previous_utf8(a, end);
    joints_[pair_key(last, next_utf8(b, start))] = 1;
  }
}

bool Bpe::separates(char32_t a, char32_t b) const {
  if (!can_cut_ || joints_.find(pair_key(a, b))) return false;
  if (options_.byte_fallback) return true;
  std::string next;
  append_utf8(next, b);
  return find(next) != nullptr;  // otherwise a run of unknown characters could fuse across the cut
}

void Bpe::initial_symbols(std::string_view piece, std::vector<uint32_t>& symbols) const {
  symbols.clear();
  uint32_t unk = kNone;
  std::string spelled;
  const bool plain = options_.subword_prefix.empty() && options_.word_suffix.empty();
  for (size_t i = 0; i < piece.size();) {
    size_t next = i + 1;
    const uint32_t* id = nullptr;
    std::string_view s;
    if (options_.raw_bytes) {
      const uint32_t* b = &byte_ids_[static_cast<unsigned char>(piece[i])];
      id = *b == kNone ? nullptr : b;
      s = piece.substr(i, 1);
    } else {
      next = i;
      next_utf8(piece, next);
      s = piece.substr(i, next - i);
      if (!plain) {
        spelled.assign(i ? options_.subword_prefix : "")
            .append(s)
            .append(next == piece.size() ? options_.word_suffix : "");
        s = spelled;
      }
      id = find(s);
    }
    i = next;
    if (id) {
      if (unk != kNone) symbols.push_back(unk);
      unk = kNone;
      symbols.push_back(*id);
      continue;
    }
    if (options_.byte_fallback && !options_.raw_bytes &&
        std::all_of(s.begin(), s.end(), [&](unsigned char b) { return byte_ids_[b] != kNone; })) {
      for (const unsigned char b : s) symbols.push_back(byte_ids_[b]);
      continue;
    }
    if (unk_id_ == kNone) continue;  // the reference drops what it can neither spell nor call unknown
    if (unk != kNone && !options_.fuse_unk) symbols.push_back(unk);
    unk = unk_id_;
  }
  if (unk != kNone) symbols.push_back(unk);
}

void Bpe::merge_short(std::vector<uint32_t>& symbols) const {
  Merge pairs[kShortWord];
  size_t n = symbols.size();
  const auto look = [&](size_t i) {
    const Merge* m = merges_.find(pair_key(symbols[i], symbols[i + 1]));
    pairs[i] = m ? *m : Merge{};
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].rank == kNone) break;
    symbols[best] = pairs[best].id;
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    std::copy(pairs + best + 1, pairs + n - 1, pairs + best);
    --n;
    if (best + 1 < n) look(best);
    if (best > 0) look(best - 1);
  }
  symbols.resize(n);
}

void Bpe::merge_long(std::vector<uint32_t>& symbols) const {
  struct Candidate {
    uint32_t rank, at, id;
    bool operator>(const Candidate& o) const { return rank != o.rank ? rank > o.rank : at > o.at; }
  };
  const auto n = uint32_t(symbols.size());
  std::vector<uint32_t> next(n), previous(n);
  std::vector<Candidate> first;
  const auto candidate = [&](uint32_t at) -> const Merge* {
    return merges_.find(pair_key(symbols[at], symbols[next[at]]));
  };
  for (uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1 < n ? i + 1 : kNone;
    previous[i] = i ? i - 1 : kNone;
  }
  for (uint32_t i = 0; i + 1 < n; ++i)
    if (const Merge* m = candidate(i)) first.push_back({m->rank, i, m->id});
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>{}, std::move(first));
  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    if (symbols[c.at] == kNone || next[c.at] == kNone) continue;
    const Merge* m = candidate(c.at);
    if (!m || m->id != c.id) continue;  // one of the two was merged since
    const uint32_t gone = next[c.at];
    symbols[c.at] = c.id;
    symbols[gone] = kNone;
    next[c.at] = next[gone];
    if (next[gone] != kNone) previous[next[gone]] = c.at;
    if (next[c.at] != kNone)
      if (const Merge* after = candidate(c.at)) queue.push({after->rank, c.at, after->id});
    if (const uint32_t p = previous[c.at]; p != kNone)
      if (const Merge* before = candidate(p)) queue.push({before->rank, p, before->id});
  }
  std::erase(symbols, kNone);
}

void Bpe::word(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const {
  const uint64_t hash = WordCache::hash(piece);
  size_t count;
  if (const uint32_t* ids = cache.find(piece, hash, count)) {
    out.insert(out.end(), ids, ids + count);
    return;
  }
  thread_local std::vector<uint32_t> symbols;
  const uint32_t* whole = options_.ignore_merges ? find(piece) : nullptr;
  if (whole) {
    symbols.assign(1, *whole);
  } else {
    initial_symbols(piece, symbols);
    if (symbols.size() <= kShortWord)
      merge_short(symbols);
    else
      merge_long(symbols);
  }
  cache.insert(piece, hash, symbols.data(), symbols.size());
  out.insert(out.end(), symbols.begin(), symbols.end());
  if (symbols.capacity() > 1 << 20) std::vector<uint32_t>().swap(symbols);
}

void Bpe::tokenize(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const {
  if (!can_cut_ || piece.size() < 16) return word(piece, cache, out);
  size_t start = 0, pos = 0;
  char32_t last = next_utf8(piece, pos);
  while (pos < piece.size()) {
    const size_t here = pos;
    const char32_t c = next_utf8(piece, pos);
    if (separates(last, c)) {
      word(piece.substr(start, here - start), cache, out);
      start = here;
    }
    last = c;
  }
  word(piece.substr(start), cache, out);
}

}  // namespace

std::unique_ptr<Model> make_bpe(const Vocabulary& vocabulary, const BpeOptions& options, const std::string& where) {
  return std::make_unique<Bpe>(vocabulary, options, where);
}

}  // namespace tenon::trainer
