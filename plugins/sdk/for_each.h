// The two forms of parallelism in which techniques are written.
//
// for_each(exec, n, f): f(i) for every i in [0, n), in any order, nothing shared. for_each_block<Shared>(exec, blocks, f): f(block) for
// every block; inside, a block runs phases in order: `each` maps, `sum`, `max` reduce, all over [0, n) cooperatively; `shared` is scratch of
// Shared bytes that outlives phases. f is a trivially copyable functor whose operator() is marked TN_FN, or a lambda [=] TN_KERNEL (...).
//
// On the CPU a block is one OpenMP task and a phase a SIMD loop. On a GPU a block is a thread block: all of its threads run the code between
// phases, each for itself and with equal values, and a phase shares out its range and ends with a barrier. So what a phase writes for a
// later one goes to `shared` or to tensors, never to local arrays, and code between phases writes nothing.
#pragma once

#include "sdk/base.h"
#include "tenon/host.h"

#if TN_GPU
#include "sdk/gpu/for_each.h"
#else

namespace tenon::sdk {

inline constexpr int64_t kSerialBelow = 16384;  // elements: below this a parallel region costs more than it saves

template <class F>
void for_each(const tn_exec*, int64_t n, F f) {
#pragma omp parallel for simd schedule(static) if (n >= kSerialBelow)
  for (int64_t i = 0; i < n; ++i) f(i);
}

// Sums are taken in a fixed order: they do not depend on the number of threads.
struct Block {
  int64_t index;
  void* memory;

  template <class T>
  T* shared() const {
    return static_cast<T*>(memory);
  }
  template <class F>
  void each(int64_t n, F f) const {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  float max(int64_t n, float start, F f) const {
    float m = start;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; ++i) {
      const float x = f(i);
      m = x > m ? x : m;
    }
    return m;
  }
  // Two maxima in one pass: f answers a Pair.
  struct Pair {
    float first, second;
  };
  template <class F>
  Pair max2(int64_t n, Pair start, F f) const {
    float a = start.first, b = start.second;
#pragma omp simd reduction(max : a, b)
    for (int64_t i = 0; i < n; ++i) {
      const Pair x = f(i);
      a = x.first > a ? x.first : a;
      b = x.second > b ? x.second : b;
    }
    return {a, b};
  }
  template <class F>
  auto sum(int64_t n, F f) const {  // in the type that f returns
    decltype(f(n)) s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; ++i) s += f(i);
    return s;
  }
};

// `elements`: what one block handles, if that is so little that few blocks are not worth a parallel region.
// `shared`: the bytes used of the Shared at most.
template <int64_t Shared = 0, class F>
void for_each_block(const tn_exec*, int64_t blocks, F f, int64_t elements = kSerialBelow, [[maybe_unused]] int64_t shared = Shared) {
#pragma omp parallel for schedule(static) if (blocks > 1 && blocks * elements > kSerialBelow)
  for (int64_t b = 0; b < blocks; ++b) {
    alignas(64) unsigned char memory[Shared > 0 ? Shared : 1];
    f(Block{b, memory});
  }
}

}  // namespace tenon::sdk

#endif
