// Products where no library of the vendor takes them: any strides, any mixture of types, one tile of C a block of threads.
#pragma once

#include "sdk/dtype.h"
#include "sdk/gpu/for_each.h"

namespace tenon::gpu {

struct MatrixView {
  char* data;
  tn_dtype dtype;
  int64_t row, column;  // strides in elements
  TN_FN float at(int64_t i) const {
    if (dtype.bits == 32) return reinterpret_cast<const float*>(data)[i];
    if (dtype.code == TN_BFLOAT) return sdk::to_float(reinterpret_cast<const sdk::bf16*>(data)[i]);
    return sdk::to_float(reinterpret_cast<const sdk::f16*>(data)[i]);
  }
  TN_FN void put(int64_t i, float v) const {
    if (dtype.bits == 32)
      reinterpret_cast<float*>(data)[i] = v;
    else if (dtype.code == TN_BFLOAT)
      reinterpret_cast<sdk::bf16*>(data)[i] = sdk::from_float<sdk::bf16>(v);
    else
      reinterpret_cast<sdk::f16*>(data)[i] = sdk::from_float<sdk::f16>(v);
  }
};

// C[m, n] = alpha · A[m, k] · B[k, n] + beta · C + bias. 256 threads hold 4 × 4 of the 64 × 64 sums each.
struct TiledProduct {
  static constexpr int kTile = 64, kDepth = 16, kEach = 4, kThreads = (kTile / kEach) * (kTile / kEach);
  static constexpr int64_t kShared = 2 * kDepth * (kTile + 1) * sizeof(float);
  int64_t m, n, k;
  MatrixView a, b, c, bias;  // bias.data may be null
  float alpha, beta;

  int64_t tiles() const { return ((m + kTile - 1) / kTile) * ((n + kTile - 1) / kTile); }
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t across = (n + kTile - 1) / kTile, i0 = block.index / across * kTile, j0 = block.index % across * kTile;
    float* const left = block.shared<float>();
    float* const right = left + kDepth * (kTile + 1);
    const int t = sdk::gpu::thread(), row = t / (kTile / kEach) * kEach, column = t % (kTile / kEach) * kEach;
    float sum[kEach][kEach] = {};
    for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
      for (int x = t; x < kTile * kDepth; x += kThreads) {
        const int d = x % kDepth, i = x / kDepth;
        left[d * (kTile + 1) + i] = i0 + i < m && k0 + d < k ? a.at((i0 + i) * a.row + (k0 + d) * a.column) : 0.0f;
        const int e = x / kTile, j = x % kTile;
        right[e * (kTile + 1) + j] = j0 + j < n && k0 + e < k ? b.at((k0 + e) * b.row + (j0 + j) * b.column) : 0.0f;
      }
      sdk::gpu::barrier();
      for (int d = 0; d < kDepth; ++d)
        for (int i = 0; i < kEach; ++i)
          for (int j = 0; j < kEach; ++j) sum[i][j] += left[d * (kTile + 1) + row + i] * right[d * (kTile + 1) + column + j];
      sdk::gpu::barrier();
    }
    for (int i = 0; i < kEach; ++i)
      for (int j = 0; j < kEach; ++j) {
        const int64_t y = i0 + row + i, x = j0 + column + j;
        if (y >= m || x >= n) continue;
        const int64_t at = y * c.row + x * c.column;
        float v = alpha * sum[i][j];
        if (beta != 0.0f) v += beta * c.at(at);  // beta = 0 never reads C
        if (bias.data) v += bias.at(x * bias.column);
        c.put(at, v);
      }
  }
};

inline void multiply(const tn_exec& exec, const TiledProduct& p) {
  if (p.m > 0 && p.n > 0)
    sdk::gpu::launch_blocks(&exec, p.tiles(), TiledProduct::kThreads, sdk::gpu::kReduceBytes + TiledProduct::kShared, p);
}

}  // namespace tenon::gpu
