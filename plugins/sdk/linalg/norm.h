// Sums of squares of whole tensors, in f64 and in one order, whatever the number of threads. The result stays in the
// workspace, where later kernels read it.
#pragma once

#include "sdk/stored.h"
#include "sdk/workspace.h"

namespace tenon::sdk {

// *out ← Σ partial[i].
inline void add_up(const tn_exec* exec, const double* partial, int64_t n, double* out) {
  for_each_block(exec, 1,
                 [=](const Block& block) { *out = block.sum(n, [=](int64_t i) { return partial[i]; }); });
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
        [=](const Block& block) {
          const Chunk chunk(block, total);
          const float* v = x.read(block, chunk, block.shared<float>());
          to[block.index] = block.sum(chunk.n, [=](int64_t i) { return static_cast<double>(v[i]) * v[i]; });
        },
        kChunk);
    add_up(exec, partial, chunks(n), value);
  }
};

}  // namespace tenon::sdk
