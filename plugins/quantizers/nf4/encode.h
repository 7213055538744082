// Encoding: the block's largest magnitude, then the number of thresholds that each scaled element exceeds.
#pragma once

#include "quantizers/nf4/code_books.h"
#include "sdk/codec.h"
#include "sdk/for_each.h"
#if defined(__AVX512BW__)
#include "quantizers/nf4/encode_avx512.h"
#endif

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

// Codes the block x[0, n); its scale comes back.
template <const CodeBook& book, class T>
float encode_block(const T* x, int64_t n, uint8_t* codes) {
  float buffer[kMaxBlock];
  uint8_t rank[kMaxBlock + 1];
  sdk::convert(x, buffer, n);
  const float a = sdk::absmax(buffer, n);
  ranks<book>(buffer, n, a, rank);
  if constexpr (!book.rising)
    for (int64_t i = 0; i < n; ++i) rank[i] = book.order[rank[i]];
  rank[n] = book.zero;  // padding of an odd length
  for (int64_t i = 0; i < (n + 1) / 2; ++i) codes[i] = static_cast<uint8_t>(rank[2 * i] << 4 | rank[2 * i + 1]);
  return a;
}

// Codes x[0, n) in blocks; absmax gets one scale a block. NaN and Inf are collected in `bad`.
template <const CodeBook& book, class T>
void encode(const tn_exec* exec, const T* x, int64_t n, int64_t blocksize, uint8_t* codes, float* absmax,
            sdk::FirstBad::Found bad) {
  const int64_t per_task = kMaxBlock / blocksize * blocksize;
  sdk::for_each_block(exec, sdk::ceil_div(n, per_task), [=](const sdk::Block& task) {
    int64_t begin = task.index * per_task;
    const int64_t end = std::min(n, begin + per_task);
    const auto one = [&](int64_t from) {
      const float a = encode_block<book>(x + from, std::min(blocksize, end - from), codes + from / 2);
      if (!sdk::is_finite(a)) bad(from / blocksize);
      absmax[from / blocksize] = a;
    };
#if defined(__AVX512BW__)
    if constexpr (book.rising) {
      const int64_t first = begin;
      begin += encode_groups<book>(x + first, end - first, blocksize, codes + first / 2, absmax + first / blocksize,
                                   [&](int64_t block) { one(first + block * blocksize); });
    }
#endif
    for (; begin < end; begin += blocksize) one(begin);
  });
}

}  // namespace tenon::nf4
