// The scale of each block: one f32, or with double quantization an 8-bit code over a second level of scales.
#pragma once

#include "quantizers/nf4/code_books.h"
#include "sdk/codec.h"
#include "sdk/dynamic_codec.h"

namespace tenon::nf4 {

struct Sizes {
  int64_t n, codes, blocks, nested;
  Sizes(const tn_target& t, int64_t blocksize)
      : n(sdk::elements(t)),
        codes(sdk::ceil_div(n, 2)),
        blocks(sdk::ceil_div(n, blocksize)),
        nested(sdk::ceil_div(blocks, kNestedBlock)) {}
};

// a · b + c with two roundings, as -ffp-contract=off has it for the CPU: compilers for GPUs would make one of them.
TN_FN float rounded_twice(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(a, b), c);
#else
#if defined(__HIP__)
#pragma clang fp contract(off)
#endif
  return a * b + c;
#endif
}

// Components as bytes and numbers, checked against the sizes.
struct Parts {
  uint8_t* codes;
  float* absmax = nullptr;          // plain, or
  uint8_t* absmax_codes = nullptr;  // doubly quantized, with
  float* nested_absmax = nullptr;   // one for 256 of them, and
  float* nested_offset = nullptr;   // their mean

  Parts(const Sizes& s, bool double_quant, tn_tensor* const* components)
      : codes(sdk::component<uint8_t>(components, 0, "codes", s.codes)) {
    if (!double_quant) {
      absmax = sdk::component<float>(components, 1, "absmax", s.blocks);
    } else {
      absmax_codes = sdk::component<uint8_t>(components, 1, "absmax", s.blocks);
      nested_absmax = sdk::component<float>(components, 2, "nested_absmax", s.nested);
      nested_offset = sdk::component<float>(components, 3, "nested_offset", 1);
    }
  }
  TN_FN float scale(int64_t block) const {
    if (absmax) return absmax[block];
    return rounded_twice(sdk::dynamic_book<true>().value[absmax_codes[block]], nested_absmax[block / kNestedBlock], *nested_offset);
  }
};

#if !TN_GPU

// Codes absmax[0, blocks) about its mean with the signed dynamic map. The mean is summed in f64, in order: threads do
// not change it.
inline void encode_scales(const tn_exec* exec, const float* absmax, const Sizes& s, const Parts& out) {
  double sum = 0;
  for (int64_t i = 0; i < s.blocks; ++i) sum += absmax[i];
  const float offset = s.blocks ? static_cast<float>(sum / static_cast<double>(s.blocks)) : 0.0f;
  *out.nested_offset = offset;
  static const sdk::DynamicEncoder<true> encoder;
  sdk::for_each_block(exec, s.nested, [=](const sdk::Block& block) {
    const int64_t begin = block.index * kNestedBlock, n = std::min<int64_t>(kNestedBlock, s.blocks - begin);
    float centred[kNestedBlock];
    for (int64_t i = 0; i < n; ++i) centred[i] = absmax[begin + i] - offset;
    const float a = sdk::absmax(centred, n);
    out.nested_absmax[block.index] = a;
    const bool tiny = a < std::numeric_limits<float>::min();  // the reciprocal overflows
    if (tiny)
      for (int64_t i = 0; i < n; ++i) centred[i] = a > 0 ? centred[i] / a : 0.0f;
    sdk::encode_dynamic<true>(block, encoder, centred, tiny ? 1.0f : 1.0f / a, out.absmax_codes + begin, n);
  });
}

#endif

}  // namespace tenon::nf4
