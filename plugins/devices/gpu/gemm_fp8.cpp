// Products of E4M3 (org.tenon.gemm-fp8/1) by the vendor's library, where card and sizes allow it.
#include "devices/gpu/device.h"

namespace tenon::gpu {
namespace {

// Row-major C = A · Bᵀ is column-major Cᵀ = op(B) · Aᵀ, of which B is the factor that is transposed: the one form that libraries have.
Product product_of(const tn_fp8_product& p) {
  return {p.n, p.m, p.k, 1, {kE4M3, true, p.b_row, 0}, {kE4M3, false, p.a_row, 0}, {p.c_dtype, false, p.c_row, 0}, true, true};
}
bool library_takes(const tn_device* device, const tn_fp8_product& p) {
  sdk::gpu::require(set_device(device->index), "choosing the device");
  return device->blas && p.k > 0 && device->blas->takes(product_of(p));
}

}  // namespace

bool fp8_workspace(tn_device* device, const tn_fp8_product& p, uint64_t* n_bytes) {
  if (!library_takes(device, p)) return false;
  *n_bytes = kWorkspaceAlignment + device->blas->workspace(product_of(p));
  return true;
}

bool fp8_product(tn_device* device, tn_stream* stream, const tn_fp8_product& p, void* workspace, uint64_t workspace_bytes) {
  if (!library_takes(device, p)) return false;
  const Product product = product_of(p);
  const uint64_t bytes = device->blas->workspace(product);
  if (workspace_bytes < kWorkspaceAlignment + bytes)
    sdk::fail(TN_E_ARGUMENT, "gemm-fp8: the workspace has " + std::to_string(workspace_bytes) + " bytes where " + std::to_string(kWorkspaceAlignment + bytes) + " were asked for");
  const std::lock_guard lock(device->mutex);
  device->blas->multiply(product, {p.alpha, p.beta, p.a_scale, p.b_scale}, p.b, p.a, p.c, aligned_workspace(workspace), bytes, stream_of(stream));
  return true;
}

}  // namespace tenon::gpu
