// Checked access to borrowed tensors.
#pragma once

#include "sdk/dtype.h"

namespace tenon::sdk {

inline int64_t count(const tn_tensor& t) {
  int64_t n = 1;
  for (int32_t i = 0; i < t.ndim; ++i) n *= t.shape[i];
  return n;
}

inline bool is_contiguous(const tn_tensor& t) {
  int64_t expected = 1;
  for (int32_t i = t.ndim - 1; i >= 0; --i) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

template <class T>
T* data(const tn_tensor& t) {
  return reinterpret_cast<T*>(static_cast<char*>(t.data) + t.byte_offset);
}

// Elements of a contiguous tensor of exactly this type; `what` names it in the refusal.
template <class T>
T* contiguous(const tn_tensor* t, const char* what) {
  if (!t) fail(TN_E_ARGUMENT, std::string(what) + " is missing");
  if (!is_contiguous(*t)) fail(TN_E_UNSUPPORTED, std::string(what) + " must be contiguous and row-major");
  if constexpr (std::is_same_v<T, uint8_t>) {
    if (t->dtype.bits != 8) fail(TN_E_ARGUMENT, std::string(what) + " must be bytes");
  } else {
    if (!same(t->dtype, dtype_of<T>())) fail(TN_E_ARGUMENT, std::string(what) + " has the wrong dtype");
  }
  return data<T>(*t);
}

}  // namespace tenon::sdk
