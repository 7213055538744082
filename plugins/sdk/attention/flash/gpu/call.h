// A call as kernels on a GPU know it.
#pragma once

#include "sdk/attention/dropout.h"
#include "sdk/attention/flash/problem.h"
#include "sdk/attention/kernel_rows.h"
#include "sdk/attention/segments.h"
#include "sdk/for_each.h"
#include "sdk/vector_math.h"
#include "sdk/vector_trig.h"

namespace tenon::sdk::flash::gpu {

// What all kernels of a call know.
struct Call {
  int64_t batch, t_q, t_k, heads, kv_heads, d, e;
  float scale, cap;  // cap 0 = off
  uint32_t head_offset;
  sdk::Mask mask;
  sdk::Segment only;               // where there is one segment
  const sdk::Segment* segments;    // else a list, in device memory
  int64_t n_segments;
  bool listed;
  sdk::Dropout dropout;
  tn_rng rng;
  Rows q, k, v, o, d_o, dq, dk, dv;
  Numbers lse, d_lse, sink, d_sink;
  float* delta;  // [B, H, Tq]: Σ O ∘ dO − dLSE

  TN_FN const sdk::Segment& segment(int64_t s) const { return segments ? segments[s] : only; }
  // The segment of a row of queries; segments tile all rows.
  TN_FN int64_t segment_of(int64_t token) const {
    int64_t s = 0;
    while (s + 1 < n_segments && (token < segment(s).q_begin || token >= segment(s).q_begin + segment(s).q_len)) ++s;
    return s;
  }
  TN_FN float bend(float s) const { return cap > 0 ? cap * sdk::vtanh(s / cap) : s; }
  TN_FN float slope(float bent) const { return cap > 0 ? 1.0f - bent / cap * (bent / cap) : 1.0f; }
  TN_FN float keep(int64_t b, int64_t s, int64_t h, int64_t i, int64_t j) const {
    if (dropout.threshold == 0) return 1.0f;
    return sdk::keep_factor(dropout, sdk::dropout_key(rng, static_cast<uint64_t>(listed ? s : b), head_offset + h), i, j);
  }
};

TN_FN float minus_infinity() { return -sdk::detail::infinity(); }

inline Call lower(const Problem& p, const sdk::Dropout& dropout, const tn_rng& rng) {
  Call c{};
  c.batch = p.batch, c.t_q = p.t_q, c.t_k = p.t_k, c.heads = p.heads, c.kv_heads = p.kv_heads, c.d = p.d, c.e = p.e;
  c.scale = static_cast<float>(p.scale), c.cap = static_cast<float>(p.softcap), c.head_offset = p.head_offset;
  c.mask = p.mask, c.n_segments = static_cast<int64_t>(p.segments.size()), c.listed = p.listed;
  if (!p.segments.empty()) c.only = p.segments[0];
  c.dropout = dropout, c.rng = rng;
  return c;
}
inline Call lower(const ForwardCall& f) {
  Call c = lower(f.problem, f.dropout, f.rng);
  c.q = Rows(f.ports.q), c.k = Rows(f.ports.k), c.v = Rows(f.ports.v), c.o = Rows(f.ports.o);
  c.lse = Numbers(f.ports.lse), c.sink = Numbers(f.ports.sink_logit);
  return c;
}
inline Call lower(const BackwardCall& b) {
  Call c = lower(b.problem, b.dropout, b.rng);
  c.q = Rows(b.ports.q), c.k = Rows(b.ports.k), c.v = Rows(b.ports.v), c.o = Rows(b.ports.o);
  c.d_o = Rows(b.ports.d_o), c.dq = Rows(b.ports.dq), c.dk = Rows(b.ports.dk), c.dv = Rows(b.ports.dv);
  c.lse = Numbers(b.ports.lse), c.d_lse = Numbers(b.ports.d_lse), c.sink = Numbers(b.ports.sink_logit), c.d_sink = Numbers(b.ports.d_sink_logit);
  return c;
}

}  // namespace tenon::sdk::flash::gpu
