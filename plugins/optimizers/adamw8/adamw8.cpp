// AdamW with 8-bit moments: the rule is sdk/adam8.h. Small tensors, and embeddings unless told otherwise, keep moments
// in f32.
#include <memory>

#include "sdk/adam8.h"
#include "sdk/optimizer.h"
#include "sdk/parameters.h"

namespace tenon::sdk {
namespace {

constexpr tn_hyper_info kEps = hyper_eps("1e-8"), kWeightDecay = hyper_weight_decay("1e-2"),
                        kDecay = hyper_decay("post"),
                        kBlocksize = choice("blocksize", "256", "64|128|256|512|1024|2048|4096",
                                            "consecutive elements that share a scale"),
                        kMinSize = integer("min_8bit_size", "4096", 0, 9007199254740992.0, "elements",
                                           "smaller tensors keep f32 moments"),
                        kEmbedF32 = flag("embed_f32", "true", "embeddings keep f32 moments, whatever their size");
constexpr const tn_hyper_info* kHypers[] = {&kHyperBeta1, &kHyperBeta2, &kEps,     &kWeightDecay,
                                            &kDecay,      &kBlocksize,  &kMinSize, &kEmbedF32};

class AdamW8 {
 public:
  static constexpr uint32_t kCaps = TN_OPTIMIZER_ONE_AT_A_TIME;

  AdamW8(const tn_host*, const Hypers& h)
      : settings_{h.real("beta1"),        h.real("beta2"), h.real("eps"),
                  h.real("weight_decay"), false,           h.text("decay") == "pre"},
        blocksize_(std::stoll(std::string(h.text("blocksize")))),
        min_size_(h.integer("min_8bit_size")),
        embed_f32_(h.flag("embed_f32")),
        coder_(std::make_unique<Adam8Coder>()) {}

  void supports(const tn_query& q) const { supports_dense("adamw8", q); }
  void bind(const tn_param* const* params, uint64_t n) { parameters_.bind("adamw8", params, n); }

  void state_layout(uint32_t uid, const tn_state_sink& sink) const {
    const Parameters::Entry& e = parameters_.at(uid);
    if (is_8bit(e)) return adam8_declare(sink, e.info.ndim, e.info.shape, blocksize_);
    declare_like(sink, "exp_avg", kF32, e.info);
    declare_like(sink, "exp_avg_sq", kF32, e.info);
  }

  void estimate(const tn_device_api*, tn_device*, uint32_t uid, tn_estimate& out) const {
    const Parameters::Entry& e = parameters_.at(uid);
    out.state_bytes = is_8bit(e) ? adam8_bytes(e.n, blocksize_) : 8 * static_cast<uint64_t>(e.n);
    out.flops = (is_8bit(e) ? 40.0 : 14.0) * static_cast<double>(e.n);
    out.bytes_moved =
        2.0 * static_cast<double>(out.state_bytes) + 3.0 * static_cast<double>(e.n) * e.info.dtype.bits / 8;
  }

  void apply(const tn_exec* exec, const tn_item* const* items, uint64_t n) const {
    std::vector<const tn_item*> coded;  // a GPU takes them together
    for (uint64_t i = 0; i < n; ++i) {
      const Parameters::Entry& e = parameters_.check(*items[i]);
      if (!items[i]->grad) continue;
      if (is_8bit(e))
        coded.push_back(items[i]);
      else
        adam_update(exec, settings_, *items[i], false);
    }
    adam8_updates(exec, settings_, *coder_, coded.data(), coded.size(), blocksize_);
  }

 private:
  bool is_8bit(const Parameters::Entry& e) const {
    return e.n >= min_size_ && !(embed_f32_ && e.info.role == TN_ROLE_EMBEDDING);
  }

  AdamSettings settings_;
  int64_t blocksize_, min_size_;
  bool embed_f32_;
  std::unique_ptr<Adam8Coder> coder_;
  Parameters parameters_;
};

constexpr tn_optimizer_api kApi = optimizer_api<AdamW8>();
constexpr tn_plugin kPlugin = describe(TN_KIND_OPTIMIZER, "adamw8", "0.9.0", kHypers, &kApi);

}  // namespace
}  // namespace tenon::sdk

TENON_PLUGIN(tenon::sdk::kPlugin)
