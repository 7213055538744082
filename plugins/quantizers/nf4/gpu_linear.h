// y[T, m] = alpha · x Wᵀ + beta · y on a GPU, from the codes: for few rows T dot products whose codes are read once, sixteen bytes a lane; for
// more, tiles of W decoded into shared memory and multiplied by matrix units.
#pragma once

#include "quantizers/nf4/gpu.h"
#include "sdk/gpu/coded_product.h"

namespace tenon::nf4 {

namespace mma = sdk::gpu;

// What both know. Rows of W begin at multiples of 32 elements, and so do the format's blocks: a run of 32 codes has one scale.
struct LinearCall : mma::ProductCall {
  Entries book;
  Parts w;
  int block_bits;  // log2 of the block size

  TN_FN float scale(int64_t element) const { return w.scale(element >> block_bits); }
};

// For any shape: one block of threads a row of W.
template <class X>
struct PlainProducts {
  LinearCall call;
  int64_t blocksize;
  const X* x;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index, base = r * call.n;
    const PlainProducts* const p = this;
    for (int64_t t = 0; t < call.rows; ++t) {
      const X* const row = x + t * call.n;
      const float sum = block.sum(call.n, [=](int64_t k) {
        return p->call.book(p->call.w.codes, base + k) * p->call.w.scale((base + k) / p->blocksize) * sdk::to_float(row[k]);
      });
      block.each(1, [=](int64_t) { p->call.put(t, r, sum); });
    }
  }
};
template <class X>
void plain_linear(const tn_exec* exec, const LinearCall& c, int64_t blocksize, const X* x) {
  sdk::for_each_block(exec, c.m, PlainProducts<X>{c, blocksize, x}, c.n);
}

// 8 kWords codes as they lie in memory, in words; element i of a word.
template <int kWords>
struct alignas(4 * kWords) Codes {
  uint32_t word[kWords];
};
TN_FN uint32_t code_of(uint32_t word, int i) { return word >> (i / 2 * 8 + (i % 2 ? 0 : 4)) & 15u; }

// A wave takes kOutputs / waves rows of W at once, so that what it reads of x serves them all. The book lies in shared memory, where sixteen
// values are in sixteen banks; x passes through it in chunks, padded so that the lanes' elements are in different banks.
template <class X, int kRows>
struct RowProducts {
  static constexpr int kThreads = 4 * TN_MATRIX_LANES, kOutputs = 16, kChunk = 1024;
  static constexpr int64_t kShared = (16 + kRows * (kChunk + TN_MATRIX_LANES)) * sizeof(float);
  LinearCall call;
  const X* x;

  TN_FN void operator()(const sdk::Block& block) const {
    constexpr int kWaves = kThreads / mma::kWave, kOwn = kOutputs / kWaves, kEach = kChunk / mma::kWave, kWords = kEach / 8,
                  kPadded = kChunk + mma::kWave;
    const LinearCall& c = call;
    const int thread = mma::thread(), lane = thread % mma::kWave, wave = thread / mma::kWave;
    float* const table = block.shared<float>();
    float* const xs = table + 16;
    if (thread < 16) table[thread] = c.book.value[thread];
    const int64_t first = block.index * kOutputs + wave * kOwn;
    Codes<kWords> ahead[kOwn];
    float scale_ahead[kOwn];
    const auto load = [&](int64_t begin) {
      const int64_t k = begin + lane * kEach;
#pragma unroll
      for (int r = 0; r < kOwn; ++r) {
        const bool there = first + r < c.m && k < c.n;
        const int64_t element = (first + r) * c.n + k;
        ahead[r] = there ? *reinterpret_cast<const Codes<kWords>*>(c.w.codes + element / 2) : Codes<kWords>{};
        scale_ahead[r] = there ? c.scale(element) : 0.0f;
      }
    };
    load(0);
    float sum[kOwn][kRows] = {};
    for (int64_t begin = 0; begin < c.n; begin += kChunk) {
      Codes<kWords> codes[kOwn];
      float scale[kOwn];
#pragma unroll
      for (int r = 0; r < kOwn; ++r) codes[r] = ahead[r], scale[r] = scale_ahead[r];
      mma::barrier();  // the last chunk is done with
      for (int i = thread; i < kRows * kChunk; i += kThreads) {
        const int t = i / kChunk, e = i % kChunk;
        xs[t * kPadded + e + e / kEach] = t < c.rows && begin + e < c.n ? sdk::to_float(x[t * c.n + begin + e]) : 0.0f;
      }
      mma::barrier();
      if (begin + kChunk < c.n) load(begin + kChunk);
      const float* const mine = xs + lane * (kEach + 1);
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        float weight[kOwn][8];
#pragma unroll
        for (int r = 0; r < kOwn; ++r)
#pragma unroll
          for (int i = 0; i < 8; ++i) weight[r][i] = table[code_of(codes[r].word[word], i)] * scale[r];
#pragma unroll
        for (int t = 0; t < kRows; ++t)
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const float v = mine[t * kPadded + word * 8 + i];
#pragma unroll
            for (int r = 0; r < kOwn; ++r) sum[r][t] += weight[r][i] * v;
          }
      }
    }
#pragma unroll
    for (int r = 0; r < kOwn; ++r)
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        float s = sum[r][t];
        for (int mask = mma::kWave / 2; mask > 0; mask /= 2) s += mma::exchange(s, mask);
        if (lane == 0 && t < c.rows && first + r < c.m) c.put(t, first + r, s);
      }
    mma::barrier();
  }
};

// The same as tiles are decoded from it: round(book · absmax) in their type.
struct TileWeights {
  static constexpr int kTable = 16;
  LinearCall call;

  template <int kEach>
  struct Run {
    Codes<kEach / 8> codes;
    float scale;
  };
  TN_FN void fill(float* table, int thread) const {
    if (thread < kTable) table[thread] = call.book.value[thread];
  }
  template <int kEach>
  TN_FN Run<kEach> load(int64_t row, int64_t k) const {
    const int64_t element = row * call.n + k;
    return {*reinterpret_cast<const Codes<kEach / 8>*>(call.w.codes + element / 2), call.scale(element)};
  }
  template <class AnyRun>
  TN_FN float value(const AnyRun& run, int i, const float* table) const {
    return table[code_of(run.codes.word[i / 8], i % 8)] * run.scale;
  }
};

template <class X>
void linear(const tn_exec* exec, const float (&book)[16], const Parts& w, int64_t blocksize, int64_t m, int64_t n, const X* x, int64_t rows,
            double alpha, double beta, const tn_tensor& y) {
  LinearCall c{{m, n, rows, alpha, beta, sdk::floats(y, "nf4: the product")}, Entries(book), w, 0};
  while (int64_t{1} << c.block_bits < blocksize) ++c.block_bits;
  if constexpr (sizeof(X) == 2) {
    using Kernel = mma::TileProducts<X, TileWeights>;
    if (rows > kMaxRows && mma::takes_tiles(exec, n, sdk::dtype_of<X>()) && mma::is_aligned(x) && mma::is_aligned(w.codes))
      return mma::launch_product(exec, Kernel::blocks(c), Kernel{{c}, c, x});
  }
  for (int64_t t = 0; t < rows; t += kMaxRows) {
    c.rows = rows - t < kMaxRows ? rows - t : kMaxRows;
    const X* const from = x + t * n;
    const int64_t blocks = sdk::ceil_div(m, 16);
    if (n % 32 != 0 || !mma::is_aligned(w.codes))
      plain_linear(exec, c, blocksize, from);
    else if (c.rows == 1)
      mma::launch_product(exec, blocks, RowProducts<X, 1>{c, from});
    else
      mma::launch_product(exec, blocks, RowProducts<X, kMaxRows>{c, from});
    c.y.data = static_cast<char*>(c.y.data) + c.rows * m * (c.y.dtype.bits / 8);
  }
}

}  // namespace tenon::nf4
