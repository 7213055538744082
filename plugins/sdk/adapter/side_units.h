// Which of the backbone's units a narrower copy of it takes, each choice in ascending order.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "sdk/adapter/base.h"
#include "sdk/adapter/scratch.h"
#include "tenon/region.h"

namespace tenon::sdk::side {

// Of the residual stream, one choice for all blocks; of one block's MLP; of what its heads write, a choice for each key head. Queries and keys
// have no choice: pairs that rotation turns at the copy's own speeds are those evenly spread, i·D/d.
struct Units {
  std::vector<int32_t> hidden, mlp, written;

  struct Shape {
    int64_t hidden, mlp, head;  // of the copy
  };
  // Evenly spread.
  static Units even(const tn_region_model& m, const Shape& s) {
    Units u{spread(m.hidden, s.hidden), spread(m.intermediate, s.mlp), {}};
    const std::vector<int32_t> pairs = spread(m.head_dim / 2, s.head / 2);
    for (uint32_t h = 0; h < m.kv_heads; ++h)
      for (int64_t i = 0; i < s.head; ++i)
        u.written.push_back(static_cast<int32_t>(h * m.head_dim + i / (s.head / 2) * (m.head_dim / 2)) + pairs[static_cast<size_t>(i % (s.head / 2))]);
    return u;
  }
  // Those of the largest magnitudes: of a hidden unit the sum over its column of the embedding; of the others the product of the sums over the rows and
  // columns that are theirs.
  static std::vector<int32_t> ranked_hidden(const tn_exec* exec, const tn_region_model& m, const Shape& s) {
    return largest(sums(exec, m, -1, 0, false), 0, m.hidden, s.hidden);
  }
  static Units ranked(const tn_exec* exec, const tn_region_model& m, int32_t block, const Shape& s, const std::vector<int32_t>& hidden) {
    Units u{hidden, {}, {}};
    std::vector<double> mlp = sums(exec, m, block, kGate, true);
    for (const auto& [slot, of_rows] : {std::pair<uint32_t, bool>{kUp, true}, std::pair<uint32_t, bool>{kDown, false}}) {
      const std::vector<double> other = sums(exec, m, block, slot, of_rows);
      for (size_t i = 0; i < mlp.size(); ++i) mlp[i] *= other[i];
    }
    u.mlp = largest(mlp, 0, m.intermediate, s.mlp);
    std::vector<double> written = sums(exec, m, block, kV, true);
    const std::vector<double> read = sums(exec, m, block, kO, false);
    const int64_t D = m.head_dim, group = m.heads / m.kv_heads;
    for (int64_t i = 0; i < static_cast<int64_t>(written.size()); ++i) {
      double sum = 0;
      for (int64_t g = 0; g < group; ++g) sum += read[static_cast<size_t>((i / D * group + g) * D + i % D)];
      written[static_cast<size_t>(i)] *= sum;
    }
    for (int64_t h = 0; h < m.kv_heads; ++h)
      for (const int32_t i : largest(written, h * D, D, s.head)) u.written.push_back(i);
    return u;
  }

 private:
  enum : uint32_t { kV = 2, kO = 3, kGate = 4, kUp = 5, kDown = 6 };
  static std::vector<int32_t> spread(int64_t n, int64_t k) {
    std::vector<int32_t> out(static_cast<size_t>(k));
    for (int64_t i = 0; i < k; ++i) out[static_cast<size_t>(i)] = static_cast<int32_t>(i * n / k);
    return out;
  }
  // The k largest of scores[begin, begin + n), the first of equals first.
  static std::vector<int32_t> largest(const std::vector<double>& scores, int64_t begin, int64_t n, int64_t k) {
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), static_cast<int32_t>(begin));
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)]; });
    order.resize(static_cast<size_t>(k));
    std::sort(order.begin(), order.end());
    return order;
  }
  // Sums of magnitudes over each row, or each column, of a weight.
  static std::vector<double> sums(const tn_exec* exec, const tn_region_model& m, int32_t block, uint32_t slot, bool of_rows) {
    struct Place {
      const tn_region_model* model;
      int32_t block;
      uint32_t slot;
    } place{&m, block, slot};
    const int64_t queries = m.heads * m.head_dim, keys = m.kv_heads * m.head_dim;
    const int64_t rows[] = {queries, keys, keys, m.hidden, m.intermediate, m.intermediate, m.hidden};
    tn_base_linear weight{};
    weight.struct_size = sizeof weight, weight.self = &place;
    weight.m = block < 0 ? m.vocab : rows[slot], weight.n = block < 0 ? m.hidden : slot == kO ? queries : slot == kDown ? m.intermediate : m.hidden;
    weight.read_rows = [](void* self, int64_t begin, int64_t end, tn_tensor* out) {
      const Place& p = *static_cast<Place*>(self);
      return p.model->read_rows(p.model->self, p.block, p.slot, begin, end, out);
    };
    const int64_t n = of_rows ? weight.m : weight.n;
    float* on_device = Workspace(*exec).take<float>(n);
    sums_of_magnitudes(exec, weight, of_rows ? on_device : nullptr, of_rows ? nullptr : on_device, aligned(static_cast<uint64_t>(n) * 4));
    std::vector<float> values(static_cast<size_t>(n));
    check(exec->api->copy(exec->device, exec->stream, values.data(), on_device, values.size() * 4, TN_COPY_TO_HOST));
    check(exec->api->stream_wait(exec->device, exec->stream));
    return {values.begin(), values.end()};
  }
};

}  // namespace tenon::sdk::side
