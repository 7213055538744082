// Decoding with the cache: rows go in one by one, each query sees what its head has kept.
#pragma once

#include "cache.h"
#include "sdk/attention/flash/kernel.h"

namespace tenon::s2 {

// Rows of a group's memory, as a pattern of the dense kernel: position = row.
class Kept final : public sdk::flash::BlockPattern {
 public:
  Kept(const Cache& cache, const Cache::Group& group, int64_t last)
      : BlockPattern(int64_t{1} << 40), runs_(static_cast<size_t>(group.heads)) {
    for (int64_t h = 0; h < group.heads; ++h) cache.visible(group, h, last, runs_[static_cast<size_t>(h)]);
  }
  void runs(int64_t g, int64_t, Run limit, std::vector<Run>& out) const override {
    for (const Run& r : runs_[static_cast<size_t>(g)]) sdk::flash::append_run(out, out.size(), r.begin, r.end, limit);
  }

 private:
  std::vector<std::vector<Run>> runs_;
};

// One query of every head of a group over the group's memory.
inline sdk::flash::Problem one_query(const tn_attention_config& whole, const Cache& cache, const Cache::Group& g,
                                     int64_t block, int64_t last, tn_dtype dtype) {
  tn_attention_config config = whole;
  config.n_heads = static_cast<uint32_t>(g.heads * (whole.n_heads / whole.n_kv_heads)),
  config.n_kv_heads = static_cast<uint32_t>(g.heads);
  tn_attention_shape shape{};
  shape.struct_size = sizeof shape;
  shape.batch = 1, shape.t_q = 1, shape.t_k = g.rows(block), shape.dtype = dtype;
  return {config, shape, std::make_shared<Kept>(cache, g, last)};
}

// Position p of one sequence: k and v are rows of the call.
inline void remember(const Cache& cache, const sdk::HeadRows& k, const sdk::HeadRows& v, int64_t b, int64_t row,
                     int64_t p, char* state) {
  for (const Cache::Group& g : cache.groups()) {
    cache.begin_tile(g, p, state);
    const sdk::HeadRows keys = cache.keys(g, state), values = cache.values(g, state);
    for (int64_t h = 0; h < g.heads; ++h) {
      const int64_t to = cache.row(g, h, p, p);
      std::memcpy(keys.at(0, to, h), k.at(b, row, g.first + h), static_cast<size_t>(keys.token));
      std::memcpy(values.at(0, to, h), v.at(b, row, g.first + h), static_cast<size_t>(values.token));
    }
  }
}

// After a prefill of n positions from 0 on: what the next query may see, and nothing else.
inline void remember_all(const Cache& cache, const sdk::HeadRows& k, const sdk::HeadRows& v, int64_t b, int64_t n,
                         char* state) {
  for (const Cache::Group& g : cache.groups()) {
    const sdk::HeadRows keys = cache.keys(g, state), values = cache.values(g, state);
    for (int64_t h = 0; h < g.heads; ++h)
      for (int64_t p = 0; p < n; ++p) {
        const int64_t to = cache.row(g, h, p, n - 1);
        if (to < 0) continue;
        std::memcpy(keys.at(0, to, h), k.at(b, p, g.first + h), static_cast<size_t>(keys.token));
        std::memcpy(values.at(0, to, h), v.at(b, p, g.first + h), static_cast<size_t>(values.token));
      }
  }
}

}  // namespace tenon::s2
