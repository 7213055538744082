// The codec's kernels for GPUs: one block of threads for each block of the format.
#pragma once

#include "sdk/codec.h"
#include "sdk/dynamic_map.h"
#include "sdk/for_each.h"

namespace tenon::blockwise {

template <bool Signed, class T>
struct Encode {
  const T* x;
  int64_t n, blocksize;
  uint8_t* codes;
  float* absmax;
  sdk::FirstBad::Found bad, negative;
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t begin = block.index * blocksize, count = n - begin < blocksize ? n - begin : blocksize, index = block.index;
    const T* const from = x + begin;
    // NaN counts as Inf, which orders above every finite number; and is there one below 0?
    const sdk::Block::Pair found = block.max2(count, {0, 0}, [=](int64_t i) {
      const float v = sdk::to_float(from[i]);
      return sdk::Block::Pair{sdk::is_finite(v) ? std::fabs(v) : std::bit_cast<float>(0x7f800000u), v < 0 ? 1.0f : 0.0f};
    });
    const float a = found.first, below = found.second;
    float* const scale = absmax + index;
    const sdk::FirstBad::Found not_finite = bad, not_allowed = negative;
    block.each(1, [=](int64_t) {
      *scale = a;
      if (!sdk::is_finite(a)) not_finite(index);
      if (!Signed && below > 0) not_allowed(index);
    });
    if (!sdk::is_finite(a)) return;
    uint8_t* const to = codes + begin;
    const bool tiny = a < 1.17549435e-38f;  // the reciprocal of a subnormal overflows; a block of zeros keeps its zeros
    const float inverse = tiny ? 1.0f : 1.0f / a, divisor = tiny && a > 0 ? a : 1.0f;
    block.each(count, [=](int64_t i) {
      const float v = sdk::to_float(from[i]);
      to[i] = sdk::dynamic_code(sdk::dynamic_book<Signed>(), (tiny ? v / divisor : v) * inverse);
    });
  }
};

template <bool Signed, class T>
void encode_blocks(const tn_exec* exec, const sdk::DynamicEncoder<Signed>&, const T* x, int64_t n, int64_t blocksize, uint8_t* codes,
                   float* absmax, sdk::FirstBad::Found bad, sdk::FirstBad::Found negative) {
  sdk::for_each_block(exec, sdk::ceil_div(n, blocksize), Encode<Signed, T>{x, n, blocksize, codes, absmax, bad, negative}, blocksize);
}

template <bool Signed, class T>
struct Decode {
  const uint8_t* codes;
  const float* absmax;
  int64_t blocksize, begin;
  T* dst;
  TN_FN void operator()(int64_t i) const {
    dst[i] = sdk::from_float<T>(sdk::dynamic_book<Signed>().value[codes[begin + i]] * absmax[(begin + i) / blocksize]);
  }
};

template <bool Signed, class T>
void decode_range(const tn_exec* exec, const uint8_t* codes, const float* absmax, int64_t blocksize, int64_t begin, int64_t end, T* dst) {
  sdk::for_each(exec, end - begin, Decode<Signed, T>{codes, absmax, blocksize, begin, dst});
}

// Values that are too few to code.
template <class From, class To>
struct CopyValues {
  const From* from;
  To* to;
  TN_FN void operator()(int64_t i) const { to[i] = sdk::from_float<To>(sdk::to_float(from[i])); }
};
template <class From, class To>
void copy_values(const tn_exec* exec, const From* from, To* to, int64_t n) {
  sdk::for_each(exec, n, CopyValues<From, To>{from, to});
}
inline void find_bad(const tn_exec* exec, const float* values, int64_t n, sdk::FirstBad::Found bad) {
  sdk::for_each(exec, n, [=] TN_KERNEL(int64_t i) {
    if (!sdk::is_finite(values[i])) bad(0);
  });
}

}  // namespace tenon::blockwise
