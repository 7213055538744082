// Attention on a GPU, the readable form: one block of threads a row of queries (forward, dQ) or a row of keys (dK, dV), online softmax in
// f32 over tiles of kKeys. Every product of the formulas stands here once; memory is linear in T as the contract asks.
#pragma once

#include "sdk/attention/dropout.h"
#include "sdk/attention/mask.h"
#include "sdk/attention/ports.h"
#include "sdk/attention/segments.h"
#include "sdk/for_each.h"
#include "sdk/vector_math.h"
#include "sdk/vector_trig.h"

namespace tenon::flash {

inline constexpr int64_t kMaxWidth = 512, kKeys = 256;

// A tensor [B, T, H, width] as kernels read and write it.
struct Rows {
  char* data = nullptr;
  tn_dtype dtype{};
  int64_t batch = 0, token = 0, head = 0;  // strides in bytes
  bool accumulate = false;
  Rows() = default;
  explicit Rows(const sdk::HeadRows& r) : data(r.data), dtype(r.dtype), batch(r.batch), token(r.token), head(r.head), accumulate(r.accumulate) {}

  TN_FN char* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * token + h * head; }
  TN_FN float get(const char* row, int64_t c) const {
    if (dtype.bits == 32) return reinterpret_cast<const float*>(row)[c];
    return dtype.code == TN_BFLOAT ? sdk::to_float(reinterpret_cast<const sdk::bf16*>(row)[c])
                                   : sdk::to_float(reinterpret_cast<const sdk::f16*>(row)[c]);
  }
  TN_FN void put(char* row, int64_t c, float v) const {
    if (accumulate) v += get(row, c);
    if (dtype.bits == 32)
      reinterpret_cast<float*>(row)[c] = v;
    else if (dtype.code == TN_BFLOAT)
      reinterpret_cast<sdk::bf16*>(row)[c] = sdk::from_float<sdk::bf16>(v);
    else
      reinterpret_cast<sdk::f16*>(row)[c] = sdk::from_float<sdk::f16>(v);
  }
};

// A tensor f32 [B, H, T], or [H].
struct Numbers {
  float* data = nullptr;
  int64_t batch = 0, head = 0, token = 0;
  bool accumulate = false;
  Numbers() = default;
  explicit Numbers(const sdk::RowNumbers& r) : data(r.data), batch(r.batch), head(r.head), token(r.token), accumulate(r.accumulate) {}
  TN_FN float& at(int64_t b, int64_t h, int64_t t) const { return data[b * batch + h * head + t * token]; }
};

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
  // The segment of a query row; segments tile all rows.
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

// The place of a block: row `token` of head h.
struct Place {
  int64_t b, h, token;
  TN_FN Place(int64_t index, int64_t heads, int64_t rows) : b(index / (rows * heads)), h(index % heads), token(index / heads % rows) {}
};

TN_FN float dot(const float* x, const Rows& rows, const char* row, int64_t n) {
  float s = 0;
  for (int64_t c = 0; c < n; ++c) s += x[c] * rows.get(row, c);
  return s;
}

struct Forward {
  Call call;
  static constexpr int64_t kShared = (2 * kMaxWidth + kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const Place at(block.index, a.heads, a.t_q);
    const int64_t s = a.segment_of(at.token), kv = at.h / (a.heads / a.kv_heads);
    const sdk::Segment seg = a.segment(s);
    const int64_t position = seg.q_pos + at.token - seg.q_begin;
    float* const q = block.shared<float>();
    float *const o = q + kMaxWidth, *const p = o + kMaxWidth;
    const Call* const c = &call;
    const char* const row = a.q.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { q[i] = c->q.get(row, i) * c->scale; });
    block.each(a.e, [=](int64_t i) { o[i] = 0; });
    float top = minus_infinity(), sum = 0;
    const sdk::VisibleKeys seen = sdk::visible_keys(a.mask, position, seg.k_pos, seg.k_len);
    for (int part = 0; part < 2; ++part) {
      const sdk::Run run = part == 0 ? seen.sink : seen.window;
      for (int64_t j0 = run.begin; j0 < run.end; j0 += kKeys) {
        const int64_t n = run.end - j0 < kKeys ? run.end - j0 : kKeys, first = seg.k_begin + j0;
        const float tile = block.max(n, minus_infinity(), [=](int64_t j) {
          return p[j] = c->bend(dot(q, c->k, c->k.at(at.b, first + j, kv), c->d));
        });
        const float next = tile > top ? tile : top, shrink = top == minus_infinity() ? 0.0f : sdk::vexp(top - next);
        const float total = block.sum(n, [=](int64_t j) {
          const float w = sdk::vexp(p[j] - next);
          p[j] = w * c->keep(at.b, s, at.h, position, seg.k_pos + j0 + j);
          return w;
        });
        sum = sum * shrink + total, top = next;
        block.each(a.e, [=](int64_t i) {
          float x = o[i] * shrink;
          for (int64_t j = 0; j < n; ++j) x += p[j] * c->v.get(c->v.at(at.b, first + j, kv), i);
          o[i] = x;
        });
      }
    }
    const float logit = a.sink.data ? a.sink.at(0, at.h, 0) : minus_infinity(), high = logit > top ? logit : top;
    const bool empty = high == minus_infinity();
    const float share = empty || top == minus_infinity() ? 0.0f : sdk::vexp(top - high);
    const float whole = empty ? 1.0f : sum * share + (a.sink.data ? sdk::vexp(logit - high) : 0.0f);
    char* const out = a.o.at(at.b, at.token, at.h);
    block.each(a.e, [=](int64_t i) { c->o.put(out, i, o[i] * share / whole); });
    if (a.lse.data)
      block.each(1, [=](int64_t) { c->lse.at(at.b, at.h, at.token) = empty ? minus_infinity() : high + sdk::vlog(whole); });
  }
};

// delta = Σ O ∘ dO − dLSE of every row.
struct Delta {
  Call call;
  TN_FN void operator()(const sdk::Block& block) const {
    const Call* const c = &call;
    const Place at(block.index, call.heads, call.t_q);
    const char *const o = call.o.at(at.b, at.token, at.h), *const g = call.d_o.at(at.b, at.token, at.h);
    const float sum = block.sum(call.e, [=](int64_t i) { return c->o.get(o, i) * c->d_o.get(g, i); });
    block.each(1, [=](int64_t) {
      c->delta[(at.b * c->heads + at.h) * c->t_q + at.token] = sum - (c->d_lse.data ? c->d_lse.at(at.b, at.h, at.token) : 0.0f);
    });
  }
};

// The gradient of each head's sink logit: it takes a share exp(sink − LSE) of every row's weight and gives no value.
struct SinkGradient {
  Call call;
  TN_FN void operator()(const sdk::Block& block) const {
    const Call* const c = &call;
    const int64_t h = block.index;
    const double sum = block.sum(call.batch * call.t_q, [=](int64_t i) {
      const int64_t b = i / c->t_q, t = i % c->t_q;
      const float lse = c->lse.at(b, h, t);
      return lse == minus_infinity() ? 0.0 : -static_cast<double>(sdk::vexp(c->sink.at(0, h, 0) - lse) * c->delta[(b * c->heads + h) * c->t_q + t]);
    });
    block.each(1, [=](int64_t) {
      float& to = c->d_sink.at(0, h, 0);
      to = static_cast<float>(sum) + (c->d_sink.accumulate ? to : 0.0f);
    });
  }
};

struct QueryGradient {
  Call call;
  static constexpr int64_t kShared = (3 * kMaxWidth + kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const Place at(block.index, a.heads, a.t_q);
    const int64_t s = a.segment_of(at.token), kv = at.h / (a.heads / a.kv_heads);
    const sdk::Segment seg = a.segment(s);
    const int64_t position = seg.q_pos + at.token - seg.q_begin;
    float* const q = block.shared<float>();
    float *const g = q + kMaxWidth, *const out = g + kMaxWidth, *const ds = out + kMaxWidth;
    const Call* const c = &call;
    const char *const q_row = a.q.at(at.b, at.token, at.h), *const g_row = a.d_o.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { q[i] = c->q.get(q_row, i) * c->scale, out[i] = 0; });
    block.each(a.e, [=](int64_t i) { g[i] = c->d_o.get(g_row, i); });
    const float lse = a.lse.at(at.b, at.h, at.token), delta = a.delta[(at.b * a.heads + at.h) * a.t_q + at.token];
    const sdk::VisibleKeys seen = sdk::visible_keys(a.mask, position, seg.k_pos, seg.k_len);
    for (int part = 0; part < 2; ++part) {
      const sdk::Run run = part == 0 ? seen.sink : seen.window;
      for (int64_t j0 = run.begin; j0 < run.end; j0 += kKeys) {
        const int64_t n = run.end - j0 < kKeys ? run.end - j0 : kKeys, first = seg.k_begin + j0;
        block.each(n, [=](int64_t j) {
          const float bent = c->bend(dot(q, c->k, c->k.at(at.b, first + j, kv), c->d)), p = sdk::vexp(bent - lse);
          const float dp = dot(g, c->v, c->v.at(at.b, first + j, kv), c->e) * c->keep(at.b, s, at.h, position, seg.k_pos + j0 + j);
          ds[j] = p * (dp - delta) * c->slope(bent) * c->scale;
        });
        block.each(a.d, [=](int64_t i) {
          float x = out[i];
          for (int64_t j = 0; j < n; ++j) x += ds[j] * c->k.get(c->k.at(at.b, first + j, kv), i);
          out[i] = x;
        });
      }
    }
    char* const to = a.dq.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { c->dq.put(to, i, out[i]); });
  }
};

struct KeyGradient {
  Call call;
  static constexpr int64_t kShared = (4 * kMaxWidth + 2 * kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const Place at(block.index, a.kv_heads, a.t_k);  // h counts heads of keys, token rows of keys
    float* const k = block.shared<float>();
    float *const v = k + kMaxWidth, *const dk = v + kMaxWidth, *const dv = dk + kMaxWidth, *const w = dv + kMaxWidth, *const ds = w + kKeys;
    const Call* const c = &call;
    const char *const k_row = a.k.at(at.b, at.token, at.h), *const v_row = a.v.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { k[i] = c->k.get(k_row, i) * c->scale, dk[i] = 0; });
    block.each(a.e, [=](int64_t i) { v[i] = c->v.get(v_row, i), dv[i] = 0; });
    const int64_t group = a.heads / a.kv_heads;
    for (int64_t s = 0; s < a.n_segments; ++s) {
      const sdk::Segment seg = a.segment(s);
      const int64_t row = at.token - seg.k_begin, position = seg.k_pos + row;
      if (row < 0 || row >= seg.k_len) continue;
      const int64_t begin = a.mask.causal ? sdk::detail::clamp_to(position - seg.q_pos, 0, seg.q_len) : 0;
      for (int64_t x = 0; x < group; ++x) {
        const int64_t h = at.h * group + x;
        for (int64_t i0 = begin; i0 < seg.q_len; i0 += kKeys) {
          const int64_t n = seg.q_len - i0 < kKeys ? seg.q_len - i0 : kKeys, first = seg.q_begin + i0;
          block.each(n, [=](int64_t i) {
            const int64_t query = seg.q_pos + i0 + i, token = first + i;
            w[i] = ds[i] = 0;
            if (!sdk::visible(c->mask, query, position)) return;
            const float bent = c->bend(dot(k, c->q, c->q.at(at.b, token, h), c->d)), p = sdk::vexp(bent - c->lse.at(at.b, h, token));
            const float keep = c->keep(at.b, s, h, query, position);
            const float dp = dot(v, c->d_o, c->d_o.at(at.b, token, h), c->e) * keep;
            w[i] = p * keep;
            ds[i] = p * (dp - c->delta[(at.b * c->heads + h) * c->t_q + token]) * c->slope(bent) * c->scale;
          });
          block.each(a.d, [=](int64_t m) {
            float y = dk[m];
            for (int64_t i = 0; i < n; ++i) y += ds[i] * c->q.get(c->q.at(at.b, first + i, h), m);
            dk[m] = y;
          });
          block.each(a.e, [=](int64_t m) {
            float y = dv[m];
            for (int64_t i = 0; i < n; ++i) y += w[i] * c->d_o.get(c->d_o.at(at.b, first + i, h), m);
            dv[m] = y;
          });
        }
      }
    }
    char *const to_k = a.dk.at(at.b, at.token, at.h), *const to_v = a.dv.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { c->dk.put(to_k, i, dk[i]); });
    block.each(a.e, [=](int64_t i) { c->dv.put(to_v, i, dv[i]); });
  }
};

}  // namespace tenon::flash
