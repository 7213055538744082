// The table of org.tenon.ops/1 for one backend: checks and launches are written once, here and in the operators'
// headers.
//
// A Backend offers `host(device)`, `exec(device, stream)` with kScratchBytes of scratch as workspace, and
// kHostReadable: whether checks may read ids and labels.
#pragma once

#include "devices/ops/cross_entropy.h"
#include "devices/ops/elementwise.h"
#include "devices/ops/embedding.h"
#include "devices/ops/norm.h"
#include "devices/ops/random.h"
#include "devices/ops/rope.h"
#include "devices/ops/sum_squares.h"
#include "devices/ops/swiglu.h"
#include "tenon/ops.h"

namespace tenon::ops {

template <class Backend>
struct OpsThunks {
  static constexpr bool kReadable = Backend::kHostReadable;
  using D = tn_device;
  using S = tn_stream;
  using In = const tn_tensor;
  using Out = tn_tensor;

  template <class Body>
  static int32_t run(D* device, S* stream, Body&& body) {
    return sdk::guard(Backend::host(device), [&] { body(Backend::exec(device, stream)); });
  }
  static const tn_rng& key(const tn_rng* rng) {
    if (!rng) fail(TN_E_ARGUMENT, "the random key is missing");
    return *rng;
  }

  static int32_t embedding(D* d, S* s, In* table, In* ids, Out* y) {
    return run(d, s, [&](const tn_exec& e) {
      ops::embedding<kReadable>(e, present(table, "embedding: the table"), present(ids, "embedding: ids"),
                                present(y, "embedding: y"));
    });
  }
  static int32_t embedding_backward(D* d, S* s, In* ids, In* dy, Out* dtable) {
    return run(d, s, [&](const tn_exec& e) {
      ops::embedding_backward<kReadable>(e, present(ids, "embedding_backward: ids"),
                                         present(dy, "embedding_backward: dy"),
                                         present(dtable, "embedding_backward: dtable"));
    });
  }
  static int32_t rms_norm(D* d, S* s, In* x, In* weight, double eps, Out* y, Out* rstd) {
    return run(d, s, [&](const tn_exec& e) {
      ops::rms_norm(e, present(x, "rms_norm: x"), present(weight, "rms_norm: weight"), eps, present(y, "rms_norm: y"),
                    rstd);
    });
  }
  static int32_t rms_norm_backward(D* d, S* s, In* dy, In* x, In* weight, In* rstd, double beta, Out* dx,
                                   Out* dweight) {
    return run(d, s, [&](const tn_exec& e) {
      ops::rms_norm_backward(e, present(dy, "rms_norm_backward: dy"), present(x, "rms_norm_backward: x"),
                             present(weight, "rms_norm_backward: weight"), present(rstd, "rms_norm_backward: rstd"),
                             beta, present(dx, "rms_norm_backward: dx"), dweight);
    });
  }
  static int32_t rope(D* d, S* s, Out* x, In* positions, In* inv_freq, double scale, double sign) {
    return run(d, s, [&](const tn_exec& e) {
      ops::rope(e, present(x, "rope: x"), present(positions, "rope: positions"), present(inv_freq, "rope: inv_freq"),
                scale, sign);
    });
  }
  static int32_t swiglu(D* d, S* s, In* gate, In* up, Out* out) {
    return run(d, s, [&](const tn_exec& e) {
      ops::swiglu(e, present(gate, "swiglu: gate"), present(up, "swiglu: up"), present(out, "swiglu: out"));
    });
  }
  static int32_t swiglu_backward(D* d, S* s, In* dout, In* gate, In* up, Out* dgate, Out* dup) {
    return run(d, s, [&](const tn_exec& e) {
      ops::swiglu_backward(e, present(dout, "swiglu_backward: dout"), present(gate, "swiglu_backward: gate"),
                           present(up, "swiglu_backward: up"), present(dgate, "swiglu_backward: dgate"),
                           present(dup, "swiglu_backward: dup"));
    });
  }
  static int32_t axpby(D* d, S* s, double alpha, In* x, double beta, Out* y) {
    return run(d, s,
               [&](const tn_exec& e) { ops::axpby(e, alpha, present(x, "axpby: x"), beta, present(y, "axpby: y")); });
  }
  static int32_t bias_add(D* d, S* s, In* bias, Out* y) {
    return run(d, s,
               [&](const tn_exec& e) { ops::bias_add(e, present(bias, "bias_add: bias"), present(y, "bias_add: y")); });
  }
  static int32_t bias_backward(D* d, S* s, In* dy, Out* dbias) {
    return run(d, s, [&](const tn_exec& e) {
      ops::bias_backward(e, present(dy, "bias_backward: dy"), present(dbias, "bias_backward: dbias"));
    });
  }
  static int32_t cross_entropy(D* d, S* s, Out* logits, In* labels, double grad_scale, Out* losses) {
    return run(d, s, [&](const tn_exec& e) {
      ops::cross_entropy<kReadable>(e, present(logits, "cross_entropy: logits"),
                                    present(labels, "cross_entropy: labels"), grad_scale, losses);
    });
  }
  static int32_t sum_squares(D* d, S* s, In* x, Out* out) {
    return run(d, s, [&](const tn_exec& e) {
      ops::sum_squares(e, present(x, "sum_squares: x"), present(out, "sum_squares: out"));
    });
  }
  static int32_t round_stochastic(D* d, S* s, In* x, const tn_rng* rng, Out* y) {
    return run(d, s, [&](const tn_exec& e) {
      ops::round_stochastic(e, present(x, "round_stochastic: x"), key(rng), present(y, "round_stochastic: y"));
    });
  }
  static int32_t fill_random(D* d, S* s, uint32_t kind, double mean, double std, const tn_rng* rng, Out* x) {
    return run(d, s,
               [&](const tn_exec& e) { ops::fill_random(e, kind, mean, std, key(rng), present(x, "fill_random: x")); });
  }
};

template <class Backend>
constexpr tn_ops ops_table() {
  using F = OpsThunks<Backend>;
  return {TN_SIZE_TO(tn_ops, fill_random),
          0,
          F::embedding,
          F::embedding_backward,
          F::rms_norm,
          F::rms_norm_backward,
          F::rope,
          F::swiglu,
          F::swiglu_backward,
          F::axpby,
          F::bias_add,
          F::bias_backward,
          F::cross_entropy,
          F::sum_squares,
          F::round_stochastic,
          F::fill_random};
}

}  // namespace tenon::ops
