#include "core/files/model_names.h"

#include <numeric>
#include <vector>

#include "core/files/rope_freqs.h"
#include "support.h"

namespace tenon {
namespace {

using test::refusal;

TEST(ModelNames, TranslateBothWays) {
  const struct {
    const char* gguf;
    const char* hf;
  } kPairs[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.7.attn_q.weight", "model.layers.7.self_attn.q_proj.weight"},
      {"blk.7.attn_k.bias", "model.layers.7.self_attn.k_proj.bias"},
      {"blk.31.attn_v.bias", "model.layers.31.self_attn.v_proj.bias"},
      {"blk.31.attn_output.weight", "model.layers.31.self_attn.o_proj.weight"},
      {"blk.5.attn_q_norm.weight", "model.layers.5.self_attn.q_norm.weight"},
      {"blk.5.attn_k_norm.weight", "model.layers.5.self_attn.k_norm.weight"},
      {"blk.5.ffn_norm.weight", "model.layers.5.post_attention_layernorm.weight"},
      {"blk.120.ffn_gate.weight", "model.layers.120.mlp.gate_proj.weight"},
      {"blk.120.ffn_up.weight", "model.layers.120.mlp.up_proj.weight"},
      {"blk.120.ffn_down.weight", "model.layers.120.mlp.down_proj.weight"},
  };
  for (const auto& pair : kPairs) {
    EXPECT_EQ(hf_name_from_gguf(pair.gguf), pair.hf);
    EXPECT_EQ(gguf_name_from_hf(pair.hf), pair.gguf);
  }
}

TEST(ModelNames, OthersHaveNoCounterpart) {
  for (const char* name : {"rope_freqs.weight", "blk.0.attn_qkv.weight", "blk..attn_q.weight", "blk.x.attn_q.weight",
                           "blk.00.attn_q.weight", "blk.9999999.attn_q.weight", "blk.0.attn_q", "token_embd",
                           "token_embd.scale", "", ".weight", "blk.0.weight"}) {
    EXPECT_FALSE(hf_name_from_gguf(name)) << name;
  }
  for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.mlp.gate.weight",
                           "norm.weight", "model.layers..mlp.up_proj.weight"}) {
    EXPECT_FALSE(gguf_name_from_hf(name)) << name;
  }
}

TEST(ModelNames, Architectures) {
  EXPECT_EQ(gguf_architecture_from_model_type("llama"), "llama");
  EXPECT_EQ(gguf_architecture_from_model_type("mistral"), "llama");
  EXPECT_EQ(gguf_architecture_from_model_type("qwen3"), "qwen3");
  EXPECT_EQ(gguf_architecture_from_model_type("nosuch"), "");
  EXPECT_TRUE(gguf_permutes_qk("llama"));
  EXPECT_FALSE(gguf_permutes_qk("qwen2"));
}

TEST(QkRole, ByEitherName) {
  EXPECT_EQ(qk_role("blk.0.attn_q.weight"), QkRole::kQuery);
  EXPECT_EQ(qk_role("blk.0.attn_k.bias"), QkRole::kKey);
  EXPECT_EQ(qk_role("model.layers.0.self_attn.k_proj.weight"), QkRole::kKey);
  EXPECT_EQ(qk_role("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"), QkRole::kQuery);
  EXPECT_EQ(qk_role("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"), QkRole::kNone);
  EXPECT_EQ(qk_role("blk.0.attn_q.weight.lora_b"), QkRole::kQuery);
  EXPECT_EQ(qk_role("blk.0.attn_q.weight.lora_a"), QkRole::kNone);
  for (const char* name :
       {"blk.0.attn_v.weight", "blk.0.attn_q_norm.weight", "blk.0.attn_output.weight", "output.weight"}) {
    EXPECT_EQ(qk_role(name), QkRole::kNone) << name;
  }
}

std::vector<std::byte> rows_of(int64_t rows, size_t row_bytes) {
  std::vector<std::byte> out;
  for (int64_t row = 0; row < rows; ++row) out.insert(out.end(), row_bytes, static_cast<std::byte>(row));
  return out;
}

TEST(QkRows, HandMadeOrder) {
  // Two heads of 6 rows; Hugging Face keeps halves (0 1 2 | 3 4 5), GGUF pairs (0 3 | 1 4 | 2 5).
  const std::vector<std::byte> hf = rows_of(12, 1);
  std::vector<std::byte> gguf(12);
  permute_qk_rows_to_gguf(hf.data(), gguf.data(), 12, 1, 2);
  const int expected[] = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
  for (int i = 0; i < 12; ++i) EXPECT_EQ(static_cast<int>(gguf[i]), expected[i]);
}

TEST(QkRows, BackAndForthIsTheIdentity) {
  const struct {
    int64_t rows, heads;
    size_t row_bytes;
  } kCases[] = {{72, 9, 20}, {24, 3, 20}, {128, 1, 4}, {2, 1, 34}, {64, 32, 1}, {0, 4, 16}};
  for (const auto& c : kCases) {
    const std::vector<std::byte> start = rows_of(c.rows, c.row_bytes);
    std::vector<std::byte> middle(start.size()), end(start.size());
    permute_qk_rows_to_gguf(start.data(), middle.data(), c.rows, c.row_bytes, c.heads);
    permute_qk_rows_to_hf(middle.data(), end.data(), c.rows, c.row_bytes, c.heads);
    EXPECT_EQ(end, start);
  }
}

TEST(QkRows, BadHeadCountsAreRefused) {
  std::byte from[16] = {};
  std::byte to[16] = {};
  EXPECT_HAS(refusal(TN_E_FORMAT, [&] { permute_qk_rows_to_gguf(from, to, 12, 1, 5); }),
             "12 rows cannot be split into 5 heads");
  refusal(TN_E_FORMAT, [&] { permute_qk_rows_to_gguf(from, to, 9, 1, 3); });
  refusal(TN_E_FORMAT, [&] { permute_qk_rows_to_hf(from, to, 12, 1, 0); });
  refusal(TN_E_FORMAT, [&] { permute_qk_rows_to_hf(from, to, 12, 1, -2); });
}

TEST(RopeFreqs, Llama3Factors) {
  const std::vector<float> factors = llama3_rope_factors(128, 500000.0, Llama3RopeScaling());
  ASSERT_EQ(factors.size(), 64u);
  EXPECT_EQ(factors.front(), 1.0f);
  EXPECT_EQ(factors.back(), 8.0f);
  for (size_t i = 1; i < factors.size(); ++i) EXPECT_GE(factors[i], factors[i - 1]);
  // Dimension 30: wavelength 2*pi*500000^(60/128) = 2948, smooth (8192/2948 - 1)/3 = 0.593.
  EXPECT_NEAR(factors[30], 1 / (0.40712 / 8 + 0.59288), 2e-3);
}

}  // namespace
}  // namespace tenon
