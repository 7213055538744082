// A model with its optimizer, ready to take training steps. The planner makes one on a dry engine and takes the same steps.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hosts/trainer/model/edit_plan.h"
#include "hosts/trainer/model/kv_cache.h"
#include "hosts/trainer/model/source.h"
#include "hosts/trainer/optim/optimizers.h"
#include "hosts/trainer/run/block_training.h"
#include "hosts/trainer/schedule/activation_codec.h"

namespace tenon::trainer {

// Instances of the run's plugins. They outlive the session that uses them, and a session takes one set: optimizers and adapters
// hold bindings.
struct Techniques {
  std::vector<OptimizerMember> optimizers;  // in the order of the user's clauses
  bool tunes_scales = false;                // of quantized weights, and nothing else
  AttentionPlugin attention;
  std::string attention_spec;  // with what differs from its defaults; empty: that of kDefaultAttention
  const Quantizer* quantizer = nullptr;  // or null
  const Quantizer* embeddings = nullptr;  // holds the embedding and the head, or null
  const Editor* editor = nullptr;        // makes another model out of the one that is loaded; or null
  const SiteCodec *activations = nullptr, *states = nullptr, *kv_cache = nullptr;  // hold what waits for backward, for the next update, for later tokens; or null
  OpenOptimizer block_optimizer;         // of a quantizer that trains weights before it codes them
  uint64_t weight_budget = 0;            // bytes of quantized weights, where they come in segments; 0: all of them
  std::vector<Adapter*> adapters;
  WeightDecoder decoder;
};

struct SessionOptions {
  int64_t sequence = 0;         // tokens of the longest sequence
  int64_t accumulate = 1;
  uint64_t seed = 0;
  double clip = 0;              // global norm; 0 = off
  bool fused_backward = false;  // update inside backward, gradient freed at once
  tn_dtype storage = kF32;
  WeightUpdate update = WeightUpdate::kStochastic;
  MemoryOptions memory;
  std::string offload_folder;   // of saved activations in a file
  std::vector<std::vector<int32_t>> calibration;  // text for a quantizer that asks for it (calibration.h)
  std::vector<std::vector<int32_t>> kv_calibration;  // likewise for a codec of key-value caches, sequences of one length
  std::function<void(size_t, size_t)> calibrating;  // blocks coded, of how many
  bool order_segments = false;  // even where all of them are loaded, for a file
  bool train = true;            // false: evaluation and generation only, no optimizer
};

struct StepResult {
  int64_t step = 0, tokens = 0;  // tokens: predicted in this step
  double loss = 0, lr = 0, grad_norm = 0;
  // NaN or Inf, or no token to predict (loss is NaN then): nothing was changed by this step, or with fused_backward nothing after NaN was met.
  bool skipped = false;
  bool degraded = false;
  std::string note;                       // why, for the user
  std::map<std::string, double> metrics;  // of the optimizers
  double batch_multiplier = 1;            // their advice for the next batch
};

class Session {
 public:
  // Allocates and fills everything: weights, adapters, states. host: where updates run, as Techniques' optimizers are objects for (zero_offload); null: on
  // the engine.
  Session(Engine& engine, const ModelSource& source, Techniques techniques, const SessionOptions& options, Engine* host = nullptr);

  Engine& engine() { return engine_; }
  Model& model() { return model_; }
  Optimizers* optimizer() { return optimizer_.get(); }
  const std::vector<Adapter*>& adapters() const { return techniques_.adapters; }
  const Techniques& techniques() const { return techniques_; }
  // Of weights that come in segments; empty where they do not, or all of them are there and nobody asked.
  const std::vector<int32_t>& segment_order() const { return segment_order_; }
  const SessionOptions& options() const { return options_; }
  int64_t trainable_parameters() const;
  const ActivationCodec* activation_codec() const { return activation_codec_.get(); }  // or null

  // One optimizer step over its micro-batches at this learning rate. step counts from 1. height: of the schedule, for optimizers with
  // a rate of their own.
  StepResult step(int64_t step, int64_t total_steps, const std::vector<HostBatch>& micro_batches, double lr, double height = 1);

  // Asks the optimizers what trains in a step, without taking it. True: that, or its states, differs from the step before.
  bool plan(int64_t step, int64_t total_steps);

  // The most that was kept outside of the device's memory: saved activations, and what belongs to updates on the host.
  uint64_t offloaded_bytes() const;
  // The engine in whose memory a tensor of the session lies.
  Engine& engine_of(const Tensor& t) { return host_updates_ && t.device().type == TN_CPU ? host_updates_->host() : engine_; }

  // Steps taken and tokens seen so far, for checkpoints.
  int64_t tokens_seen = 0;

 private:
  static ModelOptions model_options(const Techniques& techniques, const SessionOptions& options, const ModelSource& source);
  void allocate(const ModelSource& source);
  void make_base(const ModelSource& source);
  void start(Adapter& adapter, const ModelSource& source);
  StepResult driven_step(StepResult r, const tn_step& step, const std::vector<HostBatch>& micro_batches, Rate rate, double weight);
  bool measure(const Parameter& p, double& sum_of_squares);
  void start_optimizers(std::vector<Parameter*> trained, Engine* host);

  Engine& engine_;
  Techniques techniques_;
  SessionOptions options_;
  std::unique_ptr<ActivationStage> stage_;
  std::unique_ptr<KvCodec> kv_codec_;
  std::unique_ptr<ActivationCodec> activation_codec_;  // before the stage, on the way there
  Model model_;
  std::unique_ptr<HostUpdates> host_updates_;
  bool values_settled_ = false;  // host copies are of the values with which training goes on
  std::unique_ptr<Optimizers> optimizer_;
  std::vector<int32_t> segment_order_;
};

// A batch of the shape that training will use, for dry steps and benchmarks: `sequences` × `length` tokens, all predicted.
HostBatch shape_batch(int64_t sequences, int64_t length, int64_t vocab);

}  // namespace tenon::trainer
