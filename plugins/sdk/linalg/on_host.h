// Small matrices where the host can work on them: on the CPU in place, on a GPU as copies. Factorizations of a few hundred columns are
// sequential at heart; a trip of their few kilobytes costs less than a kernel with one busy thread.
#pragma once

#include <vector>

#include "sdk/device_memory.h"
#include "sdk/for_each.h"

namespace tenon::sdk {

#if TN_GPU
inline constexpr bool kHostReads = false;  // whether the host may touch tensors and workspace
#else
inline constexpr bool kHostReads = true;
#endif

// n values at `at`. Without an exec they are the host's already, on every backend.
template <class T>
class OnHost {
 public:
  OnHost(const tn_exec* exec, T* at, int64_t n) : OnHost(at, n, exec) {
    if (exec_) copy_to_host(exec_, at_, copy_.data(), n);
  }
  // Results and scratch: nothing is read.
  static OnHost unread(const tn_exec* exec, T* at, int64_t n) { return OnHost(at, n, exec); }

  T* data() { return exec_ ? copy_.data() : at_; }
  T& operator[](int64_t i) { return data()[i]; }
  void put_back() const {
    if (exec_) copy_to_device(exec_, copy_.data(), at_, static_cast<int64_t>(copy_.size()));
  }

 private:
  OnHost(T* at, int64_t n, const tn_exec* exec) : exec_(kHostReads ? nullptr : exec), at_(at) {
    if (exec_) copy_.resize(static_cast<size_t>(n));
  }
  const tn_exec* exec_;
  T* at_;
  std::vector<T> copy_;
};

// One value that a kernel left; waits for it.
template <class T>
T value_of(const tn_exec* exec, const T* at) {
  if constexpr (kHostReads) return *at;
  T value{};
  copy_to_host(exec, at, &value, 1);
  return value;
}

// to ← from, n values, both on the device.
template <class T>
void copy_values(const tn_exec* exec, const T* from, T* to, int64_t n) {
  for_each(exec, n, [=] TN_KERNEL(int64_t i) { to[i] = from[i]; });
}

// for_each_block for memory of the host: f(block) with block.index and block.each.
struct HostBlock {
  int64_t index;
  template <class F>
  void each(int64_t n, F f) const {
    for (int64_t i = 0; i < n; ++i) f(i);
  }
};
template <class F>
void for_each_host_block(int64_t blocks, F f, [[maybe_unused]] int64_t elements) {
#if TN_GPU
  for (int64_t b = 0; b < blocks; ++b) f(HostBlock{b});
#else
  for_each_block(nullptr, blocks, f, elements);
#endif
}

}  // namespace tenon::sdk
