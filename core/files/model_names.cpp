#include "core/files/model_names.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tenon {
namespace {

struct NamePair {
  std::string_view gguf;
  std::string_view hf;
};

// Whole names without the final ".weight" or ".bias".
constexpr NamePair kModelNames[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

// What follows "blk.N." and "model.layers.N.".
constexpr NamePair kBlockNames[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

constexpr std::string_view kGgufBlock = "blk.";
constexpr std::string_view kHfBlock = "model.layers.";
constexpr size_t kMostBlockDigits = 6;

// Takes a decimal block number and its dot off the front of `rest`; empty when there is none. "01" is not how a number
// is written.
std::string_view take_block(std::string_view& rest) {
  const size_t dot = rest.find('.');
  if (dot == std::string_view::npos || dot == 0 || dot > kMostBlockDigits) return {};
  const std::string_view number = rest.substr(0, dot);
  const bool digits = std::all_of(number.begin(), number.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || (number.size() > 1 && number[0] == '0')) return {};
  rest.remove_prefix(dot + 1);
  return number;
}

std::optional<std::string> translate(std::string_view name, std::string_view NamePair::*from,
                                     std::string_view NamePair::*to, std::string_view block_from,
                                     std::string_view block_to) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view suffix = name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;
  std::string_view stem = name.substr(0, dot);
  for (const NamePair& pair : kModelNames) {
    if (pair.*from == stem) return std::string(pair.*to) + std::string(suffix);
  }
  if (!stem.starts_with(block_from)) return std::nullopt;
  stem.remove_prefix(block_from.size());
  const std::string_view block = take_block(stem);
  if (block.empty()) return std::nullopt;
  for (const NamePair& pair : kBlockNames) {
    if (pair.*from != stem) continue;
    return std::string(block_to) + std::string(block) + "." + std::string(pair.*to) + std::string(suffix);
  }
  return std::nullopt;
}

// Rows a head, checked. Returns 0 for no rows.
int64_t head_rows(int64_t rows, int64_t heads) {
  if (heads > 0 && rows >= 0 && rows % heads == 0 && rows / heads % 2 == 0) return rows / heads;
  throw Error(TN_E_FORMAT, "a query or key tensor of " + std::to_string(rows) + " rows cannot be split into " +
                               std::to_string(heads) + " heads of an even size; check the head counts of the model");
}

}  // namespace

std::optional<std::string> hf_name_from_gguf(std::string_view gguf_name) {
  return translate(gguf_name, &NamePair::gguf, &NamePair::hf, kGgufBlock, kHfBlock);
}

std::optional<std::string> gguf_name_from_hf(std::string_view hf_name) {
  return translate(hf_name, &NamePair::hf, &NamePair::gguf, kHfBlock, kGgufBlock);
}

std::string_view gguf_architecture_from_model_type(std::string_view model_type) {
  constexpr NamePair kArchitectures[] = {
      {"llama", "llama"}, {"llama", "mistral"}, {"qwen2", "qwen2"}, {"qwen3", "qwen3"}};
  for (const NamePair& pair : kArchitectures) {
    if (pair.hf == model_type) return pair.gguf;
  }
  return {};
}

bool gguf_permutes_qk(std::string_view architecture) {
  return architecture == "llama";
}

QkRole qk_role(std::string_view tensor_name) {
  const auto has = [&](std::string_view part) { return tensor_name.find(part) != std::string_view::npos; };
  if (tensor_name.ends_with(".lora_a") || has(".lora_A.")) return QkRole::kNone;
  if (has(".attn_q.") || has(".q_proj.")) return QkRole::kQuery;
  if (has(".attn_k.") || has(".k_proj.")) return QkRole::kKey;
  return QkRole::kNone;
}

void permute_qk_rows_to_gguf(const std::byte* from, std::byte* to, int64_t rows, size_t row_bytes, int64_t heads) {
  const int64_t size = head_rows(rows, heads);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / size * size;
    const int64_t pair = (row - head) / 2;
    const int64_t half = (row - head) % 2;
    const int64_t source = head + half * (size / 2) + pair;
    std::memcpy(to + static_cast<size_t>(row) * row_bytes, from + static_cast<size_t>(source) * row_bytes, row_bytes);
  }
}

void permute_qk_rows_to_hf(const std::byte* from, std::byte* to, int64_t rows, size_t row_bytes, int64_t heads) {
  const int64_t size = head_rows(rows, heads);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / size * size;
    const int64_t half = (row - head) / (size / 2);
    const int64_t pair = (row - head) % (size / 2);
    const int64_t source = head + 2 * pair + half;
    std::memcpy(to + static_cast<size_t>(row) * row_bytes, from + static_cast<size_t>(source) * row_bytes, row_bytes);
  }
}

}  // namespace tenon
