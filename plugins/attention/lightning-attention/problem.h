// One call, lowered: sizes, decays, and the chunks and spans into which each segment is cut. They follow from the shape
// alone, so results do not depend on the number of threads.
//
// Chunks lie on the axis of positions, so queries and keys need not begin together: a chunk has some rows of each, or a
// run of positions with neither, over which the state only decays.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "sdk/attention/mask.h"
#include "sdk/attention/ports.h"
#include "sdk/attention/segments.h"
#include "sdk/panel/lanes.h"

namespace tenon::lightning {

using namespace sdk::panel;

inline constexpr int64_t kSpanChunks = 8;  // chunks between two states that a backward pass keeps
inline constexpr int64_t kMinTasks =
    32;  // with fewer (sequence, head) pairs a forward pass works on spans in parallel too
inline constexpr int64_t kMaxChunk = 256;
inline constexpr int64_t kRowBlock = 24;  // rows that are cut off at the diagonal together
inline constexpr double kEpsilon = 1e-6;  // of the output norm

struct Chunk {
  int64_t n;                // positions
  int64_t q_row, nq, q_at;  // rows of q, and where among the positions the first stands
  int64_t k_row, nk, k_at;
};
// Chunks [first, last) of a segment; n positions.
struct Span {
  size_t first, last;
  int64_t n;
};
struct Line {
  sdk::Segment segment;
  std::vector<Chunk> chunks;
  std::vector<Span> spans;
  int64_t n_forward_spans;  // 1: heads suffice to keep the threads busy
};

// λ^t of one head: of the decay across a chunk, of rows, and of pairs.
class Powers {
 public:
  Powers(double sigma, int64_t chunk)
      : sigma_(sigma),
        chunk_(chunk),
        up_(static_cast<size_t>(chunk) + 1),
        down_(static_cast<size_t>(3 * chunk + kLanes)) {
    for (int64_t t = 0; t <= chunk; ++t) up_[t] = over(t);
    for (int64_t t = 0; t < chunk; ++t) down_[t] = up_[chunk - 1 - t];
  }
  float over(int64_t n) const { return static_cast<float>(std::exp(-sigma_ * static_cast<double>(n))); }
  float operator[](int64_t t) const { return up_[static_cast<size_t>(t)]; }
  // Of a query that stands `ahead` positions behind a chunk's first key: λ^(ahead − j) for key j <= ahead, 0 for later
  // ones.
  const float* pairs(int64_t ahead) const { return down_.data() + (chunk_ - 1 - ahead); }

 private:
  double sigma_;
  int64_t chunk_;
  std::vector<float> up_, down_;
};

struct ForwardPorts {
  sdk::HeadRows q, k, v, o;
  sdk::RowNumbers lse;
  sdk::StateBytes state_in, state_out;  // f32 [Hq, d, e]
};

struct BackwardPorts {
  sdk::HeadRows q, k, v, o, d_o, dq, dk, dv;
  sdk::RowNumbers lse;
  sdk::StateBytes state_in, d_state_in, d_state_out;
};

struct Problem {
  int64_t batch, t_q, t_k, heads, kv_heads, group, d, e, d_padded, e_padded, chunk;
  float scale;
  bool norm, listed, carried;  // carried: a state comes in
  std::vector<double> sigma;   // per head
  std::vector<Line> lines;
  std::vector<char> touched;  // rows of k that some chunk has
  int64_t max_spans = 0;

  Problem(const tn_attention_config& c, const tn_attention_shape& shape, int64_t chunk_, bool norm_,
          std::vector<double> sigma_, bool state_in, bool state_out)
      : batch(shape.batch),
        t_q(shape.t_q),
        t_k(shape.t_k),
        heads(c.n_heads),
        kv_heads(c.n_kv_heads),
        group(heads / kv_heads),
        d(c.d_qk),
        e(c.d_v),
        d_padded(round_up(d, kLanes)),
        e_padded(round_up(e, kLanes)),
        chunk(chunk_),
        scale(c.scale != 0 ? static_cast<float>(c.scale) : 1.0f),
        norm(norm_),
        listed(shape.segments != nullptr),
        carried(state_in),
        sigma(std::move(sigma_)),
        touched(static_cast<size_t>(shape.t_k)) {
    const sdk::Mask mask = sdk::lower_mask(shape);
    if (!mask.causal || mask.left >= 0 || mask.right >= 0)
      sdk::fail(TN_E_UNSUPPORTED, "lightning-attention is a recurrence: its mask is causal, without windows and sinks");
    if (shape.flags & TN_ATTENTION_PARTIAL)
      sdk::fail(TN_E_UNSUPPORTED,
                "partial results of lightning-attention do not merge by their log-sum; carry the state instead");
    for (const sdk::Segment& s : sdk::lower_segments(shape)) {
      if ((state_in || state_out) && (s.q_pos != s.k_pos || s.q_len != s.k_len || s.q_begin != s.k_begin))
        sdk::fail(TN_E_ARGUMENT,
                  "with a state, the rows of a segment of lightning-attention are queries and keys alike");
      lines.push_back(cut(s));
    }
  }

  // One token on the state that came in, at once.
  bool is_one_token(const ForwardPorts& f) const { return t_q == 1 && f.state_in && f.state_out && !listed; }
  double tokens() const {
    double n = 0;
    for (const Line& l : lines) n += static_cast<double>(l.segment.q_len);
    return n * static_cast<double>(batch);
  }

 private:
  Line cut(const sdk::Segment& s) {
    Line line{s, {}, {}, 1};
    const int64_t end = s.q_pos + s.q_len, k_end = s.k_pos + s.k_len;
    int64_t at = s.q_len == 0 ? end : s.k_len > 0 ? std::min(s.k_pos, s.q_pos) : s.q_pos;
    while (at < end) {
      Chunk c{std::min(chunk, end - at), 0, 0, 0, 0, 0, 0};
      const auto rows = [&](int64_t pos, int64_t stop, int64_t begin, int64_t& row, int64_t& n, int64_t& where) {
        const int64_t from = std::max(at, pos), to = std::min(at + c.n, stop);
        if (from < to) row = begin + from - pos, n = to - from, where = from - at;
      };
      rows(s.q_pos, end, s.q_begin, c.q_row, c.nq, c.q_at);
      rows(s.k_pos, k_end, s.k_begin, c.k_row, c.nk, c.k_at);
      if (c.nq == 0 && c.nk == 0) c.n = (s.k_len > 0 && s.k_pos > at ? std::min(s.k_pos, s.q_pos) : s.q_pos) - at;
      for (int64_t r = c.k_row; r < c.k_row + c.nk; ++r) {
        if (touched[static_cast<size_t>(r)])
          sdk::fail(TN_E_UNSUPPORTED, "segments of lightning-attention cannot share keys");
        touched[static_cast<size_t>(r)] = 1;
      }
      at += c.n;
      line.chunks.push_back(c);
    }
    for (size_t first = 0; first < line.chunks.size(); first += kSpanChunks) {
      Span span{first, std::min(first + static_cast<size_t>(kSpanChunks), line.chunks.size()), 0};
      for (size_t n = span.first; n < span.last; ++n) span.n += line.chunks[n].n;
      line.spans.push_back(span);
    }
    max_spans = std::max(max_spans, static_cast<int64_t>(line.spans.size()));
    return line;
  }
};

}  // namespace tenon::lightning
