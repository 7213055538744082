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

#if TN_GPU

// One block per token and strip of columns: that of an id's first token adds up all of its tokens, in their order; the others have nothing to
// do. So equal ids add up in token order whoever runs the block.
template <class T>
struct EmbeddingBackward {
  static constexpr int64_t kStrip = 512, kLook = 2048;  // columns of a block, ids that it looks at together
  const int32_t* ids;
  int64_t tokens;
  Rows<const T> dy;
  Rows<float> dtable;
  static int64_t blocks(int64_t tokens, int64_t cols) { return tokens * ((cols + kStrip - 1) / kStrip); }
  TN_FN int64_t matches(const sdk::Block& block, int64_t begin, int64_t end, int32_t id) const {
    const int32_t* const from = ids + begin;
    return block.sum(end - begin, [=](int64_t i) -> int32_t { return from[i] == id; });
  }
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t strips = (dy.cols + kStrip - 1) / kStrip, first = block.index / strips, begin = block.index % strips * kStrip,
                  n = dy.cols - begin < kStrip ? dy.cols - begin : kStrip;
    const int32_t id = ids[first];
    for (int64_t s = 0; s < first; s += kLook)
      if (matches(block, s, s + kLook < first ? s + kLook : first, id) > 0) return;
    float* const to = dtable.row(id) + begin;
    for (int64_t t = first; t < tokens; t += kLook) {
      const int64_t end = t + kLook < tokens ? t + kLook : tokens;
      int64_t left = matches(block, t, end, id);
      for (int64_t s = t; left > 0; ++s) {
        if (ids[s] != id) continue;
        const T* const from = dy.row(s) + begin;
        block.each(n, [=](int64_t i) { to[i] += sdk::to_float(from[i]); });
        --left;
      }
    }
  }
};

#else

// One block per strip of columns; each walks all tokens in order, so equal ids add up in token order whoever runs the
// block.
template <class T>
struct EmbeddingBackward {
  static constexpr int64_t kStrip = 64;
  const int32_t* ids;
  int64_t tokens;
  Rows<const T> dy;
  Rows<float> dtable;
  static int64_t blocks(int64_t, int64_t cols) { return (cols + kStrip - 1) / kStrip; }
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * kStrip, n = dy.cols - begin < kStrip ? dy.cols - begin : kStrip;
    for (int64_t t = 0; t < tokens; ++t) {
      const T* from = dy.row(t) + begin;
      float* to = dtable.row(ids[t]) + begin;
      block.each(n, [=](int64_t i) { to[i] += sdk::to_float(from[i]); });
    }
  }
};

#endif

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
    using Backward = EmbeddingBackward<T>;
    sdk::for_each_block(&exec, Backward::blocks(from.n, from.cols), Backward{id, from.n, from, to},
                        from.n * Backward::kStrip);
  });
}

}  // namespace tenon::ops
