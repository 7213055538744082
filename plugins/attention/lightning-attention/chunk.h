// The products of one chunk (Qin et al. 2024). λ = exp(−σ), rows i of q and j of k by their position in a chunk of n:
//   P_ij = λ^(i−j) q_i·k_j for j <= i,  O = P V + diag(λ^(i+1)) Q S,  S' = λ^n S + (diag(λ^(n−1−j)) K)ᵀ V
// and back, with D = dL/dS':
//   dP = (dO Vᵀ) ∘ λ^(i−j),  dQ = dP K + diag(λ^(i+1)) dO Sᵀ,  dK = dPᵀ Q + diag(λ^(n−1−j)) V Dᵀ,
//   dV = Pᵀ dO + diag(λ^(n−1−j)) K D,  dL/dS = λ^n D + (diag(λ^(i+1)) Q)ᵀ dO.
#pragma once

#include "problem.h"
#include "sdk/attention/ports.h"
#include "sdk/panel/gemm.h"
#include "sdk/panel/pack.h"
#include "sdk/workspace.h"

namespace tenon::lightning {

inline void scale_all(float* x, int64_t n, float by) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) x[c] *= by;
}

// to[r] = factor(r) · from[r] for rows of `width`.
template <class Factor>
void scaled_rows(const float* from, int64_t rows, int64_t width, Factor factor, float* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const float by = factor(r);
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) to[r * width + c] = from[r * width + c] * by;
  }
}

// Columns of P that a row block ending before row `last` of q needs.
inline int64_t seen_columns(const Chunk& c, int64_t last) {
  return std::clamp<int64_t>(c.q_at + last - c.k_at, 0, c.nk);
}

// scores[nq, chunk padded] = (A · packed B) ∘ λ^(i−j); zero where a row does not see the column.
inline void decayed_scores(const Chunk& c, const Powers& powers, int64_t k, const float* a, int64_t lda,
                           const float* panels, float* scores, int64_t ld) {
  const int64_t width = round_up(c.nk, kLanes);
  for (int64_t row = 0; row < c.nq; row += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, c.nq - row), n = round_up(seen_columns(c, row + rows), kLanes);
    multiply_columns(rows, n, k, {a + row * lda, lda}, panels, 0, scores + row * ld, ld);
    for (int64_t r = row; r < row + rows; ++r) {
      const int64_t ahead = c.q_at + r - c.k_at;
      const float* decay = powers.pairs(ahead);
      for (int64_t x = 0; x < n; x += kLanes) store(scores + r * ld + x, load(scores + r * ld + x) * load(decay + x));
      for (int64_t x = n; x < width; x += kLanes) store(scores + r * ld + x, Vec{});
    }
  }
}

// out[nq, n] (+)= scores · B, B row-major over the chunk's keys.
inline void times_scores(const Chunk& c, const float* scores, int64_t ld, const float* b, int64_t width, float* out,
                         bool add) {
  for (int64_t row = 0; row < c.nq; row += kRowBlock) {
    const int64_t rows = std::min(kRowBlock, c.nq - row);
    multiply<false>(rows, width, seen_columns(c, row + rows), {scores + row * ld, ld}, row_major(b, width),
                    out + row * width, width, add);
  }
}

// state [k width, v width padded] = λ^n state + (diag(weight) A)ᵀ B; A and B are [rows, ...], A is scaled already.
inline void advance(float* state, int64_t m, int64_t a_width, int64_t b_width, int64_t rows, const float* a,
                    const float* b, float decay) {
  scale_all(state, m * b_width, decay);
  if (rows > 0) multiply<true>(m, b_width, rows, {a, a_width}, row_major(b, b_width), state, b_width, true);
}

// to [columns padded, m padded] = fromᵀ, from [m padded, columns padded]; both padded to whole vectors.
inline void transpose_all(const float* from, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; r += kLanes)
    for (int64_t c = 0; c < columns; c += kLanes) {
      Vec block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) block[i] = load(from + (r + i) * columns + c);
      transpose(block);
      for (int64_t i = 0; i < kLanes; ++i) store(to + (c + i) * rows + r, block[i]);
    }
}

// Rows of a port as f32 [n, padded], times a factor, zero beyond the width.
inline void read_rows(const sdk::HeadRows& x, int64_t b, int64_t h, int64_t row, int64_t n, int64_t padded,
                      float factor, float* to) {
  for (int64_t r = 0; r < n; ++r, to += padded) {
    if (r + kAhead < n) x.prefetch(b, row + r + kAhead, h);
    x.read(b, row + r, h, factor, to);
    for (int64_t c = x.width; c < padded; ++c) to[c] = 0.0f;
  }
}

}  // namespace tenon::lightning
