// What softmax attention promises behind the ports of the ABI, whatever runs it: checks, patterns, ports. Kernels of the backends derive
// from it, techniques from those.
#pragma once

#include "sdk/attention.h"
#include "sdk/attention/flash/block_map.h"
#include "sdk/attention/flash/problem.h"

namespace tenon::sdk::flash {

// Exact attention, or with `own` pattern or tiles in the mask that part of it.
class Contract {
 public:
  // takes_blocks: masks may have BLOCKS terms.
  Contract(const char* id, const tn_attention_config& config, bool takes_blocks = false)
      : id_(id), config_(config), takes_blocks_(takes_blocks) {
    const std::string name = id;
    if (config.n_heads == 0 || config.n_kv_heads == 0 || config.n_heads % config.n_kv_heads != 0)
      fail(TN_E_ARGUMENT, name + " got " + std::to_string(config.n_heads) + " query heads and " +
                              std::to_string(config.n_kv_heads) +
                              " key heads; the number of key heads must divide the number of query heads");
    if (config.d_qk == 0 || config.d_v == 0 || config.d_qk > kMaxWidth || config.d_v > kMaxWidth)
      fail(TN_E_UNSUPPORTED, name + " got head widths " + std::to_string(config.d_qk) + " and " +
                                 std::to_string(config.d_v) + "; widths of 1 to 512 are supported");
    if (!(config.softcap >= 0) || !std::isfinite(config.softcap) || !std::isfinite(config.scale))
      fail(TN_E_ARGUMENT, name + " needs a finite scale and a finite soft cap of 0 or more");
  }
  const tn_attention_config& config() const { return config_; }
  // The pattern that the kernel adds to every mask; set once, at creation.
  void narrow(std::shared_ptr<const BlockPattern> own) { own_ = std::move(own); }
  const BlockPattern* own() const { return own_.get(); }

  // org.tenon.attention-form/1
  void form(uint32_t& form, double& epsilon) const { form = TN_FORM_SOFTMAX, epsilon = 0; }
  void factors(uint32_t head, int64_t i, int64_t j, int64_t n, double* out) const {
    if (head >= config_.n_heads || n < 0) fail(TN_E_ARGUMENT, std::string(id_) + " has no such head or keys");
    std::vector<Run> runs{{j, j + n}};
    if (own_) {
      runs.clear();
      own_->runs(head / (config_.n_heads / config_.n_kv_heads), floor_div(i, own_->block_q), {j, j + n}, runs);
    }
    std::fill(out, out + n, 0.0);
    for (const Run& r : runs) std::fill(out + (r.begin - j), out + (r.end - j), 1.0);
  }

  void supports(const tn_query& query) const {
    require_own_device(id_, query);
    require_dtype(query.dtype);
  }

  // Keys and values of each token, kept by the host.
  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_PER_TOKEN;
    out.bytes = static_cast<uint64_t>(tokens) * config_.n_kv_heads * (config_.d_qk + config_.d_v) * (dtype.bits / 8);
  }

 protected:
  const char* id() const { return id_; }
  void require_dtype(tn_dtype d) const {
    if (!same(d, kF32) && !same(d, kBF16) && !same(d, kF16))
      fail(TN_E_UNSUPPORTED, std::string(id_) + " stores q, k, v and o as f32, bf16 or f16");
  }

  std::shared_ptr<const BlockPattern> pattern_of(const tn_attention_shape& shape) const {
    std::shared_ptr<const BlockPattern> all = own_;
    for (uint32_t t = 0; t < shape.n_mask; ++t) {
      if (shape.mask[t]->kind != TN_MASK_BLOCKS) continue;
      if (!takes_blocks_) (void)lower_mask(shape);  // refuses it in words
      std::shared_ptr<const BlockPattern> map = std::make_shared<MapPattern>(*shape.mask[t], config_.n_kv_heads);
      all = all ? std::make_shared<BothPatterns>(all, map) : map;
    }
    return all;
  }
  ForwardCall forward_call(const Problem& p, const tn_attention_call& call, const tn_attention_shape& shape, const Ports& ports) const {
    const ForwardCall forward{
        p,
        {queries(p, ports.need(TN_PORT_Q, "Q"), "Q", p.d), keys(p, ports.need(TN_PORT_K, "K"), "K", p.d),
         keys(p, ports.need(TN_PORT_V, "V"), "V", p.e), queries(p, ports.need(TN_PORT_O, "O"), "O", p.e),
         row_numbers(ports.find(TN_PORT_LSE), "LSE", p.batch, p.heads, p.t_q),
         head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", p.heads)},
        make_dropout(call.dropout),
        call.rng};
    if (forward.ports.o.accumulate)
      fail(TN_E_UNSUPPORTED, "attention port O cannot accumulate; merge partial results instead");
    if ((shape.flags & TN_ATTENTION_PARTIAL) && (!same(forward.ports.o.dtype, kF32) || !forward.ports.lse))
      fail(TN_E_ARGUMENT, "a partial attention call needs ports O in f32 and LSE");
    return forward;
  }
  BackwardCall backward_call(const Problem& p, const tn_attention_call& call, const Ports& ports) const {
    const BackwardCall backward{
        p,
        {queries(p, ports.need(TN_PORT_Q, "Q"), "Q", p.d), keys(p, ports.need(TN_PORT_K, "K"), "K", p.d),
         keys(p, ports.need(TN_PORT_V, "V"), "V", p.e), queries(p, ports.need(TN_PORT_O, "O"), "O", p.e),
         queries(p, ports.need(TN_PORT_DO, "DO"), "DO", p.e), queries(p, ports.need(TN_PORT_DQ, "DQ"), "DQ", p.d),
         keys(p, ports.need(TN_PORT_DK, "DK"), "DK", p.d), keys(p, ports.need(TN_PORT_DV, "DV"), "DV", p.e),
         row_numbers(&ports.need(TN_PORT_LSE, "LSE"), "LSE", p.batch, p.heads, p.t_q),
         row_numbers(ports.find(TN_PORT_D_LSE), "D_LSE", p.batch, p.heads, p.t_q),
         head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", p.heads),
         head_numbers(ports.find(TN_PORT_D_SINK_LOGIT), "D_SINK_LOGIT", p.heads)},
        make_dropout(call.dropout),
        call.rng};
    if (backward.ports.d_sink_logit && !backward.ports.sink_logit)
      fail(TN_E_ARGUMENT, "attention port D_SINK_LOGIT is bound without SINK_LOGIT");
    return backward;
  }
  // 2 · pairs · width FLOPs of products forward, 5 · pairs · width backward, over the tensors read and written once.
  void estimate(const Problem& p, const tn_dtype& dtype, uint64_t forward, uint64_t backward, tn_attention_plan& out) const {
    const double q = static_cast<double>(p.batch * p.t_q * p.heads), k = static_cast<double>(p.batch * p.t_k * p.kv_heads);
    const double width = static_cast<double>(p.d + p.e), pairs = p.visible_pairs();
    const double bytes = dtype.bits / 8.0 * (q + k) * width + 4 * q;
    out.forward = {sizeof(tn_estimate), 0, 0, 0, forward, 2 * pairs * width, bytes};
    out.backward = {sizeof(tn_estimate), 0, 0, 0, backward, 5 * pairs * width, 2 * bytes};
  }

 private:
  static HeadRows queries(const Problem& p, const tn_port_bind& bind, const char* name, int64_t width) {
    return head_rows(bind, name, p.batch, p.t_q, p.heads, width);
  }
  static HeadRows keys(const Problem& p, const tn_port_bind& bind, const char* name, int64_t width) {
    return head_rows(bind, name, p.batch, p.t_k, p.kv_heads, width);
  }

  const char* id_;
  tn_attention_config config_;
  bool takes_blocks_;
  std::shared_ptr<const BlockPattern> own_;
};

}  // namespace tenon::sdk::flash
