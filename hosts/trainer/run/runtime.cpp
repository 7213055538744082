#include "hosts/trainer/run/runtime.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/host.h"
#include "core/plugins/inner.h"
#include "hosts/trainer/engine/sinks.h"

namespace tenon::trainer {
namespace {

namespace fs = std::filesystem;

std::string read_adapter_config(const std::string& folder) {
  const std::string path = (fs::path(folder) / "adapter_config.json").string();
  std::error_code ec;
  if (!fs::exists(path, ec))
    throw Error(TN_E_NOT_FOUND, "--adapter-from " + folder + " holds no adapter_config.json; give the folder of a PEFT adapter");
  JsonLimits limits;
  limits.max_bytes = 4 << 20;
  return read_json_file(path, limits).dump();
}

// config.json of a model folder and its path; null where there is none.
std::pair<Json, std::string> folder_config(const std::string& model) {
  const std::string path = (fs::path(model) / "config.json").string();
  std::error_code ec;
  if (!fs::is_regular_file(path, ec)) return {nullptr, path};
  JsonLimits limits;
  limits.max_bytes = 16 << 20;
  return {read_json_file(path, limits), path};
}

bool provides(const Manifest& manifest, std::string_view tag) {
  return std::find(manifest.provides.begin(), manifest.provides.end(), tag) != manifest.provides.end();
}

// The adapter plugin that reads this PEFT type: the layout "peft:TYPE+KEY" is of files in which KEY is true, "peft:TYPE" of the others.
std::string plugin_for(const Catalog& catalog, const std::string& config_json, const std::string& folder) {
  const Json j = Json::parse(config_json);
  const std::string layout = "peft:" + find_string(j, "peft_type", folder).value_or("");
  const auto reader = [&](const std::string& of) {
    PluginFilter filter;
    filter.layout = of;
    const auto rows = catalog.list(filter);
    return rows.empty() ? std::string() : rows[0].id;
  };
  for (const auto& [key, value] : j.items())
    if (value.is_boolean() && value.get<bool>())
      if (const std::string id = reader(layout + "+" + key); !id.empty()) return id;
  const std::string id = reader(layout);
  if (id.empty()) throw Error(TN_E_NOT_FOUND, folder + " holds an adapter of the type \"" + layout.substr(5, 60) + "\", for which no plugin is installed");
  return id;
}

// The CPU as a device.
Device open_host(const Catalog& catalog) {
  PluginFilter filter;
  filter.kind = "device";
  for (const PluginRow& row : catalog.list(filter)) {
    try {
      Device device = Device::open(catalog, row.id);
      if (device.id().type == TN_CPU) return device;
    } catch (const Error&) {  // a card that is not there
    }
  }
  throw Error(TN_E_NOT_FOUND, "--zero-offload updates on the host, and no device plugin for the CPU is installed; install onednn or drop --zero-offload");
}

// Refuses a quantizer for a site that it does not serve, naming those that do.
void require_site(const Catalog& catalog, const LoadedPlugin& plugin, uint32_t site, const char* flag) {
  if (plugin.api<tn_quantizer_api>().sites & site) return;
  static const std::map<uint32_t, std::pair<const char*, const char*>> kSites = {{TN_SITE_WEIGHT, {"weights", "quantizer:weight"}},
                                                                                 {TN_SITE_OPTIMIZER_STATE, {"optimizer states", "quantizer:optimizer-state"}},
                                                                                 {TN_SITE_ACTIVATION, {"saved activations", "quantizer:activation"}},
                                                                                 {TN_SITE_KV_CACHE, {"a key-value cache", "quantizer:kv-cache"}}};
  const auto& [what, tag] = kSites.at(site);
  PluginFilter filter;
  filter.kind = "quantizer", filter.tag = tag;
  std::string others;
  for (const PluginRow& row : catalog.list(filter)) others += (others.empty() ? "" : ", ") + row.id;
  throw Error(TN_E_UNSUPPORTED, std::string(flag) + " " + std::string(plugin.id()) + ": this quantizer does not hold " + what +
                                    (others.empty() ? "; none that is installed does" : "; choose one of " + others));
}

// The folder in which a further adapter is kept: of the name that it came under, where that can be one and none of `others` has it.
template <class Parts>
std::string folder_name(const std::string& from, const Parts& others) {
  const fs::path path = fs::path(from).lexically_normal();
  std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  const auto taken = [&] { return std::any_of(others.begin(), others.end(), [&](const auto& o) { return o.name == name; }); };
  if (name == "." || name == "..") name.clear();
  for (size_t i = others.size(); name.empty() || taken(); ++i) name = "adapter" + std::to_string(i);
  return name;
}

}  // namespace

std::string stored_attention(const std::string& model) {
  const auto [config, path] = folder_config(model);
  const std::string spec = config.is_object() ? find_string(config, kAttentionKey, path).value_or("") : "";
  return spec.empty() ? kDefaultAttention : spec;
}

std::string stored_quantizer(const Catalog& catalog, const std::string& model) {
  const auto [config, path] = folder_config(model);
  if (!config.is_object()) return {};
  const Json* q = find_object(config, "quantization_config", path);
  if (!q) return {};
  const std::string layout = get_string(*q, "quant_method", path);
  if (layout == kOwnLayout) return canonical(catalog.spec(TN_KIND_QUANTIZER, get_string(*q, "quantizer", path)));
  PluginFilter filter;
  filter.kind = "quantizer", filter.layout = layout;
  std::string reasons;
  for (const PluginRow& row : catalog.list(filter)) {
    if (row.backends.empty()) continue;
    const LoadedPlugin plugin = catalog.load(row.id, row.backends[0]);
    const tn_layout* l = plugin.extension<tn_layout>(TN_EXT_LAYOUT);
    if (!l || !TN_HAS(l, tn_layout, read_config) || !l->read_config) continue;
    std::string hypers;
    const tn_sink sink = append_to(hypers);
    const int32_t status = l->read_config(host(), layout.c_str(), q->dump().c_str(), &sink);
    if (status >= 0) return row.id + (hypers.empty() ? "" : ":" + hypers);
    const Report report = take_report();
    reasons += (reasons.empty() ? ": " : "; ") + report.sentence;
  }
  throw Error(TN_E_UNSUPPORTED, path + ": the weights are stored as \"" + layout.substr(0, 60) + "\", which no installed quantizer reads" +
                                    (reasons.empty() ? "; start from the plain model and pass --quantizer" : reasons));
}

tn_dtype parse_dtype(const std::string& name) {
  if (name == "f32" || name == "float32") return kF32;
  if (name == "bf16" || name == "bfloat16") return kBF16;
  throw Error(TN_E_ARGUMENT, "--dtype " + name + " is not one of f32, bf16");
}

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

Runtime::Runtime(const Catalog& catalog, const MixRequest& request)
    : catalog_(catalog), request_(request), device_(Device::open(catalog, request.device)), info_(device_.info()) {
  if (request.zero_offload && info_.id.type != TN_CPU) host_device_ = open_host(catalog);
  std::vector<std::string> configs(std::max(request.adapters.size(), request.adapter_from.size()));
  std::vector<std::string> adapter_specs = request.adapters;
  for (size_t i = 0; i < request.adapter_from.size(); ++i) {
    configs[i] = read_adapter_config(request.adapter_from[i]);
    if (i >= adapter_specs.size()) adapter_specs.push_back(plugin_for(catalog, configs[i], request.adapter_from[i]));
  }
  std::vector<std::pair<uint32_t, std::string>> parts;
  for (const std::string& a : adapter_specs) parts.emplace_back(TN_KIND_ADAPTER, a);
  if (!request.quantizer.empty()) parts.emplace_back(TN_KIND_QUANTIZER, request.quantizer);
  parts.emplace_back(TN_KIND_ATTENTION, request.attention);
  const std::vector<MixOptimizer> optimizers = resolve_optimizers(catalog, request.optimizer);
  std::vector<Spec> others;
  for (const auto& [kind, text] : parts) others.push_back(catalog.spec(kind, text));
  for (const MixOptimizer& o : optimizers) specs_.push_back(o.spec);
  specs_.insert(specs_.end(), others.begin(), others.end());

  std::vector<std::string> tags = request.run_tags;
  tags.push_back("device:" + device_.backend());
  if (!request.activations.empty()) tags.push_back("run:coded-activations");
  if (!request.states.empty()) tags.push_back("run:coded-states");
  std::vector<std::string> all_tags = tags;
  all_tags.insert(all_tags.end(), request.yielding_tags.begin(), request.yielding_tags.end());
  MixAnswer answer = check_mix(catalog, optimizers, others, all_tags);
  if (!answer.possible && !request.yielding_tags.empty()) {
    answer = check_mix(catalog, optimizers, others, tags);
    if (answer.possible) yielded_ = request.yielding_tags;
  }
  if (!answer.possible) {
    std::string sentence = "this mix is not possible: ";
    for (size_t i = 0; i < answer.reasons.size(); ++i) sentence += (i ? "; " : "") + answer.reasons[i].sentence;
    throw Error(TN_E_CONFLICT, sentence);
  }

  if (!request.stored_quantizer.empty()) {
    const Spec spec = catalog.spec(TN_KIND_QUANTIZER, request.stored_quantizer);
    stored_ = std::make_unique<Part>(Part{spec, catalog.load(spec.id, device_.backend()), {}, {}});
  }
  for (const MixOptimizer& o : optimizers) optimizers_.push_back({o, catalog.load(o.spec.id, update_backend())});
  size_t adapter = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    Part part{others[i], catalog.load(others[i].id, device_.backend()), {}, {}};
    switch (parts[i].first) {
      case TN_KIND_QUANTIZER:
        if (!part.plugin.extension<tn_edits>(TN_EXT_EDITS)) require_site(catalog, part.plugin, TN_SITE_WEIGHT, "--quantizer");
        quantizer_ = std::make_unique<Part>(std::move(part));
        break;
      case TN_KIND_ATTENTION: attention_ = std::make_unique<Part>(std::move(part)); break;
      default:
        part.config_json = configs[adapter];
        part.name = adapter == 0 ? "default" : folder_name(adapter < request.adapter_from.size() ? request.adapter_from[adapter] : "", adapters_);
        adapters_.push_back(std::move(part));
        ++adapter;
    }
  }
  if (!request.embeddings.empty()) {
    const Spec spec = catalog.spec(TN_KIND_QUANTIZER, request.embeddings);
    embeddings_ = std::make_unique<Part>(Part{spec, catalog.load(spec.id, device_.backend()), {}, {}});
    require_site(catalog, embeddings_->plugin, TN_SITE_WEIGHT, "--embeddings");
  }
  add_site(TN_SITE_ACTIVATION, "--activations", request.activations);
  add_site(TN_SITE_OPTIMIZER_STATE, "--states", request.states);
  add_site(TN_SITE_KV_CACHE, "--kv-cache", request.kv_cache);
}

void Runtime::add_site(uint32_t site, const char* flag, const std::string& text) {
  if (text.empty()) return;
  const Spec spec = catalog_.spec(TN_KIND_QUANTIZER, text);
  Part part{spec, catalog_.load(spec.id, site == TN_SITE_OPTIMIZER_STATE ? update_backend() : device_.backend()), {}, {}};
  require_site(catalog_, part.plugin, site, flag);
  sites_.emplace(site, std::move(part));
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

tn_kv_plan Runtime::kv_plan() const {
  const auto set = instantiate();
  return set->techniques.kv_cache ? KvCodec(*set->techniques.kv_cache).plan : tn_kv_plan{};
}

std::string Runtime::site_spec(uint32_t site, std::string (*form)(const Spec&)) const {
  const auto it = sites_.find(site);
  return it == sites_.end() ? "" : form(it->second.spec);
}

std::string Runtime::embeddings_spec() const { return embeddings_ ? canonical(embeddings_->spec) : ""; }

Runtime::~Runtime() {
  for (auto& [type, decoder] : decoders_) decoder.first.api<tn_quantizer_api>().destroy(decoder.second);
}

const tn_device_info& Runtime::measured_device_info() {
  if (info_.gemm_flops == 0) info_ = device_.info(true);
  return info_;
}

std::unique_ptr<Engine> Runtime::engine(tn_dtype compute, uint64_t limit_bytes, bool dry) const {
  return std::make_unique<Engine>(host(), &device_.api(), device_.handle(), info_.id, compute, limit_bytes, dry);
}

std::unique_ptr<Engine> Runtime::host_engine(bool dry) const {
  if (!host_device_) return nullptr;
  return std::make_unique<Engine>(host(), &host_device_->api(), host_device_->handle(), host_device_->id(), kF32, 0, dry);
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
    t.weight_budget = request_.weight_budget;
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

std::map<std::string, std::string> Runtime::plugin_versions() const {
  std::map<std::string, std::string> versions;
  const auto add = [&](const LoadedPlugin& p) { versions[std::string(p.id())] = p.descriptor().version; };
  add(device_.plugin());
  for (const OptimizerPart& p : optimizers_) {
    add(p.plugin);
    for (const Spec& inner : p.mix.inner) versions[inner.id] = catalog_.info(inner.id).version;
  }
  for (const Part* p : {quantizer_.get(), attention_.get(), embeddings_.get()})
    if (p) add(p->plugin);
  for (const Part& p : adapters_) add(p.plugin);
  for (const auto& [site, p] : sites_) add(p.plugin);
  for (const auto& [place, plugin] : inner_) add(plugin);
  return versions;
}

std::string Runtime::joined(uint32_t kind, std::string (*form)(const Spec&)) const {
  std::string text;
  const auto add = [&](const Part& p) { text += (text.empty() ? "" : " + ") + form(p.spec); };
  if (kind == TN_KIND_OPTIMIZER) {
    std::vector<MixOptimizer> all;
    for (const OptimizerPart& p : optimizers_) all.push_back(p.mix);
    return trainer::joined(all, form);
  }
  if (kind == TN_KIND_QUANTIZER && quantizer_) add(*quantizer_);
  if (kind == TN_KIND_ATTENTION && attention_) add(*attention_);
  if (kind == TN_KIND_ADAPTER)
    for (const Part& p : adapters_) add(p);
  return text;
}

std::string Runtime::canonical_spec(uint32_t kind) const { return joined(kind, canonical); }
std::string Runtime::short_spec(uint32_t kind) const { return joined(kind, short_form); }

std::string Runtime::quantizer_value(std::string_view hyper) const {
  const HyperValue* value = quantizer_ ? quantizer_->spec.find(hyper) : nullptr;
  return value ? to_text(*value) : "";
}

bool Runtime::edits() const { return quantizer_ && quantizer_->plugin.extension<tn_edits>(TN_EXT_EDITS); }

bool Runtime::calibrates() const {
  return edits() || (quantizer_ && !takes_stored_codes() &&
         (quantizer_->plugin.extension<tn_calibrate>(TN_EXT_CALIBRATE) || quantizer_->plugin.extension<tn_trainable>(TN_EXT_TRAINABLE)));
}

bool Runtime::takes_stored_codes() const { return stored_ && quantizer_ && canonical(quantizer_->spec) == canonical(stored_->spec); }

const tn_layout* Runtime::quantizer_layout() const {
  return quantizer_ ? quantizer_->plugin.extension<tn_layout>(TN_EXT_LAYOUT) : nullptr;
}

}  // namespace tenon::trainer
