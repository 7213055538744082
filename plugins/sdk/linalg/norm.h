// Sums of squares of whole tensors, in f64 and in one order, whatever the number of threads. The result stays in the
// workspace, where later kernels read it.
#pragma once

#include "sdk/column_sums.h"
#include "sdk/stored.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

// *out ← Σ partial[i].
inline void add_up(const tn_exec* exec, const double* partial, int64_t n, double* out) {
  for_each_block(exec, 1,
                 [=] TN_KERNEL(const Block& block) { *out = block.sum(n, [=](int64_t i) { return partial[i]; }); });
}

struct SquaredNorm {
  int64_t n;
  double* partial = nullptr;
  double* value = nullptr;  // on the device

  explicit SquaredNorm(int64_t n) : n(n) {}
  void lay_out(Workspace& w) { partial = w.take<double>(chunks(n)), value = w.take<double>(1); }

  void of(const tn_exec* exec, Stored x) const {
    double* to = partial;
    const int64_t total = n;
    for_each_block<kChunk * sizeof(float)>(
        exec, chunks(n),
        [=] TN_KERNEL(const Block& block) {
          const Chunk chunk(block, total);
          const float* v = x.read(block, chunk, block.shared<float>());
          to[block.index] = block.sum(chunk.n, [=](int64_t i) { return static_cast<double>(v[i]) * v[i]; });
        },
        kChunk);
    add_up(exec, partial, chunks(n), value);
  }
};

// out[i] = Σ_j x[i, j]² of each row, or out[j] = Σ_i x[i, j]² of each column, of the dense x[m, n].
inline void squared_lengths(const tn_exec* exec, Stored x, int64_t m, int64_t n, bool of_rows, double* out) {
  if (of_rows) {
    for_each_block<kChunk * sizeof(float)>(
        exec, m,
        [=] TN_KERNEL(const Block& block) {
          double sum = 0;
          for (int64_t at = 0; at < n; at += kChunk) {
            const Chunk piece(block.index * n + at, n - at < kChunk ? n - at : kChunk);
            const float* v = x.read(block, piece, block.shared<float>());
            sum += block.sum(piece.n, [=](int64_t i) { return static_cast<double>(v[i]) * v[i]; });
          }
          out[block.index] = sum;
        },
        n);
  } else {
    const auto put = [=] TN_KERNEL(int64_t j, double sum) { out[j] = sum; };
    const float* wide = x.f32;
    const bf16* narrow = x.b16;
    if (wide)
      column_sums(exec, m, n, [=] TN_KERNEL(int64_t i, int64_t j) { return static_cast<double>(wide[i * n + j]) * wide[i * n + j]; }, put);
    else
      column_sums(exec, m, n, [=] TN_KERNEL(int64_t i, int64_t j) { return static_cast<double>(to_float(narrow[i * n + j])) * to_float(narrow[i * n + j]); }, put);
  }
}

}  // namespace tenon::sdk
