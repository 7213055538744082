#include "devices/onednn/gemm8.h"

#include <dnnl.h>

#include "devices/onednn/device.h"
#include "sdk/base.h"

namespace tenon::onednn {
namespace {

int32_t workspace(tn_device*, int64_t, int64_t, int64_t, uint64_t* n_bytes) {
  *n_bytes = 0;  // the library packs into memory of its own
  return TN_OK;
}

int32_t run(tn_device* device, tn_stream*, int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t a_row, const int8_t* b, int64_t b_row, int32_t* c,
            int64_t c_row, void*, uint64_t) {
  return sdk::guard(device->host, [&] {
    if (m < 0 || n < 0 || k < 0 || k >= int64_t{1} << 17 || a_row < k || b_row < k || c_row < n)
      sdk::fail(TN_E_ARGUMENT, "gemm8: sizes " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k) + " and their strides do not form a product");
    if (m == 0 || n == 0) return;
    const int32_t zero = 0;
    if (dnnl_gemm_s8s8s32('N', 'T', 'F', m, n, k, 1.0f, a, a_row, 0, b, b_row, 0, 0.0f, c, c_row, &zero) != dnnl_success)
      sdk::fail(TN_E_UNSUPPORTED, "gemm8: oneDNN offers no product of 8-bit integers here");
  });
}

constexpr tn_gemm8 kTable = {TN_SIZE_TO(tn_gemm8, run), 0, workspace, run};

}  // namespace

const tn_gemm8* gemm8_table() { return &kTable; }

}  // namespace tenon::onednn
