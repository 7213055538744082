// The logarithm beside vector_math.h, in the same manner.
#pragma once

#include "sdk/vector_math.h"

namespace tenon::sdk {

// log2 x for normal x > 0: within 2e-7 of it, or of 1 where it is larger.
template <class F>
TN_FN F vlog2(F x) {
  using Int = typename FloatLanes<F>::Int;
  const Int bits = __builtin_bit_cast(Int, x);
  const Int e = (bits - 0x3f3504f3) >> 23;  // x = 2^e · m, m in [√½, √2)
  const F r = __builtin_bit_cast(F, bits - (e << 23)) - 1.0f;
  // log2(1 + r) / r: minimax in relative error, 2.6e-8.
  F p = 0x1.01b6dep-3f * r - 0x1.a87d0ep-3f;
  p = p * r + 0x1.b9c91ap-3f;
  p = p * r - 0x1.e95be6p-3f;
  p = p * r + 0x1.26d384p-2f;
  p = p * r - 0x1.715c4ep-2f;
  p = p * r + 0x1.ec73d6p-2f;
  p = p * r - 0x1.71547p-1f;
  p = p * r + 0x1.715476p+0f;
  return p * r + (__builtin_bit_cast(F, e + 0x4b400000) - detail::kRound);
}

}  // namespace tenon::sdk
