// What a user asked for, resolved in the catalog, checked and loaded. Instances are made in instantiate.cpp.
#include "hosts/trainer/run/runtime.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/json.h"
#include "core/plugins/host.h"

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

tn_dtype parse_dtype(const std::string& name) {
  if (name == "f32" || name == "float32") return kF32;
  if (name == "bf16" || name == "bfloat16") return kBF16;
  throw Error(TN_E_ARGUMENT, "--dtype " + name + " is not one of f32, bf16");
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

}  // namespace tenon::trainer
