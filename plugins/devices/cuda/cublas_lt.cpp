// cuBLASLt, opened at run time: products of f32 (without TF32 where exact), bf16, f16, 8-bit integers and E4M3.
#include <cublasLt.h>

#include "devices/gpu/library.h"
#include "devices/gpu/lt_plans.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

struct CublasLt {
  using Handle = cublasLtHandle_t;
  using Description = cublasLtMatmulDesc_t;
  using Layout = cublasLtMatrixLayout_t;
  using Preference = cublasLtMatmulPreference_t;
  using Operation = cublasOperation_t;
  using Algorithm = cublasLtMatmulHeuristicResult_t;
  static constexpr auto kTransA = CUBLASLT_MATMUL_DESC_TRANSA, kTransB = CUBLASLT_MATMUL_DESC_TRANSB;
  static constexpr auto kBatchCount = CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, kBatchStride = CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
  static constexpr auto kMostWorkspace = CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
  static constexpr Operation kNone = CUBLAS_OP_N, kTranspose = CUBLAS_OP_T;

  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;

  bool find(const Library& l) {
    return l.find(create, "cublasLtCreate") && l.find(destroy, "cublasLtDestroy") && l.find(version, "cublasLtGetVersion") &&
           l.find(desc_create, "cublasLtMatmulDescCreate") && l.find(desc_destroy, "cublasLtMatmulDescDestroy") &&
           l.find(desc_set, "cublasLtMatmulDescSetAttribute") && l.find(layout_create, "cublasLtMatrixLayoutCreate") &&
           l.find(layout_destroy, "cublasLtMatrixLayoutDestroy") && l.find(layout_set, "cublasLtMatrixLayoutSetAttribute") &&
           l.find(preference_create, "cublasLtMatmulPreferenceCreate") &&
           l.find(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
           l.find(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
           l.find(heuristic, "cublasLtMatmulAlgoGetHeuristic") && l.find(matmul, "cublasLtMatmul");
  }
  static cudaDataType_t type_of(tn_dtype d) {
    if (d.code == TN_INT) return d.bits == 32 ? CUDA_R_32I : CUDA_R_8I;
    if (sdk::same(d, kE4M3)) return CUDA_R_8F_E4M3;
    return d.bits == 32 ? CUDA_R_32F : d.code == TN_BFLOAT ? CUDA_R_16BF : CUDA_R_16F;
  }
  static cudaDataType_t scale_of(const Product& p) { return p.c.dtype.code == TN_INT ? CUDA_R_32I : CUDA_R_32F; }
  static cublasComputeType_t compute_of(const Product& p) {
    if (p.c.dtype.code == TN_INT) return CUBLAS_COMPUTE_32I;
    return sdk::same(p.a.dtype, sdk::kF32) && !p.exact ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  }
  static void require(cublasStatus_t s, const char* what) {
    if (s != CUBLAS_STATUS_SUCCESS)
      sdk::fail(s == CUBLAS_STATUS_ALLOC_FAILED ? TN_E_MEMORY : TN_E_DEVICE,
                std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(static_cast<int>(s)));
  }
  static const cublasLtMatmulAlgo_t* algorithm_of(const Algorithm& a) { return &a.algo; }
  // Views begin at any element, and none of them need begin at the multiple of 256 bytes that the library takes for granted.
  void align(Preference preference, const Product& p) const {
    const auto bytes = [&](const Product::Operand& o) -> uint32_t { return p.aligned ? 16 : o.dtype.bits / 8; };
    const uint32_t a = bytes(p.a), b = bytes(p.b), c = bytes(p.c);
    (void)preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &a, sizeof a);
    (void)preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &b, sizeof b);
    (void)preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c);
    (void)preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c);
    // The parts of a split sum meet in f32, never in the type of a narrower C.
    const uint32_t schemes = p.c.dtype.bits == 32 ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    require(preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes), "a preference");
  }
  void point_at_scales(Description desc, const float* a, const float* b) const {
    require(desc_set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &a, sizeof a), "a scale");
    require(desc_set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &b, sizeof b), "a scale");
  }
  template <class Plan>
  bool prefer(Handle handle, const Plan& plan, Preference preference, Algorithm& out) const {
    int n = 0;
    return heuristic(handle, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1, &out, &n) == CUBLAS_STATUS_SUCCESS && n > 0;
  }
};

class CublasLtBlas final : public Blas {
 public:
  CublasLtBlas(const CublasLt& lt, cublasLtHandle_t handle) : lt_(lt), handle_(handle), plans_(std::make_unique<LtPlans<CublasLt>>(lt_, handle)) {}
  ~CublasLtBlas() override {
    plans_.reset();
    (void)lt_.destroy(handle_);
  }
  std::string version() const override {
    const size_t v = lt_.version();
    return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }
  // f32 gives f32; bf16 gives either, f16 gives f32. Integers are multiplied in fours, E4M3 in sixteens (where the card has it: sm_89 and newer).
  bool takes(const Product& p) const override {
    if (!sdk::same(p.a.dtype, p.b.dtype)) return false;
    if (p.a.dtype.code == TN_INT)
      return p.aligned && p.rows % 4 == 0 && p.inner % 4 == 0 && p.a.leading % 4 == 0 && p.b.leading % 4 == 0 && plans_->find(p) != nullptr;
    if (sdk::same(p.a.dtype, kE4M3))
      return p.aligned && p.rows % 16 == 0 && p.inner % 16 == 0 && p.a.leading % 16 == 0 && p.b.leading % 16 == 0 && p.c.leading % 16 == 0 && plans_->find(p) != nullptr;
    if (!sdk::same(p.c.dtype, sdk::kF32) && !(sdk::same(p.a.dtype, sdk::kBF16) && sdk::same(p.c.dtype, sdk::kBF16))) return false;
    return plans_->find(p) != nullptr;
  }
  uint64_t workspace(const Product&) const override { return kLtWorkspace; }
  void multiply(const Product& p, const Factors& factors, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) override {
    const auto plan = plans_->find(p);
    CublasLt::require(plan ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED, "finding an algorithm");
    plans_->multiply(*plan, factors, a, b, c, workspace, bytes, stream);
  }

 private:
  CublasLt lt_;
  cublasLtHandle_t handle_;
  std::unique_ptr<LtPlans<CublasLt>> plans_;
};

}  // namespace

std::unique_ptr<Blas> open_blas(std::string& why) {
  const Library library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  CublasLt lt{};
  const bool all = library && lt.find(library);
  cublasLtHandle_t handle = nullptr;
  if (!library)
    why = "cuBLASLt is missing (" + library.why() + ")";
  else if (!all)
    why = "cuBLASLt lacks a function that Tenon calls; install CUDA 12 or newer";
  else if (const cublasStatus_t s = lt.create(&handle); s != CUBLAS_STATUS_SUCCESS)
    why = "cuBLASLt cannot start (status " + std::to_string(static_cast<int>(s)) + ")";
  if (!handle) return nullptr;
  return std::make_unique<CublasLtBlas>(lt, handle);
}

}  // namespace tenon::gpu
