// The forward pass: two schedules over the same tiles (FlashAttention, Dao et al. 2022, with the loop order of version
// 2).
//
// Packed: when keys are read by several row tiles, each (batch entry, key head) is packed once and shared by all query
// heads and row tiles; threads take row tiles. Split: when nearly every key is read once (decoding), each row tile
// packs what it reads, or where it has few rows reads keys and values where they lie, and its keys are split so that
// all threads have work; the parts are merged in order. Which one and how many parts follow from the shape alone.
#pragma once

#include <omp.h>

#include "sdk/attention/flash/few_rows.h"
#include "sdk/workspace.h"

namespace tenon::sdk::flash {

struct ForwardSchedule {
  bool split;
  int64_t wave;       // packed: (batch entry, key head) pairs packed at a time
  int64_t parts;      // split: parts of a row tile
  int64_t max_rows;   // of any row tile
  int64_t max_tasks;  // threads beyond this many have nothing to do

  explicit ForwardSchedule(const Problem& p) {
    constexpr int64_t kPackedBytes = int64_t{32} << 20, kMinTasks = 64, kMaxParts = 32;
    int64_t reads = 0, longest = 0;
    max_rows = 0;
    for (const RowTile& t : p.tiles) {
      max_rows = std::max<int64_t>(max_rows, t.rows);
      int64_t most = 0;
      for (int64_t g = 0; g < (p.pattern ? p.kv_heads : 1); ++g)
        most = std::max(most, static_cast<int64_t>(key_tiles(p, t, g).size()));
      reads += most, longest = std::max(longest, most);
    }
    const int64_t tasks = std::max<int64_t>(1, p.groups() * static_cast<int64_t>(p.tiles.size()));
    split = reads * kTileKeys < 2 * p.t_k || p.t_k == 0;
    const int64_t bytes = static_cast<int64_t>(sizeof(float)) * round_up(p.t_k, kPanel) * (p.d + p.e_padded);
    wave = split ? 0
                 : std::clamp<int64_t>(kPackedBytes / std::max<int64_t>(1, bytes), 1, std::max<int64_t>(1, p.groups()));
    const int64_t least_tiles = max_rows <= kFewRows ? 1 : 2;  // of a part
    parts = !split || tasks >= kMinTasks
                ? 1
                : std::clamp<int64_t>(longest / least_tiles, 1, std::min(kMaxParts, kMinTasks / tasks + 1));
    max_tasks = split ? tasks * parts : std::max<int64_t>(1, wave * static_cast<int64_t>(p.tiles.size()));
  }
};

struct ForwardMemory {
  float *k = nullptr, *v = nullptr;                // packed: [wave] panels, [wave] rows
  float *part_out = nullptr, *part_lse = nullptr;  // split: [task, part, max_rows, e_padded], [task, part, max_rows]
  std::vector<ForwardScratch> scratch;             // per thread
  std::vector<float*> tile_k, tile_v;              // split, per thread
  int64_t k_stride, v_stride;

  ForwardMemory(sdk::Workspace& w, const Problem& p, const ForwardSchedule& s, int64_t threads)
      : k_stride(round_up(p.t_k, kPanel) * p.d), v_stride(p.t_k * p.e_padded) {
    if (!s.split) k = w.take(s.wave * k_stride), v = w.take(s.wave * v_stride);
    if (s.parts > 1) {
      const int64_t n = p.groups() * static_cast<int64_t>(p.tiles.size()) * s.parts * s.max_rows;
      part_out = w.take(n * p.e_padded), part_lse = w.take(n);
    }
    for (int64_t t = 0; t < threads; ++t) {
      scratch.emplace_back(w, p);
      if (s.split) tile_k.push_back(w.take(kTileKeys * p.d)), tile_v.push_back(w.take(kTileKeys * p.e_padded));
    }
  }
};

// How keys and values are packed, in f32.
struct PackedFloats {
  static void pack(const ForwardCall& call, const ForwardMemory& memory, int64_t slot, int64_t b, int64_t head,
                   int64_t begin, int64_t end) {
    const Problem& p = call.problem;
    pack_transposed(call.ports.k, b, head, begin, end, memory.k + slot * memory.k_stride + begin * p.d);
    pack_rows(call.ports.v, b, head, begin, end, p.e_padded, memory.v + slot * memory.v_stride + begin * p.e_padded);
  }
  static void read(const ForwardCall& call, const RowTile& tile, int64_t b, int64_t head, float* query) {
    const Problem& p = call.problem;
    read_queries(p, call.ports.q, tile, b, head, p.query_factor(), p.d_padded, query);
  }
  static KeyRun keys(const Problem& p, const ForwardMemory& memory, int64_t slot, sdk::Run range) {
    return {
        {range, 0}, memory.k + slot * memory.k_stride, memory.v + slot * memory.v_stride + range.begin * p.e_padded};
  }
};

template <class Packed>
void forward_packed(const ForwardCall& call, const ForwardSchedule& plan, const ForwardMemory& memory, int threads) {
  constexpr int64_t kBlock = 4 * kPanel;
  const Problem& p = call.problem;
  const int64_t tiles = static_cast<int64_t>(p.tiles.size()), blocks = (p.t_k + kBlock - 1) / kBlock;
#pragma omp parallel num_threads(threads)
  for (int64_t first = 0; first < p.groups(); first += plan.wave) {
    const ForwardScratch& scratch = memory.scratch[omp_get_thread_num()];
    const int64_t wave = std::min(plan.wave, p.groups() - first);
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < wave * blocks; ++n) {
      const int64_t slot = n / blocks, begin = n % blocks * kBlock, end = std::min(begin + kBlock, p.t_k);
      const int64_t b = (first + slot) / p.kv_heads, head = (first + slot) % p.kv_heads;
      Packed::pack(call, memory, slot, b, head, begin, end);
    }
    // The last tiles see most keys under a causal mask: they go first.
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < wave * tiles; ++n) {
      const RowTile& tile = p.tiles[tiles - 1 - n / wave];
      const int64_t slot = n % wave, b = (first + slot) / p.kv_heads, head = (first + slot) % p.kv_heads;
      Packed::read(call, tile, b, head, scratch.query);
      Running run = scratch.run;
      clear(p, tile.rows, run);
      scratch.ahead.clear();
      scratch.ahead.add(p, call.ports.o, tile, b, head);
      if (const int64_t later = n + threads; later < wave * tiles)
        scratch.ahead.add(p, call.ports.q, p.tiles[tiles - 1 - later / wave], (first + later % wave) / p.kv_heads,
                          (first + later % wave) % p.kv_heads);
      const std::vector<sdk::Run> keys = key_tiles(p, tile, head);
      attend_all(call, tile, b, head, keys.data(), static_cast<int64_t>(keys.size()), false, scratch,
                 [&](sdk::Run range) { return Packed::keys(p, memory, slot, range); });
      finish(call, tile, b, head, run);
    }
  }
}

// Leaves one part normalized, with its log-sum in units of log 2.
inline void leave_part(const Problem& p, int64_t rows, const Running& run, float* out, float* lse) {
  for (int64_t r = 0; r < rows; ++r) {
    const bool seen = run.sum[r] != 0.0f;
    const float inverse = seen ? 1.0f / run.sum[r] : 0.0f;
    for (int64_t c = 0; c < p.e_padded; ++c) out[r * p.e_padded + c] = run.out[r * p.e_padded + c] * inverse;
    lse[r] = seen ? run.top[r] + std::log2(run.sum[r]) : -INFINITY;
  }
}

// The parts of one row tile as if one pass had seen all keys: top and sum stand for Σ exp2(L − top).
inline void join_parts(const Problem& p, const ForwardSchedule& plan, int64_t rows, const float* out, const float* lse,
                       Running& run) {
  clear(p, rows, run);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t part = 0; part < plan.parts; ++part) run.top[r] = std::max(run.top[r], lse[part * plan.max_rows + r]);
    for (int64_t part = 0; part < plan.parts; ++part) {
      const float part_lse = lse[part * plan.max_rows + r];
      if (part_lse == -INFINITY) continue;
      const float weight = std::exp2(part_lse - run.top[r]);
      const float* from = out + (part * plan.max_rows + r) * p.e_padded;
      run.sum[r] += weight;
      for (int64_t c = 0; c < p.e_padded; ++c) run.out[r * p.e_padded + c] += weight * from[c];
    }
  }
}

inline void forward_split(const ForwardCall& call, const ForwardSchedule& plan, const ForwardMemory& memory,
                          int threads) {
  const Problem& p = call.problem;
  const int64_t tiles = static_cast<int64_t>(p.tiles.size()), tasks = tiles * p.groups();
  const bool in_place = plan.max_rows <= kFewRows && readable_in_place(call);
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    const ForwardScratch& scratch = memory.scratch[thread];
    Running run = scratch.run;
#pragma omp for schedule(dynamic)
    for (int64_t n = 0; n < tasks * plan.parts; ++n) {
      const int64_t task = n / plan.parts, part = n % plan.parts, b = task / tiles / p.kv_heads,
                    head = task / tiles % p.kv_heads;
      const RowTile& tile = p.tiles[task % tiles];
      read_queries(p, call.ports.q, tile, b, head, p.query_factor(), p.d_padded, scratch.query);
      clear(p, tile.rows, run);
      const std::vector<sdk::Run> keys = key_tiles(p, tile, head);
      const int64_t count = static_cast<int64_t>(keys.size()), first = count * part / plan.parts,
                    end = count * (part + 1) / plan.parts;
      if (in_place) {
        for (int64_t t = first; t < end; ++t) attend_few(call, tile, b, head, keys[t], scratch);
      } else {
        attend_all(call, tile, b, head, keys.data() + first, end - first, true, scratch, [&](sdk::Run range) {
          pack_transposed(call.ports.k, b, head, range.begin, range.end, memory.tile_k[thread]);
          pack_rows(call.ports.v, b, head, range.begin, range.end, p.e_padded, memory.tile_v[thread]);
          return KeyRun{{range, range.begin}, memory.tile_k[thread], memory.tile_v[thread]};
        });
      }
      if (plan.parts == 1) {
        finish(call, tile, b, head, run);
      } else {
        leave_part(p, tile.rows, run, memory.part_out + n * plan.max_rows * p.e_padded,
                   memory.part_lse + n * plan.max_rows);
      }
    }
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < (plan.parts > 1 ? tasks : 0); ++task) {
      const RowTile& tile = p.tiles[task % tiles];
      const int64_t at = task * plan.parts * plan.max_rows;
      join_parts(p, plan, tile.rows, memory.part_out + at * p.e_padded, memory.part_lse + at, run);
      finish(call, tile, task / tiles / p.kv_heads, task / tiles % p.kv_heads, run);
    }
  }
}

}  // namespace tenon::sdk::flash
