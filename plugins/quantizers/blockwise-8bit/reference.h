// The card in plain code: what the fast path is tested against.
#pragma once

#include <cmath>
#include <vector>

#include "sdk/dynamic_map.h"

namespace tenon::blockwise::reference {

struct Coded {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;  // one a block of the flattened tensor
};

// The nearest value of the book; of two equally near ones the lower.
inline uint8_t nearest(const sdk::DynamicBook& book, float t) {
  int best = 0;
  for (int i = 1; i < 256; ++i)
    if (std::fabs(double{t} - book.value[i]) < std::fabs(double{t} - book.value[best])) best = i;
  return static_cast<uint8_t>(best);
}

inline Coded encode(const sdk::DynamicBook& book, const std::vector<float>& x, size_t blocksize) {
  Coded out{std::vector<uint8_t>(x.size()), std::vector<float>((x.size() + blocksize - 1) / blocksize)};
  for (size_t i = 0; i < x.size(); ++i)
    out.absmax[i / blocksize] = std::fmax(out.absmax[i / blocksize], std::fabs(x[i]));
  for (size_t i = 0; i < x.size(); ++i) {
    const float a = out.absmax[i / blocksize];
    // The reciprocal of a subnormal overflows.
    out.codes[i] = nearest(book, a == 0 ? 0 : a < 0x1p-126f ? x[i] / a : x[i] * (1.0f / a));
  }
  return out;
}

inline float decode(const sdk::DynamicBook& book, const Coded& coded, size_t blocksize, size_t i) {
  return book.value[coded.codes[i]] * coded.absmax[i / blocksize];
}

}  // namespace tenon::blockwise::reference
