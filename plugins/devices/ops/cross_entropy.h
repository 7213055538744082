// Softmax cross-entropy, forward and gradient in place.
#pragma once

#include <bit>
#include <cmath>
#include <type_traits>

#include "devices/ops/view.h"
#include "sdk/vector_math.h"

namespace tenon::ops {

// e^x for x <= 0, to what T can tell apart: bf16 logits themselves are known to 2^-9, and a single factor of two halves the work.
template <class T>
TN_FN float fading(float x) {
  if constexpr (std::is_same_v<T, float>) return sdk::vexp(x);
  return sdk::vexp2(x * 0x1.715476p+0f);
}

// One block per row. The row's sum of exponentials is added up in f64 from f32 sums of kChunk elements.
template <class T>
struct CrossEntropy {
  static constexpr int64_t kChunk = 2048;
  Rows<T> logits;
  const int32_t* labels;
  float scale;
  double* losses;  // or null
  TN_FN void operator()(const sdk::Block& block) const {
    const int64_t n = logits.cols, r = block.index;
    T* const x = logits.row(r);
    const int32_t label = labels[r];
    double* const out = losses;
    const float g = scale;
    if (label < 0) {
      if (g != 0.0f) block.each(n, [=](int64_t i) { x[i] = sdk::from_float<T>(0.0f); });
      if (out) block.each(1, [=](int64_t) { out[r] = 0; });
      return;
    }
    const float chosen = sdk::to_float(x[label]);  // read before any phase writes
    const float top = block.max(n, std::bit_cast<float>(0xff800000u), [=](int64_t i) { return sdk::to_float(x[i]); });
    // An f32 row keeps the exponentials for the gradient; in bf16 they would be rounded twice.
    constexpr bool kKeep = std::is_same_v<T, float>;
    double total = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
      T* const part = x + begin;
      const int64_t size = n - begin < kChunk ? n - begin : kChunk;
      if (kKeep && g != 0.0f)
        block.each(size, [=](int64_t i) { part[i] = sdk::from_float<T>(fading<T>(sdk::to_float(part[i]) - top)); });
      const auto value = [=](int64_t i) { return sdk::to_float(part[i]); };
      total += kKeep && g != 0.0f ? block.sum(size, value)
                                  : block.sum(size, [=](int64_t i) { return fading<T>(value(i) - top); });
    }
    const double distance = static_cast<double>(chosen) - static_cast<double>(top);
    if (out) block.each(1, [=](int64_t) { out[r] = std::log(total) - distance; });
    if (g != 0.0f) {
      const float factor = static_cast<float>(static_cast<double>(g) / total);
      // The label's element is computed apart, so that 1 is subtracted before rounding.
      const float hit = static_cast<float>((std::exp(distance) / total - 1.0) * g);
      block.each(n, [=](int64_t i) {
        const float v = sdk::to_float(x[i]);
        x[i] = sdk::from_float<T>((kKeep ? v : fading<T>(v - top)) * factor);
      });
      block.each(1, [=](int64_t) { x[label] = sdk::from_float<T>(hit); });
    }
  }
};

template <bool kHostReadable>
void cross_entropy(const tn_exec& exec, const tn_tensor& logits, const tn_tensor& labels, double grad_scale,
                   const tn_tensor* losses) {
  with_activation(logits.dtype, "cross_entropy: logits", [&]<class T>(T) {
    const auto x = rows_of<T>(logits, "cross_entropy: logits");
    const auto* label = vector_of<const int32_t>(labels, x.n, sdk::kI32, "cross_entropy: labels", "int32");
    if constexpr (kHostReadable) {
      for (int64_t i = 0; i < x.n; ++i)
        if (label[i] >= x.cols)
          fail(TN_E_ARGUMENT, "cross_entropy: label " + std::to_string(label[i]) + " at row " + std::to_string(i) +
                                  " exceeds the vocabulary of " + std::to_string(x.cols));
    }
    double* const out = losses ? vector_of<double>(*losses, x.n, sdk::kF64, "cross_entropy: losses", "f64") : nullptr;
    sdk::for_each_block(&exec, x.n, CrossEntropy<T>{x, label, static_cast<float>(grad_scale), out}, x.cols);
  });
}

}  // namespace tenon::ops
