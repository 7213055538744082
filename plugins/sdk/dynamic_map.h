// Dynamic 8-bit code books (8-bit Optimizers via Block-wise Quantization, Dettmers et al. 2021).
//
// A book has 256 increasing values in [-1, 1]: 0, 1, and for each decade 10^(i-6), i = 0..6, the midpoints of 2^i
// (signed: both signs) or 2^(i+1) (unsigned) equal cells of [0.1, 1], scaled. The f32 values are those of the reference
// implementation to the last bit, so that files which carry a book, or codes without one, mean the same here and there.
// The code of x is the nearest value's, of two equally near the lower one's. The signed book has no -1: -1 is coded as
// -0.99296875.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "sdk/base.h"

namespace tenon::sdk {

struct DynamicBook {
  float value[256];
  float
      edge[255];  // code(x) = number of edges < x: the largest f32 that is not nearer to value[i + 1] than to value[i]
};

constexpr DynamicBook make_dynamic_book(bool is_signed) {
  constexpr float kDecade[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  DynamicBook book{};
  int n = 0;
  float magnitude[256]{};
  for (int i = 0; i < 7; ++i) {
    const int cells = 1 << (is_signed ? i : i + 1);
    const float step = (1.0f - 0.1f) / static_cast<float>(cells);
    // Ends of cells, counted from the nearer end of [0.1, 1], one rounding each: the doubles are exact.
    const auto bound = [&](int k) {
      return k < (cells + 1) / 2 ? static_cast<float>(static_cast<double>(0.1f) + static_cast<double>(step) * k)
                                 : static_cast<float>(1.0 - static_cast<double>(step) * (cells - k));
    };
    for (int k = 0; k < cells; ++k) magnitude[n++] = (bound(k) + bound(k + 1)) / 2 * kDecade[i];
  }
  int at = 0;
  if (is_signed)
    for (int k = n; k-- > 0;) book.value[at++] = -magnitude[k];
  book.value[at++] = 0;
  for (int k = 0; k < n; ++k) book.value[at++] = magnitude[k];
  book.value[at] = 1;
  for (int i = 0; i < 255; ++i) {
    const double middle = (static_cast<double>(book.value[i]) + static_cast<double>(book.value[i + 1])) / 2;  // exact
    float edge = static_cast<float>(middle);
    if (static_cast<double>(edge) > middle) {  // round down
      const uint32_t bits = std::bit_cast<uint32_t>(edge);
      edge = std::bit_cast<float>(edge > 0 ? bits - 1 : bits + 1);
    }
    book.edge[i] = edge;
  }
  return book;
}

TN_TABLE(DynamicBook, kDynamicSigned, make_dynamic_book(true));
TN_TABLE(DynamicBook, kDynamicUnsigned, make_dynamic_book(false));
inline constexpr uint8_t kDynamicSignedZero = 127, kDynamicUnsignedZero = 0;

// A book, for code that runs in kernels.
template <bool Signed>
TN_FN const DynamicBook& dynamic_book() {
  return Signed ? TN_TABLE_OF(kDynamicSigned) : TN_TABLE_OF(kDynamicUnsigned);
}

// The readable search; NaN is coded as the lowest value.
TN_FN uint8_t dynamic_code(const DynamicBook& book, float x) {
  uint32_t low = 0;
  for (uint32_t half = 128; half > 0; half /= 2)
    if (x > book.edge[low + half - 1]) low += half;
  return static_cast<uint8_t>(low);
}

// The code just below 0's, where a negative value would get 0's.
TN_FN uint8_t kept_negative(uint8_t code, float value) {
  return static_cast<uint8_t>(code - (code == kDynamicSignedZero && value < 0 ? 1 : 0));
}

#if TN_GPU

// The code of x in [-1, 1] (unsigned: [0, 1]). A GPU's cache serves the search well; a table of 12 KB would crowd it.
template <bool Signed>
class DynamicEncoder {
 public:
  TN_FN uint8_t operator()(float x) const { return dynamic_code(dynamic_book<Signed>(), x); }
};

#else

// The same code without a search, for loops at memory speed. |x| is cut into cells by its upper bits, so small that a
// cell holds at most one edge; an entry of the table says which code the cell begins with and where in it the next one
// starts. Built at run time (an instance of a plugin holds one), 12 KB.
template <bool Signed>
class DynamicEncoder {
 public:
  DynamicEncoder() {
    const DynamicBook& book = Signed ? kDynamicSigned : kDynamicUnsigned;
    for (uint32_t negative = 0; negative < kSigns; ++negative) {
      for (uint32_t c = 0; c < kCells; ++c) {
        const auto code_at = [&](uint32_t low) {
          const float x = std::bit_cast<float>(((c + kFirst) << kShift) + low);
          return dynamic_code(book, negative ? -x : x);
        };
        const uint32_t first = code_at(0);
        uint32_t last_same = kMask;
        if (c + 1 < kCells && code_at(kMask) != first) {  // the last cell is there for |x| = 1 alone
          uint32_t beyond = kMask;
          for (last_same = 0; beyond - last_same > 1;) {
            const uint32_t middle = (last_same + beyond) / 2;
            (code_at(middle) == first ? last_same : beyond) = middle;
          }
        }
        entry_[negative * kCells + c] = last_same << 8 | first;
      }
    }
  }

  // The code of x in [-1, 1] (unsigned: [0, 1]), equal to dynamic_code's.
  TN_FN uint8_t operator()(float x) const {
    const uint32_t bits = std::bit_cast<uint32_t>(x), size = bits & 0x7fffffffu;
    const uint32_t magnitude = size < kLeast ? kLeast : size > kOne ? kOne : size;
    const uint32_t negative = Signed ? bits >> 31 : 0;
    const uint32_t e = entry_[(magnitude >> kShift) - kFirst + negative * kCells];
    return static_cast<uint8_t>((e & 0xffu) + ((magnitude & kMask) > e >> 8 ? 1u - 2u * negative : 0u));
  }

  // For vector code: entry of |x| clamped to [kLeast, kOne] is table()[(|x| >> kShift) - kFirst], that of a negative x
  // lies kCells further.
  const uint32_t* table() const { return entry_.data(); }
  static constexpr uint32_t kSigns = Signed ? 2 : 1;
  static constexpr uint32_t kShift = Signed ? 17 : 16, kMask = (1u << kShift) - 1;
  // The first cell begins at 2^-22 (signed) or 2^-23, below the first edge; the last is the one of 1.
  static constexpr uint32_t kFirst = (Signed ? 127u - 22 : 127u - 23) << (23 - kShift),
                            kCells = (127u << (23 - kShift)) - kFirst + 1;
  static constexpr uint32_t kLeast = kFirst << kShift, kOne = 127u << 23;

 private:
  std::array<uint32_t, kSigns * kCells> entry_;
};

#endif

// What a kernel captures of an encoder (or of several): on a GPU a copy, which is empty, on the CPU the place of its table.
template <class Encoder>
class CapturedEncoder {
 public:
#if TN_GPU
  explicit CapturedEncoder(const Encoder&) {}
  TN_FN const Encoder& operator*() const { return encoder_; }

 private:
  Encoder encoder_;
#else
  explicit CapturedEncoder(const Encoder& encoder) : encoder_(&encoder) {}
  const Encoder& operator*() const { return *encoder_; }

 private:
  const Encoder* encoder_;
#endif
};

}  // namespace tenon::sdk
