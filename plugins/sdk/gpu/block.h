// A block on a GPU: the phases of sdk/for_each.h over the threads of one thread block.
//
// Reductions have one order for a given number of threads and width of wave: each thread over its elements, a butterfly over its wave, then
// the waves in turn. Every thread receives the same result.
#pragma once

#include "sdk/gpu/lane.h"

namespace tenon::sdk {

inline constexpr int64_t kSerialBelow = 16384;  // the default of `elements`: a block with work for many threads

namespace gpu {
inline constexpr int64_t kReduceBytes = 512;  // before a block's shared memory: one value of 16 bytes for each of 32 waves

struct Add {
  template <class T>
  TN_FN T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  TN_FN T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

template <class T, class Op>
TN_FN T reduce(T x, void* scratch, Op op) {
  for (int mask = kWave / 2; mask > 0; mask /= 2) x = op(x, exchange(x, mask));
  T* const waves = static_cast<T*>(scratch);
  if (thread() % kWave == 0) waves[thread() / kWave] = x;
  barrier();
  T all = waves[0];
  for (int w = 1; w < threads() / kWave; ++w) all = op(all, waves[w]);
  barrier();  // before the next reduction writes
  return all;
}
}  // namespace gpu

struct Block {
  int64_t index;
  void* memory;  // kReduceBytes, then what `shared` gives

  template <class T>
  TN_FN T* shared() const {
    return reinterpret_cast<T*>(static_cast<unsigned char*>(memory) + gpu::kReduceBytes);
  }
  template <class F>
  TN_FN void each(int64_t n, F f) const {
    for (int64_t i = gpu::thread(); i < n; i += gpu::threads()) f(i);
    gpu::barrier();
  }
  template <class F>
  TN_FN float max(int64_t n, float start, F f) const {
    float m = start;
    for (int64_t i = gpu::thread(); i < n; i += gpu::threads()) {
      const float x = f(i);
      m = x > m ? x : m;
    }
    return gpu::reduce(m, memory, gpu::Larger{});
  }
  // Two maxima in one pass: f answers a Pair.
  struct Pair {
    float first, second;
  };
  template <class F>
  TN_FN Pair max2(int64_t n, Pair start, F f) const {
    float a = start.first, b = start.second;
    for (int64_t i = gpu::thread(); i < n; i += gpu::threads()) {
      const Pair x = f(i);
      a = x.first > a ? x.first : a;
      b = x.second > b ? x.second : b;
    }
    a = gpu::reduce(a, memory, gpu::Larger{});
    return {a, gpu::reduce(b, memory, gpu::Larger{})};
  }
  template <class F>
  TN_FN auto sum(int64_t n, F f) const {  // in the type that f returns
    decltype(f(n)) s = 0;
    for (int64_t i = gpu::thread(); i < n; i += gpu::threads()) s += f(i);
    return gpu::reduce(s, memory, gpu::Add{});
  }
};

}  // namespace tenon::sdk
