// From what a user asked for to loaded plugins: the mix is resolved and checked in the catalog, the device opened, instances made.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/catalog/catalog.h"
#include "core/device/device.h"
#include "hosts/trainer/run/mix.h"
#include "hosts/trainer/run/session.h"

namespace tenon::trainer {

inline constexpr const char* kDefaultAttention = "flash-attention";  // exact, so a model need not say that it was trained with it

// A mix as a user writes it. Empty = none.
struct MixRequest {
  std::string optimizer;  // one, or several with what each takes: see parse_optimizers
  std::string quantizer, attention = kDefaultAttention, device = "auto";
  std::string activations, states, kv_cache;  // quantizers at other sites than weights
  std::string embeddings;                 // a quantizer of the embedding and the head, which stay as they are
  std::string stored_quantizer;           // what reads the model's own quantized weights (stored_quantizer())
  uint64_t weight_budget = 0;             // bytes of weights that come in segments; 0: all
  std::vector<std::string> adapters;      // specs, in order
  std::vector<std::string> adapter_from;  // PEFT folders; the i-th shapes and fills the i-th adapter
  bool zero_offload = false;              // updates run on the host, where the device has memory of its own
  std::vector<std::string> run_tags;      // beyond those that follow from the mix: "run:fused-backward" …
  std::vector<std::string> yielding_tags;  // likewise, but of defaults that give way where the mix is only possible without them
};

// Instances of one run's plugins, destroyed together.
class TechniqueSet {
 public:
  Techniques techniques;
  std::vector<std::unique_ptr<Adapter>> adapters;
  TechniqueSet() = default;
  TechniqueSet(const TechniqueSet&) = delete;
  ~TechniqueSet();

 private:
  friend class Runtime;
  std::unique_ptr<Quantizer> quantizer_, stored_, embeddings_;
  const tn_quantizer_api* quantizer_api_ = nullptr;  // of the editor
  std::unique_ptr<Editor> editor_;
  std::unique_ptr<SiteCodec> activations_, states_, kv_cache_;
  std::unique_ptr<HyperArray> attention_hypers_;
};

class Runtime {
 public:
  // Resolves every spec, refuses an impossible mix with all reasons in one sentence each, opens the device. Throws Error.
  Runtime(const Catalog& catalog, const MixRequest& request);
  ~Runtime();
  Runtime(const Runtime&) = delete;

  const tn_device_api* device_api() const { return &device_.api(); }
  tn_device* device() const { return device_.handle(); }
  const tn_device_info& device_info() const { return info_; }
  // Measures bandwidth and matrix-product speed once.
  const tn_device_info& measured_device_info();
  const std::string& backend() const { return device_.backend(); }

  std::unique_ptr<Engine> engine(tn_dtype compute, uint64_t limit_bytes, bool dry) const;
  // Where updates run: an engine of the host, or null where they run on the device: zero_offload was not asked for, or the device computes in host
  // memory as it is.
  std::unique_ptr<Engine> host_engine(bool dry) const;
  bool gains_nothing_from_zero_offload() const { return request_.zero_offload && !host_device_; }
  // A fresh set of instances.
  std::unique_ptr<TechniqueSet> instantiate() const;

  // Of request.yielding_tags those that gave way: the caller turns the default off.
  const std::vector<std::string>& yielded_tags() const { return yielded_; }
  const std::vector<Spec>& specs() const { return specs_; }  // of all techniques
  std::map<std::string, std::string> plugin_versions() const;
  // The PEFT folder that fills the i-th adapter; "" = it starts fresh.
  std::string adapter_folder(uint32_t index) const {
    return index < request_.adapter_from.size() ? request_.adapter_from[index] : std::string();
  }
  std::string canonical_spec(uint32_t kind) const;  // of the mix, all of that kind joined; "" = none
  std::string short_spec(uint32_t kind) const;      // the same with only what the user wrote
  // What the codec of key-value caches wants; sequences 0 where it asks for no text.
  tn_kv_plan kv_plan() const;
  // The codec at a site (TN_SITE_*) as a spec; "" = none.
  std::string site_spec(uint32_t site, std::string (*form)(const Spec&)) const;
  std::string embeddings_spec() const;  // of --embeddings; "" = none
  std::string quantizer_value(std::string_view hyper) const;  // as text; "" where there is no quantizer or no such parameter
  bool edits() const;       // whether the quantizer makes another model (org.tenon.edits/1) instead of holding weights
  bool calibrates() const;  // whether the quantizer may ask for text
  bool takes_stored_codes() const;  // the quantizer is the one that the model is stored with, so its codes are loaded as they are
  const tn_layout* quantizer_layout() const;                  // org.tenon.layout/1 of the quantizer, or null

 private:
  // What optimizers must have an object for.
  const std::string& update_backend() const { return (host_device_ ? *host_device_ : device_).backend(); }
  std::string joined(uint32_t kind, std::string (*form)(const Spec&)) const;
  std::shared_ptr<OptimizerMember> open_optimizer(std::string_view text) const;
  Quantizer ggml_decoder(std::string_view type) const;
  // The installed quantizer that reads a GGML type, as a spec; "" = none.
  const std::string& ggml_spec(std::string_view type) const;
  void add_site(uint32_t site, const char* flag, const std::string& text);
  std::unique_ptr<SiteCodec> instantiate_site(uint32_t site) const;
  // A plugin that another one opens for itself, loaded once.
  const LoadedPlugin& loaded(const std::string& id, const std::string& backend) const;
  std::pair<const tn_plugin*, tn_optimizer*> open_inner(std::string_view text, const std::string& backend) const;
  std::pair<const tn_attention_api*, tn_attention*> open_core(std::string_view text, const tn_attention_config& config) const;

  const Catalog& catalog_;
  MixRequest request_;
  Device device_;
  std::optional<Device> host_device_;
  tn_device_info info_{};
  std::vector<Spec> specs_;
  std::vector<std::string> yielded_;
  struct Part {
    Spec spec;
    LoadedPlugin plugin;
    std::string config_json, name;
  };
  std::unique_ptr<Quantizer> create_quantizer(const Part& part) const;
  struct OptimizerPart {
    MixOptimizer mix;
    LoadedPlugin plugin;
  };
  std::vector<OptimizerPart> optimizers_;
  std::unique_ptr<Part> quantizer_, stored_, attention_, embeddings_;
  std::vector<Part> adapters_;
  std::map<uint32_t, Part> sites_;  // TN_SITE_* -> the codec there
  mutable std::map<std::string, std::pair<LoadedPlugin, tn_quantizer*>, std::less<>> decoders_;
  mutable std::map<std::string, std::string, std::less<>> ggml_specs_;
  mutable std::map<std::pair<std::string, std::string>, LoadedPlugin> inner_;  // plugins that others open for themselves, by id and backend
};

// The quantizer, as a spec, whose external layout holds the weights of the model in this folder; "" where they are plain. Throws Error where no
// installed plugin reads them.
std::string stored_quantizer(const Catalog& catalog, const std::string& model);

// The attention plugin, as a spec, that the model in this folder was trained with, or kDefaultAttention.
std::string stored_attention(const std::string& model);

// "f32" or "bf16"; else Error naming --dtype.
tn_dtype parse_dtype(const std::string& name);

}  // namespace tenon::trainer
