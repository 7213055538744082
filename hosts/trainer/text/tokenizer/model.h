// The sub-word models: a piece of text in, token ids out.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "hosts/trainer/text/tokenizer/flat_table.h"
#include "hosts/trainer/text/tokenizer/string_table.h"

namespace tenon::trainer {

// Token strings by id. Ids may have holes; an absent id has no entry in `ids`.
struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<bool> present;
  StringTable ids;  // of `tokens`, which is complete before ids is filled

  // Fills `ids`; of equal strings the first id wins.
  void index();
  const uint32_t* find(std::string_view token) const { return ids.find(token); }
};

// Word -> ids, cleared when full so that memory stays bounded on any text.
class WordCache {
 public:
  // Ids of `word`, or nullptr. The pointer lives until the next insert.
  const uint32_t* find(std::string_view word, uint64_t hash, size_t& count) const;
  void insert(std::string_view word, uint64_t hash, const uint32_t* ids, size_t count);
  static uint64_t hash(std::string_view word);

 private:
  struct Entry {
    uint32_t word_at = 0, word_size = 0, ids_at = 0, ids_count = 0;
  };
  FlatTable<Entry> entries_{1 << 12};
  std::string words_;
  std::vector<uint32_t> ids_;
};

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of `piece` (well-formed UTF-8, not empty). [any-thread, one cache per thread]
  virtual void tokenize(std::string_view piece, WordCache& cache, std::vector<int32_t>& out) const = 0;
  // Whether no token can ever span the characters a and b, so that a text may be cut between them.
  virtual bool separates(char32_t a, char32_t b) const = 0;
};

struct BpeOptions {
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  std::vector<uint32_t> ranks;  // rank of each merge; empty: its index. Equal ranks go left to right.
  bool has_unk = false;
  std::string unk_token, subword_prefix, word_suffix;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
  // The pieces are raw bytes and the vocabulary spells bytes in GPT-2's alphabet (the ByteLevel step is folded into the
  // model).
  bool raw_bytes = false;
};

// Throws Error (TN_E_FORMAT) when a merge or the unknown token is not in the vocabulary. The vocabulary must outlive
// the model.
std::unique_ptr<Model> make_bpe(const Vocabulary& vocabulary, const BpeOptions& options, const std::string& where);

struct UnigramOptions {
  std::vector<double> scores;  // by id
  bool has_unk = false;
  uint32_t unk_id = 0;
  bool byte_fallback = false;
};
std::unique_ptr<Model> make_unigram(const Vocabulary& vocabulary, const UnigramOptions& options,
                                    const std::string& where);

// GPT-2's printable alphabet for bytes: every byte is one character, so that a vocabulary of strings can spell any
// bytes.
char32_t byte_to_char(unsigned char byte);
// The byte of a character of that alphabet, or -1.
int char_to_byte(char32_t c);
// The bytes that `token` spells in the alphabet; false when it holds another character.
bool spelled_bytes(std::string_view token, std::string& bytes);
// "<0x0A>": how sentencepiece names the token of one byte. The second is its inverse, or -1.
std::string byte_token(unsigned char byte);
int byte_of_token(std::string_view token);

}  // namespace tenon::trainer
