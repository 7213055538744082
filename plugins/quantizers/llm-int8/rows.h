// Rows in 8 bits: q = rne(x · 127 / s), s the largest magnitude of the row. Of inputs, columns with an outlier are left out of s and coded as 0.
#pragma once

#include <cmath>

#include "sdk/codec.h"

namespace tenon::llm_int8 {

inline constexpr float kLevels = 127.0f;

TN_FN float factor(float scale) { return scale > 0 ? kLevels / scale : 0.0f; }

TN_FN int8_t code(float x, float factor) {
  const float q = std::nearbyint(x * factor);
  return static_cast<int8_t>(q < -kLevels ? -kLevels : q > kLevels ? kLevels : q);
}

// codes [rows, n] and scales [rows] of the rows of w.
template <class T>
void code_weight(const tn_exec* exec, const T* w, int64_t rows, int64_t n, int8_t* codes, float* scales, sdk::FirstBad::Found bad) {
  sdk::for_each_block(
      exec, rows,
      [=] TN_KERNEL(const sdk::Block& row) {
        const T* const from = w + row.index * n;
        int8_t* const to = codes + row.index * n;
        const float most = row.max(n, 0.0f, [=](int64_t j) {
          const float v = std::fabs(sdk::to_float(from[j]));
          return sdk::is_finite(v) ? v : __builtin_inff();
        });
        scales[row.index] = most;
        if (!sdk::is_finite(most)) return bad(row.index);
        const float f = factor(most);
        row.each(n, [=](int64_t j) { to[j] = code(sdk::to_float(from[j]), f); });
      },
      n);
}

// keep[j] = 0 where a token has |x| >= threshold in column j, else 1. threshold 0: no column is apart.
template <class T>
void find_outliers(const tn_exec* exec, const T* x, int64_t rows, int64_t n, float threshold, float* keep) {
#if TN_GPU  // a thread for some rows of a column; all that find an outlier there write the same 0
  sdk::for_each(exec, n, [=] TN_KERNEL(int64_t j) { keep[j] = 1; });
  if (threshold <= 0) return;
  constexpr int64_t kRows = 32;
  sdk::for_each(exec, n * sdk::ceil_div(rows, kRows), [=] TN_KERNEL(int64_t i) {
    const int64_t j = i % n, first = i / n * kRows, last = rows - first < kRows ? rows : first + kRows;
    bool apart = false;
    for (int64_t t = first; t < last; ++t) apart |= !(std::fabs(sdk::to_float(x[t * n + j])) < threshold);
    if (apart) keep[j] = 0;
  });
#else
  constexpr int64_t kColumns = 256;
  sdk::for_each_block(
      exec, sdk::ceil_div(n, kColumns),
      [=](const sdk::Block& block) {
        const int64_t begin = block.index * kColumns, width = std::min(kColumns, n - begin);
        float* const k = keep + begin;
        block.each(width, [=](int64_t j) { k[j] = 1; });
        if (threshold <= 0) return;
        for (int64_t t = 0; t < rows; ++t) {
          const T* const from = x + t * n + begin;
          block.each(width, [=](int64_t j) { k[j] = std::fabs(sdk::to_float(from[j])) < threshold ? k[j] : 0.0f; });
        }
      },
      rows * kColumns);
#endif
}

// codes [rows, n] and scales [rows] of inputs; NaN and Inf stay in the scale, so that they show in the product.
template <class T>
void code_input(const tn_exec* exec, const T* x, int64_t rows, int64_t n, const float* keep, int8_t* codes, float* scales) {
  sdk::for_each_block(
      exec, rows,
      [=] TN_KERNEL(const sdk::Block& row) {
        const T* const from = x + row.index * n;
        int8_t* const to = codes + row.index * n;
        const float most = row.max(n, 0.0f, [=](int64_t j) {
          const float v = keep[j] != 0 ? std::fabs(sdk::to_float(from[j])) : 0.0f;
          return sdk::is_finite(v) ? v : __builtin_inff();
        });
        scales[row.index] = most;
        const float f = sdk::is_finite(most) ? factor(most) : 0.0f;
        row.each(n, [=](int64_t j) { to[j] = code(keep[j] != 0 ? sdk::to_float(from[j]) : 0.0f, f); });
      },
      n);
}

}  // namespace tenon::llm_int8
