// The attention core of one layer: a plugin's kernel, its masks, its plans, and what it remembers while decoding.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "hosts/trainer/engine/engine.h"
#include "tenon/attention.h"

namespace tenon::trainer {

// Documents of a packed batch as ranges of its rows, or nothing: every sequence is one document.
struct Segments {
  std::vector<int64_t> begin, length;
};

// What one layer remembers of a sequence of up to `tokens` tokens, in accounted memory. PER_TOKEN: k and v; other kinds: bytes that only the
// kernel reads.
struct DecodeState {
  uint32_t kind = TN_STATE_UNDEFINED;
  int64_t tokens = 0;
  Tensor k, v;   // [tokens, Hkv, d]
  Tensor bytes;  // u8 [1, n]
};

class AttentionLayer {
 public:
  // window: keys that a query sees including its own, 0 = all. The instance is the caller's.
  AttentionLayer(const tn_attention_api* api, tn_attention* self, const tn_attention_config& config, int64_t window)
      : api_(api), self_(self), config_(config), window_(window) {}

  // q [B·Tq, Hq, d], k, v [B·Tk, Hkv, d] → o [B·Tq, Hq, d]; lse f32 [B, Hq, Tq] or null. q_pos: position of the first query (keys start at 0).
  void forward(Engine& engine, int64_t batch, int64_t t_q, int64_t t_k, int64_t q_pos, const Segments* packed, const Tensor& q,
               const Tensor& k, const Tensor& v, const Tensor& o, const Tensor* lse) const;
  void backward(Engine& engine, int64_t batch, int64_t t, const Segments* packed, const Tensor& q, const Tensor& k, const Tensor& v,
                const Tensor& o, const Tensor& lse, const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const;

  // Some rows of one document against its keys up to the last of them: q [Tq, Hq, d] from position q_pos on, k, v [Tk, Hkv, d], lse [1, Hq, Tq].
  // dk and dv (f32) are added to.
  void backward_rows(Engine& engine, int64_t q_pos, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
                     const Tensor& d_o, const Tensor& dq, const Tensor& dk, const Tensor& dv) const;

  // Room for a sequence of up to `tokens` tokens.
  DecodeState start(Engine& engine, int64_t tokens) const;
  // Where the state keeps k and v of the rows that follow `past` others, for whoever makes them there; empty where it keeps something else.
  static std::pair<Tensor, Tensor> place(const DecodeState& state, int64_t past, int64_t rows) {
    if (state.kind != TN_STATE_PER_TOKEN) return {};
    return {state.k.rows(past, past + rows), state.v.rows(past, past + rows)};
  }
  // o of the rows q, k, v that follow `past` others of the sequence; the state then includes them. k and v may be in their place already.
  void decode(Engine& engine, DecodeState& state, int64_t past, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o) const;

  tn_estimate forward_estimate(Engine& engine, int64_t batch, int64_t t, tn_dtype dtype) const;

 private:
  struct Shape;
  // The plan of the last shape: passes forward, again and backward over a micro-batch ask for the same one, and over long sequences a sparse
  // kernel's answer takes milliseconds.
  struct Planned {
    std::array<int64_t, 9> sizes{};
    Segments packed;
    tn_attention_plan plan{};
  };
  const tn_attention_plan& plan(Engine& engine, const tn_attention_shape& shape) const;
  mutable Planned planned_;
  const tn_attention_api* api_;
  tn_attention* self_;
  tn_attention_config config_;
  int64_t window_;
};

}  // namespace tenon::trainer
