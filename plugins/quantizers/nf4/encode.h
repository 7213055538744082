// Encoding: the block's largest magnitude, then the number of thresholds that each scaled element exceeds.
#pragma once

#include "quantizers/nf4/code_books.h"
#include "sdk/codec.h"
#include "sdk/for_each.h"

namespace tenon::nf4 {

// The book is a template argument so that thresholds are immediate constants of a branch-free loop.
template <const CodeBook& book>
inline void ranks(const float* x, int64_t n, float absmax, uint8_t* rank) {
  // The reciprocal of a subnormal overflows.
  const bool tiny = absmax < std::numeric_limits<float>::min();
  const float inverse = tiny ? 1.0f : 1.0f / absmax, divisor = tiny && absmax > 0 ? absmax : 1.0f;
  const auto code = [&](float t) {
    uint32_t r = 0;
#pragma GCC unroll 15
    for (int k = 0; k < 15; ++k) r += t > book.threshold[k];
    return static_cast<uint8_t>(r);
  };
  if (tiny) {
    for (int64_t i = 0; i < n; ++i) rank[i] = code(x[i] / divisor);
  } else {
    for (int64_t i = 0; i < n; ++i) rank[i] = code(x[i] * inverse);
  }
}

// Codes x[0, n) in blocks; absmax gets one scale a block. NaN and Inf are collected in `bad`.
template <const CodeBook& book, class T>
void encode(const tn_exec* exec, const T* x, int64_t n, int64_t blocksize, uint8_t* codes, float* absmax,
            sdk::FirstBad::Found bad) {
  const int64_t per_task = kMaxBlock / blocksize * blocksize;
  sdk::for_each_block(exec, sdk::ceil_div(n, per_task), [=](const sdk::Block& task) {
    float buffer[kMaxBlock];
    uint8_t rank[kMaxBlock + 1];
    const int64_t end = std::min(n, (task.index + 1) * per_task);
    for (int64_t begin = task.index * per_task; begin < end; begin += blocksize) {
      const int64_t count = std::min(blocksize, end - begin);
      sdk::convert(x + begin, buffer, count);
      const float a = sdk::absmax(buffer, count);
      if (!sdk::is_finite(a)) bad(begin / blocksize);
      absmax[begin / blocksize] = a;
      ranks<book>(buffer, count, a, rank);
      if constexpr (!book.rising)
        for (int64_t i = 0; i < count; ++i) rank[i] = book.order[rank[i]];
      rank[count] = book.zero;  // padding of an odd length
      uint8_t* out = codes + begin / 2;
      for (int64_t i = 0; i < (count + 1) / 2; ++i) out[i] = static_cast<uint8_t>(rank[2 * i] << 4 | rank[2 * i + 1]);
    }
  });
}

}  // namespace tenon::nf4
