// S2-Attention (Lin et al. 2024): every key head sees a local band and its own shard of the older tiles.
#include <bit>

#include "decode.h"

namespace tenon::s2 {
namespace {

Sharding sharding(const sdk::Hypers& h, const tn_attention_config& c) {
  const int64_t group = c.n_heads / std::max(1u, c.n_kv_heads), heads = c.n_heads_global ? c.n_heads_global : c.n_heads,
                stride = h.integer("vert_stride");
  return {h.integer("block"),
          h.integer("local_blocks"),
          stride,
          std::max<int64_t>(1, stride / std::max<int64_t>(1, heads)),
          h.integer("head_sliding_offset"),
          c.head_offset / std::max<int64_t>(1, group),
          heads / std::max<int64_t>(1, group) - h.integer("num_dense_heads"),
          h.flag("homo_head")};
}

class S2Attention : public sdk::flash::PatternKernel {
  using Kernel = sdk::flash::PatternKernel;

 public:
  S2Attention(const tn_host* host, const sdk::Hypers& h, const tn_attention_config& config)
      : Kernel("s2-attention", config), s_(sharding(h, config)) {
    if (!std::has_single_bit(static_cast<uint64_t>(s_.block)))
      sdk::fail(TN_E_ARGUMENT, "s2-attention: block=" + std::to_string(s_.block) + " is no power of two; 64 is usual");
    if (s_.dense_from < 0)
      sdk::fail(TN_E_ARGUMENT, "s2-attention: num_dense_heads=" + std::to_string(h.integer("num_dense_heads")) +
                                   " is more than the model's key heads");
    narrow(std::make_shared<Pattern>(s_));
    if (config.layer == 0) warn(host, config);
  }

  void plan(const tn_device_api* api, tn_device* device, const tn_attention_shape& shape,
            tn_attention_plan& out) const {
    check_mask(shape);
    Kernel::plan(api, device, shape, out);
    if (!decodes(shape)) return;
    const Cache cache = cache_of(shape);
    uint64_t bytes = 0;
    for (const Group& g : cache.groups())
      for (int64_t t = 0; t < shape.t_q; ++t)
        bytes = std::max(bytes, sdk::flash::forward_bytes(one_query(config(), g, shape.batch, shape.q_pos + t, shape.dtype), api, device));
    out.forward.workspace_bytes = bytes;
  }

  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    check_mask(shape);
    const sdk::Ports ports(binds, n);
    if (!decodes(shape)) Kernel::forward(call, shape, binds, n);
    if (!has_state(shape)) return;
    const tn_attention_config& c = config();
    const Cache cache = cache_of(shape);
    const sdk::HeadRows k = sdk::head_rows(ports.need(TN_PORT_K, "K"), "K", shape.batch, shape.t_k, c.n_kv_heads,
                                           c.d_qk),
                        v = sdk::head_rows(ports.need(TN_PORT_V, "V"), "V", shape.batch, shape.t_k, c.n_kv_heads,
                                           c.d_v);
    for (const sdk::HeadRows& x : {k, v})
      if (!sdk::same(x.dtype, shape.dtype))
        sdk::fail(TN_E_ARGUMENT, "s2-attention keeps k and v in the type that state() was asked about");
    const auto state = [&](uint32_t port, const char* name) {
      return sdk::state_bytes(ports.need(port, name), name, shape.batch, cache.bytes());
    };
    const sdk::StateBytes out = state(TN_PORT_STATE_OUT, "STATE_OUT");
    const tn_exec* exec = call.exec;
    if (!decodes(shape)) return remember(exec, cache, k, v, out, shape.batch, 0, 0, shape.t_q);
    if (call.dropout != 0) sdk::fail(TN_E_UNSUPPORTED, "s2-attention drops nothing while decoding");
    const sdk::StateBytes in = state(TN_PORT_STATE_IN, "STATE_IN");
    for (int64_t b = 0; b < shape.batch; ++b)
      if (in.at(b) != out.at(b)) sdk::copy_within(exec, in.at(b), out.at(b), cache.bytes());
    for (int64_t t = 0; t < shape.t_q; ++t) {
      remember(exec, cache, k, v, out, shape.batch, t, shape.q_pos + t, 1);
      for (const Group& g : cache.groups()) attend_one(*exec, shape, ports, cache, g, t, out);
    }
  }

  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_RING;
    out.bytes = Cache(s_, config().n_kv_heads, config().d_qk, config().d_v, dtype, tokens).bytes();
  }

 private:
  static bool has_state(const tn_attention_shape& s) {
    return TN_HAS(&s, tn_attention_shape, state_tokens) && s.state_tokens > 0;
  }
  static bool decodes(const tn_attention_shape& s) { return has_state(s) && s.q_pos > 0; }
  Cache cache_of(const tn_attention_shape& s) const {
    return {s_, config().n_kv_heads, config().d_qk, config().d_v, s.dtype, s.state_tokens};
  }

  void check_mask(const tn_attention_shape& shape) const {
    const sdk::Mask mask = sdk::lower_mask(shape);
    if (!mask.causal) sdk::fail(TN_E_UNSUPPORTED, "s2-attention shards the past and needs a causal mask");
    if (!has_state(shape)) return;
    if (mask.left >= 0 || shape.segments)
      sdk::fail(TN_E_UNSUPPORTED, "the cache of s2-attention holds one sequence a batch entry and takes no windows");
    if (shape.t_q != shape.t_k || shape.q_pos != shape.k_pos || shape.q_pos < 0 ||
        shape.q_pos + shape.t_q > shape.state_tokens)
      sdk::fail(TN_E_ARGUMENT, "a call with the cache of s2-attention has the rows of positions " +
                                   std::to_string(shape.q_pos) + " to " + std::to_string(shape.q_pos + shape.t_q) +
                                   " as queries and as keys, within the " + std::to_string(shape.state_tokens) +
                                   " tokens that it was made for");
  }

  // The queries of row t of the call.
  void attend_one(const tn_exec& exec, const tn_attention_shape& shape, const sdk::Ports& ports, const Cache& cache,
                  const Group& g, int64_t t, const sdk::StateBytes& state) const {
    const tn_attention_config& c = config();
    const sdk::flash::Problem p(one_query(c, g, shape.batch, shape.q_pos + t, shape.dtype));
    const int64_t first = g.first * (c.n_heads / c.n_kv_heads);
    const auto of_query = [&](uint32_t port, const char* name, int64_t width) {
      sdk::HeadRows x = sdk::head_rows(ports.need(port, name), name, shape.batch, shape.t_q, c.n_heads, width);
      x.data = static_cast<char*>(x.at(0, t, first));
      return x;
    };
    sdk::RowNumbers lse = sdk::row_numbers(ports.find(TN_PORT_LSE), "LSE", shape.batch, c.n_heads, shape.t_q);
    if (lse) lse.data = &lse.at(0, first, t);
    sdk::RowNumbers sink = sdk::head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", c.n_heads);
    if (sink) sink.data = &sink.at(0, first, 0);
    const sdk::flash::ForwardCall one{p,
                                      {of_query(TN_PORT_Q, "Q", c.d_qk), cache.keys(g, state), cache.values(g, state),
                                       of_query(TN_PORT_O, "O", c.d_v), lse, sink},
                                      {},
                                      {}};
    sdk::flash::run_forward("s2-attention", exec, one);
  }

  // A key tile that no head keeps is lost to all once it leaves the band.
  void warn(const tn_host* host, const tn_attention_config& config) const {
    const int64_t kv_heads = s_.dense_from;
    if (static_cast<uint32_t>(kv_heads) < config.n_kv_heads) return;  // a dense head sees everything
    std::vector<char> seen(static_cast<size_t>(s_.stride));
    for (int64_t g = -s_.first_head; g + s_.first_head < kv_heads; ++g) seen[static_cast<size_t>(s_.first_kept(g))] = 1;
    const int64_t covered = std::count(seen.begin(), seen.end(), 1);
    if (covered < s_.stride)
      host->log(host, TN_LOG_WARNING,
                ("s2-attention: " + std::to_string(kv_heads) + " key heads keep " + std::to_string(covered) +
                 " of every " + std::to_string(s_.stride) +
                 " tiles and the others are forgotten by all heads; vert_stride=" + std::to_string(covered) +
                 " or num_dense_heads=1 covers the whole context")
                    .c_str());
  }

  Sharding s_;
};

using sdk::integer;
constexpr tn_hyper_info kBlock = integer("block", "64", 16, 4096, "positions", "side of a tile, a power of two"),
                        kLocal = integer("local_blocks", "16", 1, 1 << 20, "tiles",
                                         "tiles of the band that every head sees, the query's own included"),
                        kStride = integer("vert_stride", "8", 1, 1 << 20, "tiles",
                                          "of older tiles a head sees one in so many"),
                        kOffset =
                            integer("head_sliding_offset", "0", 0, 1 << 20, "tiles", "shifts the shards of all heads"),
                        kDense = integer("num_dense_heads", "0", 0, 1 << 16, "key heads",
                                         "the last key heads that see everything"),
                        kHomo = sdk::flag("homo_head", "false", "all heads have the same shard");
constexpr const tn_hyper_info* kHypers[] = {&kBlock, &kLocal, &kStride, &kOffset, &kDense, &kHomo};
constexpr tn_attention_api kApi = sdk::attention_api<S2Attention>();
constexpr tn_attention_form kForm = sdk::attention_form<S2Attention>();
const void* extension(const char* id) {
  return std::string_view(id) == TN_EXT_ATTENTION_FORM ? &kForm : nullptr;
}
constexpr tn_plugin kPlugin = sdk::describe(TN_KIND_ATTENTION, "s2-attention", "0.9.0", kHypers, &kApi, extension);

}  // namespace
}  // namespace tenon::s2

TENON_PLUGIN(tenon::s2::kPlugin)
