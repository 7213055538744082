// The backward pass: threads take chunks of keys, keep dK and dV of their chunk to themselves, and add to the dQ of a
// row tile in the order of the chunks. A turn counter per row tile enforces that order, so results are the same bits
// for any number of threads and dQ needs one f32 copy. Chunks are handed out in order, so the lowest unfinished one
// never waits and nothing can lock up.
#pragma once

#include <omp.h>
#include <sched.h>

#include <atomic>

#include "sdk/attention/flash/backward_tile.h"

namespace tenon::sdk::flash {

using Turn = std::atomic<int32_t>;
static_assert(Turn::is_always_lock_free && sizeof(Turn) == sizeof(int32_t));

struct BackwardSchedule {
  int64_t chunks;  // of kChunkKeys keys
  int64_t wave;    // (batch entry, key head) pairs whose dQ is in memory at a time
  int64_t max_tasks;
  explicit BackwardSchedule(const Problem& p) {
    constexpr int64_t kQueryBytes = int64_t{64} << 20;
    const int64_t bytes = static_cast<int64_t>(sizeof(float)) * p.t_q * p.group * p.d_padded;
    chunks = (p.t_k + kChunkKeys - 1) / kChunkKeys;
    wave = std::clamp<int64_t>(kQueryBytes / std::max<int64_t>(1, bytes), 1, std::max<int64_t>(1, p.groups()));
    max_tasks = std::max<int64_t>(1, wave * std::max<int64_t>(chunks, 1));
  }
};

struct BackwardMemory {
  float *dq, *lse, *dot;  // [wave, t_q · group, d_padded], [wave, t_q · group] twice
  Turn* turns;            // [wave, row tiles]
  double* sink;           // [batch · heads]
  int64_t rows;
  std::vector<BackwardScratch> scratch;

  BackwardMemory(sdk::Workspace& w, const Problem& p, const BackwardSchedule& s, int64_t threads)
      : dq(w.take(s.wave * p.t_q * p.group * p.d_padded)),
        lse(w.take(s.wave * p.t_q * p.group)),
        dot(w.take(s.wave * p.t_q * p.group)),
        turns(w.take<Turn>(s.wave * static_cast<int64_t>(p.tiles.size()))),
        sink(w.take<double>(p.batch * p.heads)),
        rows(p.t_q * p.group) {
    for (int64_t t = 0; t < threads; ++t) scratch.emplace_back(w, p);
  }
};

// The chunks that each row tile visits, numbered in order: runs of chunks, by key head where a pattern tells them
// apart.
class ChunkVisits {
 public:
  explicit ChunkVisits(const Problem& p) : tiles_(p.tiles.size()), by_head_(p.pattern != nullptr), first_{0} {
    std::vector<sdk::Run> keys;
    for (int64_t g = 0; g < (by_head_ ? p.kv_heads : 1); ++g)
      for (const RowTile& tile : p.tiles) {
        keys.clear();
        p.key_runs(tile, g, keys);
        int64_t numbered = 0;
        for (const sdk::Run& r : keys) {
          sdk::Run c{r.begin / kChunkKeys, (r.end + kChunkKeys - 1) / kChunkKeys};
          if (runs_.size() > first_.back()) c.begin = std::max(c.begin, runs_.back().chunks.end);
          if (!c.size()) continue;
          runs_.push_back({c, numbered}), numbered += c.size();
        }
        first_.push_back(runs_.size());
      }
  }
  int64_t count(int64_t kv_head, size_t tile) const {
    const size_t at = place(kv_head, tile);
    if (first_[at] == first_[at + 1]) return 0;
    const Visit& last = runs_[first_[at + 1] - 1];
    return last.number + last.chunks.size();
  }
  // The number of chunk c, or −1.
  int64_t number(int64_t kv_head, size_t tile, int64_t c) const {
    const size_t at = place(kv_head, tile);
    const auto begin = runs_.begin() + static_cast<int64_t>(first_[at]),
               end = runs_.begin() + static_cast<int64_t>(first_[at + 1]);
    const auto after =
        std::upper_bound(begin, end, c, [](int64_t chunk, const Visit& v) { return chunk < v.chunks.begin; });
    if (after == begin) return -1;
    const Visit& v = *(after - 1);
    return c < v.chunks.end ? v.number + c - v.chunks.begin : -1;
  }

 private:
  struct Visit {
    sdk::Run chunks;
    int64_t number;  // of the first
  };
  size_t place(int64_t kv_head, size_t tile) const {
    return (by_head_ ? static_cast<size_t>(kv_head) * tiles_ : 0) + tile;
  }
  size_t tiles_;
  bool by_head_;
  std::vector<size_t> first_;
  std::vector<Visit> runs_;
};

inline void write_query_gradient(const BackwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head,
                                 const float* dq) {
  const Problem& p = call.problem;
  each_row(p, {&call.ports.dq}, tile, b, kv_head, kAhead, [&](int64_t r, int64_t token, int64_t head) {
    call.ports.dq.write(b, token, head, static_cast<float>(p.scale), dq + r * p.d_padded);
  });
}

inline float dot_product(const float* a, const float* b, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  Vec total{};
  for (int64_t c = 0; c < whole; c += kLanes) total += load(a + c) * load(b + c);
  float sum = horizontal_sum(total);
  for (int64_t c = whole; c < n; ++c) sum += a[c] * b[c];
  return sum;
}

// L and D of one row tile; dQ of a tile that sees no key is final here.
inline void prepare_rows(const BackwardCall& call, const RowTile& tile, int64_t b, int64_t kv_head, bool unseen,
                         const BackwardScratch& s, float* lse, float* dot, float* dq) {
  const Problem& p = call.problem;
  each_row(p, {&call.ports.o, &call.ports.d_o}, tile, b, kv_head, kAhead, [&](int64_t r, int64_t token, int64_t head) {
    call.ports.o.read(b, token, head, 1.0f, s.weight);
    call.ports.d_o.read(b, token, head, 1.0f, s.d_out);
    const float l = call.ports.lse.at(b, head, token);
    float sum = dot_product(s.weight, s.d_out, p.e);
    if (call.ports.d_lse) sum -= call.ports.d_lse.at(b, head, token);
    const bool seen = l != -INFINITY;
    lse[r] = seen ? l * kLog2E : INFINITY;
    dot[r] = seen ? sum : 0.0f;
  });
  if (unseen) {
    std::memset(dq, 0, sizeof(float) * tile.rows * p.d_padded);
    write_query_gradient(call, tile, b, kv_head, dq);
  }
}

inline void wait_for(const Turn& turn, int32_t number) {
  for (int spins = 0; turn.load(std::memory_order_acquire) != number; ++spins)
    if (spins > 1000) sched_yield();
}

struct GroupView {
  int64_t b, kv_head;
  float *dq, *lse, *dot;
  Turn* turns;
};

template <class Products>
void backward_chunk(const BackwardCall& call, const ChunkVisits& visits, const GroupView& g, int64_t c,
                    const BackwardScratch& s) {
  const Problem& p = call.problem;
  const sdk::Run chunk{c * kChunkKeys, std::min((c + 1) * kChunkKeys, p.t_k)};
  const int64_t size = chunk.end - chunk.begin;
  Products::pack(call, g.b, g.kv_head, chunk, s);
  std::memset(s.dk, 0, sizeof(float) * size * p.d_padded);
  std::memset(s.dv, 0, sizeof(float) * size * p.e_padded);
  std::vector<sdk::Run> runs;
  for (size_t t = 0; t < p.tiles.size(); ++t) {
    const RowTile& tile = p.tiles[t];
    const int64_t number = visits.number(g.kv_head, t, c);
    if (number < 0) continue;
    chunk_runs(p, tile, g.kv_head, chunk, runs);
    const int64_t row = p.first_row(tile);
    s.ahead.clear();
    for (size_t later = t + 1; later < p.tiles.size(); ++later)
      if (visits.number(g.kv_head, later, c) >= 0) {
        s.ahead.add(p, call.ports.q, p.tiles[later], g.b, g.kv_head);
        s.ahead.add(p, call.ports.d_o, p.tiles[later], g.b, g.kv_head);
        break;
      }
    Products::chunk_against_rows(call, tile, g.b, g.kv_head, chunk, runs, g.lse + row, g.dot + row, s);
    float* dq = g.dq + row * p.d_padded;
    wait_for(g.turns[t], static_cast<int32_t>(number));
    Products::add_query_gradient(p, tile, chunk, runs, s, dq, number > 0);
    if (number + 1 == visits.count(g.kv_head, t)) write_query_gradient(call, tile, g.b, g.kv_head, dq);
    g.turns[t].store(static_cast<int32_t>(number + 1), std::memory_order_release);
  }
  const float dk_factor = Products::key_factor(p);
  for (int64_t j = 0; j < size; ++j) {
    call.ports.dk.write(g.b, chunk.begin + j, g.kv_head, dk_factor, s.dk + j * p.d_padded);
    call.ports.dv.write(g.b, chunk.begin + j, g.kv_head, 1.0f, s.dv + j * p.e_padded);
  }
}

// dz_h = − Σ exp(z_h − L_i) D_i over the rows of one batch entry.
inline double sink_gradient(const BackwardCall& call, const GroupView& g, int64_t head) {
  const Problem& p = call.problem;
  const double logit = static_cast<double>(call.ports.sink_logit.at(0, head, 0));
  double sum = 0;
  for (int64_t t = 0, row = head % p.group; t < p.t_q; ++t, row += p.group)
    if (const double lse = static_cast<double>(call.ports.lse.at(g.b, head, t)); lse != -INFINITY)
      sum -= std::exp(logit - lse) * g.dot[row];
  return sum;
}

template <class Products>
void backward_all(const BackwardCall& call, const BackwardSchedule& plan, const BackwardMemory& memory, int threads) {
  const Problem& p = call.problem;
  const int64_t tiles = static_cast<int64_t>(p.tiles.size());
  const bool with_sink = call.ports.sink_logit && call.ports.d_sink_logit;
  const ChunkVisits visits(p);
  std::atomic<int64_t> next{0};
  const auto group = [&](int64_t first, int64_t slot) {
    return GroupView{
        (first + slot) / p.kv_heads,     (first + slot) % p.kv_heads,     memory.dq + slot * memory.rows * p.d_padded,
        memory.lse + slot * memory.rows, memory.dot + slot * memory.rows, memory.turns + slot * tiles};
  };
#pragma omp parallel num_threads(threads)
  for (int64_t first = 0; first < p.groups(); first += plan.wave) {
    const BackwardScratch& scratch = memory.scratch[omp_get_thread_num()];
    const int64_t wave = std::min(plan.wave, p.groups() - first);
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < wave * tiles; ++n) {
      const GroupView g = group(first, n / tiles);
      const RowTile& tile = p.tiles[n % tiles];
      const int64_t row = p.first_row(tile);
      prepare_rows(call, tile, g.b, g.kv_head, visits.count(g.kv_head, static_cast<size_t>(n % tiles)) == 0, scratch,
                   g.lse + row, g.dot + row, g.dq + row * p.d_padded);
      new (&g.turns[n % tiles]) Turn(0);
    }
#pragma omp for
    for (int64_t n = 0; n < (with_sink ? wave * p.group : 0); ++n) {
      const GroupView g = group(first, n / p.group);
      const int64_t head = g.kv_head * p.group + n % p.group;
      memory.sink[g.b * p.heads + head] = sink_gradient(call, g, head);
    }
#pragma omp single
    next.store(0);
    for (int64_t n; (n = next.fetch_add(1)) < wave * plan.chunks;)
      backward_chunk<Products>(call, visits, group(first, n % wave), n / wave, scratch);
#pragma omp barrier
  }
  for (int64_t h = 0; h < (with_sink ? p.heads : 0); ++h) {
    double sum = 0;
    for (int64_t b = 0; b < p.batch; ++b) sum += memory.sink[b * p.heads + h];
    float& out = call.ports.d_sink_logit.at(0, h, 0);
    out = static_cast<float>(sum) + (call.ports.d_sink_logit.accumulate ? out : 0.0f);
  }
}

}  // namespace tenon::sdk::flash
