// The card in plain code: the value of one element of one block, for every type. What the fast paths are tested
// against.
#pragma once

#include <string_view>

#include "quantizers/gguf-blocks/bytes.h"

namespace tenon::gguf::reference {

inline int bit(const uint8_t* bytes, int i) {
  return bytes[i / 8] >> (i % 8) & 1;
}
inline int nibble(const uint8_t* q, int e) {
  return e < 16 ? q[e] & 15 : q[e - 16] >> 4;
}  // element e of 32
inline int pair(const uint8_t* q, int e) {
  return q[32 * (e / 128) + e % 32] >> (e % 128 / 32 * 2) & 3;
}  // element e of 256

inline int trit(const uint8_t* b, int e) {
  const int byte = e < 160   ? e % 32
                   : e < 240 ? 32 + e % 16
                             : 48 + (e - 240) % 4,
            digit = e < 160   ? e / 32
                    : e < 240 ? (e - 160) / 16
                              : (e - 240) / 4;
  int left = b[byte];
  for (int i = 0; i < digit; ++i) left = left * 3 % 256;
  return left * 3 / 256;
}

inline float value(std::string_view type, const uint8_t* b, int e) {
  const float d = load_f16(b);
  if (type == "F32") return std::bit_cast<float>(load32(b));
  if (type == "F16") return d;
  if (type == "BF16") return sdk::to_float(sdk::bf16{load16(b)});
  if (type == "Q4_0") return (nibble(b + 2, e) - 8) * d;
  if (type == "Q4_1") return nibble(b + 4, e) * d + load_f16(b + 2);
  if (type == "Q5_0") return (nibble(b + 6, e) + 16 * bit(b + 2, e) - 16) * d;
  if (type == "Q5_1") return (nibble(b + 8, e) + 16 * bit(b + 4, e)) * d + load_f16(b + 2);
  if (type == "Q8_0") return static_cast<int8_t>(b[2 + e]) * d;
  if (type == "Q8_1") return static_cast<int8_t>(b[4 + e]) * d;
  if (type == "IQ4_NL") return iq4_level(nibble(b + 2, e)) * d;
  if (type == "MXFP4") return fp4_level(nibble(b + 1, e)) * e8m0_half(b[0]);
  if (type == "NVFP4") {
    const uint8_t byte = b[4 + e / 16 * 8 + e % 8];
    return fp4_level(e % 16 < 8 ? byte & 15 : byte >> 4) * e4m3_half(b[e / 16]);
  }
  if (type == "Q2_K") {
    const int s = b[e / 16];
    return load_f16(b + 80) * (s & 15) * pair(b + 16, e) - load_f16(b + 82) * (s >> 4);
  }
  if (type == "Q3_K") {
    const int high = b[e % 32] >> (e / 32) & 1;
    return load_f16(b + 108) * (q3_scale(b + 96, e / 16) - 32) * (pair(b + 32, e) - (high ? 0 : 4));
  }
  if (type == "Q4_K" || type == "Q5_K") {
    const bool five = type == "Q5_K";
    const int j = e / 32, byte = b[(five ? 48 : 16) + e / 64 * 32 + e % 32];
    int q = j % 2 ? byte >> 4 : byte & 15, a, m;
    if (five) q += 16 * (b[16 + e % 32] >> j & 1);
    scale_and_min(b + 4, j, a, m);
    return d * a * q - load_f16(b + 2) * m;
  }
  if (type == "Q6_K") {
    const int half = e / 128, l = e % 32, part = e % 128 / 32, low = b[64 * half + 32 * (part % 2) + l];
    const int q = (part < 2 ? low & 15 : low >> 4) | (b[128 + 32 * half + l] >> (2 * part) & 3) << 4;
    return load_f16(b + 208) * static_cast<int8_t>(b[192 + 8 * half + l / 16 + 2 * part]) * (q - 32);
  }
  if (type == "Q8_K") return static_cast<int8_t>(b[4 + e]) * std::bit_cast<float>(load32(b));
  if (type == "IQ4_XS") {
    const int j = e / 32, a = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (load16(b + 2) >> (2 * j) & 3) << 4;
    return d * (a - 32) * iq4_level(nibble(b + 8 + 16 * j, e % 32));
  }
  if (type == "TQ1_0") return (trit(b, e) - 1) * load_f16(b + 52);
  return (pair(b, e) - 1) * load_f16(b + 64);  // TQ2_0
}

}  // namespace tenon::gguf::reference
