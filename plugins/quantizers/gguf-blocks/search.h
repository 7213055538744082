// Searches for the scale of a sub-block that makes its weighted squared error small. Each tries a row of scales around
// the one that maps the extreme element to the extreme code, solves the best scale for the codes that result by least
// squares, and keeps the best of all.
#pragma once

#include <cmath>

#include "quantizers/gguf-blocks/bytes.h"
#include "quantizers/gguf-blocks/lanes.h"

namespace tenon::gguf {

// x ≈ scale·q - min with q in 0 … levels and min >= 0.
struct Affine {
  float scale, min;
};

struct Trials {
  float first, step;  // added to `levels` before it is divided by the range
  int count;
  bool absolute;  // judge by |error| instead of its square
};

template <int N>
TN_LARGE_FN Affine search_affine(const float* x, const float* weight, int levels, const Trials& trials) {
  constexpr int kVectors = N / 16;
  Lanes v[kVectors], w[kVectors], sw{}, swx{};
  float low = 0, high = x[0];
  for (int i = 0; i < N; ++i) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
  if (high == low) return {0, -low};
  for (int k = 0; k < kVectors; ++k)
    v[k] = load(x + 16 * k), w[k] = load(weight + 16 * k), sw += w[k], swx += w[k] * v[k];
  const float sum_w = sum(sw), sum_x = sum(swx), n = static_cast<float>(levels);
  float min = low, scale = (high - low) / n, best = 0;
  for (int trial = -1; trial < trials.count; ++trial) {  // the first is the plain range
    const float inverse = (trial < 0 ? n : n + trials.first + trials.step * static_cast<float>(trial)) / (high - min);
    Lanes q[kVectors], sq{}, sqq{}, sqx{};
    for (int k = 0; k < kVectors; ++k) {
      q[k] = clamp(round_even((v[k] - fill(min)) * fill(inverse)), 0, n);
      sq += w[k] * q[k], sqq += w[k] * q[k] * q[k], sqx += w[k] * q[k] * v[k];
    }
    float s = scale, m = min;
    if (trial >= 0) {
      const float sum_q = sum(sq), sum_qq = sum(sqq), sum_qx = sum(sqx), determinant = sum_w * sum_qq - sum_q * sum_q;
      if (!(determinant > 0)) continue;
      s = (sum_w * sum_qx - sum_x * sum_q) / determinant;
      m = (sum_qq * sum_x - sum_q * sum_qx) / determinant;
      if (m > 0) m = 0, s = sum_qx / sum_qq;
    }
    Lanes error{};
    for (int k = 0; k < kVectors; ++k) {
      const Lanes e = fill(s) * q[k] + fill(m) - v[k];
      error += w[k] * (trials.absolute ? magnitude(e) : e * e);
    }
    const float total = sum(error);
    if (trial < 0 || total < best) best = total, scale = s, min = m;
  }
  return {scale, -min};
}

// The element of largest magnitude, with its sign; the first of several.
TN_LARGE_FN float signed_extreme(const float* x, int n) {
  float extreme = 0;
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  return extreme;
}

// x ≈ scale·q with q in -half … half - 1 for 16 elements, weight x².
TN_LARGE_FN float search_symmetric(const float* x, float half) {
  const float extreme = signed_extreme(x, 16);
  if (std::fabs(extreme) < 1e-15f) return 0;
  const Lanes v = load(x), w = v * v;
  float scale = 0, best = -1;
  for (int trial = 0; trial < 19; ++trial) {  // the middle one first: it stays when others are only as good
    const int offset = trial == 0 ? 0 : trial <= 9 ? trial - 10 : trial - 9;
    const float inverse = -(half + 0.1f * static_cast<float>(offset)) / extreme;
    const Lanes q = clamp(round_even(v * fill(inverse)), -half, half - 1);
    const float sum_qx = sum(w * q * v), sum_qq = sum(w * q * q);
    if (sum_qq > 0 && (best < 0 || sum_qx * sum_qx > best * sum_qq)) scale = sum_qx / sum_qq, best = scale * sum_qx;
  }
  return scale;
}

// As above for few levels: starts from the plain scale and moves one code at a time, five times around, while the fit
// improves.
TN_LARGE_FN float search_coordinates(const float* x, float half) {
  const float extreme = signed_extreme(x, 16);
  if (std::fabs(extreme) < 1e-15f) return 0;
  const float inverse = -half / extreme;
  float q[16], sum_qx = 0, sum_qq = 0;
  const auto code = [half](float t) {
    const float r = round_even(t);
    return r < -half ? -half : r > half - 1 ? half - 1 : r;
  };
  for (int i = 0; i < 16; ++i) {
    const float w = x[i] * x[i];
    q[i] = code(x[i] * inverse);
    sum_qx += w * x[i] * q[i], sum_qq += w * q[i] * q[i];
  }
  for (int round = 0; round < 5; ++round) {
    bool moved = false;
    for (int i = 0; i < 16; ++i) {
      const float w = x[i] * x[i], rest_qx = sum_qx - w * x[i] * q[i], rest_qq = sum_qq - w * q[i] * q[i];
      if (!(rest_qx > 0)) continue;
      const float next = code(x[i] * rest_qq / rest_qx);
      if (next == q[i]) continue;
      const float new_qx = rest_qx + w * x[i] * next, new_qq = rest_qq + w * next * next;
      if (new_qq > 0 && new_qx * new_qx * sum_qq > sum_qx * sum_qx * new_qq)
        q[i] = next, sum_qx = new_qx, sum_qq = new_qq, moved = true;
    }
    if (!moved) break;
  }
  return sum_qq > 0 ? sum_qx / sum_qq : 0;
}

// Nearest of the IQ4 levels, sixteen at a time: as many levels as thresholds are exceeded.
TN_LARGE_FN Lanes nearest_level(const Lanes& t, Lanes* rank) {
  Lanes level = fill(iq4_level(0)), r{};
  for (int k = 1; k < 16; ++k) {
    const Lanes threshold = fill(0.5f * static_cast<float>(iq4_level(k - 1) + iq4_level(k)));
    level = select_not_less(t, threshold, fill(iq4_level(k)), level);
    r += select_not_less(t, threshold, fill(1), Lanes{});
  }
  if (rank) *rank = r;
  return level;
}

// x ≈ scale·level for 32 elements, weight |x|.
TN_LARGE_FN float search_levels(const float* x) {
  const float extreme = signed_extreme(x, 32);
  if (std::fabs(extreme) < 1e-15f) return 0;
  const Lanes v[2] = {load(x), load(x + 16)};
  float scale = 0, best = -1;
  for (int trial = 0; trial < 16; ++trial) {  // the plain scale, then -7 … 7 steps of a level around it
    const float inverse =
        (static_cast<float>(iq4_level(0)) + static_cast<float>(trial == 0 ? 0 : trial - 8)) / extreme;
    Lanes qx{}, qq{};
    for (const Lanes& part : v) {
      const Lanes q = nearest_level(part * fill(inverse), nullptr), w = magnitude(part);
      qx += w * q * part, qq += w * q * q;
    }
    const float sum_qx = sum(qx), sum_qq = sum(qq);
    if (sum_qq > 0 && (best < 0 || sum_qx * sum_qx > best * sum_qq)) scale = sum_qx / sum_qq, best = scale * sum_qx;
  }
  return scale;
}

TN_LARGE_FN void level_codes(const float* x, float inverse, uint8_t* q) {
  for (int k = 0; k < 2; ++k) {
    Lanes rank;
    nearest_level(load(x + 16 * k) * fill(inverse), &rank);
    float ranks[16];
    store(ranks, rank);
    for (int i = 0; i < 16; ++i) q[16 * k + i] = static_cast<uint8_t>(ranks[i]);
  }
}

}  // namespace tenon::gguf
