// Hand-written matchers of the pre-tokenizer patterns that most models use: 20 to 50 times faster than a regex engine,
// and equal to it on every text (the tests compare them with the patterns themselves).
#pragma once

#include <string_view>
#include <vector>

namespace tenon::trainer {

// The patterns as tokenizer.json files spell them.
extern const char* const kGpt2Pattern;
extern const char* const kLlama3Pattern;
extern const char* const kQwen2Pattern;

// Each appends the consecutive pieces that cover `text` (well-formed UTF-8).
void split_gpt2(std::string_view text, std::vector<std::string_view>& out);
// cl100k and its relatives: at most `max_digits` digits make a piece.
void split_cl100k(std::string_view text, int max_digits, std::vector<std::string_view>& out);

}  // namespace tenon::trainer
