// A GGUF vocabulary as the files that Hugging Face tools load.
#pragma once

#include <string>

#include "core/files/gguf.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

// The text of a tokenizer.json that gives the same ids as Tokenizer::from_gguf of `vocabulary`, and throws its errors.
// Of equal tokens the first is written, which is the one that a text is encoded to.
std::string tokenizer_json_of(const GgufVocabulary& vocabulary, const std::string& where);

// The text of the tokenizer_config.json beside it: special tokens, chat template and the trained length.
std::string tokenizer_config_of(const GgufVocabulary& vocabulary, const GgufFile& file);

}  // namespace tenon::trainer
