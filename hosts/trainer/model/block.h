// One transformer block of the Llama family, forward and backward, with the choice of what is kept between the two.
#pragma once

#include <optional>

#include "hosts/trainer/model/attention.h"
#include "hosts/trainer/model/config.h"
#include "hosts/trainer/model/linear.h"

namespace tenon::trainer {

// What a block keeps from forward to backward (Chen et al. 2016; the flash cut after LightSeq).
enum class Checkpointing {
  kNone,      // everything that the backward formulas need
  kFlashCut,  // input, attention output and its log-sum-exp: attention itself is never repeated
  kBlock      // input only
};

struct MemoryOptions {
  Checkpointing checkpointing = Checkpointing::kNone;
  bool tiled_mlp = false;
  bool tiled_loss = false;
  int64_t loss_tile_bytes = 32 << 20;
};

// One pass over a micro-batch: `sequences` sequences of `length` tokens, rows = tokens in order.
struct Pass {
  int64_t sequences = 0, length = 0;
  Tensor positions;                       // int32 [rows]
  const Segments* segments = nullptr;   // packed documents, or null: every sequence is one
  bool train = false;
  bool recompute = false;
  LinearCall call;
  MemoryOptions memory;
  int64_t rows() const { return sequences * length; }
};

struct SavedBlock {
  Tensor x, rstd1, q_raw, k_raw, rstd_q, rstd_k, q, k, v, o, lse, middle, rstd2, gate, up;
  Tensor attention_out, mlp_out;  // before the residual, where an adapter of the sub-layer wants its input
  SavedLinear linears[7], sublayers[2];
};

// Codes a linear's weight with the Gram matrix of its inputs over `tokens` tokens.
using CodeLinear = std::function<void(Linear& linear, const Tensor& gram, int64_t tokens)>;

class TransformerBlock {
 public:
  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  int64_t index = 0;
  Linear linears[7];
  Linear sublayers[2];  // the identity on the outputs of attention and MLP, for adapters
  Parameter *norm1 = nullptr, *norm2 = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  std::optional<AttentionLayer> attention;
  const ModelConfig* config = nullptr;
  const Tensor* inv_freq = nullptr;
  double rope_scale = 1;

  // y = block(x), [rows, hidden]. When pass.train, `saved` receives what pass.memory.checkpointing says.
  Tensor forward(Engine& engine, const Pass& pass, const Tensor& x, SavedBlock* saved) const;
  // Gradient of the input, in the memory of dy; `saved` is consumed. want_dx false: nothing upstream trains.
  void backward(Engine& engine, Pass pass, SavedBlock& saved, Tensor& dy, bool want_dx, const GradientReady& ready) const;

  // The two halves of a block, residual included: forward() is one after the other. What is saved is all that backward needs.
  Tensor attention_half(Engine& engine, const Pass& pass, const Tensor& x, SavedBlock* saved) const;
  Tensor mlp_half(Engine& engine, const Pass& pass, const Tensor& middle, SavedBlock* saved) const;
  // dy becomes the gradient of the half's input, in place.
  void attention_half_backward(Engine& engine, const Pass& pass, SavedBlock& saved, const Tensor& dy, const GradientReady& ready) const;
  void mlp_half_backward(Engine& engine, const Pass& pass, SavedBlock& saved, const Tensor& dy, const GradientReady& ready) const;
  Tensor decode_attention(Engine& engine, const Pass& pass, const Tensor& x, int64_t past, const Tensor& cache_k, const Tensor& cache_v) const;

  // One decoding step over a cache: k and v of the new rows are appended at position `past` to cache_k, cache_v [capacity, Hkv, d].
  Tensor decode(Engine& engine, const Pass& pass, const Tensor& x, int64_t past, const Tensor& cache_k, const Tensor& cache_v) const;

  // Codes the block's quantized weights; x, hidden states of each calibration sequence, end as the block's outputs (calibrate.cpp).
  void calibrate(Engine& engine, const Pass& pass, std::vector<Tensor>& x, const CodeLinear& code);

 private:
  void project_qkv(Engine& engine, const Pass& pass, const Tensor& h, SavedBlock& s, bool save) const;
  void attention_output(Engine& engine, const Pass& pass, const Tensor& o, const Tensor& x, const Tensor& middle, SavedBlock& s, bool save) const;
  void announce(int first, int last, Parameter* norm, const GradientReady& ready) const;
  Tensor mlp_rows(Engine& engine, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& out, SavedBlock* saved, bool save) const;
  void mlp_backward(Engine& engine, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy, bool fresh) const;
  void attention_backward(Engine& engine, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const;
  LinearCall call_at(const Pass& pass, int64_t row_begin, bool save) const;
};

}  // namespace tenon::trainer
