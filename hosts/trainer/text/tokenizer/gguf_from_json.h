// A tokenizer.json as the vocabulary of a GGUF file: the opposite of tokenizer_writer.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/files/gguf_writer.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

// The vocabulary without the special ids. Throws Error: TN_E_FORMAT for damage, TN_E_UNSUPPORTED naming the step that GGUF has no name for.
// `notes` gets a sentence for every property that readers of GGUF treat differently.
GgufVocabulary gguf_vocabulary_of(std::string_view tokenizer_json, const std::string& where, std::vector<std::string>& notes);

// The same of a Hugging Face folder, with the special ids of its configuration, filled up or cut to `rows` tokens.
GgufVocabulary gguf_vocabulary_of_folder(const std::string& folder, int64_t rows, std::vector<std::string>& notes);

void put_gguf_vocabulary(const GgufVocabulary& vocabulary, GgufMetadata& metadata);

}  // namespace tenon::trainer
