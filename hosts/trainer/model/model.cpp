#include "hosts/trainer/model/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"

namespace tenon::trainer {
namespace {

struct LinearSpec {
  int slot;
  const char* path;
  uint32_t role;
  int64_t m, n;
  bool bias;
};

}  // namespace

struct Model::Uploaded {
  Tensor ids, labels, positions;
};

Parameter& Model::add(std::string name, uint32_t role, int32_t block, tn_dtype dtype, std::initializer_list<int64_t> shape) {
  Parameter& p = parameters_.emplace_back();
  p.name = std::move(name), p.role = role, p.block = block;
  p.in_axis = shape.size() == 2 ? 1 : -1;
  p.n_heads = static_cast<int32_t>(config_.heads), p.n_kv_heads = static_cast<int32_t>(config_.kv_heads);
  shapes_.emplace_back(&p, Tensor({}, nullptr, {TN_CPU, 0}, dtype, shape));
  return p;
}

Model::Model(Engine& engine, const ModelConfig& config, const ModelOptions& options, const AttentionPlugin& attention, int64_t max_length)
    : engine_(engine), config_(config), options_(options), attention_plugin_(attention), max_length_(max_length) {
  const ModelConfig& c = config_;
  const std::vector<float> frequencies = c.inverse_frequencies(max_length, rope_scale_);
  inv_freq_ = engine.empty(Category::kWeights, kF32, {c.head_dim / 2});
  engine.upload(frequencies.data(), inv_freq_);
  engine.synchronize();

  // A uid is a place in the model, the same whether or not its neighbours are quantized.
  uint32_t uid = 0;
  const auto dense = [&](const std::string& name, uint32_t role, int32_t block, std::initializer_list<int64_t> shape) -> Parameter* {
    const bool vector = shape.size() == 1;
    Parameter& p = add(name, role, block, vector ? kF32 : options.storage, shape);
    p.uid = uid++;
    p.trainable = options.train_weights;
    p.gradient_dtype = vector || options.wide_gradients || role == TN_ROLE_EMBEDDING ? kF32 : options.storage;
    return &p;
  };

  embedding_ = dense("model.embed_tokens.weight", TN_ROLE_EMBEDDING, -1, {c.vocab, c.hidden});
  for (int64_t l = 0; l < c.layers; ++l) {
    auto block = std::make_unique<TransformerBlock>();
    const std::string at = "model.layers." + std::to_string(l) + ".";
    const int32_t index = static_cast<int32_t>(l);
    block->index = l, block->config = &config_, block->inv_freq = &inv_freq_, block->rope_scale = rope_scale_;
    block->norm1 = dense(at + "input_layernorm.weight", TN_ROLE_NORM, index, {c.hidden});
    block->norm2 = dense(at + "post_attention_layernorm.weight", TN_ROLE_NORM, index, {c.hidden});
    if (c.qk_norm) {
      block->q_norm = dense(at + "self_attn.q_norm.weight", TN_ROLE_NORM, index, {c.head_dim});
      block->k_norm = dense(at + "self_attn.k_norm.weight", TN_ROLE_NORM, index, {c.head_dim});
    }
    const LinearSpec specs[7] = {{TransformerBlock::kQ, "self_attn.q_proj", TN_ROLE_Q, c.q_width(), c.hidden, c.qkv_bias},
                                 {TransformerBlock::kK, "self_attn.k_proj", TN_ROLE_K, c.kv_width(), c.hidden, c.qkv_bias},
                                 {TransformerBlock::kV, "self_attn.v_proj", TN_ROLE_V, c.kv_width(), c.hidden, c.qkv_bias},
                                 {TransformerBlock::kO, "self_attn.o_proj", TN_ROLE_O, c.hidden, c.q_width(), c.o_bias},
                                 {TransformerBlock::kGate, "mlp.gate_proj", TN_ROLE_GATE, c.intermediate, c.hidden, c.mlp_bias},
                                 {TransformerBlock::kUp, "mlp.up_proj", TN_ROLE_UP, c.intermediate, c.hidden, c.mlp_bias},
                                 {TransformerBlock::kDown, "mlp.down_proj", TN_ROLE_DOWN, c.hidden, c.intermediate, c.mlp_bias}};
    for (const LinearSpec& s : specs) {
      Linear& linear = block->linears[s.slot];
      linear.path = at + s.path, linear.site = static_cast<uint32_t>(l * 7 + s.slot), linear.role = s.role, linear.block = index;
      linear.m = s.m, linear.n = s.n;
      linear.uid = uid;
      if (options.quantizer)
        ++uid;
      else
        linear.weight = dense(linear.path + ".weight", s.role, index, {s.m, s.n});
      if (s.bias) linear.bias = dense(linear.path + ".bias", TN_ROLE_BIAS, index, {s.m});
    }
    block->attention.emplace(attention_layer(c, l));
    for (int k = 0; k < 2; ++k) {
      Linear& sub = block->sublayers[k];
      sub.path = at + (k == 0 ? "self_attn" : "mlp"), sub.site = static_cast<uint32_t>(c.layers * 7 + 1 + l * 2 + k);
      sub.role = k == 0 ? TN_ROLE_O : TN_ROLE_DOWN, sub.block = index, sub.m = sub.n = c.hidden, sub.identity = true;
    }
    blocks_.push_back(std::move(block));
  }
  final_norm_ = dense("model.norm.weight", TN_ROLE_NORM, -1, {c.hidden});
  head_.path = "lm_head", head_.site = static_cast<uint32_t>(c.layers * 7), head_.role = TN_ROLE_HEAD, head_.m = c.vocab, head_.n = c.hidden;
  head_.tied = c.tied;
  head_.weight = c.tied ? embedding_ : dense("lm_head.weight", TN_ROLE_HEAD, -1, {c.vocab, c.hidden});
}

AttentionLayer Model::attention_layer(const ModelConfig& c, int64_t layer) {
  tn_attention* instance = nullptr;
  const tn_attention_config a{sizeof(tn_attention_config), static_cast<uint32_t>(c.heads), static_cast<uint32_t>(c.kv_heads),
                              static_cast<uint32_t>(c.head_dim), static_cast<uint32_t>(c.head_dim), static_cast<uint32_t>(layer),
                              static_cast<uint32_t>(c.layers), 0, static_cast<uint32_t>(c.heads), 0, 0, 0};
  check(attention_plugin_.api->create(engine_.host(), attention_plugin_.hypers, attention_plugin_.n_hypers, &a, &instance), "creating an attention layer");
  attention_.push_back(instance);
  return AttentionLayer(attention_plugin_.api, instance, c.window[layer]);
}

void Model::add_scales(Linear& linear) {
  QuantizedWeight& w = *linear.quantized;
  uint32_t nth = 0;
  for (size_t i = 0; i < w.components().size(); ++i) {
    if (!w.trainable(i)) continue;
    Parameter& p = scales_.emplace_back();
    p.name = linear.path + ".weight." + w.component_names()[i];
    p.uid = w.target().uid + (nth++ << 28);  // the place of the weight that it scales
    p.role = TN_ROLE_SCALE, p.block = linear.block, p.trainable = true, p.decay_scale = 0;
    p.value = w.components()[i];
    w.train(i, &p);
  }
}

Model::~Model() {
  for (tn_attention* a : attention_) attention_plugin_.api->destroy(a);
}

void Model::allocate() {
  for (auto& b : blocks_)
    for (Linear& l : b->linears) {
      if (l.owner)
        l.weight = nullptr;
      else if (options_.quantizer) {
        l.quantized.emplace(engine_, *options_.quantizer, l.path + ".weight", l.uid, l.role, l.block, l.m, l.n);
        if (options_.train_scales) add_scales(l);
      }
    }
  std::set<std::string> held;
  for (const Linear* l : linears())
    if (l->owner) held.insert(l->path + ".weight");
  if (head_.owner) head_.weight = nullptr;
  for (auto& [p, shape] : shapes_)
    if (!held.contains(p->name)) p->value = engine_.empty(Category::kWeights, shape.dtype(), shape.shape(), shape.ndim());
  shapes_.clear();
}

std::vector<Linear*> Model::sites() {
  std::vector<Linear*> all = linears();
  for (auto& b : blocks_)
    for (Linear& l : b->sublayers) all.push_back(&l);
  return all;
}

// Gradients of an adapter's shared parameters are complete when every site has added to them.
void Model::announce_shared(const GradientReady& ready) {
  for (const Adapter* a : adapters_)
    for (size_t id = 0; id < a->parameters.size(); ++id)
      if (a->param_sites[id] < 0) ready(*a->parameters[id]);
}

std::vector<Linear*> Model::linears() {
  std::vector<Linear*> all;
  for (auto& b : blocks_)
    for (Linear& l : b->linears) all.push_back(&l);
  all.push_back(&head_);
  return all;
}

Model::Uploaded Model::upload(const HostBatch& batch) {
  const int64_t rows = batch.sequences * batch.length;
  Uploaded u{engine_.empty(Category::kActivations, kI32, {rows}), engine_.empty(Category::kActivations, kI32, {rows}),
             engine_.empty(Category::kActivations, kI32, {rows})};
  engine_.upload(batch.ids.data(), u.ids);
  engine_.upload(batch.labels.data(), u.labels);
  engine_.upload(batch.positions.data(), u.positions);
  return u;
}

// Loss of final hidden states x (normed: of what the head reads) in tiles of rows; with dx, also the gradient of x and of the head and final norm.
double Model::loss_and_gradient(bool normed, const Tensor& x, const Tensor& labels, const Pass& pass, double grad_scale, Tensor* dx,
                                std::vector<double>* losses, const GradientReady* ready) {
  const int64_t rows = x.dim(0);
  const bool tiled = !dx || pass.memory.tiled_loss;
  // Evaluation keeps logits in f32; a training pass in the compute type, like the activations around it.
  const tn_dtype logit_type = dx ? engine_.compute() : kF32;
  const int64_t tile = tiled ? std::clamp<int64_t>(pass.memory.loss_tile_bytes / (config_.vocab * element_bytes(logit_type)), 1, rows) : rows;
  const Tensor h = normed ? x : engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden});
  Tensor rstd, dh;
  if (dx) {
    rstd = engine_.empty(Category::kActivations, kF32, {rows});
    dh = engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden});
  }
  if (!normed) engine_.rms_norm(x, final_norm_->seen(engine_), config_.norm_eps, h, dx ? &rstd : nullptr);
  const Tensor nats = engine_.empty(Category::kActivations, kF64, {rows});
  {
    const Tensor logits_tile = engine_.empty(Category::kActivations, logit_type, {tile, config_.vocab});
    for (int64_t r = 0; r < rows; r += tile) {
      const int64_t end = std::min(r + tile, rows);
      const Tensor logits = logits_tile.rows(0, end - r), nats_rows = nats.rows(r, end);
      SavedLinear saved;
      LinearCall call = pass.call;
      call.row_begin = r;
      call.flags = dx ? uint32_t{TN_CALL_TRAIN} | TN_CALL_SAVE : 0u;
      head_.forward(engine_, call, h.rows(r, end), logits, &saved);
      engine_.cross_entropy(logits, labels.rows(r, end), dx ? grad_scale : 0, &nats_rows);
      if (dx) {
        const Tensor part = dh.rows(r, end);
        head_.backward(engine_, call, logits, h.rows(r, end), &part, 0, &saved);
      }
    }
  }
  if (dx && normed) *dx = dh;
  if (dx && !normed) {
    *dx = engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden});
    const Tensor* dweight = final_norm_->trainable ? &final_norm_->open_zeroed_gradient(engine_) : nullptr;
    engine_.rms_norm_backward(dh, x, final_norm_->value, rstd, 0, *dx, dweight);
  }
  if (dx) {
    if (ready) {
      if (final_norm_->trainable) (*ready)(*final_norm_);
      if (!config_.tied && head_.trains_weight()) (*ready)(*head_.weight);
      for (const Adapter* a : head_.adapters)
        for (uint32_t id : a->site_params.at(head_.site))
          if (a->param_sites[id] >= 0) (*ready)(*a->parameters[id]);
    }
  }
  std::vector<double> host(rows, 0.0);
  engine_.download(nats, host.data());
  const double sum = std::accumulate(host.begin(), host.end(), 0.0);
  if (losses) losses->insert(losses->end(), host.begin(), host.end());
  return sum;
}

// The stack of blocks without gradients. *normed: a region ran it, and the final norm with it.
Tensor Model::hidden(const Tensor& x, const Pass& pass, bool* normed) {
  *normed = region_.adapter != nullptr;
  if (*normed) return RegionPass(engine_, region_, pass, 0).forward(x);
  Tensor h = x;
  for (const auto& b : blocks_) h = b->forward(engine_, pass, h, nullptr);
  return h;
}

// Rows of the embedding; of a displaced one only those that the batch asks for are made.
void Model::embed(const std::vector<int32_t>& ids, const Tensor& uploaded, const Tensor& x) {
  if (!embedding_->displaced) return engine_.embedding(embedding_->value, uploaded, x);
  for (size_t r = 0; r < ids.size(); ++r) {
    const int64_t row = static_cast<int64_t>(r);
    embedding_->displaced->read(engine_, embedding_->uid, embedding_->value, ids[r] * config_.hidden, x.rows(row, row + 1));
  }
}

double Model::evaluate(const HostBatch& batch, std::vector<double>* losses, const MemoryOptions& memory) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.memory = memory;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  if (!batch.segments.begin.empty()) pass.segments = &batch.segments;
  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {pass.rows(), config_.hidden});
  embed(batch.ids, u.ids, x);
  bool normed = false;
  x = hidden(x, pass, &normed);
  return loss_and_gradient(normed, x, u.labels, pass, 0, nullptr, losses, nullptr);
}

double Model::train(const HostBatch& batch, const LinearCall& call, const MemoryOptions& memory, double grad_scale, bool last,
                    const GradientReady& ready) {
  const Uploaded u = upload(batch);
  Pass pass;
  pass.sequences = batch.sequences, pass.length = batch.length, pass.positions = u.positions;
  pass.train = true, pass.call = call, pass.memory = memory;
  // A sample is a sequence, or a document where attention keeps documents apart.
  std::vector<int64_t> samples;
  if (batch.segments.begin.empty())
    for (int64_t s = 0; s < batch.sequences; ++s) samples.push_back(s * batch.length);
  else
    samples = batch.segments.begin;
  samples.push_back(pass.rows());
  pass.call.sample_begin = &samples, pass.call.grad_scale = grad_scale;
  if (!batch.segments.begin.empty()) pass.segments = &batch.segments;
  const GradientReady announce = [&](Parameter& p) {
    if (last) ready(p);
  };

  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {pass.rows(), config_.hidden});
  engine_.embedding(embedding_->value, u.ids, x);
  if (region_.adapter) {
    RegionPass region(engine_, region_, pass, TN_REGION_SAVE);
    const Tensor h = region.forward(x);
    x = Tensor();
    Tensor dh;
    const double nats = loss_and_gradient(true, h, u.labels, pass, grad_scale, &dh, nullptr, &announce);
    if (!std::isfinite(nats)) return nats;
    const Tensor dx = region.backward(dh, embedding_->trainable, announce);
    if (embedding_->trainable) {
      engine_.embedding_backward(u.ids, dx, embedding_->open_zeroed_gradient(engine_));
      announce(*embedding_);
    }
    announce_shared(announce);
    return nats;
  }
  // Below the lowest thing that trains there is no gradient to compute, so nothing is kept for one.
  size_t lowest = 0;
  if (!embedding_->trainable) {
    const auto trains = [](const TransformerBlock& b) {
      const auto on = [](const Parameter* p) { return p && p->trainable; };
      const auto any = [](const auto& list) { return std::any_of(std::begin(list), std::end(list), [](const Linear& l) { return l.trains(); }); };
      return on(b.norm1) || on(b.norm2) || on(b.q_norm) || on(b.k_norm) ||
             any(b.linears) || any(b.sublayers);
    };
    while (lowest < blocks_.size() && !trains(*blocks_[lowest])) ++lowest;
  }
  std::vector<SavedBlock> saved(blocks_.size());
  for (size_t l = 0; l < blocks_.size(); ++l) x = blocks_[l]->forward(engine_, pass, x, l < lowest ? nullptr : &saved[l]);

  Tensor dx;
  const double nats = loss_and_gradient(false, x, u.labels, pass, grad_scale, &dx, nullptr, &announce);
  if (!std::isfinite(nats)) return nats;  // no gradient of such a loss is of use; the caller skips the step
  x = Tensor();
  for (size_t l = blocks_.size(); l-- > lowest;)
    blocks_[l]->backward(engine_, pass, saved[l], dx, l > lowest || embedding_->trainable, announce);
  if (embedding_->trainable) {
    engine_.embedding_backward(u.ids, dx, embedding_->open_zeroed_gradient(engine_));
    announce(*embedding_);
  }
  announce_shared(announce);
  return nats;
}

void Model::start_cache(int64_t capacity) {
  cached_ = 0;
  cache_k_.clear(), cache_v_.clear();
  const auto add_cache = [&](const ModelConfig& c) {
    for (std::vector<Tensor>* cache : {&cache_k_, &cache_v_})
      cache->push_back(engine_.empty(Category::kActivations, engine_.compute(), {capacity, c.kv_heads, c.head_dim}));
  };
  for (int64_t l = 0; l < config_.layers; ++l) add_cache(config_);
  for (const ModelConfig& c : side_configs_) add_cache(c);
}

void Model::end_cache() { cache_k_.clear(), cache_v_.clear(), cached_ = 0; }

std::vector<float> Model::feed(const std::vector<int32_t>& ids) {
  const int64_t rows = static_cast<int64_t>(ids.size());
  if (cached_ + rows > cache_k_.at(0).dim(0)) throw Error(TN_E_STATE, "the sequence is longer than its key-value cache");
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(cached_));
  const Tensor tokens = engine_.empty(Category::kActivations, kI32, {rows});
  Pass pass;
  pass.sequences = 1, pass.length = rows;
  pass.positions = engine_.empty(Category::kActivations, kI32, {rows});
  engine_.upload(ids.data(), tokens), engine_.upload(positions.data(), pass.positions);
  Tensor x = engine_.empty(Category::kActivations, engine_.compute(), {rows, config_.hidden});
  engine_.embedding(embedding_->value, tokens, x);
  Tensor h;
  if (region_.adapter) {
    RegionStack stack = region_;
    stack.cache_k = &cache_k_, stack.cache_v = &cache_v_, stack.cached = cached_;
    h = RegionPass(engine_, stack, pass, TN_REGION_DECODE).forward(x).rows(rows - 1, rows);
  } else {
    for (size_t l = 0; l < blocks_.size(); ++l) x = blocks_[l]->decode(engine_, pass, x, cached_, cache_k_[l], cache_v_[l]);
    h = engine_.empty(Category::kActivations, engine_.compute(), {1, config_.hidden});
    engine_.rms_norm(x.rows(rows - 1, rows), final_norm_->value, config_.norm_eps, h, nullptr);
  }
  cached_ += rows;
  const Tensor logits = engine_.empty(Category::kActivations, kF32, {1, config_.vocab});
  head_.forward(engine_, LinearCall{}, h, logits, nullptr);
  std::vector<float> host(config_.vocab);
  engine_.download(logits, host.data());
  return host;
}

}  // namespace tenon::trainer
