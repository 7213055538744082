// FlashAttention (Dao et al. 2022) on the CPU: exact attention in O(T) memory. The plugin's face: checks, plans, ports.
#include "sdk/attention.h"

#include "backward.h"
#include "forward.h"

namespace tenon::flash {
namespace {

int cpu_threads(const tn_device_api* api, tn_device* device) {
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
  return count.used();
}

template <class Memory, class Schedule>
int threads_that_fit(const tn_exec& exec, const Problem& p, const Schedule& s, const char* pass) {
  int64_t threads = std::min<int64_t>(omp_get_max_threads(), s.max_tasks);
  while (threads > 1 && workspace_bytes<Memory>(p, s, threads) > exec.workspace_bytes) --threads;
  const uint64_t needed = workspace_bytes<Memory>(p, s, threads);
  if (needed > exec.workspace_bytes)
    sdk::fail(TN_E_ARGUMENT, std::string("flash-attention ") + pass + " needs a workspace of " +
                                 std::to_string(needed) + " bytes but has " + std::to_string(exec.workspace_bytes) +
                                 "; allocate what plan() answers");
  return static_cast<int>(threads);
}

class FlashAttention {
 public:
  FlashAttention(const tn_host*, const sdk::Hypers&, const tn_attention_config& config) : config_(config) {
    if (config.n_heads == 0 || config.n_kv_heads == 0 || config.n_heads % config.n_kv_heads != 0)
      sdk::fail(TN_E_ARGUMENT, "flash-attention got " + std::to_string(config.n_heads) + " query heads and " +
                                   std::to_string(config.n_kv_heads) +
                                   " key heads; the number of key heads must divide the number of query heads");
    if (config.d_qk == 0 || config.d_v == 0 || config.d_qk > kMaxWidth || config.d_v > kMaxWidth)
      sdk::fail(TN_E_UNSUPPORTED, "flash-attention got head widths " + std::to_string(config.d_qk) + " and " +
                                      std::to_string(config.d_v) + "; widths of 1 to 512 are supported");
    if (!(config.softcap >= 0) || !std::isfinite(config.softcap) || !std::isfinite(config.scale))
      sdk::fail(TN_E_ARGUMENT, "flash-attention needs a finite scale and a finite soft cap of 0 or more");
  }

  void supports(const tn_query& query) const {
    if (query.device.type != TN_CPU) sdk::fail(TN_E_UNSUPPORTED, "this object of flash-attention runs on the CPU");
    require_dtype(query.dtype);
  }

  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const Problem p(config_, shape);
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
    const Problem p(config_, shape);
    const sdk::Ports ports(binds, n);
    const ForwardCall forward{
        p,
        {queries(p, ports.need(TN_PORT_Q, "Q"), "Q", p.d), keys(p, ports.need(TN_PORT_K, "K"), "K", p.d),
         keys(p, ports.need(TN_PORT_V, "V"), "V", p.e), queries(p, ports.need(TN_PORT_O, "O"), "O", p.e),
         sdk::row_numbers(ports.find(TN_PORT_LSE), "LSE", p.batch, p.heads, p.t_q),
         sdk::head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", p.heads)},
        sdk::make_dropout(call.dropout),
        call.rng};
    if (forward.ports.o.accumulate)
      sdk::fail(TN_E_UNSUPPORTED, "attention port O cannot accumulate; merge partial results instead");
    if ((shape.flags & TN_ATTENTION_PARTIAL) && (!sdk::same(forward.ports.o.dtype, sdk::kF32) || !forward.ports.lse))
      sdk::fail(TN_E_ARGUMENT, "a partial attention call needs ports O in f32 and LSE");
    if (p.batch == 0 || p.t_q == 0) return;
    const ForwardSchedule schedule(p);
    const int threads = threads_that_fit<ForwardMemory>(*call.exec, p, schedule, "forward");
    Workspace workspace(call.exec->workspace);
    const ForwardMemory memory(workspace, p, schedule, threads);
    schedule.split ? forward_split(forward, schedule, memory, threads)
                   : forward_packed(forward, schedule, memory, threads);
  }

  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
                uint64_t n) const {
    const Problem p(config_, shape);
    const sdk::Ports ports(binds, n);
    const BackwardCall backward{
        p,
        {queries(p, ports.need(TN_PORT_Q, "Q"), "Q", p.d), keys(p, ports.need(TN_PORT_K, "K"), "K", p.d),
         keys(p, ports.need(TN_PORT_V, "V"), "V", p.e), queries(p, ports.need(TN_PORT_O, "O"), "O", p.e),
         queries(p, ports.need(TN_PORT_DO, "DO"), "DO", p.e), queries(p, ports.need(TN_PORT_DQ, "DQ"), "DQ", p.d),
         keys(p, ports.need(TN_PORT_DK, "DK"), "DK", p.d), keys(p, ports.need(TN_PORT_DV, "DV"), "DV", p.e),
         sdk::row_numbers(&ports.need(TN_PORT_LSE, "LSE"), "LSE", p.batch, p.heads, p.t_q),
         sdk::row_numbers(ports.find(TN_PORT_D_LSE), "D_LSE", p.batch, p.heads, p.t_q),
         sdk::head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", p.heads),
         sdk::head_numbers(ports.find(TN_PORT_D_SINK_LOGIT), "D_SINK_LOGIT", p.heads)},
        sdk::make_dropout(call.dropout),
        call.rng};
    if (backward.ports.d_sink_logit && !backward.ports.sink_logit)
      sdk::fail(TN_E_ARGUMENT, "attention port D_SINK_LOGIT is bound without SINK_LOGIT");
    if (p.batch == 0) return;
    const BackwardSchedule schedule(p);
    const int threads = threads_that_fit<BackwardMemory>(*call.exec, p, schedule, "backward");
    Workspace workspace(call.exec->workspace);
    const BackwardMemory memory(workspace, p, schedule, threads);
    backward_all(backward, schedule, memory, threads);
  }

  // Keys and values of each token, kept by the host.
  void state(const tn_dtype& dtype, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_PER_TOKEN;
    out.fixed_bytes = 0;
    out.bytes_per_token = static_cast<uint64_t>(config_.n_kv_heads) * (config_.d_qk + config_.d_v) * (dtype.bits / 8);
    out.ring_tokens = 0;
  }

 private:
  static void require_dtype(tn_dtype d) {
    if (!sdk::same(d, sdk::kF32) && !sdk::same(d, sdk::kBF16) && !sdk::same(d, sdk::kF16))
      sdk::fail(TN_E_UNSUPPORTED, "flash-attention stores q, k, v and o as f32, bf16 or f16");
  }
  static tn_estimate estimate(uint64_t workspace, double flops, double bytes) {
    return {sizeof(tn_estimate), 0, 0, 0, workspace, flops, bytes};
  }
  static sdk::HeadRows queries(const Problem& p, const tn_port_bind& bind, const char* name, int64_t width) {
    return sdk::head_rows(bind, name, p.batch, p.t_q, p.heads, width);
  }
  static sdk::HeadRows keys(const Problem& p, const tn_port_bind& bind, const char* name, int64_t width) {
    return sdk::head_rows(bind, name, p.batch, p.t_k, p.kv_heads, width);
  }

  tn_attention_config config_;
};

constexpr const tn_hyper_info* kNoHypers[] = {nullptr};
constexpr tn_attention_api kApi = sdk::attention_api<FlashAttention>();
constexpr tn_plugin kPlugin = [] {
  tn_plugin p = sdk::describe(TN_KIND_ATTENTION, "flash-attention", "0.9.0", kNoHypers, &kApi);
  p.n_hypers = 0;
  return p;
}();

}  // namespace
}  // namespace tenon::flash

TENON_PLUGIN(tenon::flash::kPlugin)
