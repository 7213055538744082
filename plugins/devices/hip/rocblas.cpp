// rocBLAS, opened at run time: products of f32, bf16 and f16 through its one general call. Its constants and its signature are stated here,
// since the header need not be installed.
#include <limits>

#include "devices/gpu/library.h"
#include "devices/hip/rocblas.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

enum Operation : int { kNone = 111, kTranspose = 112 };
enum Datatype : int { kHalf = 150, kSingle = 151, kBrain = 168 };
using Handle = void*;
using General = int (*)(Handle, int op_a, int op_b, int32_t m, int32_t n, int32_t k, const void* alpha, const void* a, int a_type, int32_t lda,
                        int64_t stride_a, const void* b, int b_type, int32_t ldb, int64_t stride_b, const void* beta, const void* c, int c_type,
                        int32_t ldc, int64_t stride_c, void* d, int d_type, int32_t ldd, int64_t stride_d, int32_t batch, int compute_type,
                        int algorithm, int32_t solution, uint32_t flags);

struct Calls {
  int (*create)(Handle*);
  int (*destroy)(Handle);
  int (*set_stream)(Handle, Stream);
  int (*set_workspace)(Handle, void*, size_t);
  int (*version)(char*, size_t);
  int (*set_atomics_mode)(Handle, int);
  General general;
};

int type_of(tn_dtype d) { return d.bits == 32 ? kSingle : d.code == TN_BFLOAT ? kBrain : kHalf; }

void require(int status, const char* what) {
  if (status != 0) sdk::fail(TN_E_DEVICE, std::string("rocBLAS: ") + what + " failed with status " + std::to_string(status));
}

class RocBlas final : public Blas {
 public:
  RocBlas(const Calls& calls, Handle handle) : calls_(calls), handle_(handle) {}
  ~RocBlas() override { calls_.destroy(handle_); }
  std::string version() const override {
    char text[64] = "";
    calls_.version(text, sizeof text);
    return std::string("rocBLAS ") + text;
  }
  bool takes(const Product& p) const override {
    const int64_t largest = std::numeric_limits<int32_t>::max();
    const bool fits = p.rows <= largest && p.columns <= largest && p.inner <= largest && p.batch <= largest && p.a.leading <= largest &&
                      p.b.leading <= largest && p.c.leading <= largest;
    if (!fits || p.a.dtype.bits == 8 || !sdk::same(p.a.dtype, p.b.dtype)) return false;
    return sdk::same(p.c.dtype, sdk::kF32) || (sdk::same(p.a.dtype, sdk::kBF16) && sdk::same(p.c.dtype, sdk::kBF16));
  }
  uint64_t workspace(const Product&) const override { return kWorkspace; }
  void multiply(const Product& p, const Factors& factors, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) override {
    require(calls_.set_stream(handle_, stream), "choosing the stream");
    require(calls_.set_workspace(handle_, workspace, bytes), "taking the workspace");
    const float scale = static_cast<float>(factors.alpha), keep = static_cast<float>(factors.beta);
    const auto narrow = [](int64_t x) { return static_cast<int32_t>(x); };
    require(calls_.general(handle_, p.a.transposed ? kTranspose : kNone, p.b.transposed ? kTranspose : kNone, narrow(p.rows), narrow(p.columns),
                           narrow(p.inner), &scale, a, type_of(p.a.dtype), narrow(p.a.leading), p.a.stride, b, type_of(p.b.dtype),
                           narrow(p.b.leading), p.b.stride, &keep, c, type_of(p.c.dtype), narrow(p.c.leading), p.c.stride, c, type_of(p.c.dtype),
                           narrow(p.c.leading), p.c.stride, narrow(p.batch), kSingle, 0, 0, 0),
            "a product");
  }

 private:
  static constexpr uint64_t kWorkspace = 32 << 20;
  Calls calls_;
  Handle handle_;
};

}  // namespace

std::unique_ptr<Blas> open_rocblas(std::string& why) {
  const Library library({"librocblas.so.5", "librocblas.so.4", "librocblas.so.3", "librocblas.so.0", "librocblas.so"});
  Calls calls{};
  Handle handle = nullptr;
  if (!library)
    why = "rocBLAS is missing (" + library.why() + ")";
  else if (!library.find(calls.create, "rocblas_create_handle") || !library.find(calls.destroy, "rocblas_destroy_handle") ||
           !library.find(calls.set_stream, "rocblas_set_stream") || !library.find(calls.set_workspace, "rocblas_set_workspace") ||
           !library.find(calls.version, "rocblas_get_version_string") ||
           !library.find(calls.set_atomics_mode, "rocblas_set_atomics_mode") || !library.find(calls.general, "rocblas_gemm_strided_batched_ex"))
    why = "rocBLAS lacks a function that Tenon calls; install ROCm 5.2 or newer";
  else if (const int s = calls.create(&handle); s != 0)
    why = "rocBLAS cannot start (status " + std::to_string(s) + ")";
  if (!handle) return nullptr;
  constexpr int kNoAtomics = 0;  // sums have one order, so that a run repeats bit for bit
  if (const int s = calls.set_atomics_mode(handle, kNoAtomics); s != 0) {
    why = "rocBLAS refuses products without atomics (status " + std::to_string(s) + ")";
    calls.destroy(handle);
    return nullptr;
  }
  return std::make_unique<RocBlas>(calls, handle);
}

}  // namespace tenon::gpu
