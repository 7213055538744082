// FlashAttention (Dao et al. 2022) on a GPU: exact attention in O(T) memory. Checks, plans and ports, in front of the kernels.
#include "sdk/attention.h"
#include "sdk/device_memory.h"
#include "sdk/workspace.h"
#include "tiled.h"

namespace tenon::flash {
namespace {

// What of the workspace a pass takes: the list of segments with the number of each one's first tile, and one number a row of queries.
struct Layout {
  sdk::Segment* segments = nullptr;
  int64_t *query_tiles = nullptr, *key_tiles = nullptr;
  float* delta = nullptr;
  uint64_t bytes = 0;
  Layout(sdk::Workspace memory, const tn_attention_config& config, const tn_attention_shape& shape, int64_t n_segments, bool backward) {
    if (n_segments > 1) segments = memory.take<sdk::Segment>(n_segments), query_tiles = memory.take<int64_t>(n_segments);
    if (n_segments > 1 && backward) key_tiles = memory.take<int64_t>(n_segments);
    if (backward) delta = memory.take<float>(shape.batch * shape.t_q * config.n_heads);
    bytes = memory.peak();
  }
};

// Pairs of query row and key, over all heads and batch entries.
double visible_pairs(const Call& c, const std::vector<sdk::Segment>& segments) {
  double pairs = 0;
  for (const sdk::Segment& s : segments)
    for (int64_t i = 0; i < s.q_len; ++i) {
      const sdk::VisibleKeys v = sdk::visible_keys(c.mask, s.q_pos + i, s.k_pos, s.k_len);
      pairs += static_cast<double>(v.sink.size() + v.window.size());
    }
  return pairs * static_cast<double>(c.batch * c.heads);
}

class FlashAttention {
 public:
  FlashAttention(const tn_host*, const sdk::Hypers&, const tn_attention_config& config) : config_(config) { check_config("flash-attention", config); }

  void supports(const tn_query& query) const {
    sdk::require_own_device("flash-attention", query);
    require_dtype(query.dtype);
  }

  void plan(const tn_device_api*, tn_device*, const tn_attention_shape& shape, tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    const std::vector<sdk::Segment> segments = sdk::lower_segments(shape);
    const Call c = call(shape, segments);
    const int64_t n = static_cast<int64_t>(segments.size());
    const double q = static_cast<double>(c.batch * c.t_q * c.heads), k = static_cast<double>(c.batch * c.t_k * c.kv_heads),
                 width = static_cast<double>(c.d + c.e), pairs = visible_pairs(c, segments);
    const double bytes = shape.dtype.bits / 8.0 * (q + k) * width + 4 * q;
    out.tile_q = 1, out.tile_k = kKeys;
    out.forward = {sizeof(tn_estimate), 0, 0, 0, Layout({}, config_, shape, n, false).bytes, 2 * pairs * width, bytes};
    out.backward = {sizeof(tn_estimate), 0, 0, 0, Layout({}, config_, shape, n, true).bytes, 5 * pairs * width, 2 * bytes};
  }

  void forward(const tn_attention_call& request, const tn_attention_shape& shape, const tn_port_bind* const* binds, uint64_t n) const {
    const std::vector<sdk::Segment> segments = sdk::lower_segments(shape);
    const sdk::Ports ports(binds, n);
    Call c = call(shape, segments);
    inputs(c, ports, request);
    c.o = queries(c, ports.need(TN_PORT_O, "O"), "O", c.e);
    c.lse = rows(c, ports.find(TN_PORT_LSE), "LSE");
    if (c.o.accumulate) sdk::fail(TN_E_UNSUPPORTED, "attention port O cannot accumulate; merge partial results instead");
    if ((shape.flags & TN_ATTENTION_PARTIAL) && (!sdk::same(c.o.dtype, sdk::kF32) || !c.lse.data))
      sdk::fail(TN_E_ARGUMENT, "a partial attention call needs ports O in f32 and LSE");
    if (c.batch == 0 || c.t_q == 0) return;
    const Layout layout = lay_out(c, *request.exec, shape, segments, false, "forward");
    if (fits_tiles(c) && (sdk::same(c.o.dtype, c.q.dtype) || sdk::same(c.o.dtype, sdk::kF32)))
      return tiled_forward(request.exec, c, segments, layout.query_tiles);
    sdk::for_each_block<Forward::kShared>(request.exec, c.batch * c.t_q * c.heads, Forward{c});
  }

  void backward(const tn_attention_call& request, const tn_attention_shape& shape, const tn_port_bind* const* binds, uint64_t n) const {
    const std::vector<sdk::Segment> segments = sdk::lower_segments(shape);
    const sdk::Ports ports(binds, n);
    Call c = call(shape, segments);
    inputs(c, ports, request);
    c.o = queries(c, ports.need(TN_PORT_O, "O"), "O", c.e), c.d_o = queries(c, ports.need(TN_PORT_DO, "DO"), "DO", c.e);
    c.dq = queries(c, ports.need(TN_PORT_DQ, "DQ"), "DQ", c.d);
    c.dk = keys(c, ports.need(TN_PORT_DK, "DK"), "DK", c.d), c.dv = keys(c, ports.need(TN_PORT_DV, "DV"), "DV", c.e);
    c.lse = rows(c, &ports.need(TN_PORT_LSE, "LSE"), "LSE"), c.d_lse = rows(c, ports.find(TN_PORT_D_LSE), "D_LSE");
    c.d_sink = Numbers(sdk::head_numbers(ports.find(TN_PORT_D_SINK_LOGIT), "D_SINK_LOGIT", c.heads));
    if (c.d_sink.data && !c.sink.data) sdk::fail(TN_E_ARGUMENT, "attention port D_SINK_LOGIT is bound without SINK_LOGIT");
    if (c.batch == 0) return;
    const Layout layout = lay_out(c, *request.exec, shape, segments, true, "backward");
    const tn_exec* const exec = request.exec;
    const int64_t query_rows = c.batch * c.t_q * c.heads;
    sdk::for_each_block(exec, query_rows, Delta{c}, c.e);
    if (c.d_sink.data) sdk::for_each_block(exec, c.heads, SinkGradient{c});
    const bool tiles = fits_tiles(c) && is_aligned(c.d_o) && sdk::same(c.d_o.dtype, c.q.dtype);
    if (tiles)
      tiled_query_gradient(exec, c, segments, layout.query_tiles);
    else
      sdk::for_each_block<QueryGradient::kShared>(exec, query_rows, QueryGradient{c});
    if (tiles && keys_are_tiled(segments, c.t_k))
      tiled_key_gradient(exec, c, segments, layout.key_tiles);
    else
      sdk::for_each_block<KeyGradient::kShared>(exec, c.batch * c.t_k * c.kv_heads, KeyGradient{c});
  }

  // Keys and values of each token, kept by the host.
  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_PER_TOKEN;
    out.bytes = static_cast<uint64_t>(tokens) * config_.n_kv_heads * (config_.d_qk + config_.d_v) * (dtype.bits / 8);
  }

 private:
  static void check_config(const std::string& id, const tn_attention_config& config) {
    if (config.n_heads == 0 || config.n_kv_heads == 0 || config.n_heads % config.n_kv_heads != 0)
      sdk::fail(TN_E_ARGUMENT, id + " got " + std::to_string(config.n_heads) + " query heads and " + std::to_string(config.n_kv_heads) +
                                   " key heads; the number of key heads must divide the number of query heads");
    if (config.d_qk == 0 || config.d_v == 0 || config.d_qk > kMaxWidth || config.d_v > kMaxWidth)
      sdk::fail(TN_E_UNSUPPORTED, id + " got head widths " + std::to_string(config.d_qk) + " and " + std::to_string(config.d_v) +
                                      "; widths of 1 to 512 are supported");
    if (!(config.softcap >= 0) || !std::isfinite(config.softcap) || !std::isfinite(config.scale))
      sdk::fail(TN_E_ARGUMENT, id + " needs a finite scale and a finite soft cap of 0 or more");
  }
  static void require_dtype(tn_dtype d) {
    if (!sdk::same(d, sdk::kF32) && !sdk::same(d, sdk::kBF16) && !sdk::same(d, sdk::kF16))
      sdk::fail(TN_E_UNSUPPORTED, "flash-attention stores q, k, v and o as f32, bf16 or f16");
  }

  Call call(const tn_attention_shape& shape, const std::vector<sdk::Segment>& segments) const {
    Call c{};
    c.batch = shape.batch, c.t_q = shape.t_q, c.t_k = shape.t_k, c.heads = config_.n_heads, c.kv_heads = config_.n_kv_heads;
    c.d = config_.d_qk, c.e = config_.d_v;
    c.scale = static_cast<float>(config_.scale != 0 ? config_.scale : 1.0 / std::sqrt(static_cast<double>(c.d)));
    c.cap = static_cast<float>(config_.softcap), c.head_offset = config_.head_offset;
    c.mask = sdk::lower_mask(shape);
    c.n_segments = static_cast<int64_t>(segments.size()), c.listed = shape.segments != nullptr;
    if (!segments.empty()) c.only = segments[0];
    return c;
  }
  static Rows queries(const Call& c, const tn_port_bind& bind, const char* name, int64_t width) {
    return Rows(sdk::head_rows(bind, name, c.batch, c.t_q, c.heads, width));
  }
  static Rows keys(const Call& c, const tn_port_bind& bind, const char* name, int64_t width) {
    return Rows(sdk::head_rows(bind, name, c.batch, c.t_k, c.kv_heads, width));
  }
  static Numbers rows(const Call& c, const tn_port_bind* bind, const char* name) {
    return Numbers(sdk::row_numbers(bind, name, c.batch, c.heads, c.t_q));
  }
  static void inputs(Call& c, const sdk::Ports& ports, const tn_attention_call& request) {
    c.q = queries(c, ports.need(TN_PORT_Q, "Q"), "Q", c.d), c.k = keys(c, ports.need(TN_PORT_K, "K"), "K", c.d);
    c.v = keys(c, ports.need(TN_PORT_V, "V"), "V", c.e);
    c.sink = Numbers(sdk::head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", c.heads));
    c.dropout = sdk::make_dropout(request.dropout), c.rng = request.rng;
  }
  Layout lay_out(Call& c, const tn_exec& exec, const tn_attention_shape& shape, const std::vector<sdk::Segment>& segments, bool backward,
               const char* pass) const {
    const int64_t n = static_cast<int64_t>(segments.size());
    const uint64_t needed = Layout({}, config_, shape, n, backward).bytes;
    if (needed > exec.workspace_bytes)
      sdk::fail(TN_E_ARGUMENT, std::string("flash-attention ") + pass + " needs a workspace of " + std::to_string(needed) + " bytes but has " +
                                   std::to_string(exec.workspace_bytes) + "; allocate what plan() answers");
    const Layout layout(needed ? sdk::Workspace(exec) : sdk::Workspace(), config_, shape, n, backward);
    if (layout.segments) sdk::copy_to_device(&exec, segments.data(), layout.segments, n);
    c.segments = layout.segments, c.delta = layout.delta;
    return layout;
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
