// What lies around the products of a GPU's passes. A unit is one chunk of one query head; units of a window lie chunk by chunk, heads fastest.
// Rows of a unit are its positions, `rows` of them: those without a query or key, and those behind the chunk's end, are 0. f32 throughout.
#pragma once

#include <cmath>

#include "sdk/attention/kernel_rows.h"
#include "sdk/for_each.h"
#include "sdk/vector_log.h"
#include "sdk/vector_math.h"
#include "sdk/vector_trig.h"

namespace tenon::lightning {

// One chunk of one sequence.
struct Piece {
  int64_t n, q_row, nq, q_at, k_row, nk, k_at;  // as in Chunk
  int64_t b, sequence;                          // batch entry; row of the states
  int64_t seen_at;                              // the first position in the chunk that sees a key or a state
  bool starts, ends;                            // its sequence
  TN_FN bool has_query(int64_t r) const { return r >= q_at && r < q_at + nq; }
  TN_FN bool has_key(int64_t r) const { return r >= k_at && r < k_at + nk; }
};

struct Sizes {
  int64_t heads, group, rows, d, e;
  const double* sigma;  // [heads]
  // λ^t of a head.
  TN_FN float decay(int64_t head, int64_t t) const { return sdk::vexp(static_cast<float>(-sigma[head] * static_cast<double>(t))); }
};

// One side of the units: x, and x decayed, of queries by λ^(i+1), of keys by λ^(n−1−j); either may be null.
struct Gather {
  Sizes z;
  const Piece* pieces;
  sdk::Rows from;
  int64_t width;
  bool keys;  // k or v; else q
  float scale;
  float *x, *decayed;
  TN_FN void operator()(int64_t i) const {
    const int64_t c = i % width, r = i / width % z.rows, unit = i / width / z.rows, head = unit % z.heads;
    const Piece& p = pieces[unit / z.heads];
    float value = 0, by = 0;
    if (keys ? p.has_key(r) : p.has_query(r)) {
      const char* const row = keys ? from.at(p.b, p.k_row + r - p.k_at, head / z.group) : from.at(p.b, p.q_row + r - p.q_at, head);
      value = scale * from.get(row, c), by = z.decay(head, keys ? p.n - 1 - r : r + 1);
    }
    if (x) x[i] = value;
    if (decayed) decayed[i] = value * by;
  }
};

// dO before the output norm: through y = o / m, m = sqrt(mean o² + ε), dO = (dy − y mean(y ∘ dy)) / m. One block a row of a unit.
struct GatherGradient {
  Sizes z;
  const Piece* pieces;
  sdk::Rows d_o, o;
  sdk::Numbers lse;
  bool norm;
  float *x, *decayed;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index % z.rows, unit = block.index / z.rows, head = unit % z.heads;
    const Piece& p = pieces[unit / z.heads];
    float *const to = x + block.index * z.e, *const later = decayed + block.index * z.e;
    if (!p.has_query(r)) return block.each(z.e, [=](int64_t i) { to[i] = later[i] = 0; });
    const int64_t token = p.q_row + r - p.q_at;
    const char *const dy = d_o.at(p.b, token, head), *const y = norm ? o.at(p.b, token, head) : nullptr;
    const GatherGradient* const g = this;
    float mean = 0, inverse = 1;
    if (norm) {
      const float l = lse.at(p.b, head, token);
      inverse = l == -sdk::detail::infinity() ? 0.0f : sdk::vexp(-l);
      mean = block.sum(z.e, [=](int64_t i) { return g->d_o.get(dy, i) * g->o.get(y, i); }) / static_cast<float>(z.e);
    }
    const float by = z.decay(head, r + 1);
    block.each(z.e, [=](int64_t i) {
      const float value = (g->d_o.get(dy, i) - (y ? g->o.get(y, i) * mean : 0.0f)) * inverse;
      to[i] = value, later[i] = value * by;
    });
  }
};

// Products of rows with rows, [unit, i, j]: times λ^(i−j), 0 for j > i.
struct Decay {
  Sizes z;
  float* x;
  TN_FN void operator()(int64_t i) const {
    const int64_t later = i / z.rows % z.rows - i % z.rows;
    x[i] = later < 0 ? 0.0f : x[i] * z.decay(i / z.rows / z.rows % z.heads, later);
  }
};

// States or their gradients [sequence, head, d, e] in the host's memory; null: none.
struct States {
  char* data = nullptr;
  int64_t row = 0;
  TN_FN float* at(int64_t sequence) const { return reinterpret_cast<float*>(data + sequence * row); }
};

// What each unit adds to the state becomes the state before it; `carry`, [head, d, e], goes from window to window. i: an element of it.
struct Advance {
  Sizes z;
  const Piece* pieces;
  int64_t count;
  float *units, *carry;
  States in, out;
  bool keep;  // false: only the carry is wanted
  TN_FN void operator()(int64_t i) const {
    const int64_t size = z.d * z.e, head = i / size;
    float s = carry[i];
    for (int64_t j = 0; j < count; ++j) {
      const Piece& p = pieces[j];
      if (p.starts) s = in.data ? in.at(p.sequence)[i] : 0.0f;
      float* const at = units + j * z.heads * size + i;
      const float added = *at;
      if (keep) *at = s;
      s = z.decay(head, p.n) * s + added;
      if (p.ends && out.data) out.at(p.sequence)[i] = s;
    }
    carry[i] = s;
  }
};
// The same from the end: what each unit adds to the gradient of the state before it becomes the gradient of the state behind it.
struct Retreat {
  Sizes z;
  const Piece* pieces;
  int64_t count;
  float *units, *carry;
  States d_out, d_in;
  TN_FN void operator()(int64_t i) const {
    const int64_t size = z.d * z.e, head = i / size;
    float s = carry[i];
    for (int64_t j = count; j-- > 0;) {
      const Piece& p = pieces[j];
      if (p.ends) s = d_out.data ? d_out.at(p.sequence)[i] : 0.0f;
      float* const at = units + j * z.heads * size + i;
      const float added = *at;
      *at = s;
      s = z.decay(head, p.n) * s + added;
      if (p.starts && d_in.data) d_in.at(p.sequence)[i] = s;
    }
    carry[i] = s;
  }
};

// Divides a row by the root of its mean square where that is asked for; the log of the divisor is its LSE. `out`: f32, of the block.
TN_FN void finish_row(const sdk::Block& block, const float* out, int64_t e, bool norm, bool seen, float epsilon, const sdk::Rows& o, char* row, float* lse) {
  float factor = 1, log = seen ? 0.0f : -sdk::detail::infinity();
  if (norm && seen) {
    const float square = block.sum(e, [=](int64_t i) { return out[i] * out[i]; }) / static_cast<float>(e) + epsilon;
    factor = 1 / std::sqrt(square), log = 0.5f * sdk::vlog(square);
  }
  const sdk::Rows* const to = &o;
  block.each(e, [=](int64_t i) { to->put(row, i, out[i] * factor); });
  if (lse) block.each(1, [=](int64_t) { *lse = log; });
}

// One block a row of a unit.
struct Finish {
  Sizes z;
  const Piece* pieces;
  const float* out;
  bool norm;
  float epsilon;
  sdk::Rows o;
  sdk::Numbers lse;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t r = block.index % z.rows, unit = block.index / z.rows, head = unit % z.heads;
    const Piece& p = pieces[unit / z.heads];
    if (!p.has_query(r)) return;
    const int64_t token = p.q_row + r - p.q_at;
    finish_row(block, out + block.index * z.e, z.e, norm, r >= p.seen_at, epsilon, o, o.at(p.b, token, head), lse.data ? &lse.at(p.b, head, token) : nullptr);
  }
};

struct ScatterQueries {
  Sizes z;
  const Piece* pieces;
  const float* dq;
  float scale;
  sdk::Rows to;
  TN_FN void operator()(int64_t i) const {
    const int64_t c = i % z.d, r = i / z.d % z.rows, unit = i / z.d / z.rows, head = unit % z.heads;
    const Piece& p = pieces[unit / z.heads];
    if (p.has_query(r)) to.put(to.at(p.b, p.q_row + r - p.q_at, head), c, scale * dq[i]);
  }
};
// The sum over the query heads of a group. i: an element of [chunk, key head, row, width].
struct ScatterKeys {
  Sizes z;
  const Piece* pieces;
  const float* dx;
  int64_t width;
  sdk::Rows to;
  TN_FN void operator()(int64_t i) const {
    const int64_t c = i % width, r = i / width % z.rows, heads = z.heads / z.group, g = i / width / z.rows % heads, j = i / width / z.rows / heads;
    const Piece& p = pieces[j];
    if (!p.has_key(r)) return;
    float sum = 0;
    for (int64_t x = 0; x < z.group; ++x) sum += dx[((j * z.heads + g * z.group + x) * z.rows + r) * width + c];
    to.put(to.at(p.b, p.k_row + r - p.k_at, g), c, sum);
  }
};
// Keys that no query comes behind have no gradient. i: an element of [batch entry, row, key head, width].
struct ClearUntouched {
  const uint8_t* touched;
  int64_t rows, heads, width;
  sdk::Rows to;
  TN_FN void operator()(int64_t i) const {
    const int64_t c = i % width, g = i / width % heads, row = i / width / heads % rows, b = i / width / heads / rows;
    if (!touched[row]) to.put(to.at(b, row, g), c, 0.0f);
  }
};

// One token on a state: S' = λ S + k vᵀ, o = q S'. One block a batch entry and head; a thread has whole columns of the state.
struct DecodeToken {
  Sizes z;
  float scale, epsilon;
  bool norm;
  sdk::Rows q, k, v, o;
  sdk::Numbers lse;
  States in, out;
  static constexpr int64_t kShared = 512 * sizeof(float);
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t b = block.index / z.heads, head = block.index % z.heads, g = head / z.group, size = z.d * z.e;
    const DecodeToken* const t = this;
    const char *const query = q.at(b, 0, head), *const key = k.at(b, 0, g), *const value = v.at(b, 0, g);
    const float *const from = in.at(b) + head * size, decay = z.decay(head, 1);
    float *const to = out.at(b) + head * size, *const sums = block.shared<float>();
    block.each(z.e, [=](int64_t x) {
      const float added = t->v.get(value, x);
      float sum = 0;
      for (int64_t c = 0; c < t->z.d; ++c) {
        const float s = decay * from[c * t->z.e + x] + t->k.get(key, c) * added;
        to[c * t->z.e + x] = s, sum += t->scale * t->q.get(query, c) * s;
      }
      sums[x] = sum;
    });
    finish_row(block, sums, z.e, norm, true, epsilon, o, o.at(b, 0, head), lse.data ? &lse.at(b, head, 0) : nullptr);
  }
};

}  // namespace tenon::lightning
