// One matrix product as oneDNN runs it. With gemm8.cpp the only file that knows the library's API, versions 2.6 and 3.x.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

namespace tenon::onednn {

enum class Type : int64_t { kF32 = 1, kBF16 = 2 };
constexpr uint64_t size_of(Type t) {
  return t == Type::kF32 ? 4 : 2;
}

inline constexpr int kMaxBatchAxes = 4;

// A and B have one type; C = alpha · A · B + beta · C + bias, beta 0 or 1 and alpha, where it is not 1, given at run
// time. Strides in elements; A and B of stride 0 along a batch
// axis are shared. Plain numbers only, so that a spec is its own cache key.
struct MatmulSpec {
  int64_t m, n, k;
  int64_t a_row, a_col, b_row, b_col, c_row;  // C has unit stride along n
  int64_t batch_axes;
  int64_t batch[kMaxBatchAxes], a_batch[kMaxBatchAxes], b_batch[kMaxBatchAxes], c_batch[kMaxBatchAxes];
  Type ab, c;
  int64_t has_bias;  // f32 [n]
  int64_t packed_b;  // B is in the layout of `pack`
  int64_t has_alpha, adds;  // adds: beta = 1
};

class Matmul {
 public:
  virtual ~Matmul() = default;
  virtual uint64_t scratch_bytes() const = 0;  // aligned to 64
  // [any-thread], given separate scratch.
  virtual void run(const void* a, const void* b, void* c, const void* bias, float alpha, void* scratch) const = 0;
};

// The product, or null where the library has only its slow reference for this spec.
std::unique_ptr<const Matmul> make_matmul(const MatmulSpec& spec);

// The layout in which the library likes a frozen B [k, n] best.
struct Packing {
  uint64_t bytes;  // 0: the plain layout is as good
};
Packing packing_of(int64_t k, int64_t n, Type type);
// B with strides (row, col) into `packed`.
void pack(int64_t k, int64_t n, Type type, int64_t row, int64_t col, const void* b, void* packed);

// Whether the library multiplies bf16 with instructions made for it (AVX512-BF16, AMX). Elsewhere its bf16 products are
// several times slower than f32.
bool has_native_bf16();
// "oneDNN 2.6.3"
const char* runtime_name();

}  // namespace tenon::onednn
