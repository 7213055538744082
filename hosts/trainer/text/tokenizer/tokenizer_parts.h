// The inside of a Tokenizer, and the last step of building one that its two sources share.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hosts/trainer/text/tokenizer/added_tokens.h"
#include "hosts/trainer/text/tokenizer/decoder.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/tokenizer/normalizer.h"
#include "hosts/trainer/text/tokenizer/pre_tokenizer.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

struct Tokenizer::Parts {
  std::string where;
  Vocabulary vocabulary;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<Model> model;
  std::unique_ptr<Decoder> decoder;
  AddedTokenMatcher raw_added, normalized_added;         // searched before and after normalization
  std::vector<bool> special;                             // by id
  std::unordered_map<uint32_t, std::string> decoded_as;  // normalized added tokens whose text normalization changes
  std::vector<int32_t> prefix, suffix;                   // the post-processor's tokens
  std::optional<int32_t> bos, eos, pad;
  bool plain_cuts = true;  // no added token looks at its surroundings or ends in a letter or digit

  // Text is cut after a letter or digit and before a newline at or after `from`; npos when no safe place is left.
  size_t find_cut(std::string_view text, size_t from) const;
  void encode_part(std::string_view text, bool continues, WordCache& cache, std::vector<int32_t>& out) const;

  // Caches of words, lent to one call at a time, so that encode is thread-safe without a lock inside the loop.
  mutable std::mutex cache_mutex;
  mutable std::vector<std::unique_ptr<WordCache>> caches;
};

// Puts a tokenizer together: vocabulary and processing steps first, then the added tokens, then finish().
struct TokenizerBuilder {
  using Parts = Tokenizer::Parts;
  std::shared_ptr<Parts> parts = std::make_shared<Parts>();

  // Tokens with ids, whose order is free. Throws for an id given twice, or so high that the vocabulary would be mostly
  // holes.
  void set_vocabulary(std::vector<std::pair<std::string, uint32_t>> tokens);
  // Call after set_vocabulary and with the normalizer set. A token that the vocabulary has keeps its id there.
  void add_tokens(std::vector<AddedToken> tokens);
  Tokenizer finish();
};

}  // namespace tenon::trainer
