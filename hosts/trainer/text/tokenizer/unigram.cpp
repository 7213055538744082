// The unigram language model (Kudo 2018): the segmentation of highest total score, by Viterbi over a trie of the
// vocabulary.
#include <algorithm>
#include <limits>

#include "core/error.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/unicode/utf8.h"

namespace tenon::trainer {
namespace {

constexpr uint32_t kNone = ~uint32_t{0};
constexpr double kUnknownPenalty = 10.0;  // sentencepiece's kUnkPenalty

class Unigram final : public Model {
 public:
  Unigram(const Vocabulary& vocabulary, const UnigramOptions& options, const std::string& where)
      : vocabulary_(vocabulary), options_(options), token_at_(1, kNone) {
    if (vocabulary.ids.size() == 0)
      throw Error(TN_E_FORMAT, where + ": the Unigram vocabulary is empty; the file is damaged");
    double lowest = std::numeric_limits<double>::infinity();
    for (uint32_t id = 0; id < vocabulary.tokens.size(); ++id) {
      if (!vocabulary.present[id]) continue;
      lowest = std::min(lowest, options.scores[id]);
      insert(vocabulary.tokens[id], id);
    }
    unk_score_ = lowest - kUnknownPenalty;
    if (!options.has_unk)
      throw Error(TN_E_FORMAT,
                  where + ": the Unigram model has no unk_id, so that unknown characters have no token; add it");
  }

  void tokenize(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const override {
    const uint64_t hash = WordCache::hash(piece);
    size_t count;
    if (const uint32_t* ids = cache.find(piece, hash, count)) {
      out.insert(out.end(), ids, ids + count);
      return;
    }
    std::vector<uint32_t> ids;
    viterbi(piece, ids);
    cache.insert(piece, hash, ids.data(), ids.size());
    out.insert(out.end(), ids.begin(), ids.end());
  }

  // A cut would restart the running sum of scores, whose rounding may decide between equals.
  bool separates(char32_t, char32_t) const override { return false; }

 private:
  struct Node {
    double score = 0;
    size_t from = 0;
    uint32_t id = kNone;
    bool reached = false;
  };

  void insert(std::string_view token, uint32_t id) {
    uint32_t node = 0;
    for (const unsigned char b : token) {
      const uint64_t key = uint64_t(node) << 8 | b;
      const uint32_t* child = children_.find(key);
      if (!child) {
        children_[key] = uint32_t(token_at_.size());
        node = uint32_t(token_at_.size());
        token_at_.push_back(kNone);
      } else {
        node = *child;
      }
    }
    if (node) token_at_[node] = id;
  }

  void viterbi(std::string_view s, std::vector<uint32_t>& ids) const {
    std::vector<Node> best(s.size() + 1);
    const auto offer = [&](size_t from, size_t to, uint32_t id, double score) {
      Node& n = best[to];
      const double total = score + best[from].score;
      if (!n.reached || total > n.score) n = {total, from, id, true};
    };
    for (size_t i = 0; i < s.size();) {
      size_t after = i;
      next_utf8(s, after);
      bool single = false;
      uint32_t node = 0;
      for (size_t j = i; j < s.size(); ++j) {
        const uint32_t* child = children_.find(uint64_t(node) << 8 | static_cast<unsigned char>(s[j]));
        if (!child) break;
        node = *child;
        if (token_at_[node] == kNone) continue;
        offer(i, j + 1, token_at_[node], options_.scores[token_at_[node]]);
        if (j + 1 == after) single = true;
      }
      if (!single) offer(i, after, options_.unk_id, unk_score_);
      i = after;
    }
    std::vector<std::string_view> words;  // back to front; a run of unknown characters is one word
    size_t unknown_end = 0;
    for (size_t end = s.size(); end > 0;) {
      const Node& n = best[end];
      if (n.id == options_.unk_id) {
        if (!unknown_end) unknown_end = end;
      } else {
        if (unknown_end) words.push_back(s.substr(end, unknown_end - end));
        unknown_end = 0;
        words.push_back(s.substr(n.from, end - n.from));
      }
      end = n.from;
    }
    if (unknown_end) words.push_back(s.substr(0, unknown_end));
    for (auto w = words.rbegin(); w != words.rend(); ++w) spell(*w, ids);
  }

  void spell(std::string_view word, std::vector<uint32_t>& ids) const {
    if (const uint32_t* id = vocabulary_.find(word)) return ids.push_back(*id);
    if (options_.byte_fallback) {
      const size_t mark = ids.size();
      for (const unsigned char b : word) {
        const uint32_t* id = vocabulary_.find(byte_token(b));
        if (!id) {
          ids.resize(mark);
          break;
        }
        ids.push_back(*id);
      }
      if (ids.size() > mark) return;
    }
    ids.push_back(options_.unk_id);
  }

  const Vocabulary& vocabulary_;
  UnigramOptions options_;
  double unk_score_ = 0;
  FlatTable<uint32_t> children_;
  std::vector<uint32_t> token_at_;
};

}  // namespace

std::unique_ptr<Model> make_unigram(const Vocabulary& vocabulary, const UnigramOptions& options,
                                    const std::string& where) {
  return std::make_unique<Unigram>(vocabulary, options, where);
}

}  // namespace tenon::trainer
