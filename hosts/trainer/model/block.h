// One transformer block of the Llama family, forward and backward, with the choice of what is kept between the two.
#pragma once

#include <functional>
#include <optional>

#include "hosts/trainer/model/attention.h"
#include "hosts/trainer/model/config.h"
#include "hosts/trainer/model/linear.h"
#include "hosts/trainer/model/sublayer.h"
#include "hosts/trainer/schedule/options.h"

namespace tenon::trainer {

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
  std::map<uint32_t, Tensor> mixer;  // what a mixer keeps in the place of q … lse
};

// Keys and values of one layer for rows that are run in parts: [rows, Hkv, d], rotated. dk, dv: f32 sums of their gradients, where there is
// a backward.
struct Keys {
  Tensor k, v, dk, dv;
};

class TransformerBlock;

// How the quantized weights of a model are made with text in view.
struct BlockCoder {
  uint32_t statistic = 0;     // of a linear's inputs, TN_STATISTIC_*; 0: blocks are trained
  bool plain_prefix = false;  // inputs come from weights as they were
  std::function<Tensor(const Linear&)> dense;  // a weight as it was, in f32
  std::function<void(Linear& linear, const Tensor& statistic, int64_t tokens)> code;
  // Trains a block and codes it. plain, coded: hidden states of each sequence, from weights as they were and as they are coded; both end as
  // the block's outputs.
  std::function<void(TransformerBlock& block, const Pass& pass, std::vector<Tensor>& plain, std::vector<Tensor>& coded)> train;
};

// Dense weights in the place of a block's quantized ones, in the compute type, while this lives.
class StandIns {
 public:
  StandIns(Engine& engine, TransformerBlock& block);
  ~StandIns();
  StandIns(const StandIns&) = delete;
  void fill(Engine& engine, const std::function<Tensor(const Linear&)>& dense);

 private:
  TransformerBlock& block_;
  std::vector<Parameter> weights_;
};

class KvCache;

class TransformerBlock {
 public:
  enum { kQ, kK, kV, kO, kGate, kUp, kDown };
  int64_t index = 0;
  Linear linears[7];
  Linear sublayers[2];  // the identity on the outputs of attention and MLP, for adapters
  Parameter *norm1 = nullptr, *norm2 = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  std::optional<AttentionLayer> attention;  // or a mixer that owns its projections
  std::unique_ptr<SublayerMixer> mixer;
  const ModelConfig* config = nullptr;
  const Tensor* inv_freq = nullptr;
  double rope_scale = 1;
  int64_t width[3] = {};     // of the residual stream before attention, before the MLP, and behind it
  double norm_eps[2] = {};   // of norm1 and norm2
  std::optional<Linear> residual[2];  // residual maps of the halves, which edits put in the place of the identity

  // y = block(x), [rows, width]. When pass.train, `saved` receives what pass.memory says.
  Tensor forward(Engine& engine, const Pass& pass, const Tensor& x, SavedBlock* saved) const;
  // Gradient of the input, in the memory of dy where no residual map stands between them (dy is used up in any case); `saved` is consumed.
  // want_dx false: nothing upstream trains, and the answer is not to be looked at. The same holds for the backward of a half and of rows.
  Tensor backward(Engine& engine, Pass pass, SavedBlock& saved, const Tensor& dy, bool want_dx, const GradientReady& ready) const;
  // Whether anything in the block trains.
  bool trains() const;
  // Every gradient of the block is complete.
  void announce(const GradientReady& ready) const;

  // Rows [begin, begin + n) of a pass by themselves (schedule/rows.cpp), x being their input. Rows see those before them through `keys`.
  // Forward parts run in ascending order, backward in descending order, so that a part's own gradients dk, dv are complete when its turn comes.
  Keys keys(Engine& engine, int64_t rows, bool gradients) const;
  void make_keys(Engine& engine, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys) const;
  // y: [n, hidden]. keys_there: make_keys() or an earlier forward made those of these rows. saved: receives all that backward_rows() needs.
  void forward_rows(Engine& engine, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys, bool keys_there, const Tensor& y, SavedBlock* saved) const;
  // Gradients of what earlier rows gave are added to keys. Announces nothing.
  Tensor backward_rows(Engine& engine, const Pass& pass, int64_t begin, SavedBlock& saved, const Keys& keys, const Tensor& dy, bool want_dx) const;

  // The two halves of a block, residual included: forward() is one after the other. What is saved is all that backward needs.
  Tensor attention_half(Engine& engine, const Pass& pass, const Tensor& x, SavedBlock* saved) const;
  Tensor mlp_half(Engine& engine, const Pass& pass, const Tensor& middle, SavedBlock* saved) const;
  Tensor attention_half_backward(Engine& engine, const Pass& pass, SavedBlock& saved, const Tensor& dy, const GradientReady& ready) const;
  Tensor mlp_half_backward(Engine& engine, const Pass& pass, SavedBlock& saved, const Tensor& dy, const GradientReady& ready) const;
  Tensor decode_attention(Engine& engine, const Pass& pass, const Tensor& x, int64_t past, DecodeState& state) const;

  // One decoding step: rows x follow `past` others, of which the state knows what attention remembers; then of these too.
  Tensor decode(Engine& engine, const Pass& pass, const Tensor& x, int64_t past, DecodeState& state) const;

  // The same over a cache that a codec holds (kv_cache.h).
  Tensor decode_coded(Engine& engine, const Pass& pass, const Tensor& x, KvCache& cache) const;

  // Codes the block's quantized weights with the statistic of their inputs; x, hidden states of each calibration sequence, end as the block's
  // outputs (calibrate.cpp).
  void calibrate(Engine& engine, const Pass& pass, std::vector<Tensor>& x, const BlockCoder& coder);

 private:
  void project_qkv(Engine& engine, const Pass& pass, const Tensor& h, SavedBlock& s, bool save) const;
  struct Heads {
    Tensor made, projected;
  };
  Heads open_heads(Engine& engine, int which, int64_t rows, const Tensor* to) const;
  Tensor finish_heads(Engine& engine, const Pass& pass, const LinearCall& call, int which, const Heads& heads, SavedBlock& s) const;
  void project_together(Engine& engine, const Pass& pass, const Tensor& h, const Tensor* k, const Tensor* v, SavedBlock& s) const;
  Tensor project_heads(Engine& engine, const Pass& pass, const LinearCall& call, int which, const Tensor& h, const Tensor* to, SavedBlock& s) const;
  void attention_output(Engine& engine, const LinearCall& call, const Tensor& o, const Tensor& x, const Tensor& middle, SavedBlock& s) const;
  void join(Engine& engine, const LinearCall& call, const Tensor& x, const Tensor& middle, SavedBlock& s,
            const std::function<void(const Tensor& out)>& project) const;
  // A block with a mixer (block_mixer.cpp).
  MixerCall mixer_call(const Pass& pass, SavedBlock& s, bool save) const;
  Tensor decode_mixer(Engine& engine, const Pass& pass, const Tensor& x, int64_t past, const DecodeState& state) const;
  Tensor mixer_half(Engine& engine, const Pass& pass, const Tensor& x, SavedBlock* saved, bool keep) const;
  void mixer_backward(Engine& engine, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const;
  Tensor before_adapters(Engine& engine, const LinearCall& call, SavedBlock& s, const Tensor& dy) const;
  Tensor attention_rows(Engine& engine, const Pass& pass, int64_t begin, const Tensor& x, const Keys& keys, bool keys_there, SavedBlock* saved) const;
  void announce_half(int first, int last, Parameter* norm, const GradientReady& ready) const;
  void mlp_into(Engine& engine, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& y, SavedBlock* saved) const;
  Tensor mlp_rows(Engine& engine, const Pass& pass, int64_t begin, const Tensor& middle, const Tensor& out, SavedBlock* saved, bool save) const;
  Tensor whole_mlp_backward(Engine& engine, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy) const;
  Tensor mlp_backward(Engine& engine, const Pass& pass, int64_t begin, SavedBlock& s, const Tensor& dy, bool fresh) const;
  bool needs_attention_gradient(bool want_dx) const;
  Tensor attention_backward(Engine& engine, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const;
  Tensor attention_output_backward(Engine& engine, const LinearCall& call, SavedBlock& s, const Tensor& dy, bool wanted) const;
  void qkv_backward(Engine& engine, const Pass& pass, int64_t begin, SavedBlock& s, Tensor dq, Tensor dk, Tensor dv, const Tensor& dy, bool want_dx) const;
  Tensor stream_backward(Engine& engine, const Pass& pass, SavedBlock& s, const Tensor& dy, bool want_dx) const;
  void add_residual(Engine& engine, int half, const Tensor& x, const Tensor& y) const;
  Tensor past(Engine& engine, const LinearCall& call, int half, const Tensor& x, const Tensor& dy, bool wanted) const;
  LinearCall call_at(const Pass& pass, int64_t row_begin, bool save) const;
};

}  // namespace tenon::trainer
