// Every type that is read or written: its id in a GGUF file, its block, and the functions that decode and encode runs
// of blocks.
#pragma once

#include <string_view>

#include "sdk/dtype.h"
#if TN_GPU
#include "quantizers/gguf-blocks/gpu.h"
#else
#include "quantizers/gguf-blocks/fixed_dot.h"
#endif

namespace tenon::gguf {

struct Type {
  const char* name;
  uint32_t id;         // in a GGUF file
  int elements;        // of a block
  int bytes;           // of a block
  uint32_t code_bits;  // of an element; 0: plain values
  float largest;       // magnitude that can be coded: what the type, or the f16 scale of its blocks, can hold
  bool keeps_zero;     // 0 decodes to 0 whatever its block holds: false for types with a minimum and for the IQ4 grid
#if TN_GPU  // what launches the kernels of gpu.h
  void (*decode)(const tn_exec*, const uint8_t* blocks, int64_t begin, int64_t end, const Floats& out);
  void (*encode)(const tn_exec*, const Floats& x, int64_t n, int64_t run, float largest, uint8_t* out, sdk::FirstBad::Found bad,
                 sdk::FirstBad::Found large);  // null: only read
  void (*linear)(const tn_exec*, const uint8_t* blocks, const sdk::Product& p, const Floats& x, double alpha, double beta, const Floats& y);
#else
  void (*decode)(const uint8_t* blocks, int64_t n_blocks, float* out);
  void (*encode)(const float* x, int64_t n_blocks, uint8_t* out);  // null: only read
  // out[t] = row · x[t] for 1, 2, 4 or 8 rows of activations; null: decode and multiply
  void (*dot)(const uint8_t* row, int64_t n_blocks, const float* const* x, int rows, float* out);
  const FixedProduct* fixed;  // the same in fixed point, where has_fixed_dot(); null: not for this type
#endif
};

const Type* find_type(std::string_view name);

// The type to take for rows that do not fill the blocks of `type`, by the usual rule of GGUF writers.
const char* fallback(const Type& type, int64_t row);

inline constexpr const char* kTypeChoices =
    "F32|F16|BF16|Q4_0|Q4_1|Q5_0|Q5_1|Q8_0|Q8_1|Q2_K|Q3_K|Q4_K|Q5_K|Q6_K|Q8_K|IQ4_NL|IQ4_XS|TQ1_0|TQ2_0|MXFP4|NVFP4";

}  // namespace tenon::gguf
