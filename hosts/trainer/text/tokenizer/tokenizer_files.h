// The tokenizer's files beside an exported model.
#pragma once

#include <string>

#include "core/files/gguf.h"

namespace tenon::trainer {

// Gives `folder` the tokenizer of the model that was trained. `source` is that model's folder, whose tokenizer files
// are copied byte for byte, or, where `gguf` is given, its name, and tokenizer.json and tokenizer_config.json are
// written from the file's metadata; a GGUF file without a tokenizer, and a "preset:", give none. Each file appears
// whole or not at all.
void copy_tokenizer_files(const std::string& source, const GgufFile* gguf, const std::string& folder);

}  // namespace tenon::trainer
