// The codec's kernels for GPUs: encoding through shared memory, decoding eight elements a thread, and the plain fused product.
#pragma once

#include "quantizers/nf4/scales.h"
#include "sdk/floats.h"

namespace tenon::nf4 {

inline constexpr int64_t kMaxRows = 8;  // beyond, decoding a panel and multiplying it is faster

// A code book by value: kernels keep it in their parameters.
struct Entries {
  float value[16];
  explicit Entries(const float (&book)[16]) {
    for (int i = 0; i < 16; ++i) value[i] = book[i];
  }
  TN_FN float operator()(const uint8_t* codes, int64_t i) const { return value[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4]; }
};

// Codes x[0, n); a block of threads takes kMaxBlock elements. Blocks of the format are so small that one thread finds a block's largest
// magnitude, in shared memory whose padding keeps neighbours out of one bank.
template <class T>
struct Encode {
  CodeBook book;
  const T* x;
  int64_t n, blocksize;
  uint8_t* codes;
  float* absmax;
  sdk::FirstBad::Found bad;
  static constexpr int64_t kShared = (kMaxBlock + kMaxBlock / 32 + kMaxBlock / 32) * sizeof(float);

  static TN_FN int64_t at(int64_t i) { return i + i / 32; }
  TN_FN uint32_t code(float v, float absmax) const {
    const bool tiny = absmax < 1.17549435e-38f;  // the reciprocal of a subnormal overflows
    const float t = tiny ? (absmax > 0 ? v / absmax : v) : v * (1.0f / absmax);
    uint32_t rank = 0;
    for (int k = 0; k < 15; ++k) rank += t > book.threshold[k];
    return book.order[rank];
  }
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t per_block = kMaxBlock / blocksize * blocksize, begin = block.index * per_block,
                  count = n - begin < per_block ? n - begin : per_block, blocks = (count + blocksize - 1) / blocksize;
    float* const v = block.shared<float>();
    float* const scale = v + at(kMaxBlock);
    const T* const from = x + begin;
    const int64_t size = blocksize, first = begin / size;
    float* const out = absmax + first;
    const sdk::FirstBad::Found found = bad;
    block.each(count, [=](int64_t i) { v[at(i)] = sdk::to_float(from[i]); });
    block.each(blocks, [=](int64_t b) {
      const int64_t end = (b + 1) * size < count ? (b + 1) * size : count;
      uint32_t m = 0;  // NaN and Inf order above every finite number
      for (int64_t i = b * size; i < end; ++i) {
        const uint32_t u = std::bit_cast<uint32_t>(v[at(i)]) & 0x7fffffffu;
        m = u > m ? u : m;
      }
      const float a = std::bit_cast<float>(m);
      if (!sdk::is_finite(a)) found(first + b);
      scale[b] = out[b] = a;
    });
    uint8_t* const to = codes + begin / 2;
    const Encode* const self = this;
    block.each((count + 1) / 2, [=](int64_t k) {
      const int64_t i = 2 * k;
      const uint32_t high = self->code(v[at(i)], scale[i / size]),  // an odd length is padded
                     low = i + 1 < count ? self->code(v[at(i + 1)], scale[(i + 1) / size]) : self->book.zero;
      to[k] = static_cast<uint8_t>(high << 4 | low);
    });
  }
};

template <class T>
void encode(const tn_exec* exec, const CodeBook& book, const T* x, int64_t n, int64_t blocksize, uint8_t* codes, float* absmax, sdk::FirstBad::Found bad) {
  const int64_t per_block = kMaxBlock / blocksize * blocksize;
  using Kernel = Encode<T>;
  sdk::for_each_block<Kernel::kShared>(exec, sdk::ceil_div(n, per_block), Kernel{book, x, n, blocksize, codes, absmax, bad});
}

// Elements [begin, begin + n) -> dst. Eights: begin and every block are multiples of eight, and dst is aligned to eight elements.
template <class T, bool Eights>
struct Decode {
  Entries book;
  Parts parts;
  int64_t blocksize, begin, n;
  T* dst;
  TN_FN void operator()(int64_t k) const {
    if constexpr (Eights) {
      const int64_t i = 8 * k;
      if (i + 8 <= n) {
        const float scale = parts.scale((begin + i) / blocksize);
        sdk::Eight<T> out;
        for (int j = 0; j < 8; ++j) out.value[j] = sdk::from_float<T>(book(parts.codes, begin + i + j) * scale);
        *reinterpret_cast<sdk::Eight<T>*>(dst + i) = out;
        return;
      }
      for (int64_t j = i; j < n; ++j) one(j);
    } else {
      one(k);
    }
  }
  TN_FN void one(int64_t i) const {
    dst[i] = sdk::from_float<T>(book(parts.codes, begin + i) * parts.scale((begin + i) / blocksize));
  }
};

template <class T>
void decode_range(const tn_exec* exec, const float (&book)[16], const Parts& parts, int64_t blocksize, int64_t begin, int64_t end, T* dst) {
  const int64_t n = end - begin;
  if (begin % 8 == 0 && sdk::takes_eights(dst))
    sdk::for_each(exec, (n + 7) / 8, Decode<T, true>{Entries(book), parts, blocksize, begin, n, dst});
  else
    sdk::for_each(exec, n, Decode<T, false>{Entries(book), parts, blocksize, begin, n, dst});
}

// Codes absmax[0, blocks) about its mean with the signed dynamic map: the mean first, in f64 and in one order, then one block of scales
// after the other.
struct EncodeScales {
  const float* absmax;
  int64_t blocks;
  Parts out;
  TN_FN void operator()(const sdk::Block& block) const {
    const float* const all = absmax;
    const double sum = block.sum(blocks, [=](int64_t i) { return static_cast<double>(all[i]); });
    const float offset = blocks ? static_cast<float>(sum / static_cast<double>(blocks)) : 0.0f;
    const int64_t begin = block.index * kNestedBlock, n = blocks - begin < kNestedBlock ? blocks - begin : kNestedBlock;
    const float a = block.max(n, 0.0f, [=](int64_t i) { return std::fabs(all[begin + i] - offset); });
    const Parts to = out;
    const int64_t index = block.index;
    block.each(1, [=](int64_t) {
      if (n > 0) to.nested_absmax[index] = a;
      if (index == 0) *to.nested_offset = offset;
    });
    block.each(n, [=](int64_t i) {
      const float centred = all[begin + i] - offset;
      const float t = a < 1.17549435e-38f ? (a > 0 ? centred / a : 0.0f) : centred * (1.0f / a);
      to.absmax_codes[begin + i] = sdk::dynamic_code(sdk::dynamic_book<true>(), t);
    });
  }
};
inline void encode_scales(const tn_exec* exec, const float* absmax, const Sizes& s, const Parts& out) {
  // Without scales there is still an offset, 0.
  sdk::for_each_block(exec, s.nested > 0 ? s.nested : 1, EncodeScales{absmax, s.blocks, out});
}

}  // namespace tenon::nf4
