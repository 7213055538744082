// A matrix product as libraries of the vendors take it: column-major, and in types that one of them multiplies.
#pragma once

#include <memory>
#include <string>
#include <tuple>

#include "devices/gpu/calls.h"
#include "sdk/tensor.h"
#include "tenon/device.h"

namespace tenon::gpu {

inline constexpr tn_dtype kE4M3{10, 8, 1};  // DLPack 1.1's float8_e4m3fn; it stays in here

// C[rows, columns] = alpha · op(A) · op(B) + beta · C, each matrix column-major with a leading dimension; `batch` of them, strides apart.
// Row-major C = A · B is such a product with both factors swapped.
struct Product {
  int64_t rows, columns, inner, batch;
  struct Operand {
    tn_dtype dtype;
    bool transposed;
    int64_t leading, stride;  // in elements
  } a, b, c;
  bool exact;    // f32 is multiplied as f32
  bool aligned;  // every matrix begins at a multiple of 16 bytes

  // Of 8-bit integers C is of 32 bits, alpha 1 and beta 0, A transposed and B not. Of E4M3 C is f32 or bf16, A transposed and B not.

  // Products that one plan serves compare equal.
  static auto key(const Operand& o) { return std::tuple(o.dtype.code, o.dtype.bits, o.transposed, o.leading, o.stride); }
  auto key() const { return std::tuple(rows, columns, inner, batch, key(a), key(b), key(c), exact, aligned); }
  auto operator<=>(const Product& o) const { return key() <=> o.key(); }
  bool operator==(const Product& o) const { return key() == o.key(); }
};

struct Factors {
  double alpha = 1, beta = 0;
  const float *a_scale = nullptr, *b_scale = nullptr;  // of E4M3: one number each, in memory of the device
};

// What libraries ask of their workspace's address, which is more than TN_ALIGNMENT.
inline constexpr uint64_t kWorkspaceAlignment = 256;
inline void* aligned_workspace(void* at) {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(at) + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment);
}

// A vendor's library, opened at run time. Not thread-safe; a device guards it.
class Blas {
 public:
  virtual ~Blas() = default;
  virtual std::string version() const = 0;                   // "cuBLASLt 13.0"
  virtual bool takes(const Product& p) const = 0;            // these types and layouts
  virtual uint64_t workspace(const Product& p) const = 0;    // bytes, from an aligned address on
  virtual void multiply(const Product& p, const Factors& factors, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) = 0;
};

// Null where there is none; `why` then says so in a sentence. The built-in kernel multiplies instead.
std::unique_ptr<Blas> open_blas(std::string& why);

}  // namespace tenon::gpu
