// Sum of squares and count of non-finite elements, in f64 and in an order that depends on the shape alone.
#pragma once

#include <bit>

#include "devices/ops/view.h"

namespace tenon::ops {

// At most kSlots partial results; one block per slot walks a fixed range of tiles.
template <class T>
struct SquareSums {
  static constexpr int64_t kSlots = 512, kPiece = TN_GPU ? kTile : 1024;  // on a GPU few reductions, each with its barriers
  Grid grid;
  Rows<const T> x;
  int64_t tiles_per_slot;
  double* partial;  // [slots, 2]
  TN_FN void operator()(const sdk::Block& block) const {
    double squares = 0, bad = 0;
    const int64_t first = block.index * tiles_per_slot;
    const int64_t last = first + tiles_per_slot < grid.blocks() ? first + tiles_per_slot : grid.blocks();
    for (int64_t b = first; b < last; ++b) {
      const Tile t = tile_of(grid, b);
      for (int64_t begin = 0; begin < t.size;
           begin += kPiece) {  // small enough that the second pass reads the nearest cache
        const T* const v = x.row(t.row) + t.begin + begin;
        const int64_t n = t.size - begin < kPiece ? t.size - begin : kPiece;
        squares += block.sum(n, [=](int64_t i) {
          const double d = sdk::to_float(v[i]);
          return d * d;
        });
        bad += block.sum(n, [=](int64_t i) -> int32_t {
          return (std::bit_cast<uint32_t>(sdk::to_float(v[i])) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
        });
      }
    }
    double* const to = partial + 2 * block.index;
    block.each(1, [=](int64_t) { to[0] = squares, to[1] = bad; });
  }
};

struct AddPartials {
  const double* partial;
  int64_t slots;
  double* out;
  TN_FN void operator()(int64_t component) const {
    double s = 0;
    for (int64_t i = 0; i < slots; ++i) s += partial[2 * i + component];
    out[component] += s;
  }
};

inline void sum_squares(const tn_exec& exec, const tn_tensor& x, const tn_tensor& out) {
  double* const to = vector_of<double>(out, 2, sdk::kF64, "sum_squares: out", "f64");
  sdk::with_float_type(x.dtype, "sum_squares: x", [&]<class T>(T) {
    using Functor = SquareSums<T>;
    static_assert(Functor::kSlots * 2 * sizeof(double) <= kScratchBytes);
    auto rows = rows_of<const T>(x, "sum_squares: x");
    if (sdk::is_contiguous(x)) rows = flat(rows);
    const Grid grid(rows.n, rows.cols);
    if (grid.blocks() == 0) return;
    const int64_t tiles = (grid.blocks() + Functor::kSlots - 1) / Functor::kSlots,
                  slots = (grid.blocks() + tiles - 1) / tiles;
    double* const partial = static_cast<double*>(exec.workspace);
    sdk::for_each_block(&exec, slots, Functor{grid, rows, tiles, partial});
    sdk::for_each(&exec, 2, AddPartials{partial, slots, to});
  });
}

}  // namespace tenon::ops
