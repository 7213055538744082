// The card in plain code: what the fast paths are tested against.
#pragma once

#include <cmath>
#include <vector>

#include "quantizers/nf4/code_books.h"

namespace tenon::nf4::reference {

inline int nearest(const CodeBook& book, float t) {
  int rank = 0;
  while (rank < 15 && t > book.threshold[rank]) ++rank;
  return book.order[rank];
}

struct Coded {
  std::vector<uint8_t> codes;  // two a byte, the even element in the high nibble
  std::vector<float> absmax;   // one a block of the flattened tensor
};

inline Coded encode(const CodeBook& book, const std::vector<float>& x, int64_t blocksize) {
  const int64_t n = static_cast<int64_t>(x.size());
  Coded out{std::vector<uint8_t>((n + 1) / 2), std::vector<float>((n + blocksize - 1) / blocksize)};
  for (int64_t i = 0; i < n; ++i) out.absmax[i / blocksize] = std::fmax(out.absmax[i / blocksize], std::fabs(x[i]));
  for (int64_t i = 0; i < n + n % 2; ++i) {
    int code = book.zero;
    if (i < n && out.absmax[i / blocksize] > 0) {
      const float a = out.absmax[i / blocksize];
      // The reciprocal of a subnormal overflows.
      code = nearest(book, a < 0x1p-126f ? x[i] / a : x[i] * (1.0f / a));
    }
    out.codes[i / 2] |= static_cast<uint8_t>(code << (i % 2 ? 0 : 4));
  }
  return out;
}

inline float decode(const CodeBook& book, const Coded& coded, int64_t blocksize, int64_t i) {
  const int code = i % 2 ? coded.codes[i / 2] & 15 : coded.codes[i / 2] >> 4;
  return book.value[code] * coded.absmax[i / blocksize];
}

}  // namespace tenon::nf4::reference
