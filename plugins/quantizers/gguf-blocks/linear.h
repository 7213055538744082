// y[T, m] = alpha · x W^T + beta · y for few rows T: by a type's own dot product, or with 256 weights at a time decoded
// into the first-level cache and multiplied with all rows.
#pragma once

#include "quantizers/gguf-blocks/lanes.h"
#include "quantizers/gguf-blocks/types.h"
#include "sdk/codec.h"
#include "sdk/linears.h"

namespace tenon::gguf {

inline constexpr int64_t kMaxRows = 8;  // beyond, decoding a panel and multiplying it is faster
inline constexpr int64_t kRun = 256;    // elements: a multiple of every block

// T: 1, 2, 4 or 8.
template <int T>
void dot_rows(const Type& type, const uint8_t* row, int64_t n, const float* const* x, float* out) {
  if (type.dot) return type.dot(row, n / type.elements, x, T, out);
  Lanes acc[T] = {};
  float rest[T] = {}, w[kRun];
  for (int64_t k = 0; k < n; k += kRun) {
    const int64_t count = std::min(kRun, n - k), whole = count / 16 * 16;
    type.decode(row + k / type.elements * type.bytes, count / type.elements, w);
    for (int64_t i = 0; i < whole; i += 16) {
      const Lanes v = load(w + i);
      for (int t = 0; t < T; ++t) acc[t] += v * load(x[t] + k + i);
    }
    for (int64_t i = whole; i < count; ++i)
      for (int t = 0; t < T; ++t) rest[t] += w[i] * x[t][k + i];
  }
  for (int t = 0; t < T; ++t) out[t] = sum(acc[t]) + rest[t];
}

// Scratch of a product over `rows` rows of n activations.
inline int64_t linear_workspace(const Type& type, int64_t rows, int64_t n) {
  const int64_t floats = 4 * rows * n;
  return type.fixed && has_fixed_dot() ? std::max(floats, rows * type.fixed->bytes(n)) : floats;
}

// One of the weights that meet an input: [m, n] in blocks, and where its product goes.
template <class Y>
struct Weight {
  const uint8_t* blocks;
  int64_t m;
  Y* y;
};

// product(weights, count, out) leaves `count` rows of blocks, at most kRowsPerTask, times every row of activations in out.
inline constexpr int64_t kRowsPerTask = 16;
template <class Y, class RowsProduct>
void each_task(const tn_exec* exec, int64_t row_bytes, const std::vector<Weight<Y>>& weights, int64_t rows, int64_t n, double alpha, double beta,
               const RowsProduct& product) {
  std::vector<int64_t> heights;
  for (const Weight<Y>& w : weights) heights.push_back(w.m);
  sdk::for_each_rows<kRowsPerTask>(exec, heights.data(), heights.size(), n, [&](uint64_t i, int64_t first, int64_t count) {
    const Weight<Y>& w = weights[i];
    float out[kRowsPerTask][kMaxRows];
    product(w.blocks + first * row_bytes, count, out);
    for (int64_t t = 0; t < rows; ++t) {
      Y* const to = w.y + t * w.m + first;
      for (int64_t r = 0; r < count; ++r)
        to[r] = sdk::from_float<Y>(static_cast<float>(alpha * out[r][t] + (beta != 0 ? beta * sdk::to_float(to[r]) : 0.0)));
    }
  });
}

// x [rows, n], the same for all weights.
template <class Y>
void linear(const tn_exec* exec, const Type& type, const std::vector<Weight<Y>>& weights, int64_t row_count, int64_t n, const tn_tensor& x, double alpha,
            double beta) {
  const int rows = static_cast<int>(row_count);
  const int64_t row_bytes = n / type.elements * type.bytes;
  if (type.fixed && has_fixed_dot()) {
    char* const fixed = sdk::workspace<char>(exec, rows * type.fixed->bytes(n));
    type.fixed->fix(x, rows, n, fixed);
    return each_task(exec, row_bytes, weights, rows, n, alpha, beta, [&](const uint8_t* blocks, int64_t count, float (*out)[kMaxRows]) {
      type.fixed->dot(blocks, count, n, fixed, rows, out);
    });
  }
  const float* const floats = sdk::as_floats(exec, x);
  const float* xs[kMaxRows];
  for (int64_t t = 0; t < kMaxRows; ++t) xs[t] = floats + (t < rows ? t : 0) * n;  // surplus sums of the next size up are dropped
  each_task(exec, row_bytes, weights, rows, n, alpha, beta, [&](const uint8_t* blocks, int64_t count, float (*out)[kMaxRows]) {
    for (int64_t w = 0; w < count; ++w, blocks += row_bytes)
      if (rows == 1)
        dot_rows<1>(type, blocks, n, xs, out[w]);
      else if (rows == 2)
        dot_rows<2>(type, blocks, n, xs, out[w]);
      else if (rows <= 4)
        dot_rows<4>(type, blocks, n, xs, out[w]);
      else
        dot_rows<8>(type, blocks, n, xs, out[w]);
  });
}

}  // namespace tenon::gguf
