#include "hosts/trainer/text/byte_tokenizer.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tenon::trainer {
namespace {

constexpr int32_t kEndOfText = 256;

// GPT-2's printable stand-ins for the 256 bytes, in byte order: the alphabet of every byte-level tokenizer.
std::string byte_symbol(int byte) {
  static const std::vector<int> points = [] {
    std::vector<int> p(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) p[b] = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
    return p;
  }();
  const int c = points[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

}  // namespace

std::string byte_tokenizer_json() {
  nlohmann::json vocab;
  for (int b = 0; b < 256; ++b) vocab[byte_symbol(b)] = b;
  vocab["<|endoftext|>"] = kEndOfText;
  const nlohmann::json j{
      {"added_tokens",
       {{{"id", kEndOfText},
         {"content", "<|endoftext|>"},
         {"special", true},
         {"normalized", false},
         {"lstrip", false},
         {"rstrip", false},
         {"single_word", false}}}},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
  return j.dump();
}

TextModel byte_text_model() {
  TextModel model{Tokenizer::from_json(byte_tokenizer_json(), "the byte tokenizer"), std::nullopt, std::nullopt, kEndOfText, kEndOfText, "", "<|endoftext|>"};
  return model;
}

}  // namespace tenon::trainer
