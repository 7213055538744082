// The tokenizer.ggml.* metadata of a GGUF file.
#pragma once

#include "core/files/gguf.h"
#include "hosts/trainer/text/tokenizer/tokenizer.h"

namespace tenon::trainer {

// Throws Error (TN_E_NOT_FOUND) naming the file when it carries no tokenizer.
GgufVocabulary read_gguf_vocabulary(const GgufFile& file);

}  // namespace tenon::trainer
