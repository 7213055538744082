// What a GGUF vocabulary stands for, in the terms of tokenizer.json: the steps that its keys only name.
#pragma once

#include <string>

#include "hosts/trainer/text/json_input.h"
#include "hosts/trainer/text/tokenizer/model.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

inline constexpr int32_t kGgufControl = 3, kGgufUserDefined = 4;  // values of tokenizer.ggml.token_type
inline constexpr const char* kSpaceMark = "\xE2\x96\x81";         // what sentencepiece writes for a space

// What a name in tokenizer.ggml.pre stands for.
struct GgufPreTokenizer {
  Json steps;                  // as tokenizer.json has them
  bool ignore_merges = false;  // a piece that is a token is taken as it is
  bool adds_bos = false;       // where the file does not say
  bool nfc = false;            // the text is brought into composed form first
};
// Throws Error (TN_E_UNSUPPORTED) for a name that is not known.
GgufPreTokenizer gguf_pre_tokenizer(const std::string& pre, const std::string& where);

// The name whose steps are those of a whole tokenizer.json. Throws Error (TN_E_UNSUPPORTED) where there is none.
std::string gguf_pre_tokenizer_name(const Json& tokenizer_json, const std::string& where);

BpeOptions gguf_byte_level_bpe(const GgufVocabulary& vocabulary, const std::string& where);
// Sentencepiece merges any two neighbours whose concatenation is a token, the one of highest score first: the same as
// ranked merges of every way to halve a token, with the rank of its score.
BpeOptions gguf_sentencepiece_bpe(const GgufVocabulary& vocabulary, const Vocabulary& tokens, const std::string& where);

// prefixed: a space is put before every text, and taken away again by the decoder.
Json sentencepiece_normalizer(bool prefixed);
Json sentencepiece_decoder(bool prefixed);

}  // namespace tenon::trainer
