// Attention on the CPU behind the ports of the ABI: checks, plans, workspace. Techniques add to it what they see.
#pragma once

#include "sdk/attention.h"
#include "sdk/attention/flash/backward.h"
#include "sdk/attention/flash/block_map.h"
#include "sdk/attention/flash/forward.h"

namespace tenon::sdk::flash {

inline int cpu_threads(const tn_device_api* api, tn_device* device) {
  tn_device_info info{};
  info.struct_size = sizeof info;
  if (api && api->info && device && api->info(device, 0, &info) >= 0 && info.n_threads > 0)
    return static_cast<int>(info.n_threads);
  return omp_get_max_threads();
}

// Threads never change results, only the size of the workspace: as many are used as fit into what the host gave.
template <class Memory, class Schedule>
uint64_t workspace_bytes(const Problem& p, const Schedule& s, int64_t threads) {
  Workspace count;
  Memory(count, p, s, threads);
  return count.peak();
}

template <class Memory, class Schedule>
int threads_that_fit(const char* id, const tn_exec& exec, const Problem& p, const Schedule& s, const char* pass) {
  int64_t threads = std::min<int64_t>(omp_get_max_threads(), s.max_tasks);
  while (threads > 1 && workspace_bytes<Memory>(p, s, threads) > exec.workspace_bytes) --threads;
  const uint64_t needed = workspace_bytes<Memory>(p, s, threads);
  if (needed > exec.workspace_bytes)
    fail(TN_E_ARGUMENT, std::string(id) + " " + pass + " needs a workspace of " + std::to_string(needed) +
                            " bytes but has " + std::to_string(exec.workspace_bytes) +
                            "; allocate what plan() answers");
  return static_cast<int>(threads);
}

// Workspace of one forward pass on `threads` threads.
inline uint64_t forward_bytes(const Problem& p, int64_t threads) {
  const ForwardSchedule s(p);
  return workspace_bytes<ForwardMemory>(p, s, std::min(threads, s.max_tasks));
}
inline void run_forward(const char* id, const tn_exec& exec, const ForwardCall& forward) {
  const Problem& p = forward.problem;
  const ForwardSchedule schedule(p);
  const int threads = threads_that_fit<ForwardMemory>(id, exec, p, schedule, "forward");
  Workspace workspace(exec);
  const ForwardMemory memory(workspace, p, schedule, threads);
  schedule.split ? forward_split(forward, schedule, memory, threads)
                 : forward_packed(forward, schedule, memory, threads);
}

// A technique's kernel: exact attention, or with `own` pattern or tiles in the mask that part of it.
class Kernel {
 public:
  // takes_blocks: masks may have BLOCKS terms.
  Kernel(const char* id, const tn_attention_config& config, bool takes_blocks = false)
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
    if (query.device.type != TN_CPU) fail(TN_E_UNSUPPORTED, "this object of " + std::string(id_) + " runs on the CPU");
    require_dtype(query.dtype);
  }

  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const Problem p(config_, shape, pattern_of(shape));
    const ForwardSchedule forward(p);
    const BackwardSchedule backward(p);
    const int64_t threads = cpu_threads(api, device), element = shape.dtype.bits / 8;
    const double q = static_cast<double>(p.batch * p.t_q * p.heads),
                 k = static_cast<double>(p.batch * p.t_k * p.kv_heads);
    const double width = static_cast<double>(p.d + p.e), pairs = p.visible_pairs();
    const double bytes = static_cast<double>(element) * (q + k) * width + 4 * q;
    out.tile_q = static_cast<uint32_t>(std::max<int64_t>(1, kTileRows / p.group));
    out.tile_k = kTileKeys;
    out.forward = estimate(workspace_bytes<ForwardMemory>(p, forward, std::min(threads, forward.max_tasks)),
                           2 * pairs * width, bytes);
    out.backward = estimate(workspace_bytes<BackwardMemory>(p, backward, std::min(threads, backward.max_tasks)),
                            5 * pairs * width, 2 * bytes);
  }

  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    const Problem p(config_, shape, pattern_of(shape));
    const Ports ports(binds, n);
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
    if (p.batch == 0 || p.t_q == 0) return;
    run_forward(id_, *call.exec, forward);
  }

  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
                uint64_t n) const {
    const Problem p(config_, shape, pattern_of(shape));
    const Ports ports(binds, n);
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
    if (p.batch == 0) return;
    const BackwardSchedule schedule(p);
    const int threads = threads_that_fit<BackwardMemory>(id_, *call.exec, p, schedule, "backward");
    Workspace workspace(*call.exec);
    const BackwardMemory memory(workspace, p, schedule, threads);
    backward_all(backward, schedule, memory, threads);
  }

  // Keys and values of each token, kept by the host.
  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_PER_TOKEN;
    out.bytes = static_cast<uint64_t>(tokens) * config_.n_kv_heads * (config_.d_qk + config_.d_v) * (dtype.bits / 8);
  }

 protected:
  void require_dtype(tn_dtype d) const {
    if (!same(d, kF32) && !same(d, kBF16) && !same(d, kF16))
      fail(TN_E_UNSUPPORTED, std::string(id_) + " stores q, k, v and o as f32, bf16 or f16");
  }

 private:
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
  static tn_estimate estimate(uint64_t workspace, double flops, double bytes) {
    return {sizeof(tn_estimate), 0, 0, 0, workspace, flops, bytes};
  }
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
