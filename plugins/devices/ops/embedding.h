// Token embedding: gather forward, ordered scatter-add backward.
#pragma once

#include "devices/ops/view.h"

namespace tenon::ops {

template <class S, class T>
struct Embedding {
  Rows<const S> table;
  const int32_t* ids;
  Rows<T> y;
  TN_FN void operator()(const sdk::Block& block) const {
    const S* from = table.row(ids[block.index]);
    T* to = y.row(block.index);
    block.each(y.cols, [=](int64_t i) { to[i] = sdk::from_float<T>(sdk::to_float(from[i])); });
  }
};

// One block per strip of columns; each walks all tokens in order, so equal ids add up in token order whoever runs the
// block.
template <class T>
struct EmbeddingBackward {
  static constexpr int64_t kStrip = 64;
  const int32_t* ids;
  int64_t tokens;
  Rows<const T> dy;
  Rows<float> dtable;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kStrip, n = dy.cols - begin < kStrip ? dy.cols - begin : kStrip;
    for (int64_t t = 0; t < tokens; ++t) {
      const T* from = dy.row(t) + begin;
      float* to = dtable.row(ids[t]) + begin;
      block.each(n, [=](int64_t i) { to[i] += sdk::to_float(from[i]); });
    }
  }
};

// Memory that the host can read is checked; on a GPU the caller guarantees the range.
template <bool kHostReadable>
void check_ids(const int32_t* ids, int64_t n, int64_t limit, const char* what) {
  if constexpr (kHostReadable) {
    for (int64_t i = 0; i < n; ++i)
      if (ids[i] < 0 || ids[i] >= limit)
        fail(TN_E_ARGUMENT, std::string(what) + ": id " + std::to_string(ids[i]) + " at token " + std::to_string(i) +
                                " is outside [0, " + std::to_string(limit) + ")");
  }
}

template <bool kHostReadable>
void embedding(const tn_exec& exec, const tn_tensor& table, const tn_tensor& ids, const tn_tensor& y) {
  if (table.ndim != 2) fail(TN_E_ARGUMENT, "embedding: the table must be [V, n] but is " + shape_text(table));
  sdk::with_float_type(table.dtype, "embedding: the table", [&]<class S>(S) {
    with_activation(y.dtype, "embedding: y", [&]<class T>(T) {
      const auto from = rows_of<const S>(table, "embedding: the table");
      const auto to = rows_of<T>(y, "embedding: y");
      if (to.cols != from.cols)
        fail(TN_E_ARGUMENT,
             "embedding: the table and y differ in width: " + shape_text(table) + " and " + shape_text(y));
      const auto* id = vector_of<const int32_t>(ids, to.n, sdk::kI32, "embedding: ids", "int32");
      check_ids<kHostReadable>(id, to.n, from.n, "embedding");
      sdk::for_each_block(&exec, to.n, Embedding<S, T>{from, id, to}, to.cols);
    });
  });
}

template <bool kHostReadable>
void embedding_backward(const tn_exec& exec, const tn_tensor& ids, const tn_tensor& dy, const tn_tensor& dtable) {
  if (dtable.ndim != 2) fail(TN_E_ARGUMENT, "embedding_backward: dtable must be [V, n] but is " + shape_text(dtable));
  expect_type(dtable, sdk::kF32, "embedding_backward: dtable", "f32");
  with_activation(dy.dtype, "embedding_backward: dy", [&]<class T>(T) {
    const auto from = rows_of<const T>(dy, "embedding_backward: dy");
    const auto to = rows_of<float>(dtable, "embedding_backward: dtable");
    if (to.cols != from.cols)
      fail(TN_E_ARGUMENT,
           "embedding_backward: dy and dtable differ in width: " + shape_text(dy) + " and " + shape_text(dtable));
    const auto* id = vector_of<const int32_t>(ids, from.n, sdk::kI32, "embedding_backward: ids", "int32");
    check_ids<kHostReadable>(id, from.n, to.n, "embedding_backward");
    constexpr int64_t kStrip = EmbeddingBackward<T>::kStrip;
    sdk::for_each_block(&exec, (from.cols + kStrip - 1) / kStrip, EmbeddingBackward<T>{id, from.n, from, to},
                        from.n * kStrip);
  });
}

}  // namespace tenon::ops
