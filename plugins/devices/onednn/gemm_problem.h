// A matrix product of the ABI, checked and in normal form.
#pragma once

#include <cstdint>
#include <cstring>

#include "devices/onednn/matmul.h"
#include "tenon/device.h"

namespace tenon::onednn {

enum class Storage : int64_t { kNone = 0, kF32 = 1, kBF16 = 2, kF16 = 3 };

// What of a factor decides how a product runs; its value comes with each run, so that a schedule makes no new plans.
enum class Factor : int64_t { kZero = 0, kOne = 1, kOther = 2 };

// Everything that decides how a product runs, and nothing else: plain words, compared and hashed as bytes. Strides in
// elements. A swapped problem is the transpose of the caller's, Cᵀ = Bᵀ · Aᵀ, so that C has unit stride along n; its
// bias is per row.
struct Problem {
  int64_t m, n, k;
  int64_t a_row, a_col, b_row, b_col, c_row, c_col;
  int64_t batch_axes;
  int64_t batch[kMaxBatchAxes], a_batch[kMaxBatchAxes], b_batch[kMaxBatchAxes], c_batch[kMaxBatchAxes];
  Storage a, b, c, bias;
  int64_t bias_stride;
  int64_t exact, packed_b, swapped, threads;
  Factor alpha, beta;

  bool operator==(const Problem& o) const { return std::memcmp(this, &o, sizeof *this) == 0; }
};

// Where the operands lie, and the factors; after a swap a is the caller's B.
struct Pointers {
  const void *a, *b, *bias;
  void* c;
  double alpha, beta;
};

// Refuses what device.h does not promise, in a sentence.
Problem normalize(const tn_gemm& gemm, Pointers* pointers);

}  // namespace tenon::onednn
