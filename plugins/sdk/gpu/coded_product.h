// y[T, m] = alpha · x Wᵀ + beta · y by matrix units from a weight in codes: tiles of W are decoded into shared memory, those of x copied there.
//
// Weights is a codec's view of W [m, n]; runs of kEach elements, 16 or 32, begin at multiples of that and keep their codes in registers:
//
//   static constexpr int kTable;                                       floats of shared memory that decoding looks up, or 0
//   void fill(float* table, int thread) const;                         called by every thread
//   template <int kEach> auto load(int64_t row, int64_t k) const;      elements [k, k + kEach) of a row, still in codes
//   template <class Run> float value(const Run&, int i, const float* table) const;      of the run's element i, a constant
#pragma once

#include "sdk/floats.h"
#include "sdk/gpu/matrix.h"

namespace tenon::sdk::gpu {

// The sizes of a product, and where it goes.
struct ProductCall {
  int64_t m, n, rows;
  double alpha, beta;
  Floats y;

  TN_FN void put(int64_t row, int64_t output, float sum) const {
    const int64_t at = row * m + output;
    y.put(at, static_cast<float>(alpha * sum + (beta != 0 ? beta * y[at] : 0.0)));
  }
};

// One tile of 64 rows of W and 64 of x a block, along all of n: W's part is rounded to T; both are double-buffered.
template <class T, class Weights>
struct TileProducts {
  static constexpr int kThreads = 4 * TN_MATRIX_LANES, kOutputs = 64, kInputs = 64, kDepth = 64;
  using Tile = SharedTile<T, kDepth>;
  static constexpr int64_t kTiles = Tile::bytes(2 * kOutputs + 2 * kInputs), kShared = kTiles + Weights::kTable * static_cast<int64_t>(sizeof(float));
  Weights w;
  ProductCall call;
  const T* x;

  static int64_t blocks(const ProductCall& c) { return ceil_div(c.m, kOutputs) * ceil_div(c.rows, kInputs); }

  TN_FN void operator()(const Block& block) const {
#if TN_MATRIX_UNITS
    constexpr int kEach = kOutputs * kDepth / kThreads, kAcross = kDepth / kEach, kPieces = kDepth / 8;
    const ProductCall& c = call;
    const int here = thread(), row = here / kAcross, column = here % kAcross * kEach;
    const int64_t across = (c.rows + kInputs - 1) / kInputs, output = block.index / across * kOutputs, input = block.index % across * kInputs;
    T* const memory = block.shared<T>();
    const auto weights = [=](int64_t k) { return Tile{memory + k / kDepth % 2 * kOutputs * kDepth}; };
    const auto inputs = [=](int64_t k) { return Tile{memory + (2 * kOutputs + k / kDepth % 2 * kInputs) * kDepth}; };
    float* const table = block.shared<float>() + kTiles / static_cast<int64_t>(sizeof(float));
    w.fill(table, here);
    barrier();
    decltype(w.template load<kEach>(0, 0)) run{};
    const auto load = [&](int64_t k) {
      const Tile to = inputs(k);
      for (int i = here; i < kInputs * kPieces; i += kThreads) {
        const int64_t t = input + i / kPieces;
        const bool there = t < c.rows;
        copy_async(to.at(i / kPieces, i % kPieces * 8), x + (there ? t : 0) * c.n + k + i % kPieces * 8, there);
      }
      end_copies();
      if (output + row < c.m) run = w.template load<kEach>(output + row, k + column);
    };
    load(0);
    Sum sums[1][kInputs / 16] = {};
    for (int64_t k = 0; k < c.n; k += kDepth) {
      const Tile to = weights(k);
#pragma unroll
      for (int first = 0; first < kEach; first += 8) {
        uint32_t* const piece = reinterpret_cast<uint32_t*>(to.at(row, column + first));
#pragma unroll
        for (int i = 0; i < 8; i += 2) piece[i / 2] = pack<T>(w.value(run, first + i, table), w.value(run, first + i + 1, table));
      }
      wait_copies<0>();
      barrier();  // both tiles are here, and those before the last are done with
      if (k + kDepth < c.n) load(k + kDepth);
      multiply_rows(sums, to, here / TN_MATRIX_LANES * 16, inputs(k));
    }
#pragma unroll
    for (int slot = 0; slot < Sum::kSlots; ++slot) {
      const int64_t r = output + here / TN_MATRIX_LANES * 16 + Sum::row(slot);
#pragma unroll
      for (int n = 0; n < kInputs / 16; ++n)
#pragma unroll
        for (int i = 0; i < Sum::kPerSlot; ++i) {
          const int64_t t = input + 16 * n + Sum::column(i);
          if (r < c.m && t < c.rows) c.put(t, r, sums[0][n].at(slot, i));
        }
    }
    barrier();
#endif
  }
};

// Rows that a product may have: as many as tiles are worth it, beyond which decoding once and the vendor's product are faster.
inline constexpr int64_t kMostTiledRows = 256;
inline constexpr int64_t kTileDepth = 64;  // rows of W are a multiple of this
// exec: of the call; null where a plan asks.
inline bool takes_tiles(const tn_exec* exec, int64_t n, tn_dtype dtype) { return n % kTileDepth == 0 && dtype.bits == 16 && has_matrix_units(exec); }
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

template <class Kernel>
void launch_product(const tn_exec* exec, int64_t blocks, const Kernel& kernel) {
  if (blocks > 0) launch_blocks(exec, blocks, Kernel::kThreads, kReduceBytes + Kernel::kShared, kernel);
}

}  // namespace tenon::sdk::gpu
