// Values of any storage type where the type is known only at run time: one kernel serves all of them, at the price of a branch that all threads
// take alike. And whole tensors from one type to another.
#pragma once

#include "sdk/codec.h"

namespace tenon::sdk {

// Eight values that go to memory in one store.
template <class T>
struct alignas(8 * sizeof(T)) Eight {
  T value[8];
};
template <class T>
bool takes_eights(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Eight<T>) == 0;
}

struct Floats {
  void* data;
  tn_dtype dtype;

  TN_FN float operator[](int64_t i) const {
    if (dtype.bits == 32) return static_cast<const float*>(data)[i];
    if (dtype.code == TN_BFLOAT) return to_float(static_cast<const bf16*>(data)[i]);
    return to_float(static_cast<const f16*>(data)[i]);
  }
  TN_FN void put(int64_t i, float x) const {
    if (dtype.bits == 32)
      static_cast<float*>(data)[i] = x;
    else if (dtype.code == TN_BFLOAT)
      static_cast<bf16*>(data)[i] = from_float<bf16>(x);
    else
      static_cast<f16*>(data)[i] = from_float<f16>(x);
  }
  // Elements i … i + 7 in one store: i is a multiple of eight and the memory takes_eights().
  TN_FN void put_eight(int64_t i, const float (&x)[8]) const {
    if (dtype.bits == 32)
      store(static_cast<float*>(data) + i, x);
    else if (dtype.code == TN_BFLOAT)
      store(static_cast<bf16*>(data) + i, x);
    else
      store(static_cast<f16*>(data) + i, x);
  }
  bool takes_eights() const { return reinterpret_cast<uintptr_t>(data) % (static_cast<uintptr_t>(dtype.bits)) == 0; }

 private:
  template <class T>
  static TN_FN void store(T* to, const float (&x)[8]) {
    Eight<T> all;
    for (int k = 0; k < 8; ++k) all.value[k] = from_float<T>(x[k]);
    *reinterpret_cast<Eight<T>*>(to) = all;
  }
};

// The elements of a contiguous tensor of floats; `what` names it in the refusal.
inline Floats floats(const tn_tensor& t, const char* what) {
  with_float_type(t.dtype, what, [](auto) {});
  return {data<char>(t), t.dtype};
}

// to[0, n) = from[0, n), rounded or widened.
template <class To, class From>
void convert_values(const tn_exec* exec, const From* from, To* to, int64_t n) {
#if TN_GPU
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { to[i] = from_float<To>(to_float(from[i])); });
#else
  constexpr int64_t kRun = 4096;
  for_each_block(
      exec, ceil_div(n, kRun),
      [=](const Block& block) {
        const int64_t begin = block.index * kRun;
        convert(from + begin, to + begin, std::min(kRun, n - begin));
      },
      kRun);
#endif
}
// The same from a tensor of any type.
template <class To>
void convert_values(const tn_exec* exec, const tn_tensor& from, To* to, const char* what) {
  with_float_type(from.dtype, what, [&](auto type) { convert_values(exec, data<const decltype(type)>(from), to, count(from)); });
}

// Refuses w[rows, columns] by the tensor's name for NaN or Inf. On a GPU this takes the first FirstBad::kBytes of the workspace, and waits.
template <class T>
void require_finite(const tn_exec* exec, const tn_target& target, const T* w, int64_t rows, int64_t columns) {
  FirstBad bad(exec);
  const FirstBad::Found found = bad.found();
  for_each_block(
      exec, rows,
      [=] TN_KERNEL(const Block& row) {
        const T* const from = w + row.index * columns;
        const float most = row.max(columns, 0.0f, [=](int64_t j) {
          const float v = std::fabs(to_float(from[j]));
          return is_finite(v) ? v : __builtin_inff();
        });
        if (!is_finite(most)) found(row.index);
      },
      columns);
  bad.raise(target, columns);
}

}  // namespace tenon::sdk
