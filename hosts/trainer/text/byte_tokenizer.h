// The tokenizer of a model that brings none: its tokens are the bytes of the text.
#pragma once

#include <cstdint>
#include <string>

#include "hosts/trainer/text/text_model.h"

namespace tenon::trainer {

// Ids of byte_text_model(): 256 bytes and an end-of-text token, padded to a multiple of 64.
inline constexpr int64_t kByteVocabulary = 320;

// What a preset trains on when it is given no tokenizer.
TextModel byte_text_model();

// Its tokenizer.json.
std::string byte_tokenizer_json();

}  // namespace tenon::trainer
