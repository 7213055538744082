// From the layer's projections to the rows of the fast weights and back, and the join with attention.
//
// Projections are rows of the compute type; what the fast weights read is f32 [fast head, row, width], the channels of all query heads. Where
// several query heads share a key head, a channel of the key or value stands in each of them.
#pragma once

#include <cmath>

#include "sdk/for_each.h"
#include "sdk/mixer_kernels.h"
#include "sdk/vector_trig.h"

namespace tenon::lact {

using sdk::sigmoid, sdk::silu, sdk::silu_slope;

// Channels of the fast weights over the columns of a projection.
struct Channels {
  int64_t heads, group, width;  // query heads, of which `group` share a column
  TN_FN int64_t count() const { return heads * width; }
  TN_FN int64_t columns() const { return heads / group * width; }
  TN_FN int64_t column(int64_t channel) const { return channel / width / group * width + channel % width; }
  TN_FN int64_t channel(int64_t column, int64_t member) const { return (column / width * group + member) * width + column % width; }
};

// What makes a projection a query, key or value of the fast weights.
struct Feature {
  Channels channels;
  int64_t fast_heads;
  bool activation, norm;
  const float *scale, *offset;  // of every second number, or null
  const float* inv_freq;        // [width / 2], or null: no rotation

  TN_FN int64_t width() const { return channels.count() / fast_heads; }
  // Where a channel of a row stands.
  TN_FN int64_t at(int64_t channel, int64_t row, int64_t rows) const { return (channel / width() * rows + row) * width() + channel % width(); }
  TN_FN float linear(float x, int64_t i) const { return scale ? x * scale[2 * i] + offset[2 * i] : x; }
  TN_FN float active(float x, int64_t i) const {
    const float z = linear(x, i);
    return activation ? silu(z) : z;
  }
};
inline constexpr float kUnitFloor = 1e-5f;

// Pair i of the rotary pairs of all heads: its angle at a position, and where its two numbers stand.
struct Pair {
  int64_t low, high;
  sdk::SinCos turn;
};
TN_FN Pair pair_at(int64_t i, int64_t width, int64_t position, const float* inv_freq) {
  const int64_t half = width / 2, low = i / half * width + i % half;
  return {low, low + half, sdk::vsin_cos(static_cast<float>(position) * inv_freq[i % half])};
}

// One block a row; rows stand at `position` and behind.
template <class T>
struct Prepare {
  Feature f;
  const T* x;
  int64_t position, rows;
  float* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t row = block.index, all = rows, d = f.width();
    const T* const from = x + row * f.channels.columns();
    float* const to = out;
    const Feature g = f;
    for (int64_t h = 0; h < f.fast_heads; ++h) {
      float* const head = to + (h * all + row) * d;
      const int64_t first = h * d;
      block.each(d, [=](int64_t i) { head[i] = g.active(sdk::to_float(from[g.channels.column(first + i)]), first + i); });
      if (!f.norm) continue;
      const float r = 1 / (std::sqrt(block.sum(d, [=](int64_t i) { return head[i] * head[i]; })) + kUnitFloor);
      block.each(d, [=](int64_t i) { head[i] *= r; });
    }
    if (!f.inv_freq) return;
    const int64_t here = position + row;
    block.each(f.channels.count() / 2, [=](int64_t i) {
      const Pair p = pair_at(i, g.channels.width, here, g.inv_freq);
      const int64_t low = g.at(p.low, row, all), high = g.at(p.high, row, all);
      const float a = to[low], b = to[high];
      to[low] = a * p.turn.cos - b * p.turn.sin, to[high] = b * p.turn.cos + a * p.turn.sin;
    });
  }
};

inline constexpr int64_t kStrip = 32;  // rows whose sums are one part

// d, the gradient of Prepare's output, which is overwritten, to dx += …; parts [strip, 2, channel] of the gradients of scale and offset. scratch
// is as large as d. One block a strip.
template <class T>
struct PrepareBackward {
  Feature f;
  const T* x;
  int64_t position, rows;
  float *d, *scratch;
  T* dx;
  float* parts;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = f.channels.count(), columns = f.channels.columns(), w = f.width(), all = rows;
    const int64_t begin = block.index * kStrip, end = begin + kStrip < rows ? begin + kStrip : rows;
    const Feature g = f;
    float *const part = parts + block.index * 2 * n, *const grad = d;
    if (f.scale) block.each(2 * n, [=](int64_t i) { part[i] = 0; });
    for (int64_t row = begin; row < end; ++row) {
      const T* const from = x + row * columns;
      T* const to = dx + row * columns;
      const int64_t here = position + row;
      if (f.inv_freq)
        block.each(n / 2, [=](int64_t i) {
          const Pair p = pair_at(i, g.channels.width, here, g.inv_freq);
          const int64_t low = g.at(p.low, row, all), high = g.at(p.high, row, all);
          const float a = grad[low], b = grad[high];
          grad[low] = a * p.turn.cos + b * p.turn.sin, grad[high] = b * p.turn.cos - a * p.turn.sin;
        });
      for (int64_t h = 0; h < f.fast_heads; ++h) {
        const int64_t first = h * w;
        float *const y = scratch + (h * all + row) * w, *const dy = grad + (h * all + row) * w;
        if (f.norm) {
          block.each(w, [=](int64_t i) { y[i] = g.active(sdk::to_float(from[g.channels.column(first + i)]), first + i); });
          const float length = std::sqrt(block.sum(w, [=](int64_t i) { return y[i] * y[i]; })), r = 1 / (length + kUnitFloor);
          const float along = block.sum(w, [=](int64_t i) { return dy[i] * y[i]; }), pull = length > 0 ? along * r / length : 0.0f;
          block.each(w, [=](int64_t i) { dy[i] = r * (dy[i] - y[i] * pull); });
        }
        if (f.activation) block.each(w, [=](int64_t i) { dy[i] *= silu_slope(g.linear(sdk::to_float(from[g.channels.column(first + i)]), first + i)); });
        if (f.scale)
          block.each(w, [=](int64_t i) {
            part[first + i] += dy[i] * sdk::to_float(from[g.channels.column(first + i)]), part[n + first + i] += dy[i];
            dy[i] *= g.scale[2 * (first + i)];
          });
      }
      block.each(columns, [=](int64_t j) {
        float sum = 0;
        for (int64_t m = 0; m < g.channels.group; ++m) sum += grad[g.at(g.channels.channel(j, m), row, all)];
        to[j] = sdk::from_float<T>(sdk::to_float(to[j]) + sum);
      });
    }
  }
};
// scale[2 i] += Σ parts[:, 0, i], offset[2 i] += Σ parts[:, 1, i].
struct AddChannelParts {
  const float* parts;
  int64_t strips, n;
  float *scale, *offset;  // or null
  TN_FN void operator()(int64_t i) const {
    float a = 0, b = 0;
    for (int64_t s = 0; s < strips; ++s) a += parts[2 * s * n + i], b += parts[(2 * s + 1) * n + i];
    if (scale) scale[2 * i] += a;
    if (offset) offset[2 * i] += b;
  }
};

// Turns rows of heads by their positions; sign −1: back.
template <class T>
struct Rotate {
  const T* x;
  int64_t heads, width;
  const int32_t* positions;
  const float* inv_freq;
  float sign;
  T* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = heads * width, at = positions[block.index], w = width;
    const T* const from = x + block.index * n;
    T* const to = out + block.index * n;
    const float* const frequency = inv_freq;
    const float way = sign;
    block.each(n / 2, [=](int64_t i) {
      const Pair p = pair_at(i, w, at, frequency);
      const float a = sdk::to_float(from[p.low]), b = sdk::to_float(from[p.high]), sine = way * p.turn.sin;
      to[p.low] = sdk::from_float<T>(a * p.turn.cos - b * sine), to[p.high] = sdk::from_float<T>(b * p.turn.cos + a * sine);
    });
  }
};

// Learning rates softplus(logit + bias + base), from logits [row, head, 3] to [head, row, 3], and back. log1p of a small number is accurate.
struct RateAt {
  int64_t heads, rows;
  TN_FN int64_t operator()(int64_t i) const { return (i / 3 % heads * rows + i / 3 / heads) * 3 + i % 3; }
};
template <class T>
struct Rates {
  const T* logits;
  const float* bias;
  RateAt at;
  float base;
  float* out;
  TN_FN void operator()(int64_t i) const {
    const float z = sdk::to_float(logits[i]) + bias[i % (3 * at.heads)] + base;
    out[at(i)] = (z > 0 ? z : 0.0f) + std::log1p(sdk::vexp(z > 0 ? -z : z));
  }
};
template <class T>
struct RatesBackward {
  const T* logits;
  const float* bias;
  RateAt at;
  float base;
  const float* d;
  T* out;
  TN_FN void operator()(int64_t i) const { out[i] = sdk::from_float<T>(d[at(i)] * sigmoid(sdk::to_float(logits[i]) + bias[i % (3 * at.heads)] + base)); }
};

// out[head] = mean over rows of sigmoid(logit + bias). One block a head.
template <class T>
struct MeanMomentum {
  const T* logits;
  const float* bias;
  int64_t rows, heads;
  float* out;
  TN_FN void operator()(const sdk::Block& block) const {
    const T* const from = logits + block.index;
    const float b = bias[block.index];
    const int64_t stride = heads;
    float* const to = out + block.index;
    const float mean = block.sum(rows, [=](int64_t i) { return sigmoid(sdk::to_float(from[i * stride]) + b); }) / static_cast<float>(rows);
    block.each(1, [=](int64_t) { *to = mean; });
  }
};
template <class T>
struct MeanMomentumBackward {
  const T* logits;
  const float* bias;
  int64_t rows, heads;
  const float* d;
  T* out;
  TN_FN void operator()(int64_t i) const {
    const float m = sigmoid(sdk::to_float(logits[i]) + bias[i % heads]);
    out[i] = sdk::from_float<T>(d[i % heads] / static_cast<float>(rows) * m * (1 - m));
  }
};

inline constexpr float kOutputFloor = 1e-5f;

// y = attention + gate · rmsnorm(o) · gain, per fast head; attention or gate may be null. One block a row.
template <class T>
struct Join {
  int64_t heads, width, rows;  // of the fast weights
  const float *o, *gain;
  const T *attention, *gate;
  const float* gate_bias;
  T* y;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = width;
    const float* const g = gain;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = (block.index * heads + h) * n;
      const float* const from = o + (h * rows + block.index) * n;
      const T* const other = attention ? attention + at : nullptr;
      T* const to = y + at;
      const float s = gate ? silu(sdk::to_float(gate[block.index * heads + h]) + gate_bias[h]) : 1.0f;
      const float r = s / std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; }) / static_cast<float>(n) + kOutputFloor);
      block.each(n, [=](int64_t i) { to[i] = sdk::from_float<T>(from[i] * r * g[i] + (other ? sdk::to_float(other[i]) : 0.0f)); });
    }
  }
};
// From dy to do and the gate's gradient; parts [strip, width] of the gain's. One block a strip.
template <class T>
struct JoinBackward {
  int64_t heads, width, rows;
  const float *o, *gain;
  const T *gate, *dy;
  const float* gate_bias;
  float *d_o, *parts;
  T* d_gate;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = width, first = block.index * kStrip, end = first + kStrip < rows ? first + kStrip : rows;
    const float* const g = gain;
    float* const part = parts + block.index * n;
    block.each(n, [=](int64_t i) { part[i] = 0; });
    for (int64_t row = first; row < end; ++row)
      for (int64_t h = 0; h < heads; ++h) {
        const float* const from = o + (h * rows + row) * n;
        const T* const in = dy + (row * heads + h) * n;
        float* const to = d_o + (h * rows + row) * n;
        const float z = gate ? sdk::to_float(gate[row * heads + h]) + gate_bias[h] : 0.0f, s = gate ? silu(z) : 1.0f;
        const float r = 1 / std::sqrt(block.sum(n, [=](int64_t i) { return from[i] * from[i]; }) / static_cast<float>(n) + kOutputFloor);
        const float along = block.sum(n, [=](int64_t i) { return sdk::to_float(in[i]) * g[i] * from[i]; }) * r;
        if (gate) {
          T* const out = d_gate + row * heads + h;
          block.each(1, [=](int64_t) { *out = sdk::from_float<T>(along * silu_slope(z)); });
        }
        const float pull = along * r * r / static_cast<float>(n);
        block.each(n, [=](int64_t i) {
          const float d = sdk::to_float(in[i]);
          part[i] += d * s * from[i] * r;
          to[i] = s * r * d * g[i] - s * pull * from[i];
        });
      }
  }
};

// bias[column] += Σ over rows. One block a column.
template <class T>
struct AddColumns {
  const T* x;
  int64_t rows, columns;
  float* to;
  TN_FN void operator()(const sdk::Block& block) const {
    const T* const from = x + block.index;
    const int64_t stride = columns;
    float* const out = to + block.index;
    const float sum = block.sum(rows, [=](int64_t i) { return sdk::to_float(from[i * stride]); });
    block.each(1, [=](int64_t) { *out += sum; });
  }
};

// W = left · right + identity / 2, whose product is there: the diagonal of matrices [rows, columns].
struct AddIdentity {
  int64_t rows, columns;
  float* w;
  TN_FN void operator()(int64_t i) const {
    const int64_t row = i / columns % rows;
    if (i % columns == row) w[i] += 0.5f;
  }
};
// Rows of a ring or a buffer: to[(first + row) mod period] = from[row].
template <class T>
struct CopyRows {
  const T* from;
  int64_t from_first, from_period, width;
  T* to;
  int64_t to_first, to_period;
  TN_FN void operator()(int64_t i) const {
    const int64_t row = i / width, column = i % width;
    to[(to_first + row) % to_period * width + column] = from[(from_first + row) % from_period * width + column];
  }
};

}  // namespace tenon::lact
