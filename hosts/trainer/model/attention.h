// The attention core of one layer: a plugin's kernel, its masks and its plans.
#pragma once

#include <vector>

#include "hosts/trainer/engine/engine.h"
#include "tenon/attention.h"

namespace tenon::trainer {

// Documents of a packed batch as ranges of its rows, or nothing: every sequence is one document.
struct Segments {
  std::vector<int64_t> begin, length;
};

class AttentionLayer {
 public:
  // window: keys that a query sees including its own, 0 = all. The instance is the caller's.
  AttentionLayer(const tn_attention_api* api, tn_attention* self, int64_t window) : api_(api), self_(self), window_(window) {}

  // q [B·Tq, Hq, d], k, v [B·Tk, Hkv, d] → o [B·Tq, Hq, d]; lse f32 [B, Hq, Tq] or null. q_pos: position of the first query (keys start at 0).
  void forward(Engine& engine, int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, const Segments* packed, const Tensor& q,
               const Tensor& k, const Tensor& v, const Tensor& o, const Tensor* lse) const;
  void backward(Engine& engine, int64_t batch, int64_t t, const Segments* packed, const Tensor& q, const Tensor& k, const Tensor& v,
                const Tensor& o, const Tensor& lse, const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const;

  // Some rows of one document against its keys up to the last of them: q [Tq, Hq, d] from position q_pos on, k, v [Tk, Hkv, d], lse [1, Hq, Tq].
  // dk and dv (f32) are added to.
  void backward_rows(Engine& engine, int64_t q_pos, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                     const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const;

 private:
  struct Shape;
  const tn_attention_api* api_;
  tn_attention* self_;
  int64_t window_;
};

}  // namespace tenon::trainer
