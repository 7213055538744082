// Reading ahead, where the hardware would not or not far enough.
#pragma once

#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

// Asks for the cache lines of n values. A hint: any address may be named.
template <class T>
TN_FN void prefetch(const T* from, int64_t n) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < n; i += kLine / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i);
}

}  // namespace tenon::sdk
