// The forward pass. Where (sequence, head) pairs are few, spans run in parallel: first what each span adds to the
// state, then the states at their beginnings, then the outputs.
#pragma once

#include <omp.h>

#include "chunk.h"

namespace tenon::lightning {

struct ForwardScratch {
  float *query, *query_decayed, *key, *key_panels, *value, *score, *out, *state;
  ForwardScratch(sdk::Workspace& w, const Problem& p)
      : query(w.take(p.chunk * p.d_padded)),
        query_decayed(w.take(p.chunk * p.d_padded)),
        key(w.take(p.chunk * p.d_padded)),
        key_panels(w.take(round_up(p.chunk, kPanel) * p.d)),
        value(w.take(p.chunk * p.e_padded)),
        score(w.take(p.chunk * round_up(p.chunk, kLanes))),
        out(w.take(p.chunk * p.e_padded)),
        state(w.take(p.d_padded * p.e_padded)) {}
};

struct ForwardSchedule {
  bool by_span;
  int64_t spans, max_tasks;
  explicit ForwardSchedule(const Problem& p)
      : by_span(p.batch * static_cast<int64_t>(p.lines.size()) * p.heads < kMinTasks && p.max_spans > 1),
        spans(by_span ? p.max_spans : 1),
        max_tasks(std::max<int64_t>(1, p.batch * static_cast<int64_t>(p.lines.size()) * p.heads * spans)) {}
};

struct ForwardMemory {
  float* begin = nullptr;  // [task of (batch, line, head), span]: the state at a span's beginning
  std::vector<ForwardScratch> scratch;
  ForwardMemory(sdk::Workspace& w, const Problem& p, const ForwardSchedule& s, int64_t threads) {
    if (s.by_span)
      begin = w.take(p.batch * static_cast<int64_t>(p.lines.size()) * p.heads * s.spans * p.d_padded * p.e_padded);
    for (int64_t t = 0; t < threads; ++t) scratch.emplace_back(w, p);
  }
};

// The state of a segment in the host's memory; one row a batch entry, or a segment of a list.
inline void read_state(const Problem& p, const sdk::StateBytes& from, int64_t row, int64_t h, float* to) {
  std::memset(to, 0, sizeof(float) * p.d_padded * p.e_padded);
  if (!from) return;
  const float* s = reinterpret_cast<const float*>(from.at(row)) + h * p.d * p.e;
  for (int64_t c = 0; c < p.d; ++c) std::memcpy(to + c * p.e_padded, s + c * p.e, sizeof(float) * p.e);
}
inline void write_state(const Problem& p, const float* from, const sdk::StateBytes& to, int64_t row, int64_t h) {
  float* s = reinterpret_cast<float*>(to.at(row)) + h * p.d * p.e;
  for (int64_t c = 0; c < p.d; ++c) std::memcpy(s + c * p.e, from + c * p.e_padded, sizeof(float) * p.e);
}

// S over one chunk.
inline void advance_state(const Problem& p, const ForwardPorts& ports, const Chunk& c, const Powers& powers, int64_t b,
                          int64_t g, const ForwardScratch& s, float* state) {
  if (c.nk > 0) {
    read_rows(ports.k, b, g, c.k_row, c.nk, p.d_padded, 1.0f, s.key);
    scaled_rows(
        s.key, c.nk, p.d_padded, [&](int64_t j) { return powers[c.n - 1 - c.k_at - j]; }, s.key);
  }
  advance(state, p.d, p.d_padded, p.e_padded, c.nk, s.key, s.value, powers.over(c.n));
}

// Divides by the root of the mean square where that is asked for; the log of the divisor is the row's LSE.
inline void finish_rows(const Problem& p, const ForwardPorts& ports, const Line& line, const Chunk& c, int64_t position,
                        int64_t b, int64_t h, float* out) {
  for (int64_t r = 0; r < c.nq; ++r, out += p.e_padded) {
    const bool seen = p.carried || (line.segment.k_len > 0 && position + c.q_at + r >= line.segment.k_pos);
    float factor = 1.0f, lse = seen ? 0.0f : -INFINITY;
    if (p.norm && seen) {
      Vec sum{};
      for (int64_t x = 0; x < p.e_padded; x += kLanes) sum += load(out + x) * load(out + x);
      const float square = horizontal_sum(sum) / static_cast<float>(p.e) + static_cast<float>(kEpsilon);
      factor = 1.0f / std::sqrt(square), lse = 0.5f * std::log(square);
    }
    ports.o.write(b, c.q_row + r, h, factor, out);
    if (ports.lse) ports.lse.at(b, h, c.q_row + r) = lse;
  }
}

inline void forward_chunk(const Problem& p, const ForwardPorts& ports, const Line& line, const Chunk& c,
                          int64_t position, const Powers& powers, int64_t b, int64_t h, const ForwardScratch& s,
                          float* state) {
  const int64_t g = h / p.group, ld = round_up(p.chunk, kLanes);
  if (c.nk > 0) read_rows(ports.v, b, g, c.k_row, c.nk, p.e_padded, 1.0f, s.value);
  if (c.nq > 0) {
    read_rows(ports.q, b, h, c.q_row, c.nq, p.d_padded, p.scale, s.query);
    scaled_rows(
        s.query, c.nq, p.d_padded, [&](int64_t r) { return powers[c.q_at + r + 1]; }, s.query_decayed);
    multiply<false>(c.nq, p.e_padded, p.d, {s.query_decayed, p.d_padded}, row_major(state, p.e_padded), s.out,
                    p.e_padded, false);
    if (c.nk > 0) {
      pack_transposed(ports.k, b, g, c.k_row, c.k_row + c.nk, s.key_panels);
      decayed_scores(c, powers, p.d, s.query, p.d_padded, s.key_panels, s.score, ld);
      times_scores(c, s.score, ld, s.value, p.e_padded, s.out, true);
    }
    finish_rows(p, ports, line, c, position, b, h, s.out);
  }
  advance_state(p, ports, c, powers, b, g, s, state);
}

inline void forward_all(const Problem& p, const ForwardPorts& ports, const ForwardSchedule& plan,
                        const ForwardMemory& memory, int threads) {
  const int64_t lines = static_cast<int64_t>(p.lines.size()), pairs = p.batch * lines * p.heads,
                size = p.d_padded * p.e_padded;
  const auto begin_of = [&](int64_t pair, int64_t span) { return memory.begin + (pair * plan.spans + span) * size; };
  const auto row_of = [&](int64_t pair) { return p.listed ? pair / p.heads % lines : pair / p.heads / lines; };
#pragma omp parallel num_threads(threads)
  {
    const ForwardScratch& s = memory.scratch[omp_get_thread_num()];
    if (plan.by_span) {
#pragma omp for schedule(dynamic)
      for (int64_t n = 0; n < pairs * (plan.spans - 1); ++n) {
        const int64_t pair = n / (plan.spans - 1), span = n % (plan.spans - 1), h = pair % p.heads;
        const Line& line = p.lines[pair / p.heads % lines];
        if (span + 1 >= static_cast<int64_t>(line.spans.size())) continue;
        const Powers powers(p.sigma[h], p.chunk);
        float* state = begin_of(pair, span + 1);
        std::memset(state, 0, sizeof(float) * size);
        for (size_t c = line.spans[span].first; c < line.spans[span].last; ++c) {
          const Chunk& chunk = line.chunks[c];
          if (chunk.nk > 0)
            read_rows(ports.v, pair / p.heads / lines, h / p.group, chunk.k_row, chunk.nk, p.e_padded, 1.0f, s.value);
          advance_state(p, ports, chunk, powers, pair / p.heads / lines, h / p.group, s, state);
        }
      }
#pragma omp for
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const Line& line = p.lines[pair / p.heads % lines];
        const Powers powers(p.sigma[pair % p.heads], 1);
        read_state(p, ports.state_in, row_of(pair), pair % p.heads, begin_of(pair, 0));
        for (int64_t span = 1; span < static_cast<int64_t>(line.spans.size()); ++span) {
          const float *before = begin_of(pair, span - 1), decay = powers.over(line.spans[span - 1].n);
          float* state = begin_of(pair, span);
#pragma omp simd
          for (int64_t c = 0; c < size; ++c) state[c] += decay * before[c];
        }
      }
    }
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < pairs * plan.spans; ++n) {
      const int64_t pair = n / plan.spans, span = n % plan.spans, h = pair % p.heads, b = pair / p.heads / lines;
      const Line& line = p.lines[pair / p.heads % lines];
      const int64_t last = static_cast<int64_t>(line.spans.size());
      if (span >= std::max<int64_t>(last, 1)) continue;
      const Powers powers(p.sigma[h], p.chunk);
      if (plan.by_span && last > 0)
        std::memcpy(s.state, begin_of(pair, span), sizeof(float) * size);
      else
        read_state(p, ports.state_in, row_of(pair), h, s.state);
      int64_t position = line.segment.k_len > 0 ? std::min(line.segment.k_pos, line.segment.q_pos) : line.segment.q_pos;
      const size_t first = plan.by_span && last > 0 ? line.spans[span].first : 0,
                   end = plan.by_span && last > 0 ? line.spans[span].last : line.chunks.size();
      for (size_t c = 0; c < first; ++c) position += line.chunks[c].n;
      for (size_t c = first; c < end; ++c) {
        forward_chunk(p, ports, line, line.chunks[c], position, powers, b, h, s, s.state);
        position += line.chunks[c].n;
      }
      if (ports.state_out && end == line.chunks.size()) write_state(p, s.state, ports.state_out, row_of(pair), h);
    }
  }
}

// One token on a state: S' = λ S + k vᵀ, o = q S', in one pass over the state.
inline void decode_token(const Problem& p, const ForwardPorts& ports, int threads) {
  const int64_t pairs = p.batch * p.heads;
#pragma omp parallel for num_threads(threads)
  for (int64_t n = 0; n < pairs; ++n) {
    const int64_t b = n / p.heads, h = n % p.heads, g = h / p.group, e = p.e;
    alignas(64) float q[kMaxWidth], k[kMaxWidth], v[kMaxWidth], out[kMaxWidth] = {};
    ports.q.read(b, 0, h, p.scale, q), ports.k.read(b, 0, g, 1.0f, k), ports.v.read(b, 0, g, 1.0f, v);
    const float decay = static_cast<float>(std::exp(-p.sigma[h]));
    const float* from = reinterpret_cast<const float*>(ports.state_in.at(b)) + h * p.d * e;
    float* to = reinterpret_cast<float*>(ports.state_out.at(b)) + h * p.d * e;
    for (int64_t c = 0; c < p.d; ++c) {
      const float weight = q[c], key = k[c];
      for (int64_t x = 0; x < e; ++x) {
        const float s = decay * from[c * e + x] + key * v[x];
        to[c * e + x] = s, out[x] += weight * s;
      }
    }
    finish_rows(p, ports, p.lines[0], {1, 0, 1, 0, 0, 1, 0}, p.lines[0].segment.q_pos, b, h, out);
  }
}

}  // namespace tenon::lightning
