// Fresh instances of a run's plugins, and the further ones that plugins open for themselves.
#include <algorithm>

#include "core/error.h"
#include "core/plugins/host.h"
#include "core/plugins/inner.h"
#include "hosts/trainer/run/runtime.h"

namespace tenon::trainer {
namespace {

bool provides(const Manifest& manifest, std::string_view tag) {
  return std::find(manifest.provides.begin(), manifest.provides.end(), tag) != manifest.provides.end();
}

}  // namespace

TechniqueSet::~TechniqueSet() {
  for (const OptimizerMember& m : techniques.optimizers)
    if (m.self) m.api->destroy(m.self);
  for (const auto* q : {quantizer_.get(), stored_.get(), embeddings_.get()})
    if (q && q->self) q->api->destroy(q->self);
  if (editor_ && editor_->self) quantizer_api_->destroy(editor_->self);
  for (const auto* c : {activations_.get(), states_.get(), kv_cache_.get()})
    if (c && c->self) c->api->destroy(c->self);
  for (const auto& a : adapters) a->api->destroy(a->self);
}

std::unique_ptr<SiteCodec> Runtime::instantiate_site(uint32_t site) const {
  const auto it = sites_.find(site);
  if (it == sites_.end()) return nullptr;
  auto codec = std::make_unique<SiteCodec>();
  codec->api = &it->second.plugin.api<tn_quantizer_api>();
  codec->activation = it->second.plugin.extension<tn_activation_codec>(TN_EXT_ACTIVATION);
  codec->kv = it->second.plugin.extension<tn_kv>(TN_EXT_KV);
  codec->id = it->second.spec.id;
  const HyperArray hypers(it->second.spec);
  check(codec->api->create(host(), hypers.data(), hypers.size(), &codec->self), "creating the codec");
  return codec;
}

const std::string& Runtime::ggml_spec(std::string_view type) const {
  auto it = ggml_specs_.find(type);
  if (it == ggml_specs_.end()) {
    PluginFilter filter;
    filter.layout = "gguf:" + std::string(type);
    const auto rows = catalog_.list(filter);
    it = ggml_specs_.emplace(std::string(type), rows.empty() ? "" : canonical(catalog_.spec(TN_KIND_QUANTIZER, rows[0].id + ":type=" + std::string(type)))).first;
  }
  return it->second;
}

std::unique_ptr<Quantizer> Runtime::create_quantizer(const Part& part) const {
  auto q = std::make_unique<Quantizer>();
  q->api = &part.plugin.api<tn_quantizer_api>();
  q->linears = part.plugin.extension<tn_linears>(TN_EXT_LINEARS);
  const HyperArray hypers(part.spec);
  check(q->api->create(host(), hypers.data(), hypers.size(), &q->self), ("creating the quantizer " + part.spec.id).c_str());
  return q;
}

Quantizer Runtime::ggml_decoder(std::string_view type) const {
  auto it = decoders_.find(type);
  if (it == decoders_.end()) {
    if (ggml_spec(type).empty())
      throw Error(TN_E_NOT_FOUND, "the model has tensors of the GGUF type " + std::string(type) + ", which no installed quantizer reads");
    const Spec spec = catalog_.spec(TN_KIND_QUANTIZER, ggml_spec(type));
    const LoadedPlugin plugin = catalog_.load(spec.id, device_.backend());
    const HyperArray hypers(spec);
    tn_quantizer* self = nullptr;
    check(plugin.api<tn_quantizer_api>().create(host(), hypers.data(), hypers.size(), &self), "creating a GGUF reader");
    it = decoders_.emplace(std::string(type), std::make_pair(plugin, self)).first;
  }
  return {&it->second.first.api<tn_quantizer_api>(), it->second.second};
}

const LoadedPlugin& Runtime::loaded(const std::string& id, const std::string& backend) const {
  const auto found = inner_.find({id, backend});
  return found != inner_.end() ? found->second : inner_.emplace(std::pair{id, backend}, catalog_.load(id, backend)).first->second;
}

std::pair<const tn_plugin*, tn_optimizer*> Runtime::open_inner(std::string_view text, const std::string& backend) const {
  const Spec spec = catalog_.spec(TN_KIND_OPTIMIZER, text);
  const LoadedPlugin& plugin = loaded(spec.id, backend);
  const HyperArray hypers(spec);
  tn_optimizer* self = nullptr;
  tenon::check(plugin.api<tn_optimizer_api>().create(host(), hypers.data(), hypers.size(), &self), "creating the inner optimizer " + spec.id);
  return {&plugin.descriptor(), self};
}

std::pair<const tn_attention_api*, tn_attention*> Runtime::open_core(std::string_view text, const tn_attention_config& config) const {
  const Spec spec = catalog_.spec(TN_KIND_ATTENTION, text);
  const LoadedPlugin& plugin = loaded(spec.id, device_.backend());
  const auto& api = plugin.api<tn_attention_api>();
  if (api.placement != TN_PLACEMENT_CORE) throw Error(TN_E_CONFLICT, attention_->spec.id + " needs a core kernel, which " + spec.id + " is not");
  const HyperArray hypers(spec);
  tn_attention* self = nullptr;
  tenon::check(api.create(host(), hypers.data(), hypers.size(), &config, &self), "creating the core kernel " + spec.id);
  return {&api, self};
}

std::shared_ptr<OptimizerMember> Runtime::open_optimizer(std::string_view text) const {
  const auto [plugin, self] = open_inner(text, device_.backend());  // blocks are trained where they compute, whatever --zero-offload says
  std::shared_ptr<OptimizerMember> member(new OptimizerMember, [](OptimizerMember* m) {
    if (m->self) m->api->destroy(m->self);
    delete m;
  });
  member->api = static_cast<const tn_optimizer_api*>(plugin->api), member->self = self;
  return member;
}

std::unique_ptr<TechniqueSet> Runtime::instantiate() const {
  auto set = std::make_unique<TechniqueSet>();
  Techniques& t = set->techniques;
  t.weight_budget = request_.weight_budget;
  for (const OptimizerPart& part : optimizers_) t.tunes_scales = t.tunes_scales || provides(catalog_.info(part.mix.spec.id), "optimizer:scales");
  const InnerScope scope([this](std::string_view text) { return open_inner(text, update_backend()); });
  for (const OptimizerPart& part : optimizers_) {
    OptimizerMember& m = t.optimizers.emplace_back();
    m.api = &part.plugin.api<tn_optimizer_api>();
    m.extensions = {part.plugin.extension<tn_drive>(TN_EXT_DRIVE), part.plugin.extension<tn_observe>(TN_EXT_OBSERVE),
                    part.plugin.extension<tn_linear_wgrad>(TN_EXT_LINEAR_WGRAD), part.plugin.extension<tn_runs>(TN_EXT_RUNS),
                    part.plugin.extension<tn_loss>(TN_EXT_LOSS)};
    m.selector = part.mix.clause.selector, m.lr = part.mix.clause.lr, m.label = part.mix.spec.id;
    const HyperArray hypers(part.mix.spec);
    check(m.api->create(host(), hypers.data(), hypers.size(), &m.self), "creating the optimizer");
  }
  if (edits()) {
    set->quantizer_api_ = &quantizer_->plugin.api<tn_quantizer_api>(), set->editor_ = std::make_unique<Editor>();
    Editor& editor = *set->editor_;
    editor.edits = quantizer_->plugin.extension<tn_edits>(TN_EXT_EDITS), editor.name = short_form(quantizer_->spec);
    const HyperArray hypers(quantizer_->spec);
    check(set->quantizer_api_->create(host(), hypers.data(), hypers.size(), &editor.self), "creating the quantizer");
    editor.text.struct_size = sizeof(tn_edit_text);
    check(editor.edits->text(editor.self, &editor.text), "asking the quantizer for its text");
    t.editor = &editor;
  } else if (quantizer_) {
    set->quantizer_ = create_quantizer(*quantizer_);
    Quantizer& q = *set->quantizer_;
    q.calibration.struct_size = sizeof(tn_calibration_plan);
    const auto* calibrate = quantizer_->plugin.extension<tn_calibrate>(TN_EXT_CALIBRATE);
    if (calibrate) check(calibrate->plan(q.self, &q.calibration), "asking the quantizer for its calibration");
    if (q.calibration.sequences > 0) q.calibrate = calibrate;
    q.trainable = quantizer_->plugin.extension<tn_trainable>(TN_EXT_TRAINABLE);
    q.training.struct_size = sizeof(tn_training_plan);
    if (q.trainable) check(q.trainable->plan(q.self, &q.training), "asking the quantizer for its training");
    if (q.training.sequences > 0) {
      const std::string optimizer = q.training.optimizer ? q.training.optimizer : "";
      catalog_.spec(TN_KIND_OPTIMIZER, optimizer);  // a wrong one is refused before any work
      t.block_optimizer = [this, optimizer] { return open_optimizer(optimizer); };
    }
    q.segments = quantizer_->plugin.extension<tn_segmented>(TN_EXT_SEGMENTS);
    q.segment_plan.struct_size = sizeof(tn_segment_plan);
    if (q.segments) check(q.segments->plan(q.self, &q.segment_plan), "asking the quantizer for its segments");
    t.quantizer = set->quantizer_.get();
    t.tunes_scales = t.tunes_scales || (adapters_.empty() && provides(catalog_.info(quantizer_->spec.id), "quantizer:scale-gradients"));
  }
  set->activations_ = instantiate_site(TN_SITE_ACTIVATION), set->states_ = instantiate_site(TN_SITE_OPTIMIZER_STATE);
  set->kv_cache_ = instantiate_site(TN_SITE_KV_CACHE), t.kv_cache = set->kv_cache_.get();
  t.activations = set->activations_.get(), t.states = set->states_.get();
  if (embeddings_) set->embeddings_ = create_quantizer(*embeddings_), t.embeddings = set->embeddings_.get();
  if (stored_) {
    t.decoder.stored.layout = stored_->plugin.extension<tn_layout>(TN_EXT_LAYOUT);
    t.decoder.stored.is_mix = takes_stored_codes();
    if (t.decoder.stored.is_mix) set->quantizer_->calibrate = nullptr, set->quantizer_->training.sequences = 0;
    set->stored_ = create_quantizer(*stored_);
    t.decoder.stored.quantizer = *set->stored_;
  }
  for (size_t i = 0; i < adapters_.size(); ++i) {
    const Part& part = adapters_[i];
    auto adapter = std::make_unique<Adapter>();
    adapter->name = part.name, adapter->index = static_cast<uint32_t>(i);
    adapter->api = &part.plugin.api<tn_adapter_api>();
    adapter->sampler = part.plugin.extension<tn_sampler>(TN_EXT_SAMPLER);
    adapter->steps = part.plugin.extension<tn_adapter_steps>(TN_EXT_STEPS);
    adapter->region = part.plugin.extension<tn_region_api>(TN_EXT_REGION);
    const HyperArray hypers(part.spec);
    check(adapter->api->create(host(), hypers.data(), hypers.size(), part.config_json.empty() ? nullptr : part.config_json.c_str(), &adapter->self),
          "creating the adapter");
    t.adapters.push_back(adapter.get());
    set->adapters.push_back(std::move(adapter));
  }
  set->attention_hypers_ = std::make_unique<HyperArray>(attention_->spec);
  t.attention.api = &attention_->plugin.api<tn_attention_api>();
  t.attention.hypers = set->attention_hypers_->data(), t.attention.n_hypers = set->attention_hypers_->size();
  if (t.attention.api->placement == TN_PLACEMENT_SUBLAYER) {
    t.attention.mixer = attention_->plugin.extension<tn_mixer_api>(TN_EXT_MIXER);
    if (!t.attention.mixer) throw Error(TN_E_UNSUPPORTED, attention_->spec.id + " owns its projections but does not offer org.tenon.mixer/1; install a newer one");
    t.attention.open = [this](const char* spec, const tn_attention_config& config) { return open_core(spec, config); };
  }
  const std::string spec = short_form(attention_->spec);
  t.attention_spec = spec == kDefaultAttention ? "" : spec;
  t.decoder.stores = [this, weights = t.quantizer, embeddings = t.embeddings](std::string_view type, const Quantizer& q) {
    const Part* part = weights && q.self == weights->self ? quantizer_.get() : embeddings && q.self == embeddings->self ? embeddings_.get() : nullptr;
    return part && canonical(part->spec) == ggml_spec(type);
  };
  t.decoder.ggml = [this](std::string_view type) { return ggml_decoder(type); };
  return set;
}

}  // namespace tenon::trainer
