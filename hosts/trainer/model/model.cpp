#include "hosts/trainer/model/model.h"

#include "hosts/trainer/model/kv_cache.h"

#include <algorithm>
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

constexpr const char* kNoMixer =
    "the model has been edited around attention with q, k, v and o, which --attention replaces together with its projections; choose another --attention";

}  // namespace

Parameter& Model::add(std::string name, uint32_t role, int32_t block, tn_dtype dtype, std::initializer_list<int64_t> shape) {
  Parameter& p = parameters_.emplace_back();
  p.name = std::move(name), p.role = role, p.block = block;
  p.in_axis = shape.size() == 2 ? 1 : -1;
  const bool own = config_.edited && block >= 0;
  p.n_heads = static_cast<int32_t>(own ? config_.edited->heads[static_cast<size_t>(block)] : config_.heads);
  p.n_kv_heads = static_cast<int32_t>(own ? config_.edited->kv_heads[static_cast<size_t>(block)] : config_.kv_heads);
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

  embedding_ = dense("model.embed_tokens.weight", TN_ROLE_EMBEDDING, -1, {c.vocab, c.width(0)});
  if (c.edited && attention.mixer) throw Error(TN_E_CONFLICT, std::string(kNoMixer));
  for (int64_t l = 0; l < c.layers; ++l) {
    auto block = std::make_unique<TransformerBlock>();
    const std::string at = "model.layers." + std::to_string(l) + ".";
    const int32_t index = static_cast<int32_t>(l);
    const ModelConfig& bc = c.edited ? block_configs_.emplace_back(c.of_block(l)) : config_;
    block->index = l, block->config = &bc, block->inv_freq = &inv_freq_, block->rope_scale = rope_scale_;
    for (int64_t k = 0; k < 3; ++k) block->width[k] = c.width(2 * l + k);
    for (int64_t k = 0; k < 2; ++k) block->norm_eps[k] = c.eps(2 * l + k);
    const int64_t in = block->width[0], middle = block->width[1], out = block->width[2];
    if (attention.mixer) block->mixer = make_mixer(l, frequencies);
    block->norm1 = dense(at + "input_layernorm.weight", TN_ROLE_NORM, index, {in});
    block->norm2 = dense(at + "post_attention_layernorm.weight", TN_ROLE_NORM, index, {middle});
    if (c.qk_norm) {
      block->q_norm = dense(at + "self_attn.q_norm.weight", TN_ROLE_NORM, index, {c.head_dim});
      block->k_norm = dense(at + "self_attn.k_norm.weight", TN_ROLE_NORM, index, {c.head_dim});
    }
    const LinearSpec specs[7] = {{TransformerBlock::kQ, "self_attn.q_proj", TN_ROLE_Q, bc.q_width(), in, c.qkv_bias},
                                 {TransformerBlock::kK, "self_attn.k_proj", TN_ROLE_K, bc.kv_width(), in, c.qkv_bias},
                                 {TransformerBlock::kV, "self_attn.v_proj", TN_ROLE_V, bc.kv_width(), in, c.qkv_bias},
                                 {TransformerBlock::kO, "self_attn.o_proj", TN_ROLE_O, middle, bc.q_width(), c.o_bias},
                                 {TransformerBlock::kGate, "mlp.gate_proj", TN_ROLE_GATE, bc.intermediate, middle, c.mlp_bias},
                                 {TransformerBlock::kUp, "mlp.up_proj", TN_ROLE_UP, bc.intermediate, middle, c.mlp_bias},
                                 {TransformerBlock::kDown, "mlp.down_proj", TN_ROLE_DOWN, out, bc.intermediate, c.mlp_bias}};
    for (const LinearSpec& s : specs) {
      Linear& linear = block->linears[s.slot];
      linear.path = at + s.path, linear.site = static_cast<uint32_t>(l * 7 + s.slot), linear.role = s.role, linear.block = index;
      linear.m = s.m, linear.n = s.n;
      linear.uid = uid;
      linear.absent = block->mixer && s.role <= TN_ROLE_O && !block->mixer->keeps(s.role);
      if (linear.absent) {
        uid += s.bias ? 2 : 1;
        continue;
      }
      linear.coded = options.quantizer && !(options.plain && options.plain(linear.path + ".weight"));
      if (linear.coded)
        ++uid;
      else
        linear.weight = dense(linear.path + ".weight", s.role, index, {s.m, s.n});
      if (s.bias) linear.bias = dense(linear.path + ".bias", TN_ROLE_BIAS, index, {s.m});
    }
    if (!block->mixer) block->attention.emplace(attention_layer(bc, l));
    for (int k = 0; k < 2; ++k) {
      Linear& sub = block->sublayers[k];
      sub.path = at + (k == 0 ? "self_attn" : "mlp"), sub.site = static_cast<uint32_t>(c.layers * 7 + 1 + l * 2 + k);
      sub.role = k == 0 ? TN_ROLE_O : TN_ROLE_DOWN, sub.block = index, sub.m = sub.n = block->width[k + 1], sub.identity = true;
    }
    blocks_.push_back(std::move(block));
  }
  final_norm_ = dense("model.norm.weight", TN_ROLE_NORM, -1, {c.width(2 * c.layers)});
  head_.path = "lm_head", head_.site = static_cast<uint32_t>(c.layers * 7), head_.role = TN_ROLE_HEAD, head_.m = c.vocab, head_.n = c.width(2 * c.layers);
  head_.tied = c.tied;
  lookup_.path = "model.embed_tokens", lookup_.site = static_cast<uint32_t>(c.layers * 9 + 1), lookup_.role = TN_ROLE_EMBEDDING;
  lookup_.m = c.vocab, lookup_.n = c.width(0), lookup_.uid = embedding_->uid, lookup_.weight = embedding_, lookup_.tied = c.tied, lookup_.lookup = true;
  head_.weight = c.tied ? embedding_ : dense("lm_head.weight", TN_ROLE_HEAD, -1, {c.vocab, head_.n});
  for (auto& b : blocks_)
    if (b->mixer) add_mixer_parameters(*b, uid);
  // Residual maps come behind all others in uid too, so that the model's own places do not move.
  for (auto& b : blocks_)
    for (int half = 0; half < 2; ++half) {
      if (!c.has_map(2 * b->index + half)) continue;
      Linear& map = b->residual[half].emplace(make_residual_map(*b, half));
      map.weight = dense(map.path + ".weight", map.role, map.block, {map.m, map.n});
      map.uid = map.weight->uid;
    }
}

Linear Model::make_residual_map(const TransformerBlock& block, int half) {
  Linear map;
  map.path = block.sublayers[half].path + ".residual_map", map.role = TN_ROLE_OTHER, map.block = static_cast<int32_t>(block.index);
  map.m = block.width[half + 1], map.n = block.width[half];
  return map;
}

std::pair<tn_attention*, tn_attention_config> Model::create_attention(const ModelConfig& c, int64_t layer) {
  const auto u = [](int64_t x) { return static_cast<uint32_t>(x); };
  const tn_attention_config config{sizeof(tn_attention_config), u(c.heads), u(c.kv_heads), u(c.head_dim), u(c.head_dim), u(layer), u(c.layers), 0, u(c.heads), 0, 0, 0};
  tn_attention* instance = nullptr;
  check(attention_plugin_.api->create(engine_.host(), attention_plugin_.hypers, attention_plugin_.n_hypers, &config, &instance), "creating an attention layer");
  attention_.emplace_back(attention_plugin_.api, instance);
  return {instance, config};
}

AttentionLayer Model::attention_layer(const ModelConfig& c, int64_t layer) {
  const auto [instance, config] = create_attention(c, layer);
  return AttentionLayer(attention_plugin_.api, instance, config, c.window[layer]);
}

std::unique_ptr<SublayerMixer> Model::make_mixer(int64_t layer, const std::vector<float>& frequencies) {
  const ModelConfig& c = config_;
  const uint32_t flags = (c.qk_norm ? uint32_t{TN_MIXER_LAYER_QK_NORM} : 0u) | (c.qkv_bias ? uint32_t{TN_MIXER_LAYER_QKV_BIAS} : 0u);
  const tn_mixer_layer info{sizeof(tn_mixer_layer), flags, c.hidden, c.window[static_cast<size_t>(layer)],
                            frequencies.data(), rope_scale_};
  const auto open = [&](const char* spec, const tn_attention_config& config, int64_t window) {
    attention_.push_back(attention_plugin_.open(spec, config));
    return AttentionLayer(attention_.back().first, attention_.back().second, config, window);
  };
  return std::make_unique<SublayerMixer>(engine_, attention_plugin_.api, attention_plugin_.mixer, create_attention(c, layer).first, info, open);
}

// Behind all others in uid, so that the model's own places do not move.
void Model::add_mixer_parameters(TransformerBlock& block, uint32_t& uid) {
  for (const SublayerMixer::Declared& d : block.mixer->declared()) {
    const bool wide = (d.info.flags & TN_MIXER_PARAM_F32) || d.info.ndim == 1;
    const std::string name = "model.layers." + std::to_string(block.index) + ".self_attn." + d.key;
    const tn_dtype dtype = wide ? kF32 : options_.storage;
    Parameter& p = d.info.ndim == 1 ? add(name, d.info.role, static_cast<int32_t>(block.index), dtype, {d.info.shape[0]})
                                    : add(name, d.info.role, static_cast<int32_t>(block.index), dtype, {d.info.shape[0], d.info.shape[1]});
    p.uid = uid++, p.in_axis = -1, p.converted = true;
    p.saved = !d.is_buffer();
    p.trainable = options_.train_weights && p.saved;
    p.gradient_dtype = wide || options_.wide_gradients ? kF32 : options_.storage;
    p.lr_scale = d.info.lr_scale, p.decay_scale = d.info.decay_scale;
    block.mixer->parameters.push_back(&p);
  }
}

std::vector<const SublayerMixer*> Model::mixers() {
  std::vector<const SublayerMixer*> all;
  for (const auto& b : blocks_)
    if (b->mixer) all.push_back(b->mixer.get());
  return all;
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
  for (const auto& [api, instance] : attention_) api->destroy(instance);
}

std::vector<SegmentSizes> Model::segment_sizes() {
  std::vector<SegmentSizes> all;
  for (const Linear* l : linears()) {
    SegmentSizes& sizes = all.emplace_back();
    if (l->owner || !l->coded) continue;
    const std::string name = l->path + ".weight";
    sizes = SegmentSizes(plan_components(
        *options_.quantizer, {sizeof(tn_target), TN_SITE_WEIGHT, l->role, l->uid, l->block, 2, engine_.compute(), 0, {l->m, l->n, 0, 0}, name.c_str()}));
  }
  return all;
}

void Model::allocate(const std::vector<int64_t>& segments) {
  size_t place = 0;
  for (auto& b : blocks_)
    for (Linear& l : b->linears) {
      const int64_t held = segments.empty() ? 0 : segments.at(place);
      ++place;
      if (l.absent) continue;
      if (l.owner)
        l.weight = nullptr;
      else if (l.coded) {
        l.quantized.emplace(engine_, *options_.quantizer, l.path + ".weight", l.uid, l.role, l.block, l.m, l.n, held);
        if (options_.train_scales) add_scales(l);
      }
    }
  std::set<std::string> held;
  if (options_.embeddings) code_embeddings(held);
  for (const Linear* l : linears())
    if (l->owner) held.insert(l->path + ".weight");
  if (head_.owner) head_.weight = nullptr;
  for (auto& [p, shape] : shapes_)
    if (!held.contains(p->name)) p->value = engine_.empty(Category::kWeights, shape.dtype(), shape.shape(), shape.ndim());
  shapes_.clear();
}

// A tied head multiplies with the very codes that are looked up.
void Model::code_embeddings(std::set<std::string>& held) {
  for (Linear* l : {&lookup_, &head_}) {
    if (l->owner) throw Error(TN_E_CONFLICT, "adapter " + l->owner->name + " holds the weight of " + l->path + ", which --embeddings would hold in codes; drop one of the two");
    l->uid = l->weight->uid;
    if (l == &head_ && head_.tied)
      head_.quantized = lookup_.quantized;
    else
      l->quantized.emplace(engine_, *options_.embeddings, l->path + ".weight", l->uid, l->role, -1, l->m, l->n);
    held.insert(l->weight->name);
  }
  lookup_.weight = head_.weight = nullptr;
}

std::vector<Linear*> Model::sites() {
  std::vector<Linear*> all = linears();
  for (auto& b : blocks_)
    for (Linear& l : b->sublayers) all.push_back(&l);
  all.push_back(&lookup_);
  return all;
}

// Gradients of an adapter's shared parameters are complete when every site has added to them.
void Model::announce_shared(const GradientReady& ready) {
  for (const Adapter* a : adapters_)
    for (size_t id = 0; id < a->parameters.size(); ++id)
      if (a->param_sites[id] < 0) ready(*a->parameters[id]);
}

std::vector<Linear*> Model::coded() {
  std::vector<Linear*> all = linears();
  all.push_back(&lookup_);
  std::erase_if(all, [](const Linear* l) { return !l->quantized || (l->role == TN_ROLE_HEAD && l->tied); });
  return all;
}

std::vector<Linear*> Model::linears() {
  std::vector<Linear*> all;
  for (auto& b : blocks_)
    for (Linear& l : b->linears) all.push_back(&l);
  all.push_back(&head_);
  return all;
}

}  // namespace tenon::trainer
