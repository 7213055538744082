// What one thread of a block can ask: who it is, a barrier, and a value of another lane of its wave.
#pragma once

#include "sdk/base.h"

#if defined(TENON_EMULATED_WAVE)
#include "sdk/gpu/emulated_block.h"
#else

namespace tenon::sdk::gpu {

// GCN and CDNA have waves of 64, RDNA as its compilers choose by themselves of 32, and so has NVIDIA. The macro that said so is gone from newer
// compilers. The host's pass uses neither.
#if defined(__HIP__) && (defined(__GFX9__) || !defined(__HIP_DEVICE_COMPILE__))
inline constexpr int kWave = 64;
#else
inline constexpr int kWave = 32;
#endif

// Functions of both sides in name, so that functors marked TN_FN may use them; on the host they are never run.
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)

TN_FN int thread() { return static_cast<int>(threadIdx.x); }
TN_FN int threads() { return static_cast<int>(blockDim.x); }
TN_FN void barrier() { __syncthreads(); }
template <class T>
TN_FN T exchange(T x, int mask) {
#if defined(__HIP__)
  return __shfl_xor(x, mask);
#else
  return __shfl_xor_sync(0xffffffffu, x, mask);
#endif
}
// x, of which the compiler knows nothing: what is computed from it again is not kept in registers meanwhile.
TN_FN int64_t forgotten(int64_t x) {
#if !defined(__HIP__)
  asm volatile("" : "+l"(x));
#endif
  return x;
}
// The lowest value that any thread offered stays; values are not negative.
TN_FN void atomic_min(int64_t* at, int64_t x) {
  atomicMin(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(x));
}

#else

TN_FN int thread() { return 0; }
TN_FN int threads() { return 1; }
TN_FN void barrier() {}
template <class T>
TN_FN T exchange(T x, int) {
  return x;
}
TN_FN int64_t forgotten(int64_t x) { return x; }
TN_FN void atomic_min(int64_t*, int64_t) {}

#endif

}  // namespace tenon::sdk::gpu

#endif
