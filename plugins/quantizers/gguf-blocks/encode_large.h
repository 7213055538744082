// Encoding of the 256-element blocks: search each sub-block, code the sub-blocks' scales under one f16 factor, then
// choose the elements' codes for the scales as they will be decoded.
#pragma once

#include "quantizers/gguf-blocks/large_blocks.h"
#include "quantizers/gguf-blocks/search.h"

namespace tenon::gguf {

// Scales and minima of the sub-blocks, coded in 0 … top under the factors d and dmin (stored as f16).
template <int Sub>
struct CodedAffine {
  static constexpr int kSubs = 256 / Sub;
  uint8_t scale[kSubs], min[kSubs], q[256];
  float d, dmin;

  TN_LARGE_FN CodedAffine(const float* x, int levels, int top, const Trials& trials, bool add_rms) {
    Affine fit[kSubs];
    float largest_scale = 0, largest_min = 0, weight[Sub];
    for (int s = 0; s < kSubs; ++s) {
      const float* sub = x + Sub * s;
      float rms = 0;
      if (add_rms) {
        Lanes squares{};
        for (int i = 0; i < Sub; i += 16) squares += load(sub + i) * load(sub + i);
        rms = std::sqrt(sum(squares) / Sub);
      }
      for (int i = 0; i < Sub; ++i) weight[i] = rms + std::fabs(sub[i]);
      fit[s] = search_affine<Sub>(sub, weight, levels, trials);
      largest_scale = fit[s].scale > largest_scale ? fit[s].scale : largest_scale;
      largest_min = fit[s].min > largest_min ? fit[s].min : largest_min;
    }
    const float n = static_cast<float>(top);
    d = sdk::to_float(sdk::from_float<sdk::f16>(largest_scale / n));
    dmin = sdk::to_float(sdk::from_float<sdk::f16>(largest_min / n));
    const float inverse_scale = largest_scale > 0 ? n / largest_scale : 0,
                inverse_min = largest_min > 0 ? n / largest_min : 0;
    for (int s = 0; s < kSubs; ++s) {
      scale[s] = coded(fit[s].scale * inverse_scale, top), min[s] = coded(fit[s].min * inverse_min, top);
      const float step = d * scale[s], offset = dmin * min[s];
      for (int i = 0; i < Sub; i += 16) {
        float code[16] = {};
        if (step > 0)
          store(code,
                clamp(round_even((load(x + Sub * s + i) + fill(offset)) / fill(step)), 0, static_cast<float>(levels)));
        for (int l = 0; l < 16; ++l) q[Sub * s + i + l] = static_cast<uint8_t>(code[l]);
      }
    }
  }

 private:
  static TN_LARGE_FN uint8_t coded(float t, int top) {
    const float r =
        t < 0x1p20f ? round_even(t) : static_cast<float>(top);  // a subnormal largest one overflows its reciprocal
    return static_cast<uint8_t>(r > 0 ? (r < static_cast<float>(top) ? r : static_cast<float>(top)) : 0);
  }
};

// Signed scales of 16 sub-blocks of 16, coded in -top … top - 1 (the largest takes -top) under the factor d; codes
// -half … half - 1.
struct CodedSymmetric {
  int8_t scale[16], q[256];
  float d;

  template <class Search>
  TN_LARGE_FN CodedSymmetric(const float* x, float half, float top, Search search) {
    float fit[16];
    for (int s = 0; s < 16; ++s) fit[s] = search(x + 16 * s, half);
    const float extreme = signed_extreme(fit, 16);
    const bool vanishes = std::fabs(extreme) < 1e-15f;
    d = vanishes ? 0 : sdk::to_float(sdk::from_float<sdk::f16>(extreme / -top));
    for (int s = 0; s < 16; ++s) {
      const float r = vanishes ? 0 : round_even(fit[s] * (-top / extreme));
      scale[s] = static_cast<int8_t>(r < -top ? -top : r > top - 1 ? top - 1 : r);
      const float step = d * scale[s];
      float code[16] = {};
      if (step != 0) store(code, clamp(round_even(load(x + 16 * s) / fill(step)), -half, half - 1));
      for (int l = 0; l < 16; ++l) q[16 * s + l] = static_cast<int8_t>(code[l]);
    }
  }
};

// Codes of two bits laid out as Q2_K and Q3_K have them: per 128 elements 32 bytes, elements 32 apart share one.
TN_LARGE_FN void pack_pairs(const uint8_t* q, uint8_t* out) {
  for (int half = 0; half < 2; ++half)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* from = q + 128 * half + l;
      out[32 * half + l] =
          static_cast<uint8_t>((from[0] & 3) | (from[32] & 3) << 2 | (from[64] & 3) << 4 | (from[96] & 3) << 6);
    }
}

TN_LARGE_FN void pack_scales_and_mins(const uint8_t* scale, const uint8_t* min, uint8_t* out) {
  for (int j = 0; j < 4; ++j) {
    out[j] = static_cast<uint8_t>(scale[j] | (scale[j + 4] >> 4) << 6);
    out[j + 4] = static_cast<uint8_t>(min[j] | (min[j + 4] >> 4) << 6);
    out[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | (min[j + 4] & 15) << 4);
  }
}

TN_LARGE_FN void encode_block(Q2_K, const float* x, uint8_t* out) {
  const CodedAffine<16> c(x, 3, 15, {-0.5f, 0.1f, 15, true}, false);
  for (int s = 0; s < 16; ++s) out[s] = static_cast<uint8_t>(c.scale[s] | c.min[s] << 4);
  pack_pairs(c.q, out + 16);
  store_f16(out + 80, c.d), store_f16(out + 82, c.dmin);
}

TN_LARGE_FN void encode_block(Q3_K, const float* x, uint8_t* out) {
  const CodedSymmetric c(x, 4, 32, search_coordinates);
  uint8_t q[256];
  for (int e = 0; e < 256; ++e) q[e] = static_cast<uint8_t>(c.q[e] + 4);
  for (int l = 0; l < 32; ++l) {
    uint8_t high = 0;
    for (int part = 0; part < 8; ++part) high |= static_cast<uint8_t>(q[32 * part + l] >> 2 << part);
    out[l] = high;
  }
  pack_pairs(q, out + 32);
  uint8_t* scales = out + 96;
  std::memset(scales, 0, 12);
  for (int j = 0; j < 16; ++j) {
    const int a = c.scale[j] + 32;
    scales[j % 8] |= static_cast<uint8_t>((a & 15) << (j < 8 ? 0 : 4));
    scales[8 + j % 4] |= static_cast<uint8_t>(a >> 4 << (2 * (j / 4)));
  }
  store_f16(out + 108, c.d);
}

TN_LARGE_FN void encode_block(Q4_K, const float* x, uint8_t* out) {
  const CodedAffine<32> c(x, 15, 63, {-1.0f, 0.1f, 21, false}, true);
  store_f16(out, c.d), store_f16(out + 2, c.dmin);
  pack_scales_and_mins(c.scale, c.min, out + 4);
  for (int j = 0; j < 8; j += 2)
    for (int l = 0; l < 32; ++l)
      out[16 + 16 * j + l] = static_cast<uint8_t>(c.q[32 * j + l] | c.q[32 * j + 32 + l] << 4);
}

TN_LARGE_FN void encode_block(Q5_K, const float* x, uint8_t* out) {
  const CodedAffine<32> c(x, 31, 63, {-0.5f, 0.1f, 16, false}, true);
  store_f16(out, c.d), store_f16(out + 2, c.dmin);
  pack_scales_and_mins(c.scale, c.min, out + 4);
  for (int l = 0; l < 32; ++l) {
    uint8_t high = 0;
    for (int j = 0; j < 8; ++j) high |= static_cast<uint8_t>(c.q[32 * j + l] >> 4 << j);
    out[16 + l] = high;
  }
  for (int j = 0; j < 8; j += 2)
    for (int l = 0; l < 32; ++l)
      out[48 + 16 * j + l] = static_cast<uint8_t>((c.q[32 * j + l] & 15) | c.q[32 * j + 32 + l] << 4);
}

TN_LARGE_FN void encode_block(Q6_K, const float* x, uint8_t* out) {
  const CodedSymmetric c(x, 32, 128, search_symmetric);
  for (int half = 0; half < 2; ++half)
    for (int l = 0; l < 32; ++l) {
      int q[4];
      for (int quarter = 0; quarter < 4; ++quarter) q[quarter] = c.q[128 * half + 32 * quarter + l] + 32;
      out[64 * half + l] = static_cast<uint8_t>((q[0] & 15) | (q[2] & 15) << 4);
      out[64 * half + 32 + l] = static_cast<uint8_t>((q[1] & 15) | (q[3] & 15) << 4);
      out[128 + 32 * half + l] = static_cast<uint8_t>(q[0] >> 4 | q[1] >> 4 << 2 | q[2] >> 4 << 4 | q[3] >> 4 << 6);
    }
  for (int s = 0; s < 16; ++s) out[192 + s] = static_cast<uint8_t>(c.scale[s]);
  store_f16(out + 208, c.d);
}

}  // namespace tenon::gguf
