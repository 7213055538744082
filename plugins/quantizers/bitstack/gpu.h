// Decoding and the product on GPUs: a thread has columns of a band of rows, for which the segments add up in registers. The left factors of the
// band pass through shared memory, segment by segment; the right ones are read by threads side by side.
#pragma once

#include "quantizers/bitstack/codec.h"
#include "sdk/floats.h"
#include "sdk/gpu/coded_product.h"

namespace tenon::bitstack {

inline constexpr int64_t kMaxRows = 8;  // of activations, in a fused product

// What the segments of rows r0 … r0 + 7 add up to in two columns of a thread. Every element is the same chain of operations wherever its band
// begins.
struct Band {
  static constexpr int kTall = 8, kColumns = 2, kThreads = 128, kWide = kColumns * kThreads;
  static constexpr int64_t kShared = int64_t{kTall} * 64 * static_cast<int64_t>(sizeof(float));  // the rank is at most 64
  Sizes s;
  Parts p;

  // factors: kShared bytes. Columns c0 + thread and c0 + thread + 128; those that do not exist are zero.
  TN_FN void add_up(int64_t r0, int64_t c0, float* factors, float (&sum)[kTall][kColumns]) const {
    const int thread = sdk::gpu::thread();
    const int rank = static_cast<int>(s.rank);
#pragma unroll
    for (int i = 0; i < kTall; ++i)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sum[i][c] = 0;
    for (int64_t segment = 0; segment < p.segments; ++segment) {
      sdk::gpu::barrier();  // the segment before is done with
      for (int i = thread; i < kTall * rank; i += kThreads) {
        const int64_t row = r0 + i / rank;
        factors[i] = row < s.m ? sdk::to_float(p.u[(segment * s.m + row) * rank + i % rank]) : 0.0f;
      }
      sdk::gpu::barrier();
      float magnitude[kTall][kColumns] = {};
      const sdk::f16* const v = p.v + segment * rank * s.n;
      for (int k = 0; k < rank; ++k) {
        float right[kColumns];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t j = c0 + thread + c * kThreads;
          right[c] = j < s.n ? sdk::to_float(v[k * s.n + j]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < kTall; ++i)
#pragma unroll
          for (int c = 0; c < kColumns; ++c) magnitude[i][c] += factors[i * rank + k] * right[c];
      }
#pragma unroll
      for (int i = 0; i < kTall; ++i)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t row = r0 + i, j = c0 + thread + c * kThreads;
          const bool there = row < s.m && j < s.n;
          const bool positive = there && p.signs[(segment * s.m + row) * s.sign_row + j / 8] >> (7 - j % 8) & 1;
          sum[i][c] += positive ? magnitude[i][c] : -magnitude[i][c];
        }
    }
  }
};

// Elements [begin, end) of the weight: a block a band of the rows that they are in, and 256 of its columns.
struct Decode {
  static constexpr int kThreads = Band::kThreads;
  static constexpr int64_t kShared = Band::kShared;
  Band band;
  int64_t begin, end;
  sdk::Floats out;

  TN_FN void operator()(const sdk::Block& block) const {
    const Sizes& s = band.s;
    const int64_t across = (s.n + Band::kWide - 1) / Band::kWide, r0 = begin / s.n + block.index / across * Band::kTall,
                  c0 = block.index % across * Band::kWide;
    float sum[Band::kTall][Band::kColumns];
    band.add_up(r0, c0, block.shared<float>(), sum);
#pragma unroll
    for (int i = 0; i < Band::kTall; ++i)
#pragma unroll
      for (int c = 0; c < Band::kColumns; ++c) {
        const int64_t j = c0 + sdk::gpu::thread() + c * Band::kThreads, at = (r0 + i) * s.n + j;
        if (j < s.n && at >= begin && at < end) out.put(at - begin, sum[i][c] * band.p.columns[j]);
      }
    sdk::gpu::barrier();
  }
};
inline void decode_range(const tn_exec* exec, const Sizes& s, const Parts& p, int64_t begin, int64_t end, const sdk::Floats& out) {
  const int64_t bands = sdk::ceil_div(sdk::ceil_div(end, s.n) - begin / s.n, Band::kTall);
  sdk::gpu::launch_product(exec, bands * sdk::ceil_div(s.n, Band::kWide), Decode{{s, p}, begin, end, out});
}

// Products for up to kRows rows of x: a block a band, along all of its columns.
template <int kRows>
struct Multiply {
  static constexpr int kThreads = Band::kThreads;
  static constexpr int64_t kShared = Band::kShared;
  Band band;
  sdk::gpu::ProductCall call;
  sdk::Floats x;

  TN_FN void operator()(const sdk::Block& block) const {
    const sdk::gpu::ProductCall& c = call;
    const int64_t r0 = block.index * Band::kTall;
    float sums[kRows][Band::kTall] = {}, sum[Band::kTall][Band::kColumns];
    for (int64_t c0 = 0; c0 < c.n; c0 += Band::kWide) {
      band.add_up(r0, c0, block.shared<float>(), sum);
#pragma unroll
      for (int k = 0; k < Band::kColumns; ++k) {
        const int64_t j = c0 + sdk::gpu::thread() + k * Band::kThreads;
        const float column = j < c.n ? band.p.columns[j] : 0.0f;
#pragma unroll
        for (int t = 0; t < kRows; ++t) {
          const float v = t < c.rows && j < c.n ? x[t * c.n + j] * column : 0.0f;
#pragma unroll
          for (int i = 0; i < Band::kTall; ++i) sums[t][i] += sum[i][k] * v;
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kRows; ++t)
#pragma unroll
      for (int i = 0; i < Band::kTall; ++i) {
        const float all = sdk::gpu::reduce(sums[t][i], block.memory, sdk::gpu::Add{});
        if (sdk::gpu::thread() == 0 && t < c.rows && r0 + i < c.m) c.put(t, r0 + i, all);
      }
  }
};
inline void multiply(const tn_exec* exec, const Sizes& s, const Parts& p, const sdk::gpu::ProductCall& c, const sdk::Floats& x) {
  const int64_t bands = sdk::ceil_div(s.m, Band::kTall);
  if (c.rows == 1)
    sdk::gpu::launch_product(exec, bands, Multiply<1>{{s, p}, c, x});
  else
    sdk::gpu::launch_product(exec, bands, Multiply<kMaxRows>{{s, p}, c, x});
}

}  // namespace tenon::bitstack
