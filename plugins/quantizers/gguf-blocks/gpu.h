// The codec's kernels for GPUs, one of each per type of block: decoding through shared memory, so that threads which decode a block each write
// what lies side by side; encoding, a block a thread; and the fused product for few rows.
#pragma once

#include "quantizers/gguf-blocks/bytes.h"
#include "sdk/floats.h"

namespace tenon::gguf {

using sdk::Floats;
using sdk::floats;

inline constexpr int64_t kTile = 8192;  // elements in shared memory: a multiple of every block

// Element i of a tile: a thread writes whole blocks, and padding keeps threads out of one bank.
template <class Block>
struct Tile {
  static constexpr int64_t kSize = Block::kElements, kStride = kSize > 1 ? kSize + 1 : 1, kBlocks = kTile / kSize;
  static constexpr int64_t kShared = kBlocks * kStride * static_cast<int64_t>(sizeof(float));
  float* values;
  TN_FN float operator[](int64_t i) const { return values[i / kSize * kStride + i % kSize]; }
  // Blocks [0, n) at `from`.
  TN_FN void decode(const sdk::Block& threads, const uint8_t* from, int64_t n) const {
    float* const to = values;
    threads.each(n, [=](int64_t b) { Block::decode(from + b * Block::kBytes, to + b * kStride); });
  }
};

// Elements [begin, end) of the tensor whose first block is at `blocks`.
template <class Block>
struct Decode {
  const uint8_t* blocks;
  int64_t begin, end;
  Floats out;
  TN_FN void operator()(const sdk::Block& threads) const {
    using T = Tile<Block>;
    const T tile{threads.shared<float>()};
    const int64_t first = begin / T::kSize + threads.index * T::kBlocks, last = (end + T::kSize - 1) / T::kSize;
    const int64_t n = last - first < T::kBlocks ? last - first : T::kBlocks;
    tile.decode(threads, blocks + first * Block::kBytes, n);
    const int64_t low = first * T::kSize, from = begin > low ? begin : low, high = low + n * T::kSize, to = end < high ? end : high;
    const Floats dst = out;
    const int64_t origin = begin;
    threads.each(to - from, [=](int64_t i) { dst.put(from - origin + i, tile[from - low + i]); });
  }
};
template <class Block>
void decode_blocks(const tn_exec* exec, const uint8_t* blocks, int64_t begin, int64_t end, const Floats& out) {
  using T = Tile<Block>;
  const int64_t n = begin < end ? (end + T::kSize - 1) / T::kSize - begin / T::kSize : 0;
  sdk::for_each_block<T::kShared>(exec, sdk::ceil_div(n, T::kBlocks), Decode<Block>{blocks, begin, end, out});
}

// Block i from elements at x; what is not finite, or above `largest`, is reported by runs of `run` elements.
template <class Block, class Coder>
struct Encode {
  Floats x;
  int64_t run;
  float largest;
  uint8_t* out;
  sdk::FirstBad::Found bad, large;
  TN_FN void operator()(int64_t i) const {
    constexpr int64_t kSize = Block::kElements;
    float v[kSize], most = 0;
    bool finite = true;
    for (int64_t k = 0; k < kSize; ++k) {
      v[k] = x[i * kSize + k];
      finite = finite && sdk::is_finite(v[k]);
      const float a = v[k] < 0 ? -v[k] : v[k];
      most = a > most ? a : most;
    }
    if (!finite) return bad(i * kSize / run);
    if (most > largest) return large(i * kSize / run);
    Coder::encode(v, out + i * Block::kBytes);
  }
};
template <class Block, class Coder>
void encode_blocks(const tn_exec* exec, const Floats& x, int64_t n, int64_t run, float largest, uint8_t* out, sdk::FirstBad::Found bad,
                   sdk::FirstBad::Found large) {
  sdk::for_each(exec, n / Block::kElements, Encode<Block, Coder>{x, run, largest, out, bad, large});
}

// y[T, m] = alpha · x Wᵀ + beta · y, one block of threads a row of W.
template <class Block>
struct Linear {
  static constexpr int64_t kMost = 8;  // rows of x
  const uint8_t* blocks;
  int64_t m, n, rows;
  Floats x, y;
  double alpha, beta;
  TN_FN void operator()(const sdk::Block& threads) const {
    using T = Tile<Block>;
    const T tile{threads.shared<float>()};
    const int64_t r = threads.index, row_blocks = n / T::kSize;
    const uint8_t* const row = blocks + r * row_blocks * Block::kBytes;
    const Floats from = x, to = y;
    const int64_t width = n, height = m;
    float sums[kMost] = {};
    for (int64_t at = 0; at < row_blocks; at += T::kBlocks) {
      const int64_t count = row_blocks - at < T::kBlocks ? row_blocks - at : T::kBlocks;
      tile.decode(threads, row + at * Block::kBytes, count);
      for (int64_t t = 0; t < rows; ++t) {
        const int64_t begin = t * width + at * T::kSize;
        sums[t] += threads.sum(count * T::kSize, [=](int64_t k) { return tile[k] * from[begin + k]; });
      }
    }
    const double a = alpha, b = beta;
    for (int64_t t = 0; t < rows; ++t) {
      const float sum = sums[t];
      threads.each(1, [=](int64_t) {
        const int64_t at = t * height + r;
        to.put(at, static_cast<float>(a * sum + (b != 0 ? b * to[at] : 0.0)));
      });
    }
  }
};
template <class Block>
void linear_blocks(const tn_exec* exec, const uint8_t* blocks, const sdk::Product& p, const Floats& x, double alpha, double beta, const Floats& y) {
  sdk::for_each_block<Tile<Block>::kShared>(exec, p.m, Linear<Block>{blocks, p.m, p.n, p.rows, x, y, alpha, beta}, p.n);
}

}  // namespace tenon::gguf
