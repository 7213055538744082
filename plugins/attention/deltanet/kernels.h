// Element-wise and block work around the products: short convolutions, norms, the triangular solve, masks.
//
// Chunk layout, f32: [chunk, head, row of the chunk, width]; rows behind a chunk's length are 0. Row layout: [row, head · width] in the compute type.
#pragma once

#include "schedule.h"
#include "sdk/for_each.h"
#include "sdk/mixer_kernels.h"

namespace tenon::deltanet {

using sdk::sigmoid, sdk::silu, sdk::silu_slope;

// Causal depthwise convolution of rows of one document. weight is transposed: [tap, channel], the last tap meets the row itself.
template <class T>
struct ShortConv {
  const T* x;
  int64_t width, taps;  // channels, = row stride
  const float* weight;
  const T* history;  // [taps − 1, width] before the first row of a continued sequence, or null

  // out[0 … n) = channels [first, first + n) of the convolved row.
  TN_FN void row(const sdk::Block& block, const Chunk& c, int64_t row, int64_t first, int64_t n, float* out) const {
    block.each(n, [=](int64_t i) { out[i] = 0; });
    for (int64_t j = 0; j < taps; ++j) {
      const int64_t from = row - (taps - 1) + j;
      const T* source = from >= c.document ? x + from * width : history ? history + (taps - 1 + from - c.document) * width : nullptr;
      if (!source) continue;
      source += first;
      const float* const w = weight + j * width + first;
      block.each(n, [=](int64_t i) { out[i] += w[i] * sdk::to_float(source[i]); });
    }
  }
};

inline constexpr float kNormFloor = 1e-6f;

// Rows [first, last) of a chunk and head that are a block's: all of them on a CPU; one on a GPU, where a row is a meeting of all threads.
struct RowsOfBlock {
  int64_t item, first, last;
  TN_FN RowsOfBlock(int64_t block, int64_t rows)
      : item(TN_GPU ? block / rows : block), first(TN_GPU ? block % rows : 0), last(TN_GPU ? first + 1 : rows) {}
};
// f over so many items of `rows` rows, each of so many numbers.
template <class F>
void for_each_row(const tn_exec* exec, int64_t items, int64_t rows, int64_t numbers, F f) {
  sdk::for_each_block(exec, TN_GPU ? items * rows : items, f, TN_GPU ? numbers : rows * numbers);
}

// out = scale · l2norm(silu(conv)) (queries, keys) or silu(conv) (values) in chunk layout. One block a chunk and head.
template <class T>
struct Prepare {
  ShortConv<T> conv;
  const Chunk* chunks;
  int64_t heads, width, rows;  // rows: of a chunk
  float scale;
  bool norm, activation;
  float* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const RowsOfBlock mine(block.index, rows);
    const Chunk c = chunks[mine.item / heads];
    const int64_t head = mine.item % heads, n = width;
    const bool act = activation;
    for (int64_t t = mine.first; t < mine.last; ++t) {
      float* const to = out + (mine.item * rows + t) * n;
      if (t >= c.length) {
        block.each(n, [=](int64_t i) { to[i] = 0; });
        continue;
      }
      conv.row(block, c, c.row + t, head * n, n, to);
      if (act) block.each(n, [=](int64_t i) { to[i] = silu(to[i]); });
      if (!norm) continue;
      const float squares = block.sum(n, [=](int64_t i) { return to[i] * to[i]; });
      const float r = scale / std::sqrt(squares + kNormFloor);
      block.each(n, [=](int64_t i) { to[i] *= r; });
    }
  }
};

// Gradient d of Prepare's output, in chunk layout, to the convolution's output in row layout. scratch: as large as d.
template <class T>
struct PrepareBackward {
  ShortConv<T> conv;
  const Chunk* chunks;
  int64_t heads, width, rows;
  float scale;
  bool norm, activation;
  const float* d;
  float* scratch;
  T* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const RowsOfBlock mine(block.index, rows);
    const Chunk c = chunks[mine.item / heads];
    const int64_t head = mine.item % heads, n = width;
    const bool act = activation;
    for (int64_t t = mine.first; t < mine.last && t < c.length; ++t) {
      const float* const dy = d + (mine.item * rows + t) * n;
      float* const s = scratch + (mine.item * rows + t) * n;
      T* const to = out + (c.row + t) * conv.width + head * n;
      conv.row(block, c, c.row + t, head * n, n, s);
      float r = 1, along = 0;
      if (norm) {
        const float squares = block.sum(n, [=](int64_t i) {
          const float z = act ? silu(s[i]) : s[i];
          return z * z;
        });
        r = 1 / std::sqrt(squares + kNormFloor);
        const float dot = block.sum(n, [=](int64_t i) { return (act ? silu(s[i]) : s[i]) * dy[i]; });
        along = dot * r * r;  // ŷ · dy, times the factor that turns z into ŷ
      }
      const float factor = norm ? scale * r : 1.0f;
      block.each(n, [=](int64_t i) {
        const float z = act ? silu(s[i]) : s[i];
        const float dz = factor * (dy[i] - z * along);
        to[i] = sdk::from_float<T>(act ? dz * silu_slope(s[i]) : dz);
      });
    }
  }
};

// dx of the convolution: every row looks ahead. One block a chunk.
template <class T>
struct ConvInputGradient {
  const T* d;
  int64_t width, taps, rows;
  const float* weight;
  const Chunk* chunks;
  T* dx;
  TN_FN void operator()(const sdk::Block& block) const {
    const RowsOfBlock mine(block.index, rows);
    const Chunk c = chunks[mine.item];
    const int64_t n = width, k = taps, end = c.end;
    const float* const w = weight;
    for (int64_t t = mine.first; t < mine.last && t < c.length; ++t) {
      const int64_t row = c.row + t;
      const T* const from = d + row * n;
      T* const to = dx + row * n;
      const int64_t ahead = end - row < k ? end - row : k;
      block.each(n, [=](int64_t i) {
        float sum = 0;
        for (int64_t j = 0; j < ahead; ++j) sum += w[(k - 1 - j) * n + i] * sdk::to_float(from[j * n + i]);
        to[i] = sdk::from_float<T>(sum);
      });
    }
  }
};

// dweight[channel, tap] += Σ over rows. One block for kTile channels, so that sums have one order.
template <class T>
struct ConvWeightGradient {
  static constexpr int64_t kTile = 64, kMostTaps = 8;
  const T *x, *d;
  int64_t width, taps, n_chunks;
  const Chunk* chunks;
  float* dweight;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t first = block.index * kTile, n = width - first < kTile ? width - first : kTile, k = taps;
#if TN_GPU
    // A thread has one tap of a channel and takes all rows, in the same order, without a barrier a row.
    const ConvWeightGradient z = *this;
    block.each(k * n, [=](int64_t at) {
      const int64_t i = first + at % n, back = k - 1 - at / n;
      float s = 0;
      for (int64_t m = 0; m < z.n_chunks; ++m) {
        const Chunk c = z.chunks[m];
        for (int64_t row = c.row < c.document + back ? c.document + back : c.row; row < c.row + c.length; ++row)
          s += sdk::to_float(z.x[(row - back) * z.width + i]) * sdk::to_float(z.d[row * z.width + i]);
      }
      z.dweight[i * k + at / n] += s;
    });
#else
    float* const sum = block.shared<float>();  // [tap, channel]
    block.each(k * kTile, [=](int64_t i) { sum[i] = 0; });
    for (int64_t at = 0; at < n_chunks; ++at) {
      const Chunk c = chunks[at];
      for (int64_t row = c.row; row < c.row + c.length; ++row)
        for (int64_t j = 0; j < k; ++j) {
          const int64_t from = row - (k - 1) + j;
          if (from < c.document) continue;
          const T *const source = x + from * width + first, *const g = d + row * width + first;
          float* const s = sum + j * kTile;
          block.each(n, [=](int64_t i) { s[i] += sdk::to_float(source[i]) * sdk::to_float(g[i]); });
        }
    }
    float* const to = dweight + first * k;
    block.each(n, [=](int64_t i) {
      for (int64_t j = 0; j < k; ++j) to[i * k + j] += sum[j * kTile + i];
    });
#endif
  }
};

// The last taps − 1 rows of (history, x). One channel at a time moves in its own order.
template <class T>
struct Remember {
  const T* x;
  int64_t rows, width, taps;
  T* history;
  TN_FN void operator()(int64_t i) const {
    for (int64_t j = 0; j < taps - 1; ++j) {
      const int64_t from = j + rows;  // in the joined rows
      history[j * width + i] = from < taps - 1 ? history[from * width + i] : x[(from - (taps - 1)) * width + i];
    }
  }
};

// β of every row in chunk layout [chunk, head, row], 0 behind the end; logits null: β = most.
template <class T>
struct Betas {
  const T* logits;
  const Chunk* chunks;
  int64_t heads, rows;
  float most;
  float* out;
  TN_FN void operator()(int64_t i) const {
    const Chunk c = chunks[i / (heads * rows)];
    const int64_t head = i / rows % heads, t = i % rows;
    out[i] = t >= c.length ? 0.0f : logits ? most * sigmoid(sdk::to_float(logits[(c.row + t) * heads + head])) : most;
  }
};

// From d (gradient of β, chunk layout) and β to the logits.
template <class T>
struct BetasBackward {
  const float *beta, *d;
  const Chunk* chunks;
  int64_t heads, rows;
  float most;
  T* out;
  TN_FN void operator()(int64_t i) const {
    const Chunk c = chunks[i / (heads * rows)];
    const int64_t head = i / rows % heads, t = i % rows;
    if (t < c.length) out[(c.row + t) * heads + head] = sdk::from_float<T>(d[i] * beta[i] * (1.0f - beta[i] / most));
  }
};

// gram = K Kᵀ of a chunk becomes inverse = (I + tril(diag(β) gram, −1))⁻¹ by forward substitution, and scaled = inverse · diag(β).
struct Solve {
  int64_t rows;
  const float *gram, *beta;
  float *inverse, *scaled;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = rows;
    const float *const a = gram + block.index * n * n, *const b = beta + block.index * n;
    float *const t = inverse + block.index * n * n, *const s = scaled + block.index * n * n;
#if TN_GPU  // a thread a column: it waits for no other
    block.each(n, [=](int64_t j) {
      for (int64_t i = 0; i < n; ++i) {
        float x = i == j ? 1.0f : 0.0f;
        for (int64_t k = j; k < i; ++k) x -= b[i] * a[i * n + k] * t[k * n + j];
        t[i * n + j] = x, s[i * n + j] = x * b[j];
      }
    });
#else
    for (int64_t i = 0; i < n; ++i) {
      float* const row = t + i * n;
      block.each(n, [=](int64_t j) { row[j] = j == i ? 1.0f : 0.0f; });
      for (int64_t k = 0; k < i; ++k) {
        const float f = b[i] * a[i * n + k];
        const float* const above = t + k * n;
        block.each(k + 1, [=](int64_t j) { row[j] -= f * above[j]; });
      }
      float* const to = s + i * n;
      block.each(n, [=](int64_t j) { to[j] = row[j] * b[j]; });
    }
#endif
  }
};

// Keeps the lower triangle of [… · rows, rows], whose row r is row r mod rows of its chunk.
struct Lower {
  int64_t rows;
  float* x;
  TN_FN void operator()(int64_t i) const {
    if (i % rows > i / rows % rows) x[i] = 0;
  }
};

// a becomes its strict lower triangle, and scaled = diag(β) a.
struct StrictLower {
  int64_t rows;
  const float* beta;
  float *a, *scaled;
  TN_FN void operator()(int64_t i) const {
    const int64_t row = i / rows;
    const float x = i % rows < row % rows ? a[i] : 0.0f;
    a[i] = x, scaled[i] = beta[row] * x;
  }
};

// dK += β dBk, dV = β dBv (in the memory of dBv), dβ = dBv · V + dBk · K. One block a row of a head.
struct Unscale {
  int64_t d, e;
  const float *beta, *k, *v, *d_bk;
  float *dk, *d_bv, *d_beta;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index;
    const float b = beta[r];
    const float *const kr = k + r * d, *const vr = v + r * e, *const gk = d_bk + r * d;
    float *const to = dk + r * d, *const gv = d_bv + r * e, *const out = d_beta + r;
    const float along = block.sum(d, [=](int64_t i) { return gk[i] * kr[i]; }) + block.sum(e, [=](int64_t i) { return gv[i] * vr[i]; });
    block.each(1, [=](int64_t) { *out = along; });
    block.each(d, [=](int64_t i) { to[i] += b * gk[i]; });
    block.each(e, [=](int64_t i) { gv[i] *= b; });
  }
};

inline constexpr float kOutputFloor = 1e-5f;

// y = rmsnorm(o) · gain (· silu(gate)): chunk layout to row layout. One block a chunk and query head.
template <class T>
struct Finish {
  const float *o, *gain;
  const T* gate;  // row layout, or null
  const Chunk* chunks;
  int64_t heads, width, rows;
  T* y;
  TN_FN void operator()(const sdk::Block& block) const {
    const RowsOfBlock mine(block.index, rows);
    const Chunk c = chunks[mine.item / heads];
    const int64_t head = mine.item % heads, n = width;
    const float* const g = gain;
    for (int64_t t = mine.first; t < mine.last && t < c.length; ++t) {
      const float* const from = o + (mine.item * rows + t) * n;
      const int64_t at = ((c.row + t) * heads + head) * n;
      const T* const gates = gate ? gate + at : nullptr;
      T* const to = y + at;
      const float r = 1 / std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; }) / static_cast<float>(n) + kOutputFloor);
      block.each(n, [=](int64_t i) {
        const float x = from[i] * r * g[i];
        to[i] = sdk::from_float<T>(gates ? x * silu(sdk::to_float(gates[i])) : x);
      });
    }
  }
};

// From dy to dO (chunk layout, zero behind the end), the gate's gradient, and a partial sum of the gain's for each block.
template <class T>
struct FinishBackward {
  const float *o, *gain;
  const T *gate, *dy;
  const Chunk* chunks;
  int64_t heads, width, rows;
  float *d_o, *d_gain;
  T* d_gate;
  TN_FN void operator()(const sdk::Block& block) const {
    const Chunk c = chunks[block.index / heads];
    const int64_t head = block.index % heads, n = width;
    const float* const g = gain;
    float* const sum = d_gain + block.index * n;
    block.each(n, [=](int64_t i) { sum[i] = 0; });
    for (int64_t t = 0; t < rows; ++t) {
      const float* const from = o + (block.index * rows + t) * n;
      float* const to = d_o + (block.index * rows + t) * n;
      if (t >= c.length) {
        block.each(n, [=](int64_t i) { to[i] = 0; });
        continue;
      }
      const int64_t at = ((c.row + t) * heads + head) * n;
      const T *const gates = gate ? gate + at : nullptr, *const in = dy + at;
      T* const out = d_gate ? d_gate + at : nullptr;
      const float r = 1 / std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; }) / static_cast<float>(n) + kOutputFloor);
      block.each(n, [=](int64_t i) {
        const float d = sdk::to_float(in[i]), x = from[i] * r, gated = gates ? d * silu(sdk::to_float(gates[i])) : d;
        sum[i] += gated * x;
        if (out) out[i] = sdk::from_float<T>(d * x * g[i] * silu_slope(sdk::to_float(gates[i])));
        to[i] = gated * g[i];
      });
      const float along = block.sum(n, [=](int64_t i) { return to[i] * from[i]; }) * r * r / static_cast<float>(n);
      block.each(n, [=](int64_t i) { to[i] = r * (to[i] - from[i] * along); });
    }
  }
};

// weight [channel, tap] as [tap, channel].
struct Transpose {
  const float* from;
  int64_t width, taps;
  float* to;
  TN_FN void operator()(int64_t i) const { to[i] = from[i % width * taps + i / width]; }
};

}  // namespace tenon::deltanet
