// Products of 16 × 16 tiles by the matrix units of a wave, under one set of names for NVIDIA's and AMD's: Sum += Left · Right, where operands
// are loaded from shared memory and the sums of one product can be the left operand of the next without leaving registers.
//
// A lane has kSlots rows of a Sum and kPerSlot columns of each: at(slot, x) is the element of row(slot) and column(x), and row_sum and row_max
// reduce over the lanes that share a row. On AMD a Sum is held as the transpose of what the unit computes, because then a lane's part of it is
// that of a left operand.
#pragma once

#include "sdk/gpu/block.h"
#include "sdk/gpu/instructions.h"

namespace tenon::sdk::gpu {

// Elements of 16 bits in shared memory, rows of kColumns, in pieces of 16 bytes. Piece p of row r lies at p ^ r % 8, so that eight rows of one
// piece, which are read together, lie in different banks. Tiles begin at multiples of 256 bytes: then the piece is in bits of an address that
// nothing else touches, and going on by a multiple of 16 columns is an exclusive or.
template <class T, int kColumns>
struct SharedTile {
  static_assert(sizeof(T) == 2 && kColumns % 64 == 0);
  T* data;
  TN_FN T* at(int row, int column) const { return data + row * kColumns + ((column / 8) ^ (row % 8)) * 8 + column % 8; }
  static constexpr int64_t bytes(int rows) { return int64_t{2} * rows * kColumns; }
};

TN_FN int matrix_lane() { return thread() % TN_MATRIX_LANES; }

template <class T>
struct Left {
  uint32_t r[128 / TN_MATRIX_LANES];
};
template <class T>
struct Right {
  uint32_t r[128 / TN_MATRIX_LANES];
};

#if TN_MATRIX_LANES == 32

struct Sum {
  static constexpr int kSlots = 2, kPerSlot = 4;
  float v[8];
  TN_FN float& at(int slot, int x) { return v[x / 2 * 4 + slot * 2 + x % 2]; }
  TN_FN float at(int slot, int x) const { return v[x / 2 * 4 + slot * 2 + x % 2]; }
  static TN_FN int row(int slot) { return matrix_lane() / 4 + 8 * slot; }
  static TN_FN int column(int x) { return x / 2 * 8 + matrix_lane() % 4 * 2 + x % 2; }
  static TN_FN bool first_of_row() { return matrix_lane() % 4 == 0; }
};
template <class Op>
TN_FN float reduce_row(float x, Op op) {
  x = op(x, exchange(x, 1));
  return op(x, exchange(x, 2));
}

// The tile of rows [row, row + 16) and columns [column, column + 16), both multiples of 16.
template <class T, int kColumns>
TN_FN void load(Left<T>& left, const SharedTile<T, kColumns>& from, int row, int column) {
  const int l = matrix_lane();
  load_matrices<false>(left.r, (shared_address(from.at(l % 16, l / 16 * 8)) ^ 2 * column) + 2 * kColumns * row);
}
// Right operands whose transpose is stored: [n, k].
template <class T, int kColumns>
TN_FN void load(Right<T>& right, const SharedTile<T, kColumns>& from, int n, int k) {
  const int l = matrix_lane();
  load_matrices<false>(right.r, (shared_address(from.at(l / 16 * 8 + l % 8, l / 8 % 2 * 8)) ^ 2 * k) + 2 * kColumns * n);
}
// Right operands as they are stored: [k, n].
template <class T, int kColumns>
TN_FN void load_across(Right<T>& right, const SharedTile<T, kColumns>& from, int k, int n) {
  const int l = matrix_lane();
  load_matrices<true>(right.r, (shared_address(from.at(l % 16, l / 16 * 8)) ^ 2 * n) + 2 * kColumns * k);
}
template <class T>
TN_FN void multiply_add(Sum& sum, const Left<T>& left, const Right<T>& right) {
  mma_16x8x16<T>(sum.v, left.r, right.r);
  mma_16x8x16<T>(sum.v + 4, left.r, right.r + 2);
}
template <class T>
TN_FN Left<T> left_of(const Sum& s) {
  return {{pack<T>(s.v[0], s.v[1]), pack<T>(s.v[2], s.v[3]), pack<T>(s.v[4], s.v[5]), pack<T>(s.v[6], s.v[7])}};
}

#else

struct Sum {
  static constexpr int kSlots = 1, kPerSlot = 4;
  float v[4];
  TN_FN float& at(int, int x) { return v[x]; }
  TN_FN float at(int, int x) const { return v[x]; }
  static TN_FN int row(int) { return matrix_lane() % 16; }
  static TN_FN int column(int x) { return matrix_lane() / 16 * 4 + x; }
  static TN_FN bool first_of_row() { return matrix_lane() < 16; }
};
template <class Op>
TN_FN float reduce_row(float x, Op op) {
  x = op(x, exchange(x, 16));
  return op(x, exchange(x, 32));
}

template <class T, int kColumns>
TN_FN void load(Left<T>& left, const SharedTile<T, kColumns>& from, int row, int column) {
  const int l = matrix_lane();
  const uint32_t* const at = reinterpret_cast<const uint32_t*>(from.at(row + l % 16, column + l / 16 * 4));
  left.r[0] = at[0], left.r[1] = at[1];
}
template <class T, int kColumns>
TN_FN void load(Right<T>& right, const SharedTile<T, kColumns>& from, int n, int k) {
  const int l = matrix_lane();
  const uint32_t* const at = reinterpret_cast<const uint32_t*>(from.at(n + l % 16, k + l / 16 * 4));
  right.r[0] = at[0], right.r[1] = at[1];
}
template <class T, int kColumns>
TN_FN void load_across(Right<T>& right, const SharedTile<T, kColumns>& from, int k, int n) {
  const int l = matrix_lane(), column = n + l % 16, row = k + l / 16 * 4;
  right.r[0] = from.at(row, column)->bits | static_cast<uint32_t>(from.at(row + 1, column)->bits) << 16;
  right.r[1] = from.at(row + 2, column)->bits | static_cast<uint32_t>(from.at(row + 3, column)->bits) << 16;
}
template <class T>
TN_FN void multiply_add(Sum& sum, const Left<T>& left, const Right<T>& right) {
  mfma_16x16x16<T>(sum.v, right.r, left.r);
}
template <class T>
TN_FN Left<T> left_of(const Sum& s) {
  return {{pack<T>(s.v[0], s.v[1]), pack<T>(s.v[2], s.v[3])}};
}

#endif

TN_FN float row_sum(float x) { return reduce_row(x, Add{}); }
TN_FN float row_max(float x) { return reduce_row(x, Larger{}); }

// sums[m][n] += rows 16 m … of `left`, from `row` on, times rows 16 n … of `right`.
template <int kBlocks, int kTiles, class T, int kColumns>
TN_FN void multiply_rows(Sum (&sums)[kBlocks][kTiles], const SharedTile<T, kColumns>& left, int row, const SharedTile<T, kColumns>& right) {
#pragma unroll
  for (int k = 0; k < kColumns; k += 16) {
    Left<T> l[kBlocks];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) load(l[m], left, row + 16 * m, k);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      Right<T> r;
      load(r, right, 16 * n, k);
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) multiply_add(sums[m][n], l[m], r);
    }
  }
}
// sums[m][f] += weights[m] · columns 16 f … of `right`; the weights are rounded to T.
template <int kBlocks, int kTiles, class T, int kColumns>
TN_FN void weigh_rows(Sum (&sums)[kBlocks][kColumns / 16], const Sum (&weights)[kBlocks][kTiles], const SharedTile<T, kColumns>& right) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    Left<T> l[kBlocks];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) l[m] = left_of<T>(weights[m][n]);
#pragma unroll
    for (int f = 0; f < kColumns / 16; ++f) {
      Right<T> r;
      load_across(r, right, 16 * n, 16 * f);
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) multiply_add(sums[m][f], l[m], r);
    }
  }
}

}  // namespace tenon::sdk::gpu
