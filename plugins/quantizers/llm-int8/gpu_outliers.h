// y += alpha · X[:, O] decode(W)[:, O]ᵀ over the columns O that are apart, on a GPU. Which they are stays on the device: no host waits for it, and
// where there is none the kernel has nothing to do.
#pragma once

#include "quantizers/llm-int8/rows.h"
#include "sdk/floats.h"
#include "sdk/for_each.h"

namespace tenon::llm_int8 {

// apart[0] = |O|, behind it the columns in order. One block; each piece of the columns is counted, then written.
struct ListOutliers {
  static constexpr int64_t kPieces = 256, kShared = (kPieces + 1) * static_cast<int64_t>(sizeof(int64_t));
  const float* keep;
  int64_t n;
  int64_t* apart;
  TN_FN void operator()(const sdk::Block& block) const {
    int64_t* const before = block.shared<int64_t>();
    const int64_t each = (n + kPieces - 1) / kPieces, columns = n;
    const float* const k = keep;
    int64_t* const out = apart;
    block.each(kPieces, [=](int64_t p) {
      int64_t found = 0;
      for (int64_t j = p * each; j < (p + 1) * each && j < columns; ++j) found += k[j] == 0;
      before[p + 1] = found;
    });
    block.each(1, [=](int64_t) {
      before[0] = 0;
      for (int64_t p = 0; p < kPieces; ++p) before[p + 1] += before[p];
      out[0] = before[kPieces];
    });
    block.each(kPieces, [=](int64_t p) {
      int64_t at = before[p];
      for (int64_t j = p * each; j < (p + 1) * each && j < columns; ++j)
        if (k[j] == 0) out[++at] = j;
    });
  }
};

// One tile of y a block; 256 threads hold 4 × 4 of its 64 × 64 sums each.
template <class T>
struct AddOutliers {
  static constexpr int kTile = 64, kDepth = 16, kEach = 4, kSide = kTile / kEach, kThreads = kSide * kSide;
  static constexpr int64_t kShared = int64_t{2} * kDepth * (kTile + 1) * static_cast<int64_t>(sizeof(float));
  int64_t rows, m, n;
  const T* x;
  const int8_t* codes;
  const float* scales;
  const int64_t* apart;
  float alpha;
  sdk::Floats y;

  int64_t tiles() const { return sdk::ceil_div(rows, kTile) * sdk::ceil_div(m, kTile); }
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t across = (m + kTile - 1) / kTile, i0 = block.index / across * kTile, j0 = block.index % across * kTile, count = apart[0];
    float* const left = block.shared<float>();
    float* const right = left + kDepth * (kTile + 1);
    const int t = sdk::gpu::thread(), row = t / kSide, column = t % kSide;
    float sum[kEach][kEach] = {};
    for (int64_t c0 = 0; c0 < count; c0 += kDepth) {
      for (int e = t; e < kTile * kDepth; e += kThreads) {
        const int d = e % kDepth, i = e / kDepth;
        const bool there = c0 + d < count;
        const int64_t c = there ? apart[1 + c0 + d] : 0;
        left[d * (kTile + 1) + i] = there && i0 + i < rows ? sdk::to_float(x[(i0 + i) * n + c]) : 0.0f;
        right[d * (kTile + 1) + i] = there && j0 + i < m ? static_cast<float>(codes[(j0 + i) * n + c]) * (scales[j0 + i] / kLevels) : 0.0f;
      }
      sdk::gpu::barrier();
      for (int d = 0; d < kDepth; ++d)
        for (int i = 0; i < kEach; ++i)
          for (int j = 0; j < kEach; ++j) sum[i][j] += left[d * (kTile + 1) + row + kSide * i] * right[d * (kTile + 1) + column + kSide * j];
      sdk::gpu::barrier();
    }
    for (int i = 0; i < kEach && count > 0; ++i)
      for (int j = 0; j < kEach; ++j) {
        const int64_t r = i0 + row + kSide * i, o = j0 + column + kSide * j;
        if (r < rows && o < m) y.put(r * m + o, y[r * m + o] + alpha * sum[i][j]);
      }
  }
};

template <class T>
void add_outliers(const tn_exec* exec, const AddOutliers<T>& add, const float* keep, int64_t* apart) {
  sdk::for_each_block<ListOutliers::kShared>(exec, 1, ListOutliers{keep, add.n, apart}, add.n);
  sdk::gpu::launch_blocks(exec, add.tiles(), AddOutliers<T>::kThreads, sdk::gpu::kReduceBytes + AddOutliers<T>::kShared, add);
}

}  // namespace tenon::llm_int8
