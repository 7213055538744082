// Attention on a GPU, the readable form: one block of threads a row of queries (forward, dQ) or a row of keys (dK, dV), online softmax in
// f32 over runs of kKeys. Every product of the formulas stands here once; memory is linear in T as the contract asks.
//
// Where says which row a block has and which runs it meets: `query(call, block)` and `key(call, block)` answer a Place, each_keys(call, place, f)
// calls f(begin, end) for the runs of keys that a row of queries may see, counted in its segment, and each_queries(call, place, f) calls
// f(segment, begin, end) for the runs of queries that may see a row of keys. kExact: it sees all of each run of keys.
#pragma once

#include "sdk/attention/flash/gpu/call.h"

namespace tenon::sdk::flash::gpu {

inline constexpr int64_t kKeys = 256;

// Row `token` of head h: of queries in segment s, or of keys. Blocks beyond the last row of a tile have none.
struct Place {
  int64_t b, h, token, s;
  bool there;
};

// Blocks are rows; the mask alone says what they meet.
struct DenseRows {
  static constexpr bool kExact = true;
  int64_t query_blocks, key_blocks;
  TN_FN explicit DenseRows(const Call& c) : query_blocks(c.batch * c.t_q * c.heads), key_blocks(c.batch * c.t_k * c.kv_heads) {}

  TN_FN Place query(const Call& c, int64_t n) const {
    const int64_t token = n / c.heads % c.t_q;
    return {n / (c.t_q * c.heads), n % c.heads, token, c.segment_of(token), true};
  }
  TN_FN Place key(const Call& c, int64_t n) const { return {n / (c.t_k * c.kv_heads), n % c.kv_heads, n / c.kv_heads % c.t_k, 0, true}; }
  template <class F>
  TN_FN void each_keys(const Call& c, const Place& at, F f) const {
    const sdk::Segment& seg = c.segment(at.s);
    const sdk::VisibleKeys seen = sdk::visible_keys(c.mask, seg.q_pos + at.token - seg.q_begin, seg.k_pos, seg.k_len);
    for (int part = 0; part < 2; ++part) f(part == 0 ? seen.sink.begin : seen.window.begin, part == 0 ? seen.sink.end : seen.window.end);
  }
  template <class F>
  TN_FN void each_queries(const Call& c, const Place& at, F f) const {
    for (int64_t s = 0; s < c.n_segments; ++s) {
      const sdk::Segment& seg = c.segment(s);
      const int64_t row = at.token - seg.k_begin;
      if (row < 0 || row >= seg.k_len) continue;
      f(s, c.mask.causal ? sdk::detail::clamp_to(seg.k_pos + row - seg.q_pos, 0, seg.q_len) : 0, seg.q_len);
    }
  }
};

TN_FN float dot(const float* x, const Rows& rows, const char* row, int64_t n) {
  float s = 0;
  for (int64_t c = 0; c < n; ++c) s += x[c] * rows.get(row, c);
  return s;
}

template <class Where>
struct Forward {
  Call call;
  Where where;
  static constexpr int64_t kShared = (2 * kMaxWidth + kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const auto at = where.query(a, block.index);
    if (!at.there) return;
    const int64_t s = at.s, kv = at.h / (a.heads / a.kv_heads);
    const sdk::Segment seg = a.segment(s);
    const int64_t position = seg.q_pos + at.token - seg.q_begin;
    float* const q = block.shared<float>();
    float *const o = q + kMaxWidth, *const p = o + kMaxWidth;
    const Call* const c = &call;
    const char* const row = a.q.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { q[i] = c->q.get(row, i) * c->scale; });
    block.each(a.e, [=](int64_t i) { o[i] = 0; });
    float top = minus_infinity(), sum = 0;
    where.each_keys(a, at, [&](int64_t begin, int64_t end) {
      for (int64_t j0 = begin; j0 < end; j0 += kKeys) {
        const int64_t n = end - j0 < kKeys ? end - j0 : kKeys, first = seg.k_begin + j0;
        const float tile = block.max(n, minus_infinity(), [=](int64_t j) {
          if (!Where::kExact && !sdk::visible(c->mask, position, seg.k_pos + j0 + j)) return p[j] = minus_infinity();
          return p[j] = c->bend(dot(q, c->k, c->k.at(at.b, first + j, kv), c->d));
        });
        const float next = tile > top ? tile : top, shrink = top == minus_infinity() ? 0.0f : sdk::vexp(top - next);
        const float total = block.sum(n, [=](int64_t j) {
          const float w = !Where::kExact && p[j] == minus_infinity() ? 0.0f : sdk::vexp(p[j] - next);  // NaN goes on
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
    });
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
    const Place at = DenseRows(call).query(call, block.index);
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

template <class Where>
struct QueryGradient {
  Call call;
  Where where;
  static constexpr int64_t kShared = (3 * kMaxWidth + kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const auto at = where.query(a, block.index);
    if (!at.there) return;
    const int64_t s = at.s, kv = at.h / (a.heads / a.kv_heads);
    const sdk::Segment seg = a.segment(s);
    const int64_t position = seg.q_pos + at.token - seg.q_begin;
    float* const q = block.shared<float>();
    float *const g = q + kMaxWidth, *const out = g + kMaxWidth, *const ds = out + kMaxWidth;
    const Call* const c = &call;
    const char *const q_row = a.q.at(at.b, at.token, at.h), *const g_row = a.d_o.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { q[i] = c->q.get(q_row, i) * c->scale, out[i] = 0; });
    block.each(a.e, [=](int64_t i) { g[i] = c->d_o.get(g_row, i); });
    const float lse = a.lse.at(at.b, at.h, at.token), delta = a.delta[(at.b * a.heads + at.h) * a.t_q + at.token];
    where.each_keys(a, at, [&](int64_t begin, int64_t end) {
      for (int64_t j0 = begin; j0 < end; j0 += kKeys) {
        const int64_t n = end - j0 < kKeys ? end - j0 : kKeys, first = seg.k_begin + j0;
        block.each(n, [=](int64_t j) {
          ds[j] = 0;
          if (!Where::kExact && !sdk::visible(c->mask, position, seg.k_pos + j0 + j)) return;
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
    });
    char* const to = a.dq.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { c->dq.put(to, i, out[i]); });
  }
};

template <class Where>
struct KeyGradient {
  Call call;
  Where where;
  static constexpr int64_t kShared = (4 * kMaxWidth + 2 * kKeys) * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const Call& a = call;
    const auto at = where.key(a, block.index);
    if (!at.there) return;
    float* const k = block.shared<float>();
    float *const v = k + kMaxWidth, *const dk = v + kMaxWidth, *const dv = dk + kMaxWidth, *const w = dv + kMaxWidth, *const ds = w + kKeys;
    const Call* const c = &call;
    const char *const k_row = a.k.at(at.b, at.token, at.h), *const v_row = a.v.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { k[i] = c->k.get(k_row, i) * c->scale, dk[i] = 0; });
    block.each(a.e, [=](int64_t i) { v[i] = c->v.get(v_row, i), dv[i] = 0; });
    const int64_t group = a.heads / a.kv_heads;
    where.each_queries(a, at, [&](int64_t s, int64_t begin, int64_t end) {
      const sdk::Segment seg = a.segment(s);
      const int64_t position = seg.k_pos + at.token - seg.k_begin;
      for (int64_t x = 0; x < group; ++x) {
        const int64_t h = at.h * group + x;
        for (int64_t i0 = begin; i0 < end; i0 += kKeys) {
          const int64_t n = end - i0 < kKeys ? end - i0 : kKeys, first = seg.q_begin + i0;
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
    });
    char *const to_k = a.dk.at(at.b, at.token, at.h), *const to_v = a.dv.at(at.b, at.token, at.h);
    block.each(a.d, [=](int64_t i) { c->dk.put(to_k, i, dk[i]); });
    block.each(a.e, [=](int64_t i) { c->dv.put(to_v, i, dv[i]); });
  }
};

}  // namespace tenon::sdk::flash::gpu
