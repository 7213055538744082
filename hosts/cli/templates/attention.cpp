// @NAME@: attention exactly as its formula reads, one query at a time in f64. It is slow and right: replace compute()
// and the two estimates by your kernel, and keep this one to test it against.
#include "sdk/attention.h"

#include <algorithm>

#include "sdk/attention/mask.h"
#include "sdk/attention/ports.h"
#include "sdk/attention/reference.h"

namespace {

using namespace tenon::sdk;

std::vector<double> read(const HeadRows& rows, int64_t batch, int64_t tokens, int64_t heads) {
  std::vector<double> out;
  std::vector<float> row(static_cast<size_t>(rows.width));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        rows.read(b, t, h, 1, row.data());
        out.insert(out.end(), row.begin(), row.end());
      }
  return out;
}

void write(const HeadRows& rows, int64_t batch, int64_t tokens, int64_t heads, const std::vector<double>& values) {
  std::vector<float> row(static_cast<size_t>(rows.width));
  auto from = values.begin();
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads; ++h, from += rows.width) {
        std::copy_n(from, rows.width, row.begin());
        rows.write(b, t, h, 1, row.data());
      }
}

class Kernel {
 public:
  Kernel(const tn_host*, const Hypers&, const tn_attention_config& config) : config_(config) {
    if (config.n_heads == 0 || config.n_kv_heads == 0 || config.n_heads % config.n_kv_heads != 0)
      fail(TN_E_ARGUMENT, "@NAME@: the number of key heads must divide the number of query heads");
    if (config.d_qk == 0 || config.d_v == 0) fail(TN_E_ARGUMENT, "@NAME@: heads must have a width");
  }

  void supports(const tn_query& q) const {
    if (q.device.type != TN_CPU) fail(TN_E_UNSUPPORTED, "@NAME@: this object runs on the CPU");
    require_dtype(q.dtype);
  }
  void plan(const tn_device_api*, tn_device*, const tn_attention_shape& shape, tn_attention_plan& out) const {
    require_dtype(shape.dtype);
    (void)lower_mask(shape);  // refuses what it does not know
    (void)lower_segments(shape);
    const double pairs = static_cast<double>(shape.batch) * config_.n_heads * static_cast<double>(shape.t_q) *
                         static_cast<double>(shape.t_k);
    const double flops = 2 * pairs * (config_.d_qk + config_.d_v), bytes = shape.dtype.bits / 8.0 * pairs;
    out.tile_q = out.tile_k = 1;
    out.forward = {sizeof(tn_estimate), 0, 0, 0, 0, flops, bytes};
    out.backward = {sizeof(tn_estimate), 0, 0, 0, 0, 2.5 * flops, 2 * bytes};
  }
  void forward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
               uint64_t n) const {
    const Ports ports(binds, n);
    const DenseAttention dense = compute(call, shape, ports);
    const HeadRows o = head_rows(ports.need(TN_PORT_O, "O"), "O", shape.batch, shape.t_q, config_.n_heads, config_.d_v);
    const RowNumbers lse = row_numbers(ports.find(TN_PORT_LSE), "LSE", shape.batch, config_.n_heads, shape.t_q);
    if (o.accumulate) fail(TN_E_UNSUPPORTED, "@NAME@: port O cannot accumulate; merge partial results instead");
    if ((shape.flags & TN_ATTENTION_PARTIAL) && (!same(o.dtype, kF32) || !lse))
      fail(TN_E_ARGUMENT, "@NAME@: a partial call needs ports O in f32 and LSE");
    const DenseAttention::Output out = dense.forward();
    write(o, shape.batch, shape.t_q, config_.n_heads, out.o);
    if (!lse) return;
    auto from = out.lse.begin();
    for (int64_t b = 0; b < shape.batch; ++b)
      for (int64_t h = 0; h < config_.n_heads; ++h)
        for (int64_t t = 0; t < shape.t_q; ++t) lse.at(b, h, t) = static_cast<float>(*from++);
  }
  void backward(const tn_attention_call& call, const tn_attention_shape& shape, const tn_port_bind* const* binds,
                uint64_t n) const {
    const Ports ports(binds, n);
    const DenseAttention dense = compute(call, shape, ports);
    const int64_t heads = config_.n_heads, kv = config_.n_kv_heads, b = shape.batch;
    const auto queries = [&](uint32_t port, const char* name, int64_t width) {
      return head_rows(ports.need(port, name), name, b, shape.t_q, heads, width);
    };
    const auto keys = [&](uint32_t port, const char* name, int64_t width) {
      return head_rows(ports.need(port, name), name, b, shape.t_k, kv, width);
    };
    std::vector<double> d_lse;
    if (const RowNumbers g = row_numbers(ports.find(TN_PORT_D_LSE), "D_LSE", b, heads, shape.t_q))
      for (int64_t i = 0; i < b; ++i)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t t = 0; t < shape.t_q; ++t) d_lse.push_back(g.at(i, h, t));
    const auto g = dense.backward(read(queries(TN_PORT_DO, "DO", config_.d_v), b, shape.t_q, heads), d_lse);
    write(queries(TN_PORT_DQ, "DQ", config_.d_qk), b, shape.t_q, heads, g.dq);
    write(keys(TN_PORT_DK, "DK", config_.d_qk), b, shape.t_k, kv, g.dk);
    write(keys(TN_PORT_DV, "DV", config_.d_v), b, shape.t_k, kv, g.dv);
    const RowNumbers d_sink = head_numbers(ports.find(TN_PORT_D_SINK_LOGIT), "D_SINK_LOGIT", heads);
    if (d_sink && g.d_sink_logit.empty()) fail(TN_E_ARGUMENT, "@NAME@: port D_SINK_LOGIT is bound without SINK_LOGIT");
    for (int64_t h = 0; d_sink && h < heads; ++h)
      d_sink.at(0, h, 0) = static_cast<float>(g.d_sink_logit[h]) + (d_sink.accumulate ? d_sink.at(0, h, 0) : 0.0f);
  }
  // Keys and values of each token, kept by the host.
  void state(const tn_dtype& dtype, int64_t tokens, tn_attention_state& out) const {
    require_dtype(dtype);
    out.kind = TN_STATE_PER_TOKEN;
    out.bytes = static_cast<uint64_t>(tokens) * config_.n_kv_heads * (config_.d_qk + config_.d_v) * (dtype.bits / 8);
  }

 private:
  static void require_dtype(tn_dtype d) {
    if (!same(d, kF32) && !same(d, kBF16) && !same(d, kF16))
      fail(TN_E_UNSUPPORTED, "@NAME@ stores q, k, v and o as f32, bf16 or f16");
  }
  DenseAttention compute(const tn_attention_call& call, const tn_attention_shape& s, const Ports& ports) const {
    (void)lower_mask(s);
    const int64_t heads = config_.n_heads, kv = config_.n_kv_heads;
    DenseAttention a{s.batch, s.t_q, s.t_k, heads, kv, config_.d_qk, config_.d_v};
    a.scale = config_.scale, a.softcap = config_.softcap;
    for (uint32_t i = 0; i < s.n_mask; ++i) a.mask.push_back(*s.mask[i]);
    const std::vector<Segment> segments = lower_segments(s);
    if (s.segments) a.segments = segments;
    a.q_pos = s.q_pos, a.k_pos = s.k_pos;
    a.dropout = call.dropout, a.rng = call.rng, a.head_offset = config_.head_offset;
    a.q = read(head_rows(ports.need(TN_PORT_Q, "Q"), "Q", s.batch, s.t_q, heads, a.d), s.batch, s.t_q, heads);
    a.k = read(head_rows(ports.need(TN_PORT_K, "K"), "K", s.batch, s.t_k, kv, a.d), s.batch, s.t_k, kv);
    a.v = read(head_rows(ports.need(TN_PORT_V, "V"), "V", s.batch, s.t_k, kv, a.e), s.batch, s.t_k, kv);
    if (const RowNumbers sink = head_numbers(ports.find(TN_PORT_SINK_LOGIT), "SINK_LOGIT", heads))
      for (int64_t h = 0; h < heads; ++h) a.sink_logit.push_back(sink.at(0, h, 0));
    return a;
  }

  tn_attention_config config_;
};

constexpr const tn_hyper_info* kNoHypers[] = {nullptr};
constexpr tn_attention_api kApi = attention_api<Kernel>();
constexpr tn_plugin kPlugin = [] {
  tn_plugin p = describe(TN_KIND_ATTENTION, "@ID@", "0.1.0", kNoHypers, &kApi);
  p.n_hypers = 0;
  return p;
}();

}  // namespace

TENON_PLUGIN(kPlugin)
