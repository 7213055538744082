#include "quantizers/gguf-blocks/types.h"

#include <limits>

#include "quantizers/gguf-blocks/encode_large.h"
#include "quantizers/gguf-blocks/encode_small.h"
#include "quantizers/gguf-blocks/large_blocks.h"
#include "quantizers/gguf-blocks/small_blocks.h"
#include "sdk/codec.h"
#if !TN_GPU
#include "quantizers/gguf-blocks/dot.h"
#endif

namespace tenon::gguf {
namespace {

constexpr float kAny = std::numeric_limits<float>::max(), kHalf = 65504.0f, kBrain = 0x1.FEp127f;

constexpr bool kNoZero = false;

#if TN_GPU

// A plain value as a block of one, at any address.
template <class T>
struct Plain {
  static constexpr int kElements = 1, kBytes = sizeof(T);
  static TN_FN void decode(const uint8_t* b, float* out) {
    T value;
    __builtin_memcpy(&value, b, sizeof value);
    *out = sdk::to_float(value);
  }
  static TN_FN void encode(const float* x, uint8_t* out) {
    const T value = sdk::from_float<T>(*x);
    __builtin_memcpy(out, &value, sizeof value);
  }
};
template <class Block>
struct Coder {
  static TN_FN void encode(const float* x, uint8_t* out) { encode_block(Block{}, x, out); }
};

template <class T>
constexpr Type plain(const char* name, uint32_t id, float largest) {
  return {name, id, 1, sizeof(T), 0, largest, true, decode_blocks<Plain<T>>, encode_blocks<Plain<T>, Plain<T>>, linear_blocks<Plain<T>>};
}
template <class Block>
constexpr Type read_only(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return {name, id, Block::kElements, Block::kBytes, bits, 0, keeps_zero, decode_blocks<Block>, nullptr, linear_blocks<Block>};
}
template <class Block>
constexpr Type both(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return {name, id, Block::kElements, Block::kBytes, bits, kHalf, keeps_zero, decode_blocks<Block>, encode_blocks<Block, Coder<Block>>, linear_blocks<Block>};
}
template <class Block>
constexpr Type fused(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return both<Block>(name, id, bits, keeps_zero);
}

#else

template <class Block>
void decode(const uint8_t* b, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) Block::decode(b + i * Block::kBytes, out + i * Block::kElements);
}

template <class Block>
void encode(const float* x, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) encode_block(Block{}, x + i * Block::kElements, out + i * Block::kBytes);
}

// Plain values, at any address.
template <class T>
void decode_plain(const uint8_t* b, int64_t n, float* out) {
  constexpr int64_t kRun = 256;
  T run[kRun];
  for (int64_t i = 0; i < n; i += kRun) {
    const int64_t count = std::min(kRun, n - i);
    std::memcpy(run, b + i * static_cast<int64_t>(sizeof(T)), count * sizeof(T));
    sdk::convert(run, out + i, count);
  }
}

template <class T>
void encode_plain(const float* x, int64_t n, uint8_t* out) {
  constexpr int64_t kRun = 256;
  T run[kRun];
  for (int64_t i = 0; i < n; i += kRun) {
    const int64_t count = std::min(kRun, n - i);
    sdk::convert(x + i, run, count);
    std::memcpy(out + i * static_cast<int64_t>(sizeof(T)), run, count * sizeof(T));
  }
}

template <class T>
constexpr Type plain(const char* name, uint32_t id, float largest) {
  return {name, id, 1, sizeof(T), 0, largest, true, decode_plain<T>, encode_plain<T>, nullptr, nullptr};
}
template <class Block>
constexpr Type read_only(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return {name, id, Block::kElements, Block::kBytes, bits, 0, keeps_zero, decode<Block>, nullptr, nullptr, nullptr};
}
template <class Block>
constexpr Type both(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return {name, id, Block::kElements, Block::kBytes, bits, kHalf, keeps_zero, decode<Block>, encode<Block>, nullptr, nullptr};
}
template <class Block>
constexpr Type fused(const char* name, uint32_t id, uint32_t bits, bool keeps_zero = true) {
  return {name, id, Block::kElements, Block::kBytes, bits, kHalf, keeps_zero, decode<Block>, encode<Block>, dot<Block>,
          &kFixedProduct<Block>};
}

#endif

constexpr Type kTypes[] = {
    plain<float>("F32", 0, kAny),
    plain<sdk::f16>("F16", 1, kHalf),
    plain<sdk::bf16>("BF16", 30, kBrain),
    fused<Q4_0>("Q4_0", 2, 4),
    fused<Q4_1>("Q4_1", 3, 4, kNoZero),
    both<Q5_0>("Q5_0", 6, 5),
    both<Q5_1>("Q5_1", 7, 5, kNoZero),
    fused<Q8_0>("Q8_0", 8, 8),
    read_only<Q8_1>("Q8_1", 9, 8),
    both<Q2_K>("Q2_K", 10, 2, kNoZero),
    both<Q3_K>("Q3_K", 11, 3),
    both<Q4_K>("Q4_K", 12, 4, kNoZero),
    both<Q5_K>("Q5_K", 13, 5, kNoZero),
    both<Q6_K>("Q6_K", 14, 6),
    read_only<Q8_K>("Q8_K", 15, 8),
    both<IQ4_NL>("IQ4_NL", 20, 4, kNoZero),
    read_only<IQ4_XS>("IQ4_XS", 23, 4, kNoZero),
    read_only<TQ1_0>("TQ1_0", 34, 2),
    read_only<TQ2_0>("TQ2_0", 35, 2),
    read_only<MXFP4>("MXFP4", 39, 4),
    read_only<NVFP4>("NVFP4", 40, 4),
};

}  // namespace

const Type* find_type(std::string_view name) {
  for (const Type& type : kTypes)
    if (name == type.name) return &type;
  return nullptr;
}

const char* fallback(const Type& type, int64_t row) {
  if (row % 32 != 0) return "F16";
  const std::string_view name = type.name;
  if (name == "Q4_K") return "Q5_0";
  if (name == "Q5_K") return "Q5_1";
  if (name == "Q6_K" || name == "Q8_K") return "Q8_0";
  return "IQ4_NL";
}

}  // namespace tenon::gguf
