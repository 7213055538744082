// How one model is named and laid out in GGUF and in Hugging Face files: tensor names, architectures, and the order of
// q and k rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tenon {

// Names of the dense decoder family (llama, mistral, qwen2, qwen3), weights and biases:
//   "blk.3.attn_q.weight" <-> "model.layers.3.self_attn.q_proj.weight", "token_embd.weight" <->
//   "model.embed_tokens.weight", ...
// Nothing for a name without a counterpart. "rope_freqs.weight" is such a name: it holds the frequency factors that
// Hugging Face keeps as rope_scaling in config.json (see rope_freqs.h). A GGUF file without "output.weight" has tied
// embeddings.
std::optional<std::string> hf_name_from_gguf(std::string_view gguf_name);
std::optional<std::string> gguf_name_from_hf(std::string_view hf_name);

// general.architecture of a Hugging Face model_type. Mistral models are "llama" in GGUF files. Empty when not
// supported.
std::string_view gguf_architecture_from_model_type(std::string_view model_type);

// Whether q and k rows differ in order between the two formats: Hugging Face rotates the two halves of a head, GGUF
// neighbouring pairs. True for "llama" only; qwen2 and qwen3 rotate halves in both.
bool gguf_permutes_qk(std::string_view architecture);

// Which projection a tensor belongs to, by either name: its weight, its bias, or the B factor of a LoRA pair has
// permuted rows.
enum class QkRole { kNone, kQuery, kKey };
QkRole qk_role(std::string_view tensor_name);

// Copies rows from one order into the other. `heads` is head_count for q and head_count_kv for k (they differ under
// GQA). Rows are opaque: plain numbers, whole quantized blocks, or one bias element. `from` and `to` must not overlap.
// Throws TN_E_FORMAT when `rows` is not heads times an even head size.
void permute_qk_rows_to_gguf(const std::byte* from, std::byte* to, int64_t rows, size_t row_bytes, int64_t heads);
void permute_qk_rows_to_hf(const std::byte* from, std::byte* to, int64_t rows, size_t row_bytes, int64_t heads);

}  // namespace tenon
