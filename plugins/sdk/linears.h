// The extension org.tenon.linears/1 over a codec of sdk/quantizer.h that also has
//
//   void estimate_linears(const tn_target* const* targets, uint64_t n, int64_t rows, tn_estimate&);
//   void linears(const tn_exec*, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n, const tn_tensor& x,
//                tn_tensor* const* y);
#pragma once

#include <vector>

#include "sdk/codec.h"
#include "sdk/for_each.h"
#include "sdk/quantizer.h"
#include "tenon/linears.h"

namespace tenon::sdk {

template <class T>
struct LinearsThunks {
  using Holder = typename QuantizerThunks<T>::Holder;
  static Holder* of(tn_quantizer* self) { return QuantizerThunks<T>::of(self); }

  static int32_t estimate(tn_quantizer* self, const tn_device_api*, tn_device*, const tn_target* const* targets, uint64_t n, int64_t rows,
                          tn_estimate* out) {
    return guard(of(self)->host, [&] { of(self)->codec.estimate_linears(targets, n, rows, *out); });
  }
  static int32_t run(tn_quantizer* self, const tn_exec* exec, const tn_target* const* targets, tn_tensor* const* const* components, uint64_t n,
                     const tn_tensor* x, tn_tensor* const* y) {
    return guard(of(self)->host, [&] { of(self)->codec.linears(exec, targets, components, n, *x, y); });
  }
};

template <class T>
constexpr tn_linears linears_table() {
  using F = LinearsThunks<T>;
  return {TN_SIZE_TO(tn_linears, run), 0, F::estimate, F::run};
}

// The sum of the estimates of n linears over a codec's own estimate(op, rows), with one workspace for all of them.
template <class Codec>
void sum_of_linears(Codec& codec, const tn_target* const* targets, uint64_t n, int64_t rows, tn_estimate& out) {
  tn_estimate sum{sizeof(tn_estimate)};
  for (uint64_t i = 0; i < n; ++i) {
    if (targets[i]->ndim != 2 || targets[i]->shape[1] != targets[0]->shape[1])
      fail(TN_E_ARGUMENT, name_of(*targets[i]) + ": weights that share an input must be matrices with equally long rows");
    tn_estimate one{sizeof(tn_estimate)};
    codec.estimate(nullptr, nullptr, *targets[i], TN_QUANTIZER_LINEAR, rows, one);
    sum.flops += one.flops, sum.bytes_moved += one.bytes_moved, sum.state_bytes += one.state_bytes;
    sum.workspace_bytes = std::max(sum.workspace_bytes, one.workspace_bytes);
  }
  set_estimate(out, sum.flops, sum.bytes_moved, sum.state_bytes, sum.workspace_bytes);
}

// Rows of several weights cut into one list of tasks of kRows rows each: f(i, first, count) for weight i. width: elements of a row.
template <int64_t kRows, class F>
void for_each_rows(const tn_exec* exec, const int64_t* rows, uint64_t n, int64_t width, F f) {
  std::vector<int64_t> end(n);
  int64_t tasks = 0;
  for (uint64_t i = 0; i < n; ++i) end[i] = tasks += ceil_div(rows[i], kRows);
  for_each_block(
      exec, tasks,
      [&](const Block& task) {
        uint64_t i = 0;
        while (task.index >= end[i]) ++i;
        const int64_t first = (task.index - (i > 0 ? end[i - 1] : 0)) * kRows;
        f(i, first, std::min(kRows, rows[i] - first));
      },
      kRows * width);
}

}  // namespace tenon::sdk
