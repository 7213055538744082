// What adapters do alike in a call: fetch what they saved, and add to the output of the base and to the gradient of its input.
#pragma once

#include "sdk/adapter/scratch.h"

namespace tenon::sdk {

// What the forward pass left in a slot.
inline const tn_saved* saved(const tn_adapter_call& call, uint32_t slot) {
  const tn_saved* out = nullptr;
  check(call.saver->get(call.saver->self, slot, &out));
  return out;
}

// y = base(x), and then add(scratch, x, y or null) where there are rows. y null: only what is saved is wanted.
template <class Add>
void forward_beside(const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& x, tn_tensor* y, Add&& add) {
  if (y) check(base.forward(base.self, &x, 1, 0, y));
  if (x.shape[0] == 0) return;
  Scratch s(*call.exec, x.dtype);
  const Matrix out = y ? Matrix::of(*y) : Matrix();
  add(s, Matrix::of(x), y ? &out : nullptr);
}

// dx = beta · dx + the base's gradient of its input, and then add(scratch, dy, dx or null) where there are rows. dx null: it is not wanted.
template <class Add>
void backward_beside(const tn_adapter_call& call, const tn_base_linear& base, const tn_tensor& dy, double beta, tn_tensor* dx, Add&& add) {
  if (dx) check(base.backward(base.self, &dy, 1, beta, dx));
  if (dy.shape[0] == 0) return;
  Scratch s(*call.exec, dy.dtype);
  const Matrix to = dx ? Matrix::of(*dx) : Matrix();
  add(s, Matrix::of(dy), dx ? &to : nullptr);
}

}  // namespace tenon::sdk
