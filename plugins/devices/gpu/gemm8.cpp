// org.tenon.gemm8/1 on a GPU: the vendor's library where it takes the sizes and strides, else the built-in kernel.
#include "devices/gpu/device.h"
#include "devices/gpu/integer_product.h"

namespace tenon::gpu {
namespace {

// Row-major C = A · Bᵀ is column-major Cᵀ = op(B) · Aᵀ, of which B is the factor that is transposed: what libraries ask of integers.
Product product_of(const TiledIntegers& p) {
  bool aligned = true;
  for (const void* at : {static_cast<const void*>(p.a), static_cast<const void*>(p.b), static_cast<const void*>(p.c)})
    aligned = aligned && reinterpret_cast<uintptr_t>(at) % 16 == 0;
  return {p.n, p.m, p.k, 1, {sdk::kI8, true, p.b_row, 0}, {sdk::kI8, false, p.a_row, 0}, {sdk::kI32, false, p.c_row, 0}, true, aligned};
}
bool library_takes(const tn_device* device, const TiledIntegers& p) { return device->blas && p.k > 0 && device->blas->takes(product_of(p)); }
uint64_t library_bytes(const tn_device* device, const TiledIntegers& p) { return kWorkspaceAlignment + device->blas->workspace(product_of(p)); }

int32_t workspace(tn_device* device, int64_t m, int64_t n, int64_t k, uint64_t* n_bytes) {
  return on(device, [&] {
    const TiledIntegers p{m, n, k, nullptr, nullptr, k, k, nullptr, n};
    *n_bytes = m > 0 && n > 0 && library_takes(device, p) ? library_bytes(device, p) : 0;
  });
}

int32_t run(tn_device* device, tn_stream* stream, int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t a_row, const int8_t* b, int64_t b_row, int32_t* c,
            int64_t c_row, void* workspace, uint64_t workspace_bytes) {
  return on(device, [&] {
    if (m < 0 || n < 0 || k < 0 || k >= int64_t{1} << 17 || a_row < k || b_row < k || c_row < n)
      sdk::fail(TN_E_ARGUMENT, "gemm8: sizes " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) + " and their strides do not form a product");
    if (m == 0 || n == 0) return;
    const TiledIntegers p{m, n, k, a, b, a_row, b_row, c, c_row};
    // Strides may let the library take what it does not take of dense rows, for which no workspace was asked.
    if (library_takes(device, p) && library_bytes(device, p) <= workspace_bytes) {
      const std::lock_guard lock(device->mutex);
      return device->blas->multiply(product_of(p), {}, b, a, c, aligned_workspace(workspace), device->blas->workspace(product_of(p)), stream_of(stream));
    }
    const tn_exec exec{sizeof(tn_exec), 0, nullptr, device, stream, workspace, workspace_bytes};
    multiply(exec, p);
  });
}

constexpr tn_gemm8 kTable = {TN_SIZE_TO(tn_gemm8, run), 0, workspace, run};

}  // namespace

const tn_gemm8* gemm8_table() { return &kTable; }

}  // namespace tenon::gpu
