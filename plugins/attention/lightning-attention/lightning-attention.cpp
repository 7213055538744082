// Lightning Attention (Qin et al. 2024): linear attention with a decay per head, a state of fixed size and cost linear
// in the sequence. Checks, plans, ports.
#include "passes.h"
#include "sdk/attention.h"
#include "sdk/linalg/on_host.h"

namespace tenon::lightning {
namespace {

// σ of head h of H in layer l of L: the slopes 2^(−8(h+1)/H), of other than powers of two interleaved as ALiBi does it,
// times 1 − l/(L−1) + 1e-5.
double slope(int64_t h, int64_t heads) {
  const int64_t power = int64_t{1} << (63 - __builtin_clzll(static_cast<unsigned long long>(heads)));
  if (h < power) return std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(power));
  return slope(2 * (h - power), 2 * power);
}

class Lightning {
 public:
  Lightning(const tn_host*, const sdk::Hypers& h, const tn_attention_config& config)
      : config_(config), chunk_(h.integer("chunk")), norm_(h.flag("norm")) {
    if (config.n_heads == 0 || config.n_kv_heads == 0 || config.n_heads % config.n_kv_heads != 0)
      sdk::fail(TN_E_ARGUMENT, "lightning-attention got " + std::to_string(config.n_heads) + " query heads and " +
                                   std::to_string(config.n_kv_heads) +
                                   " key heads; the number of key heads must divide the number of query heads");
    if (config.d_qk == 0 || config.d_v == 0 || config.d_qk > kMaxWidth || config.d_v > kMaxWidth)
      sdk::fail(TN_E_UNSUPPORTED, "lightning-attention got head widths " + std::to_string(config.d_qk) + " and " +
                                      std::to_string(config.d_v) + "; widths of 1 to 512 are supported");
    if (config.softcap != 0)
      sdk::fail(TN_E_UNSUPPORTED, "lightning-attention has no scores that a soft cap could bend");
    if (!std::isfinite(config.scale)) sdk::fail(TN_E_ARGUMENT, "lightning-attention needs a finite scale");
    const int64_t all = std::max(config.n_heads_global, config.n_heads);
    const double layer =
        config.n_layers > 1 ? 1 - static_cast<double>(config.layer) / (config.n_layers - 1) + 1e-5 : 1 + 1e-5;
    for (int64_t n = 0; n < config.n_heads; ++n)
      sigma_.push_back(h.text("decay") == "none" ? 0 : slope(config.head_offset + n, all) * layer);
  }

  void supports(const tn_query& query) const {
    sdk::require_own_device("lightning-attention", query);
    require_dtype(query.dtype);
  }

  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const Problem p(config_, shape, chunk_, norm_, sigma_, false, false);
    const double rows = p.tokens() * static_cast<double>(p.heads), d = static_cast<double>(p.d),
                 e = static_cast<double>(p.e), c = static_cast<double>(p.chunk), element = shape.dtype.bits / 8.0,
                 width = d + e;
    const double bytes =
        element * width *
        (static_cast<double>(p.batch * p.t_q * p.heads) + static_cast<double>(p.batch * p.t_k * p.kv_heads));
    out.tile_q = out.tile_k = static_cast<uint32_t>(p.chunk);
    out.forward = {sizeof(tn_estimate),
                   0,
                   0,
                   0,
                   forward_bytes(p, shape.dtype, api, device),
                   rows * (c * width + 4 * d * e),
                   bytes};
    out.backward = {sizeof(tn_estimate),
                    0,
                    0,
                    0,
                    backward_bytes(p, shape.dtype, api, device),
                    rows * (c * (3 * d + 2 * e) + 14 * d * e),
                    2 * bytes};
  }

  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    const sdk::Ports ports(binds, n);
    const Problem p = problem(call, shape, ports);
    const ForwardPorts f{queries(p, ports, TN_PORT_Q, "Q", p.d),
                         keys(p, ports, TN_PORT_K, "K", p.d),
                         keys(p, ports, TN_PORT_V, "V", p.e),
                         queries(p, ports, TN_PORT_O, "O", p.e),
                         row_numbers(p, ports),
                         state(p, ports, TN_PORT_STATE_IN, "STATE_IN"),
                         state(p, ports, TN_PORT_STATE_OUT, "STATE_OUT")};
    if (f.o.accumulate) sdk::fail(TN_E_UNSUPPORTED, "attention port O cannot accumulate");
    if (p.batch == 0 || (p.t_q == 0 && !f.state_out)) return;
    run_forward(*call.exec, p, shape.dtype, f);
  }

  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
                uint64_t n) const {
    const sdk::Ports ports(binds, n);
    const Problem p = problem(call, shape, ports);
    BackwardPorts b{queries(p, ports, TN_PORT_Q, "Q", p.d),
                    keys(p, ports, TN_PORT_K, "K", p.d),
                    keys(p, ports, TN_PORT_V, "V", p.e),
                    {},
                    queries(p, ports, TN_PORT_DO, "DO", p.e),
                    queries(p, ports, TN_PORT_DQ, "DQ", p.d),
                    keys(p, ports, TN_PORT_DK, "DK", p.d),
                    keys(p, ports, TN_PORT_DV, "DV", p.e),
                    {},
                    state(p, ports, TN_PORT_STATE_IN, "STATE_IN"),
                    state(p, ports, TN_PORT_D_STATE_IN, "D_STATE_IN"),
                    state(p, ports, TN_PORT_D_STATE_OUT, "D_STATE_OUT")};
    if (p.norm) {
      b.o = queries(p, ports, TN_PORT_O, "O", p.e);
      b.lse = sdk::row_numbers(&ports.need(TN_PORT_LSE, "LSE"), "LSE", p.batch, p.heads, p.t_q);
    }
    if (ports.find(TN_PORT_D_LSE)) sdk::fail(TN_E_UNSUPPORTED, "lightning-attention takes no gradient of LSE");
    if (p.batch == 0) return;
    run_backward(*call.exec, p, shape.dtype, b);
  }

  // S of every query head in f32; d and e apart, whatever the sequence.
  void state(const tn_dtype& dtype, int64_t, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_FIXED, out.bytes = state_bytes();
  }

  void form(uint32_t& form, double& epsilon) const {
    form = norm_ ? TN_FORM_LINEAR_RMS : TN_FORM_LINEAR, epsilon = norm_ ? kEpsilon : 0;
  }
  void factors(uint32_t head, int64_t i, int64_t j, int64_t n, double* out) const {
    if (head >= config_.n_heads || n < 0) sdk::fail(TN_E_ARGUMENT, "lightning-attention has no such head or keys");
    for (int64_t c = 0; c < n; ++c)
      out[c] = j + c > i ? 0
                         : std::exp(-sigma_[head] * static_cast<double>(i - j - c)) *
                               (config_.scale != 0 ? config_.scale : 1);
  }

 private:
  uint64_t state_bytes() const { return uint64_t{4} * config_.n_heads * config_.d_qk * config_.d_v; }
  Problem problem(const tn_attention_call& call, const tn_attention_shape& shape, const sdk::Ports& ports) const {
    require_dtype(shape.dtype);
    if (call.dropout != 0) sdk::fail(TN_E_UNSUPPORTED, "lightning-attention has no weights that dropout could drop");
    if (ports.find(TN_PORT_SINK_LOGIT))
      sdk::fail(TN_E_UNSUPPORTED, "lightning-attention is no softmax and has no sinks");
    std::vector<double> sigma = sigma_;
    if (const sdk::RowNumbers decay = sdk::head_numbers(ports.find(TN_PORT_LOG_DECAY), "LOG_DECAY", config_.n_heads)) {
      sdk::OnHost<float> values(call.exec, decay.data, (config_.n_heads - 1) * decay.head + 1);
      for (size_t h = 0; h < sigma.size(); ++h) {
        sigma[h] = -static_cast<double>(values[static_cast<int64_t>(h) * decay.head]);
        if (!(sigma[h] >= 0)) sdk::fail(TN_E_ARGUMENT, "attention port LOG_DECAY must be 0 or less for every head");
      }
    }
    const bool in = ports.find(TN_PORT_STATE_IN) || ports.find(TN_PORT_D_STATE_IN),
               out = ports.find(TN_PORT_STATE_OUT) || ports.find(TN_PORT_D_STATE_OUT);
    return {config_, shape, chunk_, norm_, std::move(sigma), in, out};
  }
  static sdk::HeadRows queries(const Problem& p, const sdk::Ports& ports, uint32_t port, const char* name,
                               int64_t width) {
    return sdk::head_rows(ports.need(port, name), name, p.batch, p.t_q, p.heads, width);
  }
  static sdk::HeadRows keys(const Problem& p, const sdk::Ports& ports, uint32_t port, const char* name, int64_t width) {
    return sdk::head_rows(ports.need(port, name), name, p.batch, p.t_k, p.kv_heads, width);
  }
  static sdk::RowNumbers row_numbers(const Problem& p, const sdk::Ports& ports) {
    return sdk::row_numbers(ports.find(TN_PORT_LSE), "LSE", p.batch, p.heads, p.t_q);
  }
  sdk::StateBytes state(const Problem& p, const sdk::Ports& ports, uint32_t port, const char* name) const {
    const tn_port_bind* bind = ports.find(port);
    // Of a list every segment has a state; rows outside of all segments, which the lowered list ends with, have none.
    return bind
               ? sdk::state_bytes(*bind, name, p.listed ? static_cast<int64_t>(p.lines.size()) : p.batch, state_bytes())
               : sdk::StateBytes{};
  }
  static void require_dtype(tn_dtype d) {
    if (!sdk::same(d, sdk::kF32) && !sdk::same(d, sdk::kBF16) && !sdk::same(d, sdk::kF16))
      sdk::fail(TN_E_UNSUPPORTED, "lightning-attention stores q, k, v and o as f32, bf16 or f16");
  }

  tn_attention_config config_;
  int64_t chunk_;
  bool norm_;
  std::vector<double> sigma_;
};

constexpr tn_hyper_info kChunk = sdk::integer("chunk", "64", 1, kMaxChunk, "positions",
                                              "positions whose pairs are multiplied out; 1 is the plain recurrence"),
                        kDecay = sdk::choice("decay", "slopes", "slopes|none",
                                             "slopes by head and layer, or none: plain linear attention"),
                        kNorm = sdk::flag(
                            "norm", "true",
                            "divide each head's output by its root mean square; without it o grows with the sequence");
constexpr const tn_hyper_info* kHypers[] = {&kChunk, &kDecay, &kNorm};
constexpr tn_attention_api kApi = sdk::attention_api<Lightning>();
constexpr tn_attention_form kForm = sdk::attention_form<Lightning>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_ATTENTION_FORM ? &kForm : nullptr;
}
constexpr tn_plugin kPlugin =
    sdk::describe(TN_KIND_ATTENTION, "lightning-attention", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::lightning

TENON_PLUGIN(tenon::lightning::kPlugin)
