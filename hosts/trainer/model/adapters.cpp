// Binding an adapter plugin to the model's linears and sub-layers.
#include <algorithm>

#include "core/error.h"
#include "core/plugins/answer.h"
#include "hosts/trainer/model/model.h"

namespace tenon::trainer {
namespace {

// uids of adapter parameters lie above those of any model: 2^17 per adapter.
constexpr uint32_t kAdapterUid = 1u << 17;

tn_dtype dtype_of(uint32_t flags) {
  return flags & TN_ADAPTER_PARAM_INT32 ? kI32 : flags & TN_ADAPTER_PARAM_INT8 ? tn_dtype{TN_INT, 8, 1} : kF32;
}

struct Binding {
  Engine* engine;
  Adapter* adapter;
  const std::vector<Linear*>* sites;

  template <class Body>
  static int32_t guarded(void* self, Body&& body) {
    return answer([&] { body(*static_cast<Binding*>(self)); });
  }
  static int32_t site(void* self, uint32_t id, uint32_t retention) {
    return guarded(self, [&](Binding& b) {
      if (id >= b.sites->size()) throw Error(TN_E_ARGUMENT, "an adapter took a site that does not exist");
      b.adapter->retention[id] = retention;
    });
  }
  static int32_t param(void* self, const tn_adapter_param* p) {
    return guarded(self, [&](Binding& b) {
      Adapter& a = *b.adapter;
      if (p->id != a.parameters.size()) throw Error(TN_E_ARGUMENT, "an adapter declared parameter ids that are not dense from 0");
      auto q = std::make_unique<Parameter>();
      q->name = p->file_key;
      q->uid = kAdapterUid * (a.index + 1) + p->id;
      q->role = TN_ROLE_ADAPTER;
      q->lr_scale = p->lr_scale, q->decay_scale = p->decay_scale;
      q->trainable = (p->flags & TN_ADAPTER_PARAM_TRAINABLE) != 0, q->saved = (p->flags & TN_ADAPTER_PARAM_SAVED) != 0;
      q->gradient_category = Category::kGradients;
      q->value = b.engine->empty(Category::kAdapter, dtype_of(p->flags), p->shape, p->ndim);
      a.parameters.push_back(std::move(q));
      a.param_sites.push_back(p->site);
    });
  }
  static int32_t own(void* self, uint32_t id, uint32_t from_base) {
    return guarded(self, [&](Binding& b) {
      if (id >= b.sites->size()) throw Error(TN_E_ARGUMENT, "an adapter took the weight of a site that does not exist");
      const Linear& l = *(*b.sites)[id];
      if (l.identity || l.lookup || l.tied) throw Error(TN_E_UNSUPPORTED, l.path + " has no weight of its own that an adapter could hold; leave it out of target_modules");
      if (!l.adapters.empty()) throw Error(TN_E_CONFLICT, "an adapter that holds the weight of " + l.path + " must come before the others on it; change the order");
      b.adapter->owned[id] = from_base != 0;
    });
  }
  static int32_t train(void* self, uint32_t role) {
    return guarded(self, [&](Binding& b) { b.adapter->trained_roles.push_back(role); });
  }
};

}  // namespace

// tn_region_sink of one model and adapter.
struct RegionBinding {
  Binding binding;
  Model* model;

  static int32_t param(void* self, const tn_adapter_param* p) { return Binding::param(&static_cast<RegionBinding*>(self)->binding, p); }
  static int32_t block(void* self, const tn_side_block* side, uint32_t* id) {
    auto& r = *static_cast<RegionBinding*>(self);
    return Binding::guarded(&r.binding, [&](Binding& b) {
      if (side->like >= static_cast<int32_t>(r.model->blocks_.size())) throw Error(TN_E_ARGUMENT, "an adapter asked for a block like one that does not exist");
      if (side->hidden < 1 || side->heads < 1 || side->kv_heads < 1 || side->heads % side->kv_heads || side->head_dim % 2 || side->head_dim < 2)
        throw Error(TN_E_ARGUMENT, std::string("an adapter asked for the block ") + side->key + " in a shape that no block can have");
      *id = static_cast<uint32_t>(r.model->region_.blocks.size());
      r.model->add_side_block(*b.adapter, *side, *id);
    });
  }
  static int32_t read_rows(void* model, int32_t block, uint32_t slot, int64_t begin, int64_t end, tn_tensor* out) {
    return answer([&] {
      const Model& m = *static_cast<const Model*>(model);
      if (block < -1 || block >= static_cast<int32_t>(m.blocks_.size()) || slot > TransformerBlock::kDown)
        throw Error(TN_E_ARGUMENT, "an adapter asked for weight " + std::to_string(slot) + " of block " + std::to_string(block) + ", which the model does not have");
      const Linear& l = block < 0 ? m.lookup_ : m.blocks_[static_cast<size_t>(block)]->linears[slot];
      if (l.absent) throw Error(TN_E_NOT_FOUND, l.path + " is not there with this --attention; choose one of the placement core");
      if (l.owner)
        throw Error(TN_E_CONFLICT, "adapter " + l.owner->name + " holds the weight of " + l.path + ", from which another adapter of the run would start; drop one of the two");
      if (begin < 0 || begin > end || end > l.m)
        throw Error(TN_E_ARGUMENT, "an adapter asked for rows " + std::to_string(begin) + " to " + std::to_string(end) + " of " + l.path + ", which has " + std::to_string(l.m));
      l.read_rows(m.engine_, begin, end, Tensor::borrowed(*out));
    });
  }
};

// A block of the adapter's own: the model's configuration in other sizes, its nine parameters among the adapter's.
TransformerBlock& Model::add_side_block(Adapter& adapter, const tn_side_block& side, uint32_t id) {
  ModelConfig& c = side_configs_.emplace_back(config_);
  c.hidden = side.hidden, c.intermediate = side.intermediate, c.heads = side.heads, c.kv_heads = side.kv_heads, c.head_dim = side.head_dim;
  c.qk_norm = c.qkv_bias = c.o_bias = c.mlp_bias = false;
  c.window.assign(static_cast<size_t>(c.layers), side.like >= 0 ? config_.window[static_cast<size_t>(side.like)] : 0);
  double scale = 1;
  const std::vector<float> frequencies = c.inverse_frequencies(max_length_, scale);
  Tensor& f = side_frequencies_.emplace_back(engine_.empty(Category::kAdapter, kF32, {c.head_dim / 2}));
  engine_.upload(frequencies.data(), f);
  engine_.synchronize();
  auto block = std::make_unique<TransformerBlock>();
  block->width[0] = block->width[1] = block->width[2] = c.hidden, block->norm_eps[0] = block->norm_eps[1] = c.norm_eps;
  block->index = id, block->config = &c, block->inv_freq = &f, block->rope_scale = scale;
  Binding binding{&engine_, &adapter, nullptr};
  const auto add = [&](const char* name, int64_t m, int64_t n, int32_t base) {
    const std::string key = std::string(side.key) + "." + name + ".weight";
    const auto param = static_cast<uint32_t>(adapter.parameters.size());
    const tn_adapter_param p{sizeof(tn_adapter_param), param, -1, TN_ADAPTER_PARAM_TRAINABLE | TN_ADAPTER_PARAM_SAVED, n ? 2 : 1, 0,
                             {m, n, 0, 0}, 1, n ? 1.0 : 0.0, key.c_str()};
    check(Binding::param(&binding, &p), "adding a block");
    if (base >= 0 && side.like >= 0) adapter.base_site[param] = static_cast<uint32_t>(side.like * 7 + base);
    return adapter.parameters.back().get();
  };
  block->norm1 = add("input_layernorm", c.hidden, 0, -1);
  if (side.like >= 0) adapter.base_norm[static_cast<uint32_t>(adapter.parameters.size() - 1)] = blocks_[static_cast<size_t>(side.like)]->norm1;
  block->norm2 = add("post_attention_layernorm", c.hidden, 0, -1);
  if (side.like >= 0) adapter.base_norm[static_cast<uint32_t>(adapter.parameters.size() - 1)] = blocks_[static_cast<size_t>(side.like)]->norm2;
  struct {
    int slot;
    const char* name;
    int64_t m, n;
  } specs[7] = {{TransformerBlock::kQ, "self_attn.q_proj", c.q_width(), c.hidden},   {TransformerBlock::kK, "self_attn.k_proj", c.kv_width(), c.hidden},
                {TransformerBlock::kV, "self_attn.v_proj", c.kv_width(), c.hidden},  {TransformerBlock::kO, "self_attn.o_proj", c.hidden, c.q_width()},
                {TransformerBlock::kGate, "mlp.gate_proj", c.intermediate, c.hidden}, {TransformerBlock::kUp, "mlp.up_proj", c.intermediate, c.hidden},
                {TransformerBlock::kDown, "mlp.down_proj", c.hidden, c.intermediate}};
  for (const auto& s : specs) {
    Linear& l = block->linears[s.slot];
    l.weight = add(s.name, s.m, s.n, s.slot);
    l.path = std::string(side.key) + "." + s.name, l.block = static_cast<int32_t>(id), l.m = s.m, l.n = s.n;
  }
  if (attention_plugin_.mixer)
    throw Error(TN_E_CONFLICT, "adapter " + adapter.name + " adds blocks of its own, which an attention that owns its projections cannot mix; choose an --attention of the placement core");
  block->attention.emplace(attention_layer(c, std::max<int64_t>(side.like, 0)));
  region_.blocks.push_back(block.get());
  side_blocks_.push_back(std::move(block));
  return *side_blocks_.back();
}

void Model::attach_region(Adapter& adapter) {
  if (config_.edited)
    throw Error(TN_E_CONFLICT, "adapter " + adapter.name + " runs the stack of blocks itself, for which they must be of one width, and this model has been edited; choose an adapter of its linears, such as lora");
  if (region_.adapter)
    throw Error(TN_E_CONFLICT, "adapters " + region_.adapter->name + " and " + adapter.name + " both run the stack of blocks; a model can have one such");
  region_.adapter = &adapter, region_.final_norm = final_norm_, region_.norm_eps = config_.norm_eps, region_.hidden = config_.hidden;
  for (const auto& b : blocks_) region_.blocks.push_back(b.get());
  const ModelConfig& c = config_;
  const tn_region_model info{sizeof(tn_region_model), static_cast<uint32_t>(c.layers), c.hidden, c.intermediate, static_cast<uint32_t>(c.heads),
                             static_cast<uint32_t>(c.kv_heads), static_cast<uint32_t>(c.head_dim), 0, c.vocab, this, RegionBinding::read_rows};
  RegionBinding binding{{&engine_, &adapter, nullptr}, this};
  const tn_region_sink sink{sizeof(tn_region_sink), 0, &binding, RegionBinding::param, RegionBinding::block};
  check(adapter.region->bind(adapter.self, &info, &sink), "binding an adapter");
}

void Model::attach(Adapter& adapter) {
  const std::vector<Linear*> all = sites();
  std::vector<tn_site> infos;
  std::vector<const tn_site*> pointers;
  for (const Linear* l : all) {
    if (l->absent) continue;
    infos.push_back({sizeof(tn_site), l->site, l->place(), l->role,
                     l->flags() | (l->coded && !l->owner ? uint32_t{TN_LINEAR_QUANTIZED} : 0u), l->block,
                     l->m, l->n, l->path.c_str()});
  }
  for (const tn_site& s : infos) pointers.push_back(&s);
  Binding binding{&engine_, &adapter, &all};
  const tn_adapter_sink sink{sizeof(tn_adapter_sink), 0, &binding, Binding::site, Binding::param, Binding::own, Binding::train};
  check(adapter.api->bind(adapter.self, pointers.data(), pointers.size(), &sink), "binding an adapter");
  for (const auto& [site, retention] : adapter.retention) {
    std::vector<uint32_t>& ids = adapter.site_params[site];
    for (uint32_t id = 0; id < adapter.parameters.size(); ++id)
      if (adapter.param_sites[id] < 0 || adapter.param_sites[id] == static_cast<int32_t>(site)) {
        ids.push_back(id);
        if (adapter.param_sites[id] >= 0) adapter.parameters[id]->block = all[site]->block;
      }
    all[site]->adapters.push_back(&adapter);
  }
  for (const auto& [site, retention] : adapter.retention) {
    const Adapter* sampler = all[site]->sampler();
    for (const Adapter* a : all[site]->adapters)
      if (sampler && a->retention.at(site) == TN_RETAIN_INPUT)
        throw Error(TN_E_CONFLICT, "adapter " + a->name + " needs every row of the input of " + all[site]->path + ", of which adapter " + sampler->name +
                                       " keeps a sample; give them different target_modules");
  }
  for (const auto& [site, from_base] : adapter.owned) all.at(site)->owner = &adapter;
  if (adapter.region) attach_region(adapter);
  adapters_.push_back(&adapter);
}

}  // namespace tenon::trainer
