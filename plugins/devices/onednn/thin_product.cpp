#include "devices/onednn/thin_product.h"

#include <algorithm>

#include "sdk/dtype.h"

namespace tenon::onednn {
namespace {

constexpr int64_t kTogether = 4;                    // rows of W that share what is read of A
constexpr int64_t kSerialBelow = int64_t{1} << 15;  // elements of W: below this, waking threads costs more than they save

template <class Body>
void with_storage(Storage s, Body&& body) {
  if (s == Storage::kF32) return body(float{});
  if (s == Storage::kBF16) return body(sdk::bf16{});
  body(sdk::f16{});
}

// out[r] = a · row r of w, for kTogether rows.
template <class A, class W>
void dots(const A* __restrict a, const W* __restrict w, int64_t stride, int64_t k, float* __restrict out) {
  const W *const w1 = w + stride, *const w2 = w1 + stride, *const w3 = w2 + stride;
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t i = 0; i < k; ++i) {
    const float x = sdk::to_float(a[i]);
    s0 += x * sdk::to_float(w[i]);
    s1 += x * sdk::to_float(w1[i]);
    s2 += x * sdk::to_float(w2[i]);
    s3 += x * sdk::to_float(w3[i]);
  }
  out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

float number(Storage s, const void* p, int64_t i) {
  float x = 0;
  with_storage(s, [&]<class T>(T) { x = sdk::to_float(static_cast<const T*>(p)[i]); });
  return x;
}

}  // namespace

bool is_thin(const Problem& p) {
  return p.m == 1 && p.batch_axes == 0 && !p.packed_b && !p.swapped && p.n >= kTogether && p.k > 0 && p.b_row == 1 && p.a_col == 1 && p.c_col == 1 &&
         p.alpha != Factor::kZero;
}

void run_thin(const Problem& p, const Pointers& q) {
  const int64_t groups = (p.n + kTogether - 1) / kTogether;
  const float alpha = static_cast<float>(q.alpha), beta = static_cast<float>(q.beta);
  with_storage(p.a, [&]<class A>(A) {
    with_storage(p.b, [&]<class W>(W) {
      const A* const a = static_cast<const A*>(q.a);
      const W* const w = static_cast<const W*>(q.b);
#pragma omp parallel for schedule(static) if (p.n * p.k > kSerialBelow)
      for (int64_t g = 0; g < groups; ++g) {
        // A last group that is not whole reads rows of the one before it again, and leaves their elements of C alone.
        const int64_t begin = g * kTogether, count = std::min(kTogether, p.n - begin), first = begin + count - kTogether;
        float out[kTogether];
        dots(a, w + first * p.b_col, p.b_col, p.k, out);
        for (int64_t r = kTogether - count; r < kTogether; ++r) {
          const int64_t column = first + r;
          float y = alpha * out[r];
          if (p.bias != Storage::kNone) y += number(p.bias, q.bias, column * p.bias_stride);
          if (beta != 0) y += beta * number(p.c, q.c, column);
          with_storage(p.c, [&]<class C>(C) { static_cast<C*>(q.c)[column] = sdk::from_float<C>(y); });
        }
      }
    });
  });
}

}  // namespace tenon::onednn
