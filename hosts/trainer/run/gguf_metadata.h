// A model's shape and tokenizer as the metadata of a GGUF file.
#pragma once

#include "core/files/gguf_writer.h"
#include "hosts/trainer/model/source.h"

namespace tenon::trainer {

// Of a GGUF source: its own metadata, but for what tells of types and parts. Of a Hugging Face folder: the keys of its architecture, its
// tokenizer and its chat template; what GGUF cannot say is refused by name. `notes` gets a sentence for whatever readers will see differently.
GgufMetadata gguf_metadata_of(const ModelSource& source, std::vector<std::string>& notes);

}  // namespace tenon::trainer
