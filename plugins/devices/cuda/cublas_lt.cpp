// cuBLASLt, opened at run time: products of f32 (without TF32 where exact), bf16 and f16.
#include <cublasLt.h>

#include <map>

#include "devices/gpu/library.h"
#include "devices/gpu/product.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

struct Calls {
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

  explicit operator bool() const { return matmul != nullptr; }
  static Calls of(const Library& l) {
    Calls c{};
    const bool all = l.find(c.create, "cublasLtCreate") && l.find(c.destroy, "cublasLtDestroy") && l.find(c.version, "cublasLtGetVersion") &&
                     l.find(c.desc_create, "cublasLtMatmulDescCreate") && l.find(c.desc_destroy, "cublasLtMatmulDescDestroy") &&
                     l.find(c.desc_set, "cublasLtMatmulDescSetAttribute") && l.find(c.layout_create, "cublasLtMatrixLayoutCreate") &&
                     l.find(c.layout_destroy, "cublasLtMatrixLayoutDestroy") && l.find(c.layout_set, "cublasLtMatrixLayoutSetAttribute") &&
                     l.find(c.preference_create, "cublasLtMatmulPreferenceCreate") &&
                     l.find(c.preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
                     l.find(c.preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
                     l.find(c.heuristic, "cublasLtMatmulAlgoGetHeuristic") && l.find(c.matmul, "cublasLtMatmul");
    if (!all) c.matmul = nullptr;
    return c;
  }
};

void require(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS)
    sdk::fail(s == CUBLAS_STATUS_ALLOC_FAILED ? TN_E_MEMORY : TN_E_DEVICE,
              std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(static_cast<int>(s)));
}

cudaDataType_t type_of(tn_dtype d) { return d.bits == 32 ? CUDA_R_32F : d.code == TN_BFLOAT ? CUDA_R_16BF : CUDA_R_16F; }

// A product as the library knows it, and the algorithm that it prefers.
struct Plan {
  const Calls& calls;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  explicit Plan(const Calls& table) : calls(table) {}
  Plan(const Plan&) = delete;
  ~Plan() {
    if (a) calls.layout_destroy(a);
    if (b) calls.layout_destroy(b);
    if (c) calls.layout_destroy(c);
    if (desc) calls.desc_destroy(desc);
  }
  void layout(cublasLtMatrixLayout_t& out, const Product::Operand& o, int64_t rows, int64_t columns, int64_t batch) {
    if (o.transposed) std::swap(rows, columns);
    require(calls.layout_create(&out, type_of(o.dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), o.leading), "a layout");
    const int32_t count = static_cast<int32_t>(batch);
    require(calls.layout_set(out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "a layout");
    require(calls.layout_set(out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &o.stride, sizeof o.stride), "a layout");
  }
};

class CublasLt final : public Blas {
 public:
  CublasLt(const Calls& calls, cublasLtHandle_t handle) : calls_(calls), handle_(handle) {}
  ~CublasLt() override {
    plans_.clear();
    calls_.destroy(handle_);
  }
  std::string version() const override {
    const size_t v = calls_.version();
    return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }
  // f32 gives f32; bf16 gives either, f16 gives f32.
  bool takes(const Product& p) const override {
    if (!sdk::same(p.a.dtype, p.b.dtype)) return false;
    return sdk::same(p.c.dtype, sdk::kF32) || (sdk::same(p.a.dtype, sdk::kBF16) && sdk::same(p.c.dtype, sdk::kBF16));
  }
  uint64_t workspace(const Product&) const override { return kWorkspace; }

  void multiply(const Product& p, double alpha, const void* a, const void* b, double beta, void* c, void* workspace, uint64_t bytes,
                Stream stream) override {
    const Plan& plan = find(p);
    const float scale = static_cast<float>(alpha), keep = static_cast<float>(beta);
    require(calls_.matmul(handle_, plan.desc, &scale, a, plan.a, b, plan.b, &keep, c, plan.c, c, plan.c, &plan.algorithm, workspace, bytes, stream),
            "a product");
  }

 private:
  static constexpr uint64_t kWorkspace = 32 << 20;  // what the library recommends for its largest cards

  const Plan& find(const Product& p) {
    auto& found = plans_[p];
    if (!found) {
      auto plan = std::make_unique<Plan>(calls_);
      const bool f32 = sdk::same(p.a.dtype, sdk::kF32);
      require(calls_.desc_create(&plan->desc, f32 && !p.exact ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description");
      const cublasOperation_t a = p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N, b = p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
      require(calls_.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a), "a description");
      require(calls_.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b), "a description");
      plan->layout(plan->a, p.a, p.rows, p.inner, p.batch);
      plan->layout(plan->b, p.b, p.inner, p.columns, p.batch);
      plan->layout(plan->c, p.c, p.rows, p.columns, p.batch);
      choose(*plan, p);
      found = std::move(plan);
    }
    return *found;
  }
  void choose(Plan& plan, const Product& p) const {
    cublasLtMatmulPreference_t preference = nullptr;
    require(calls_.preference_create(&preference), "a preference");
    const uint64_t bytes = kWorkspace;
    // Views begin at any element.
    const uint32_t align_a = p.a.dtype.bits / 8, align_b = p.b.dtype.bits / 8, align_c = p.c.dtype.bits / 8;
    (void)calls_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (!p.aligned) {
      (void)calls_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_a, sizeof align_a);
      (void)calls_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_b, sizeof align_b);
      (void)calls_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c);
      (void)calls_.preference_set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c);
    }
    cublasLtMatmulHeuristicResult_t result{};
    int n = 0;
    const cublasStatus_t s = calls_.heuristic(handle_, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1, &result, &n);
    calls_.preference_destroy(preference);
    require(n > 0 ? s : CUBLAS_STATUS_NOT_SUPPORTED, "finding an algorithm");
    plan.algorithm = result.algo;
  }

  Calls calls_;
  cublasLtHandle_t handle_;
  std::map<Product, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<Blas> open_blas(std::string& why) {
  const Library library({"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"});
  const Calls calls = library ? Calls::of(library) : Calls{};
  cublasLtHandle_t handle = nullptr;
  if (!library)
    why = "cuBLASLt is missing (" + library.why() + ")";
  else if (!calls)
    why = "cuBLASLt lacks a function that Tenon calls; install CUDA 12 or newer";
  else if (const cublasStatus_t s = calls.create(&handle); s != CUBLAS_STATUS_SUCCESS)
    why = "cuBLASLt cannot start (status " + std::to_string(static_cast<int>(s)) + ")";
  if (!handle) return nullptr;
  return std::make_unique<CublasLt>(calls, handle);
}

}  // namespace tenon::gpu
