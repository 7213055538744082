// with_float_type for bodies with kernels, which nvcc takes in no generic lambda: TN_TYPED(T, d, what, statements) runs the statements with T the
// type that `d` names. A return in them leaves the enclosing function.
#pragma once

#include "sdk/dtype.h"

#define TN_TYPED(T, d, what, ...)                                                                        \
  do {                                                                                                   \
    const tn_dtype tn_typed_dtype = (d);                                                                 \
    if (::tenon::sdk::same(tn_typed_dtype, ::tenon::sdk::kF32)) {                                        \
      using T = float;                                                                                   \
      __VA_ARGS__                                                                                        \
    } else if (::tenon::sdk::same(tn_typed_dtype, ::tenon::sdk::kBF16)) {                                \
      using T = ::tenon::sdk::bf16;                                                                      \
      __VA_ARGS__                                                                                        \
    } else if (::tenon::sdk::same(tn_typed_dtype, ::tenon::sdk::kF16)) {                                 \
      using T = ::tenon::sdk::f16;                                                                       \
      __VA_ARGS__                                                                                        \
    } else {                                                                                             \
      ::tenon::sdk::fail(TN_E_UNSUPPORTED, std::string(what) + " must be f32, bf16 or f16");             \
    }                                                                                                    \
  } while (false)
