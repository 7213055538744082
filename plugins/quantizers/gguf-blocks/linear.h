// y[T, m] = alpha · x W^T + beta · y for few rows T: by a type's own dot product, or with 256 weights at a time decoded
// into the first-level cache and multiplied with all rows.
#pragma once

#include "quantizers/gguf-blocks/lanes.h"
#include "quantizers/gguf-blocks/types.h"
#include "sdk/codec.h"
#include "sdk/for_each.h"

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

template <class Y>
void linear(const tn_exec* exec, const Type& type, const uint8_t* blocks, const sdk::Product& p, const float* x,
            double alpha, double beta, Y* y) {
  const float* xs[kMaxRows];
  for (int64_t t = 0; t < kMaxRows; ++t)
    xs[t] = x + (t < p.rows ? t : 0) * p.n;  // surplus sums of the next size up are dropped
  constexpr int64_t kRowsPerTask = 16;
  const int64_t row_bytes = p.n / type.elements * type.bytes;
  sdk::for_each_block(exec, sdk::ceil_div(p.m, kRowsPerTask), [=, &type, &p, &xs](const sdk::Block& task) {
    for (int64_t r = task.index * kRowsPerTask; r < std::min(p.m, (task.index + 1) * kRowsPerTask); ++r) {
      const uint8_t* row = blocks + r * row_bytes;
      float out[kMaxRows];
      if (p.rows == 1)
        dot_rows<1>(type, row, p.n, xs, out);
      else if (p.rows == 2)
        dot_rows<2>(type, row, p.n, xs, out);
      else if (p.rows <= 4)
        dot_rows<4>(type, row, p.n, xs, out);
      else
        dot_rows<8>(type, row, p.n, xs, out);
      for (int64_t t = 0; t < p.rows; ++t) {
        Y& to = y[t * p.m + r];
        to = sdk::from_float<Y>(static_cast<float>(alpha * out[t] + (beta != 0 ? beta * sdk::to_float(to) : 0.0)));
      }
    }
  });
}

}  // namespace tenon::gguf
