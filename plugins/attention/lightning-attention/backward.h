// The backward pass: states at the beginnings of spans and their gradients at the ends first (what each span adds, in
// parallel, then one sum along each sequence), then all spans at once, in which the states of chunks are computed
// again.
#pragma once

#include "forward.h"

namespace tenon::lightning {

struct BackwardScratch {
  float *query, *query_decayed, *d_out, *d_out_decayed, *key, *key_decayed, *value, *value_decayed;
  float *key_panels, *value_panels, *score, *d_score, *dq, *out;
  float *states, *gradient, *gradient_t;  // Sᵀ [chunk of the span, e, d] ; D [d, e], Dᵀ
  float *dk, *dv;                         // [positions of a span, ...]
  BackwardScratch(sdk::Workspace& w, const Problem& p) {
    for (float** x : {&query, &query_decayed, &key, &key_decayed, &dq}) *x = w.take(p.chunk * p.d_padded);
    for (float** x : {&d_out, &d_out_decayed, &value, &value_decayed, &out}) *x = w.take(p.chunk * p.e_padded);
    key_panels = w.take(round_up(p.chunk, kPanel) * p.d), value_panels = w.take(round_up(p.chunk, kPanel) * p.e);
    for (float** x : {&score, &d_score}) *x = w.take(p.chunk * round_up(p.chunk, kLanes));
    states = w.take((kSpanChunks + 1) * p.d_padded * p.e_padded);
    for (float** x : {&gradient, &gradient_t}) *x = w.take(p.d_padded * p.e_padded);
    dk = w.take(kSpanChunks * p.chunk * p.d_padded), dv = w.take(kSpanChunks * p.chunk * p.e_padded);
  }
};

struct BackwardSchedule {
  int64_t pairs, spans, max_tasks;
  explicit BackwardSchedule(const Problem& p)
      : pairs(p.batch * static_cast<int64_t>(p.lines.size()) * p.heads),
        spans(std::max<int64_t>(1, p.max_spans)),
        max_tasks(std::max<int64_t>(1, pairs * spans)) {}
};

struct BackwardMemory {
  float *begin, *end;  // [pair, span]: Sᵀ at its beginning, D at its end
  std::vector<BackwardScratch> scratch;
  BackwardMemory(sdk::Workspace& w, const Problem& p, const BackwardSchedule& s, int64_t threads)
      : begin(w.take(s.pairs * s.spans * p.d_padded * p.e_padded)),
        end(w.take(s.pairs * s.spans * p.d_padded * p.e_padded)) {
    for (int64_t t = 0; t < threads; ++t) scratch.emplace_back(w, p);
  }
};

// dO of a chunk's rows before the output norm: through y = o / m, m = sqrt(mean o² + ε), dO = (dy − y mean(y ∘ dy)) /
// m.
inline void read_gradient(const Problem& p, const BackwardPorts& ports, const Chunk& c, int64_t b, int64_t h,
                          const BackwardScratch& s) {
  read_rows(ports.d_o, b, h, c.q_row, c.nq, p.e_padded, 1.0f, s.d_out);
  if (!p.norm) return;
  read_rows(ports.o, b, h, c.q_row, c.nq, p.e_padded, 1.0f, s.out);
  for (int64_t r = 0; r < c.nq; ++r) {
    float *dy = s.d_out + r * p.e_padded, *y = s.out + r * p.e_padded;
    const float lse = ports.lse.at(b, h, c.q_row + r), inverse = lse == -INFINITY ? 0.0f : std::exp(-lse);
    Vec sum{};
    for (int64_t x = 0; x < p.e_padded; x += kLanes) sum += load(y + x) * load(dy + x);
    const float mean = horizontal_sum(sum) / static_cast<float>(p.e);
    for (int64_t x = 0; x < p.e_padded; x += kLanes) store(dy + x, (load(dy + x) - load(y + x) * mean) * inverse);
  }
}

inline void read_keys(const Problem& p, const BackwardPorts& ports, const Chunk& c, const Powers& powers, int64_t b,
                      int64_t g, const BackwardScratch& s) {
  if (c.nk == 0) return;
  const auto weight = [&](int64_t j) { return powers[c.n - 1 - c.k_at - j]; };
  read_rows(ports.k, b, g, c.k_row, c.nk, p.d_padded, 1.0f, s.key),
      read_rows(ports.v, b, g, c.k_row, c.nk, p.e_padded, 1.0f, s.value);
  scaled_rows(s.key, c.nk, p.d_padded, weight, s.key_decayed),
      scaled_rows(s.value, c.nk, p.e_padded, weight, s.value_decayed);
}

inline void read_queries(const Problem& p, const BackwardPorts& ports, const Chunk& c, const Powers& powers, int64_t b,
                         int64_t h, const BackwardScratch& s) {
  if (c.nq == 0) return;
  const auto weight = [&](int64_t r) { return powers[c.q_at + r + 1]; };
  read_rows(ports.q, b, h, c.q_row, c.nq, p.d_padded, p.scale, s.query);
  read_gradient(p, ports, c, b, h, s);
  scaled_rows(s.query, c.nq, p.d_padded, weight, s.query_decayed),
      scaled_rows(s.d_out, c.nq, p.e_padded, weight, s.d_out_decayed);
}

// Sᵀ, [e, d padded], and D, [d, e padded], over one chunk, from what the scratch holds.
inline void advance_transposed(const Problem& p, const Chunk& c, const Powers& powers, const BackwardScratch& s,
                               float* state) {
  advance(state, p.e, p.e_padded, p.d_padded, c.nk, s.value, s.key_decayed, powers.over(c.n));
}
inline void retreat(const Problem& p, const Chunk& c, const Powers& powers, const BackwardScratch& s, float* gradient) {
  advance(gradient, p.d, p.d_padded, p.e_padded, c.nq, s.query_decayed, s.d_out, powers.over(c.n));
}

// One chunk, with the state before it and the gradient of the state after it in the scratch; dk and dv are added to.
inline void backward_chunk(const Problem& p, const BackwardPorts& ports, const Chunk& c, const Powers& powers,
                           int64_t b, int64_t h, const float* state, const BackwardScratch& s, float* dk, float* dv) {
  const int64_t g = h / p.group, ld = round_up(p.chunk, kLanes);
  read_keys(p, ports, c, powers, b, g, s), read_queries(p, ports, c, powers, b, h, s);
  if (c.nk > 0) {
    transpose_all(s.gradient, p.d_padded, p.e_padded, s.gradient_t);
    multiply<false>(c.nk, p.d_padded, p.e, {s.value_decayed, p.e_padded}, row_major(s.gradient_t, p.d_padded), dk,
                    p.d_padded, true);
    multiply<false>(c.nk, p.e_padded, p.d, {s.key_decayed, p.d_padded}, row_major(s.gradient, p.e_padded), dv,
                    p.e_padded, true);
  }
  if (c.nq > 0) {
    multiply<false>(c.nq, p.d_padded, p.e, {s.d_out_decayed, p.e_padded}, row_major(state, p.d_padded), s.dq,
                    p.d_padded, false);
    if (c.nk > 0) {
      pack_transposed(ports.k, b, g, c.k_row, c.k_row + c.nk, s.key_panels),
          pack_transposed(ports.v, b, g, c.k_row, c.k_row + c.nk, s.value_panels);
      decayed_scores(c, powers, p.d, s.query, p.d_padded, s.key_panels, s.score, ld);
      decayed_scores(c, powers, p.e, s.d_out, p.e_padded, s.value_panels, s.d_score, ld);
      times_scores(c, s.d_score, ld, s.key, p.d_padded, s.dq, true);
      multiply<true>(c.nk, p.d_padded, c.nq, {s.d_score, ld}, row_major(s.query, p.d_padded), dk, p.d_padded, true);
      multiply<true>(c.nk, p.e_padded, c.nq, {s.score, ld}, row_major(s.d_out, p.e_padded), dv, p.e_padded, true);
    }
    for (int64_t r = 0; r < c.nq; ++r) ports.dq.write(b, c.q_row + r, h, p.scale, s.dq + r * p.d_padded);
  }
  retreat(p, c, powers, s, s.gradient);
}

// What each span adds to the state, and to the gradient of the state before it.
inline void add_up_span(const Problem& p, const BackwardPorts& ports, const Line& line, const Span& span,
                        const Powers& powers, int64_t b, int64_t h, const BackwardScratch& s, float* state,
                        float* gradient) {
  const int64_t bytes = static_cast<int64_t>(sizeof(float)) * p.d_padded * p.e_padded;
  if (state) {
    std::memset(state, 0, static_cast<size_t>(bytes));
    for (size_t c = span.first; c < span.last; ++c) {
      read_keys(p, ports, line.chunks[c], powers, b, h / p.group, s);
      advance_transposed(p, line.chunks[c], powers, s, state);
    }
  }
  if (!gradient) return;
  std::memset(gradient, 0, static_cast<size_t>(bytes));
  for (size_t c = span.last; c-- > span.first;) {
    read_queries(p, ports, line.chunks[c], powers, b, h, s);
    retreat(p, line.chunks[c], powers, s, gradient);
  }
}

inline void backward_span(const Problem& p, const BackwardPorts& ports, const Line& line, const Span& span, int64_t b,
                          int64_t g, const float* begin, const float* end, int64_t stride, bool first_span, int64_t row,
                          const BackwardScratch& s) {
  const int64_t size = p.d_padded * p.e_padded;
  std::memset(s.dk, 0, sizeof(float) * kSpanChunks * p.chunk * p.d_padded);
  std::memset(s.dv, 0, sizeof(float) * kSpanChunks * p.chunk * p.e_padded);
  for (int64_t h = g * p.group; h < (g + 1) * p.group; ++h) {
    const Powers powers(p.sigma[h], p.chunk);
    std::memcpy(s.states, begin + (h - g * p.group) * stride, sizeof(float) * size);
    std::memcpy(s.gradient, end + (h - g * p.group) * stride, sizeof(float) * size);
    const int64_t n = static_cast<int64_t>(span.last - span.first);
    for (int64_t c = 0; c + 1 < n; ++c) {
      const Chunk& chunk = line.chunks[span.first + c];
      std::memcpy(s.states + (c + 1) * size, s.states + c * size, sizeof(float) * size);
      read_keys(p, ports, chunk, powers, b, g, s);
      advance_transposed(p, chunk, powers, s, s.states + (c + 1) * size);
    }
    for (int64_t c = n; c-- > 0;)
      backward_chunk(p, ports, line.chunks[span.first + c], powers, b, h, s.states + c * size, s,
                     s.dk + c * p.chunk * p.d_padded, s.dv + c * p.chunk * p.e_padded);
    if (first_span && ports.d_state_in) write_state(p, s.gradient, ports.d_state_in, row, h);
  }
  for (size_t c = span.first; c < span.last; ++c)
    for (int64_t j = 0; j < line.chunks[c].nk; ++j) {
      const int64_t at = static_cast<int64_t>(c - span.first) * p.chunk + j;
      ports.dk.write(b, line.chunks[c].k_row + j, g, 1.0f, s.dk + at * p.d_padded);
      ports.dv.write(b, line.chunks[c].k_row + j, g, 1.0f, s.dv + at * p.e_padded);
    }
}

// Keys that no query comes behind have no gradient.
inline void clear_untouched(const Problem& p, const BackwardPorts& ports) {
  const std::vector<float> zeros(static_cast<size_t>(std::max(p.d, p.e)));
  for (int64_t row = 0; row < p.t_k; ++row) {
    if (p.touched[static_cast<size_t>(row)]) continue;
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t g = 0; g < p.kv_heads; ++g)
        ports.dk.write(b, row, g, 1.0f, zeros.data()), ports.dv.write(b, row, g, 1.0f, zeros.data());
  }
}

inline void backward_all(const Problem& p, const BackwardPorts& ports, const BackwardSchedule& plan,
                         const BackwardMemory& memory, int threads) {
  const int64_t lines = static_cast<int64_t>(p.lines.size()), size = p.d_padded * p.e_padded,
                stride = plan.spans * size;
  const auto row_of = [&](int64_t pair) { return p.listed ? pair / p.heads % lines : pair / p.heads / lines; };
  clear_untouched(p, ports);
#pragma omp parallel num_threads(threads)
  {
    const BackwardScratch& s = memory.scratch[omp_get_thread_num()];
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < plan.pairs * plan.spans; ++n) {
      const int64_t pair = n / plan.spans, span = n % plan.spans, h = pair % p.heads;
      const Line& line = p.lines[pair / p.heads % lines];
      const int64_t last = static_cast<int64_t>(line.spans.size()) - 1;
      if (span > last || last == 0) continue;
      add_up_span(p, ports, line, line.spans[span], Powers(p.sigma[h], p.chunk), pair / p.heads / lines, h, s,
                  span < last ? memory.begin + (n + 1) * size : nullptr,
                  span > 0 ? memory.end + (n - 1) * size : nullptr);
    }
#pragma omp for
    for (int64_t pair = 0; pair < plan.pairs; ++pair) {
      const Line& line = p.lines[pair / p.heads % lines];
      const int64_t h = pair % p.heads, last = std::max<int64_t>(1, static_cast<int64_t>(line.spans.size())) - 1;
      const Powers powers(p.sigma[h], 1);
      float *begin = memory.begin + pair * stride, *end = memory.end + pair * stride;
      read_state(p, ports.state_in, row_of(pair), h, s.gradient);
      transpose_all(s.gradient, p.d_padded, p.e_padded, begin);
      read_state(p, ports.d_state_out, row_of(pair), h, end + last * size);
      for (int64_t span = 1; span <= last; ++span) {
        const float decay = powers.over(line.spans[span - 1].n);
        for (int64_t c = 0; c < size; ++c) begin[span * size + c] += decay * begin[(span - 1) * size + c];
      }
      for (int64_t span = last; span-- > 0;) {
        const float decay = powers.over(line.spans[span + 1].n);
        for (int64_t c = 0; c < size; ++c) end[span * size + c] += decay * end[(span + 1) * size + c];
      }
      if (line.spans.empty() && ports.d_state_in) write_state(p, end, ports.d_state_in, row_of(pair), h);
    }
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < plan.pairs / p.group * plan.spans; ++n) {
      const int64_t part = n / plan.spans, span = n % plan.spans, g = part % p.kv_heads, at = part / p.kv_heads,
                    b = at / lines;
      const Line& line = p.lines[at % lines];
      if (span >= static_cast<int64_t>(line.spans.size())) continue;
      const int64_t pair = at * p.heads + g * p.group;
      backward_span(p, ports, line, line.spans[span], b, g, memory.begin + pair * stride + span * size,
                    memory.end + pair * stride + span * size, stride, span == 0, row_of(pair), s);
    }
  }
}

}  // namespace tenon::lightning
