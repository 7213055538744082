// A causal language model of the Llama family over plugins: its parameters, forward, loss and backward.
#pragma once

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "hosts/trainer/model/block.h"
#include "hosts/trainer/model/region.h"
#include "hosts/trainer/schedule/activations.h"
#include "hosts/trainer/schedule/chunks.h"

namespace tenon::trainer {

class KvCache;
struct KvCodec;
class SavedBlocks;

// The attention plugin of the run; the model makes one instance per layer.
struct AttentionPlugin {
  const tn_attention_api* api = nullptr;
  const tn_hyper* const* hypers = nullptr;
  uint64_t n_hypers = 0;
  const tn_mixer_api* mixer = nullptr;  // of a plugin that owns its projections
  // An instance of the core kernel that a spec names, for such a plugin; the caller destroys it.
  std::function<std::pair<const tn_attention_api*, tn_attention*>(const char* spec, const tn_attention_config& config)> open;
};

struct ModelOptions {
  tn_dtype storage = kF32;         // of matrices; vectors (norms, biases) are f32
  const Quantizer* quantizer = nullptr;  // holds the seven linears of every block, or null
  std::function<bool(const std::string& weight)> plain;  // which of them it does not hold, because the model's file has them without codes; empty: none
  const Quantizer* embeddings = nullptr;  // holds the embedding and the head, which then stay as they are, or null
  bool train_weights = false;      // full tuning
  bool train_scales = false;       // of quantized weights
  bool wide_gradients = true;      // f32 gradients of bf16 matrices (needed when they accumulate)
};

// One micro-batch on the host: rows of `sequences` × `length` tokens. labels are already shifted; −1 is not predicted.
struct HostBatch {
  int64_t sequences = 0, length = 0;
  std::vector<int32_t> ids, labels, positions;
  Segments segments;  // empty: every sequence is one document
};

class Model {
 public:
  // Wires the layers; allocate() follows, after every adapter has been attached. max_length: of the longest sequence to come.
  Model(Engine& engine, const ModelConfig& config, const ModelOptions& options, const AttentionPlugin& attention, int64_t max_length);
  ~Model();
  Model(const Model&) = delete;

  const ModelConfig& config() const { return config_; }
  // In uid order; quantized weights are not among them, and those that an adapter holds have no value.
  std::deque<Parameter>& parameters() { return parameters_; }
  std::vector<Linear*> coded();    // those whose weights a quantizer holds, each of them once; a tied head has the embedding's
  std::vector<Linear*> linears();  // in site order: the seven of every block, then the head
  std::vector<Linear*> sites();    // by id: the linears, then two sub-layers of every block, then the embedding
  std::deque<Parameter>& scales() { return scales_; }  // trainable components of quantized weights, where those train; after allocate()
  Linear& head() { return head_; }
  Linear& lookup() { return lookup_; }  // the embedding
  std::vector<const SublayerMixer*> mixers();  // of every layer, in order; empty where attention is a core kernel

  // Binds an adapter to the model: asks the plugin for its sites and parameters and allocates those.
  void attach(Adapter& adapter);
  // Memory for every weight that no adapter holds; contents undefined. segments: of each quantized linear by its place in linears(), how many
  // to hold; empty: all.
  void allocate(const std::vector<int64_t>& segments = {});
  // The quantized weights' sizes before they are allocated, by place in linears(); of others, nothing.
  std::vector<SegmentSizes> segment_sizes();

  // Sum of nats over the predicted tokens of the batch; no gradients. losses (optional): nats per row.
  double evaluate(const HostBatch& batch, std::vector<double>* losses = nullptr, const MemoryOptions& memory = {});

  // Forward and backward of one micro-batch: gradients of everything trainable accumulate, weighted by grad_scale per predicted token.
  // `last`: no further micro-batch follows in this step, so gradients are announced as they complete. Returns the sum of nats.
  double train(const HostBatch& batch, const LinearCall& call, const MemoryOptions& memory, double grad_scale, bool last,
               const GradientReady& ready);

  // Where what blocks save between forward and backward goes; null: it stays. The stage outlives the model, or the next call.
  void save_through(ActivationStage* stage) { stage_ = stage; }
  // What each block reads of a batch, and the loss from a block on (as evaluate()): for measuring one weight at a time.
  std::vector<Tensor> block_inputs(const HostBatch& batch);
  double evaluate_from(size_t block, const Tensor& x, const HostBatch& batch);

  // Runs sequences of one length through the model and has every quantized weight coded, in the order in which they run.
  void calibrate(const std::vector<std::vector<int32_t>>& sequences, const BlockCoder& coder, const std::function<void(size_t, size_t)>& progress);

  // Decoding. start_cache() before a new sequence of up to `capacity` tokens; feed() appends tokens and returns f32 logits of the last one on the host.
  void start_cache(int64_t capacity);
  std::vector<float> feed(const std::vector<int32_t>& ids);
  void end_cache();

  // From here on caches are held by this codec, which outlives the model; it is fitted to the inputs that these sequences, of one length, give
  // (none: to the weights alone).
  void cache_through(KvCodec& codec, const std::vector<std::vector<int32_t>>& sequences, const std::function<void(size_t, size_t)>& progress);
  // Of such a cache: appends tokens and answers the sum of nats of the labels that follow them (−1: not predicted).
  double score(const std::vector<int32_t>& ids, const std::vector<int32_t>& labels);

 private:
  struct Uploaded {
    Tensor ids, labels, positions;
  };
  Parameter& add(std::string name, uint32_t role, int32_t block, tn_dtype dtype, std::initializer_list<int64_t> shape);
  TransformerBlock& add_side_block(Adapter& adapter, const tn_side_block& side, uint32_t id);
  void attach_region(Adapter& adapter);
  AttentionLayer attention_layer(const ModelConfig& config, int64_t layer);
  std::pair<tn_attention*, tn_attention_config> create_attention(const ModelConfig& config, int64_t layer);
  std::unique_ptr<SublayerMixer> make_mixer(int64_t layer, const std::vector<float>& frequencies);
  void add_mixer_parameters(TransformerBlock& block, uint32_t& uid);
  Tensor hidden(const Tensor& x, const Pass& pass, bool* normed);
  void announce_shared(const GradientReady& ready);
  void add_scales(Linear& linear);
  void code_embeddings(std::set<std::string>& held);
  void embed(const std::vector<int32_t>& ids, const Tensor& uploaded, const Tensor& x);
  Uploaded upload(const HostBatch& batch);
  double loss_and_gradient(bool normed, const Tensor& x, const Tensor& labels, const Pass& pass, int64_t begin, double grad_scale, Tensor* dx,
                           std::vector<double>* losses);
  void announce_head(const GradientReady& ready);
  void announce_embedding(const GradientReady& ready);
  // The rows of `ids`, of which the first is row `begin` of the micro-batch. saved: for the embedding's backward; null: none follows.
  Tensor embedded(const Tensor& ids, const Pass& pass, int64_t begin, SavedLinear* saved);
  void embedding_backward(const Tensor& ids, const Pass& pass, int64_t begin, const Tensor& dx, SavedLinear& saved);
  size_t lowest_trained() const;
  // Each: the sum of nats; gradients of all but the embedding announced where it is finite.
  double train_region(const Uploaded& u, const Pass& pass, double grad_scale, const GradientReady& announce);
  double train_blocks(const Uploaded& u, const Pass& pass, double grad_scale, const GradientReady& announce);
  double train_chunks(const Uploaded& u, Pass pass, double grad_scale, const ChunkPicks& picks, const GradientReady& announce);
  void run_again(Pass pass, size_t first, size_t end, SavedBlocks& saved);

  Engine& engine_;
  ModelConfig config_;
  ModelOptions options_;
  std::deque<Parameter> parameters_, scales_;
  std::vector<std::pair<Parameter*, Tensor>> shapes_;  // dtype and shape of what allocate() allocates
  std::vector<const Adapter*> adapters_;
  std::deque<ModelConfig> block_configs_;  // of an edited model's blocks
  static Linear make_residual_map(const TransformerBlock& block, int half);
  friend class ModelEditor;
  Parameter *embedding_ = nullptr, *final_norm_ = nullptr;
  std::vector<std::unique_ptr<TransformerBlock>> blocks_;
  Linear head_, lookup_;
  Tensor inv_freq_;
  double rope_scale_ = 1;
  AttentionPlugin attention_plugin_;
  int64_t max_length_;
  RegionStack region_;                         // adapter null: the model runs its blocks itself
  std::deque<ModelConfig> side_configs_;
  std::deque<Tensor> side_frequencies_;
  std::vector<std::unique_ptr<TransformerBlock>> side_blocks_;
  friend struct RegionBinding;
  std::vector<std::pair<const tn_attention_api*, tn_attention*>> attention_;
  ActivationStage* stage_ = nullptr;
  const KvCodec* kv_codec_ = nullptr;
  std::vector<std::unique_ptr<KvCache>> kv_caches_;  // by block, while a sequence is decoded
  int64_t kv_capacity_ = 0;                          // tokens that they were made for
  void start_coded_cache(int64_t capacity);
  Tensor decoded(const std::vector<int32_t>& ids, bool all);
  std::vector<float> feed_coded(const std::vector<int32_t>& ids);
  std::vector<DecodeState> states_;  // by block, the region's own behind the model's
  int64_t cached_ = 0;
};

}  // namespace tenon::trainer
