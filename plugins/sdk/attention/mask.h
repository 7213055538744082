// Masks by structure: the terms of a call lowered to one value, the keys a query sees, and the tile classifier.
//
// i and j are global positions. Every mask of these terms shows a query at most two runs of keys: the sink and the
// window.
#pragma once

#include <cstdint>
#include <string>

#include "sdk/base.h"
#include "tenon/attention.h"

namespace tenon::sdk {

struct Mask {
  bool causal = false;
  int64_t left = -1, right = -1;  // keys before and after the query's position, −1 = unbounded
  int64_t sink = 0;               // leading positions that a window does not hide
};

// Several windows intersect. Refuses unknown kinds, negative sizes and a second sink. BLOCKS are refused too, or with
// `skip_blocks` left to the caller.
inline Mask lower_mask(const tn_attention_shape& shape, bool skip_blocks = false) {
  Mask mask;
  const auto narrower = [](int64_t a, int64_t b) { return a < 0 ? b : b < 0 ? a : a < b ? a : b; };
  for (uint32_t t = 0; t < shape.n_mask; ++t) {
    const tn_mask_term& term = *shape.mask[t];
    switch (term.kind) {
      case TN_MASK_CAUSAL:
        mask.causal = true;
        break;
      case TN_MASK_WINDOW:
        if (term.left < -1 || term.right < -1)
          fail(TN_E_ARGUMENT, "an attention window must be −1 (unbounded) or at least 0 on each side");
        mask.left = narrower(mask.left, term.left), mask.right = narrower(mask.right, term.right);
        break;
      case TN_MASK_SINK:
        if (term.n < 0) fail(TN_E_ARGUMENT, "an attention sink must keep 0 or more keys");
        if (mask.sink > 0)
          fail(TN_E_UNSUPPORTED, "an attention mask can have one sink; merge the sinks into the larger one");
        mask.sink = term.n;
        break;
      case TN_MASK_BLOCKS:
        if (!skip_blocks)
          fail(TN_E_UNSUPPORTED, "attention masks of tiles are not known here; a block-sparse kernel takes them");
        break;
      default:
        fail(TN_E_UNSUPPORTED,
             "attention mask kind " + std::to_string(term.kind) + " is not known here; causal, window and sink are");
    }
  }
  if (mask.left < 0 && mask.right < 0) mask.sink = 0;
  return mask;
}

TN_FN bool visible(const Mask& m, int64_t i, int64_t j) {
  if (m.causal && j > i) return false;
  return (j < m.sink) || ((m.left < 0 || j >= i - m.left) && (m.right < 0 || j <= i + m.right));
}

// Rows [begin, end) of a key tensor.
struct Run {
  int64_t begin, end;
  TN_FN int64_t size() const { return end > begin ? end - begin : 0; }
};

// Disjoint, in order: sink.end <= window.begin. An empty run has begin = end.
struct VisibleKeys {
  Run sink, window;
};

namespace detail {
TN_FN int64_t clamp_to(int64_t x, int64_t lo, int64_t hi) {
  return x < lo ? lo : x > hi ? hi : x;
}
TN_FN int64_t lesser(int64_t a, int64_t b) {
  return a < b ? a : b;
}
TN_FN int64_t greater(int64_t a, int64_t b) {
  return a > b ? a : b;
}

TN_FN VisibleKeys runs(const Mask& m, int64_t first, int64_t last, int64_t k_pos, int64_t k_len) {
  const int64_t begin = m.left < 0 ? 0 : clamp_to(first - m.left - k_pos, 0, k_len);
  int64_t end = m.right < 0 ? k_len : clamp_to(last + m.right + 1 - k_pos, 0, k_len);
  const int64_t past = m.causal ? clamp_to(last + 1 - k_pos, 0, k_len) : k_len;
  end = lesser(end, past);
  const int64_t sink = lesser(clamp_to(m.sink - k_pos, 0, k_len), past);
  if (begin >= end) return {{0, sink}, {sink, sink}};
  if (sink >= begin) return {{0, 0}, {0, greater(sink, end)}};
  return {{0, sink}, {begin, end}};
}
}  // namespace detail

// Keys that the query at position i sees, as rows of a run of k_len keys whose first has position k_pos.
TN_FN VisibleKeys visible_keys(const Mask& m, int64_t i, int64_t k_pos, int64_t k_len) {
  return detail::runs(m, i, i, k_pos, k_len);
}

// Keys that at least one query of the positions [first, last] may see: a superset without gaps inside its two runs.
// What lies outside is EMPTY.
TN_FN VisibleKeys visible_keys(const Mask& m, int64_t first, int64_t last, int64_t k_pos, int64_t k_len) {
  return detail::runs(m, first, last, k_pos, k_len);
}

enum class Cover { kEmpty, kPartial, kFull };

// The tile of query positions [first, last] and key rows `keys`. EMPTY and FULL are certain; PARTIAL says that each row
// must be asked.
TN_FN Cover classify(const Mask& m, int64_t first, int64_t last, int64_t k_pos, int64_t k_len, Run keys) {
  const VisibleKeys any = visible_keys(m, first, last, k_pos, k_len);
  const auto meets = [&](Run r) { return detail::greater(r.begin, keys.begin) < detail::lesser(r.end, keys.end); };
  if (!meets(any.sink) && !meets(any.window)) return Cover::kEmpty;
  // Both ends of the window move up with the query, and so does the end of the sink under the causal term.
  const VisibleKeys a = visible_keys(m, first, k_pos, k_len), b = visible_keys(m, last, k_pos, k_len);
  const int64_t sink = detail::lesser(m.sink - k_pos, m.causal ? first + 1 - k_pos : k_len);
  const bool in_window = detail::greater(a.window.begin, b.window.begin) <= keys.begin &&
                         keys.end <= detail::lesser(a.window.end, b.window.end) && b.window.size() > 0 &&
                         a.window.size() > 0;
  return in_window || keys.end <= detail::lesser(sink, k_len) ? Cover::kFull : Cover::kPartial;
}

}  // namespace tenon::sdk
