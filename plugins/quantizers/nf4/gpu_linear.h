// y[T, m] = alpha · x Wᵀ + beta · y on a GPU, from the codes: for few rows T dot products whose codes are read once, sixteen bytes a lane; for
// more, tiles of W decoded into shared memory and multiplied by matrix units.
#pragma once

#include "quantizers/nf4/gpu.h"
#include "sdk/gpu/matrix.h"

namespace tenon::nf4 {

namespace mma = sdk::gpu;

// What both know. Rows of W begin at multiples of 32 elements, and so do the format's blocks: a run of 32 codes has one scale.
struct LinearCall {
  Entries book;
  Parts w;
  int block_bits;  // log2 of the block size
  int64_t m, n, rows;
  double alpha, beta;
  char* y;
  tn_dtype y_dtype;

  TN_FN float scale(int64_t element) const { return w.scale(element >> block_bits); }
  template <class Y>
  TN_FN void put_as(int64_t at, float sum) const {
    Y* const to = reinterpret_cast<Y*>(y) + at;
    *to = sdk::from_float<Y>(static_cast<float>(alpha * sum + (beta != 0 ? beta * sdk::to_float(*to) : 0.0)));
  }
  TN_FN void put(int64_t row, int64_t output, float sum) const {
    const int64_t at = row * m + output;
    if (y_dtype.bits == 32)
      put_as<float>(at, sum);
    else if (y_dtype.code == TN_BFLOAT)
      put_as<sdk::bf16>(at, sum);
    else
      put_as<sdk::f16>(at, sum);
  }
};

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

// One tile of 64 rows of W and 64 of x a block, along all of n: W's part is decoded into shared memory as round(book · absmax) in T while x's
// is copied; both are double-buffered.
template <class T>
struct TileProducts {
  static constexpr int kThreads = 4 * TN_MATRIX_LANES, kOutputs = 64, kInputs = 64, kDepth = 64;
  using Tile = mma::SharedTile<T, kDepth>;
  static constexpr int64_t kTiles = Tile::bytes(2 * kOutputs + 2 * kInputs), kShared = kTiles + 16 * sizeof(float);
  LinearCall call;
  const T* x;

  TN_FN void operator()(const sdk::Block& block) const {
#if TN_MATRIX_UNITS
    constexpr int kEach = kOutputs * kDepth / kThreads, kWords = kEach / 8, kAcross = kDepth / kEach, kPieces = kDepth / 8;
    const LinearCall& c = call;
    const int thread = mma::thread(), row = thread / kAcross, column = thread % kAcross * kEach;
    const int64_t across = (c.rows + kInputs - 1) / kInputs, output = block.index / across * kOutputs, input = block.index % across * kInputs;
    T* const memory = block.shared<T>();
    const auto weights = [=](int64_t k) { return Tile{memory + k / kDepth % 2 * kOutputs * kDepth}; };
    const auto inputs = [=](int64_t k) { return Tile{memory + (2 * kOutputs + k / kDepth % 2 * kInputs) * kDepth}; };
    float* const table = block.shared<float>() + kTiles / static_cast<int64_t>(sizeof(float));
    if (thread < 16) table[thread] = c.book.value[thread];
    mma::barrier();
    Codes<kWords> codes{};
    float scale = 0;
    const auto load = [&](int64_t k) {
      const Tile to = inputs(k);
      for (int i = thread; i < kInputs * kPieces; i += kThreads) {
        const int64_t t = input + i / kPieces;
        const bool there = t < c.rows;
        mma::copy_async(to.at(i / kPieces, i % kPieces * 8), x + (there ? t : 0) * c.n + k + i % kPieces * 8, there);
      }
      mma::end_copies();
      if (output + row >= c.m) return;
      const int64_t element = (output + row) * c.n + k + column;
      codes = *reinterpret_cast<const Codes<kWords>*>(c.w.codes + element / 2), scale = c.scale(element);
    };
    load(0);
    mma::Sum sums[1][kInputs / 16] = {};
    for (int64_t k = 0; k < c.n; k += kDepth) {
      const Tile to = weights(k);
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        uint32_t* const piece = reinterpret_cast<uint32_t*>(to.at(row, column + 8 * word));
#pragma unroll
        for (int i = 0; i < 8; i += 2)
          piece[i / 2] = mma::pack<T>(table[code_of(codes.word[word], i)] * scale, table[code_of(codes.word[word], i + 1)] * scale);
      }
      mma::wait_copies<0>();
      mma::barrier();  // both tiles are here, and those before the last are done with
      if (k + kDepth < c.n) load(k + kDepth);
      mma::multiply_rows(sums, to, thread / TN_MATRIX_LANES * 16, inputs(k));
    }
#pragma unroll
    for (int slot = 0; slot < mma::Sum::kSlots; ++slot) {
      const int64_t r = output + thread / TN_MATRIX_LANES * 16 + mma::Sum::row(slot);
#pragma unroll
      for (int n = 0; n < kInputs / 16; ++n)
#pragma unroll
        for (int i = 0; i < mma::Sum::kPerSlot; ++i) {
          const int64_t t = input + 16 * n + mma::Sum::column(i);
          if (r < c.m && t < c.rows) c.put(t, r, sums[0][n].at(slot, i));
        }
    }
    mma::barrier();
#endif
  }
};

// Rows that a product may have: as many as tiles are worth it, beyond which decoding once and the vendor's product are faster.
inline constexpr int64_t kMostTiledRows = 256;
inline bool takes_tiles(int64_t n, tn_dtype dtype) { return n % TileProducts<sdk::bf16>::kDepth == 0 && dtype.bits == 16 && mma::has_matrix_units(); }

template <class Kernel, class X>
void launch_products(const tn_exec* exec, const LinearCall& c, int64_t blocks, const X* x) {
  if (blocks > 0) mma::launch_blocks(exec, blocks, Kernel::kThreads, mma::kReduceBytes + Kernel::kShared, Kernel{c, x});
}

template <class X>
void linear(const tn_exec* exec, const float (&book)[16], const Parts& w, int64_t blocksize, int64_t m, int64_t n, const X* x, int64_t rows,
            double alpha, double beta, const tn_tensor& y) {
  LinearCall c{Entries(book), w, 0, m, n, rows, alpha, beta, sdk::data<char>(y), y.dtype};
  while (int64_t{1} << c.block_bits < blocksize) ++c.block_bits;
  const auto is_aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if constexpr (sizeof(X) == 2) {
    using Kernel = TileProducts<X>;
    if (rows > kMaxRows && takes_tiles(n, sdk::dtype_of<X>()) && is_aligned(x) && is_aligned(w.codes))
      return launch_products<Kernel>(exec, c, sdk::ceil_div(m, Kernel::kOutputs) * sdk::ceil_div(rows, Kernel::kInputs), x);
  }
  for (int64_t t = 0; t < rows; t += kMaxRows) {
    c.rows = rows - t < kMaxRows ? rows - t : kMaxRows;
    const X* const from = x + t * n;
    const int64_t blocks = sdk::ceil_div(m, 16);
    if (n % 32 == 0 && is_aligned(w.codes))
      c.rows == 1 ? launch_products<RowProducts<X, 1>>(exec, c, blocks, from) : launch_products<RowProducts<X, kMaxRows>>(exec, c, blocks, from);
    else
      plain_linear(exec, c.book, w, blocksize, m, n, from, c.rows, alpha, beta, c.y, c.y_dtype);
    c.y += c.rows * m * (c.y_dtype.bits / 8);
  }
}

}  // namespace tenon::nf4
