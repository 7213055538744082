// The dense evaluator: attention exactly as its formula reads, in f64, one query row at a time. It is what every kernel
// is compared with, so it shares nothing with them: masks are asked term by term for each (i, j).
//
// Tensors are contiguous f64 [B, T, H, d]. S = softcap(scale · Q Kᵀ), P = softmax over the visible keys (and the sink
// logit, which has no value), O = (P ∘ keep) V, L = log Σ exp S.
#pragma once

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "sdk/attention/dropout.h"
#include "sdk/attention/segments.h"
#include "tenon/attention_form.h"

namespace tenon::sdk {

struct DenseAttention {
  int64_t batch, t_q, t_k, heads, kv_heads, d, e;
  double scale = 0, softcap = 0;  // 0 = 1/sqrt(d); 0 = off
  std::vector<tn_mask_term> mask;
  std::vector<Segment> segments;  // empty: every batch entry is one, from the positions below
  int64_t q_pos = 0, k_pos = 0;
  double dropout = 0;
  tn_rng rng{};
  int64_t head_offset = 0;
  uint32_t form = TN_FORM_SOFTMAX;  // what the kernel computes (org.tenon.attention-form/1)
  double epsilon = 0;
  std::function<double(int64_t h, int64_t i, int64_t j)>
      factor{};                             // of that form, by head and global positions; none: 1
  std::vector<double> q, k, v, sink_logit;  // sink_logit: [heads] or empty

  struct Output {
    std::vector<double> o, lse;  // [B, Tq, Hq, e], [B, Hq, Tq]
  };
  struct Gradients {
    std::vector<double> dq, dk, dv, d_sink_logit;
  };

  Output forward() const {
    Output out;
    out.o.assign(batch * t_q * heads * e, 0.0);
    out.lse.assign(batch * heads * t_q, -std::numeric_limits<double>::infinity());
    each_row([&](const Row& row) {
      out.lse[lse_index(row)] = row.lse;
      for (size_t n = 0; n < row.p.size(); ++n)
        for (int64_t c = 0; c < e; ++c)
          out.o[q_index(row, e) + c] += row.p[n] * row.keep[n] * v[k_index(row, n, e) + c];
      if (form == TN_FORM_LINEAR_RMS && !row.p.empty()) {
        double* o = &out.o[q_index(row, e)];
        const double divisor = rms(o);
        for (int64_t c = 0; c < e; ++c) o[c] /= divisor;
        out.lse[lse_index(row)] = std::log(divisor);
      }
    });
    return out;
  }

  // d_o: [B, Tq, Hq, e]; d_lse: [B, Hq, Tq] or empty.
  Gradients backward(const std::vector<double>& d_o, const std::vector<double>& d_lse) const {
    Gradients g{std::vector<double>(q.size()), std::vector<double>(k.size()), std::vector<double>(v.size()),
                std::vector<double>(sink_logit.size())};
    each_row([&](const Row& row) {
      if (std::isinf(row.lse)) return;
      if (form != TN_FORM_SOFTMAX) return linear_backward(row, d_o, g);
      const double* go = &d_o[q_index(row, e)];
      const double gl = d_lse.empty() ? 0.0 : d_lse[lse_index(row)];
      std::vector<double> dp(row.p.size());
      double dot = 0;  // Σ P ∘ dP, the softmax Jacobian's row term
      for (size_t n = 0; n < dp.size(); ++n) {
        for (int64_t c = 0; c < e; ++c) dp[n] += go[c] * v[k_index(row, n, e) + c] * row.keep[n];
        dot += row.p[n] * dp[n];
      }
      for (size_t n = 0; n < dp.size(); ++n) {
        const double ds = row.p[n] * (dp[n] - dot + gl) * row.slope[n] * scaling();
        for (int64_t c = 0; c < e; ++c) g.dv[k_index(row, n, e) + c] += row.p[n] * row.keep[n] * go[c];
        for (int64_t c = 0; c < d; ++c) {
          g.dq[q_index(row, d) + c] += ds * k[k_index(row, n, d) + c];
          g.dk[k_index(row, n, d) + c] += ds * q[q_index(row, d) + c];
        }
      }
      if (!sink_logit.empty()) g.d_sink_logit[row.h] += std::exp(sink_logit[row.h] - row.lse) * (gl - dot);
    });
    return g;
  }

 private:
  struct Row {
    int64_t b, i, h;                     // batch entry, row of q, head
    std::vector<int64_t> keys;           // visible rows of k
    std::vector<double> p, keep, slope;  // weight, dropout factor, d softcap
    double lse;
  };
  double rms(const double* row) const {
    double sum = 0;
    for (int64_t c = 0; c < e; ++c) sum += row[c] * row[c];
    return std::sqrt(sum / static_cast<double>(e) + epsilon);
  }
  // row.p is factor · q·k, row.slope the factor.
  void linear_backward(const Row& row, const std::vector<double>& d_o, Gradients& g) const {
    std::vector<double> go(d_o.begin() + q_index(row, e), d_o.begin() + q_index(row, e) + e);
    if (form == TN_FORM_LINEAR_RMS) {
      std::vector<double> o(e);
      for (size_t n = 0; n < row.p.size(); ++n)
        for (int64_t c = 0; c < e; ++c) o[c] += row.p[n] * v[k_index(row, n, e) + c];
      const double divisor = rms(o.data());
      double mean = 0;
      for (int64_t c = 0; c < e; ++c) mean += go[c] * o[c] / divisor / static_cast<double>(e);
      for (int64_t c = 0; c < e; ++c) go[c] = (go[c] - o[c] / divisor * mean) / divisor;
    }
    for (size_t n = 0; n < row.p.size(); ++n) {
      double ds = 0;
      for (int64_t c = 0; c < e; ++c) {
        ds += go[c] * v[k_index(row, n, e) + c] * row.slope[n];
        g.dv[k_index(row, n, e) + c] += row.p[n] * go[c];
      }
      for (int64_t c = 0; c < d; ++c) {
        g.dq[q_index(row, d) + c] += ds * k[k_index(row, n, d) + c];
        g.dk[k_index(row, n, d) + c] += ds * q[q_index(row, d) + c];
      }
    }
  }
  double scaling() const { return scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(d)); }
  int64_t q_index(const Row& r, int64_t width) const { return ((r.b * t_q + r.i) * heads + r.h) * width; }
  int64_t k_index(const Row& r, size_t n, int64_t width) const {
    return ((r.b * t_k + r.keys[n]) * kv_heads + r.h / (heads / kv_heads)) * width;
  }
  int64_t lse_index(const Row& r) const { return (r.b * heads + r.h) * t_q + r.i; }

  static bool in_map(const tn_block_map& m, int64_t g, int64_t i, int64_t j) {
    const int64_t row = i / m.block_q;
    if (i < 0 || j < 0 || row >= m.n_rows) return false;
    const int64_t* begin = m.row_begin + (m.n_maps == 1 ? 0 : g) * (m.n_rows + 1) + row;
    for (int64_t n = begin[0]; n < begin[1]; ++n)
      if (m.column[n] == j / m.block_k) return true;
    return false;
  }
  bool sees(int64_t h, int64_t i, int64_t j) const {
    int64_t sink = 0;
    for (const tn_mask_term& t : mask)
      if (t.kind == TN_MASK_SINK) sink = t.n;
    for (const tn_mask_term& t : mask) {
      if (t.kind == TN_MASK_BLOCKS && !in_map(*t.blocks, h / (heads / kv_heads), i, j)) return false;
      if (t.kind == TN_MASK_CAUSAL && j > i) return false;
      if (t.kind == TN_MASK_WINDOW && j >= sink &&
          ((t.left >= 0 && j < i - t.left) || (t.right >= 0 && j > i + t.right)))
        return false;
    }
    return form != TN_FORM_SOFTMAX || !factor || factor(h, i, j) != 0;
  }

  template <class Visit>
  void each_row(Visit visit) const {
    const std::vector<Segment> whole{{0, t_q, 0, t_k, q_pos, k_pos}};
    const std::vector<Segment>& list = segments.empty() ? whole : segments;
    for (int64_t b = 0; b < batch; ++b)
      for (size_t s = 0; s < list.size(); ++s)
        for (int64_t i = 0; i < list[s].q_len; ++i)
          for (int64_t h = 0; h < heads; ++h)
            visit(row(b, list[s], segments.empty() ? b : static_cast<int64_t>(s), i, h));
  }

  Row row(int64_t b, const Segment& s, int64_t dropout_batch, int64_t i, int64_t h) const {
    Row r{b, s.q_begin + i, h, {}, {}, {}, {}, 0};
    const Dropout drop = make_dropout(dropout);
    const tn_rng key = dropout_key(rng, dropout_batch, head_offset + h);
    double top = -std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < s.k_len; ++j) {
      if (!sees(h, s.q_pos + i, s.k_pos + j)) continue;
      r.keys.push_back(s.k_begin + j);
      double x = 0;
      for (int64_t c = 0; c < d; ++c) x += q[q_index(r, d) + c] * k[k_index(r, r.keys.size() - 1, d) + c];
      if (form != TN_FORM_SOFTMAX) {
        r.slope.push_back(factor(h, s.q_pos + i, s.k_pos + j));
        r.p.push_back(x * r.slope.back()), r.keep.push_back(1);
        continue;
      }
      x *= scaling();
      const double bent = softcap > 0 ? std::tanh(x / softcap) : 0.0;
      r.p.push_back(softcap > 0 ? softcap * bent : x);
      r.slope.push_back(1 - bent * bent);
      r.keep.push_back(drop.threshold ? keep_factor(drop, key, s.q_pos + i, s.k_pos + j) : 1.0);
      top = std::max(top, r.p.back());
    }
    if (form != TN_FORM_SOFTMAX) {
      r.lse = r.p.empty() ? top : 0;
      return r;
    }
    if (!sink_logit.empty()) top = std::max(top, sink_logit[h]);
    double sum = sink_logit.empty() || std::isinf(top) ? 0.0 : std::exp(sink_logit[h] - top);
    for (double& x : r.p) sum += x = std::exp(x - top);
    for (double& x : r.p) x /= sum;
    r.lse = sum > 0 ? top + std::log(sum) : -std::numeric_limits<double>::infinity();
    return r;
  }
};

}  // namespace tenon::sdk
