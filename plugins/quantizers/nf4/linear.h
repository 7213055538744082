// y[T, m] = alpha · x W^T + beta · y for few rows T: every code is read once, decoded in registers and multiplied with
// all rows of x.
#pragma once

#include "quantizers/nf4/products.h"
#include "quantizers/nf4/scales.h"
#include "sdk/linears.h"

namespace tenon::nf4 {

inline constexpr int64_t kMaxRows = 8;  // beyond, decoding a panel and multiplying it is faster

// Dot products of weight row `row` with the first T of the rows x[t].
template <int T>
void dot_rows(const float (&book)[16], const Parts& w, int64_t blocksize, int64_t row, int64_t n, const float* const* x,
              float* out) {
  using P = FloatProducts;
  constexpr int kChains = T <= 4 ? 2 : 1;  // independent sums hide the latency of the multiply-add
  typename P::Vector acc[kChains][T];
  float rest[T] = {};
  for (int c = 0; c < kChains; ++c)
    for (int t = 0; t < T; ++t) acc[c][t] = P::zero();
  const int64_t base = row * n;
  int64_t k = 0;
  for (int64_t block = base / blocksize; k < n; ++block) {
    const int64_t end = std::min(n, (block + 1) * blocksize - base);
    const float a = w.scale(block);
    const P products(book, a);
    if ((base + k) % 2 == 0) {
      for (; k + kChains * P::kLanes <= end; k += kChains * P::kLanes)
        for (int c = 0; c < kChains; ++c) {
          const auto v = products.take(w.codes + (base + k + c * P::kLanes) / 2);
          for (int t = 0; t < T; ++t) acc[c][t] = P::fma(v, x[t] + k + c * P::kLanes, acc[c][t]);
        }
    }
    for (; k < end; ++k) {  // an odd start, or what does not fill a vector
      const float v = product<float>(book, a, w.codes, base + k);
      for (int t = 0; t < T; ++t) rest[t] += v * x[t][k];
    }
  }
  for (int t = 0; t < T; ++t)
    out[t] = P::sum(kChains == 2 ? P::add(acc[0][t], acc[kChains - 1][t]) : acc[0][t]) + rest[t];
}

// One of the weights that meet an input: [m, n] in codes, and where its product goes.
template <class Y>
struct Weight {
  Parts parts;
  int64_t m;
  Y* y;
};

// x [rows, n], the same for all weights.
template <class Y>
void linear(const tn_exec* exec, const float (&book)[16], const std::vector<Weight<Y>>& weights, int64_t blocksize, int64_t n, const float* x,
            int64_t rows, double alpha, double beta) {
  const float* xs[kMaxRows];
  for (int64_t t = 0; t < kMaxRows; ++t)
    xs[t] = x + (t < rows ? t : 0) * n;  // surplus sums of the next size up are dropped
  constexpr int64_t kRowsPerTask = 16;
  std::vector<int64_t> heights;
  for (const Weight<Y>& w : weights) heights.push_back(w.m);
  sdk::for_each_rows<kRowsPerTask>(exec, heights.data(), heights.size(), n, [&](uint64_t i, int64_t first, int64_t count) {
    const Weight<Y>& w = weights[i];
    for (int64_t r = first; r < first + count; ++r) {
      float out[kMaxRows];
      if (rows == 1)
        dot_rows<1>(book, w.parts, blocksize, r, n, xs, out);
      else if (rows == 2)
        dot_rows<2>(book, w.parts, blocksize, r, n, xs, out);
      else if (rows <= 4)
        dot_rows<4>(book, w.parts, blocksize, r, n, xs, out);
      else
        dot_rows<8>(book, w.parts, blocksize, r, n, xs, out);
      for (int64_t t = 0; t < rows; ++t) {
        Y& to = w.y[t * w.m + r];
        to = sdk::from_float<Y>(static_cast<float>(alpha * out[t] + (beta != 0 ? beta * sdk::to_float(to) : 0.0)));
      }
    }
  });
}

}  // namespace tenon::nf4
