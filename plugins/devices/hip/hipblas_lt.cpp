// hipBLASLt, opened at run time, and rocBLAS where it is missing, too old or takes no such product. What is called is stated here, since the
// headers need not be installed: the interface of ROCm 6.1 (hipBLASLt 0.7), whose types are those of hipDataType.
#include <list>
#include <mutex>

#include "devices/gpu/library.h"
#include "devices/hip/rocblas.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

enum Operation : int32_t { kNone = 111, kTranspose = 112 };
enum Datatype : int { kSingle = 0, kHalf = 2, kBrain = 14 };
enum Compute : int { kInSingle = 2, kInTensorFloat = 6 };
enum Layout : int { kBatchCount = 0, kBatchStride = 1 };
enum Description : int { kTransA = 0, kTransB = 1 };
enum Preference : int { kMostWorkspace = 1 };
constexpr int kLeastVersion = 700;
using Object = void*;  // what the library hands out

struct Calls {
  int (*create)(Object*);
  int (*destroy)(Object);
  int (*version)(Object, int*);
  int (*desc_create)(Object*, int compute, int scale_type);
  int (*desc_destroy)(Object);
  int (*desc_set)(Object, int attribute, const void*, size_t);
  int (*layout_create)(Object*, int type, uint64_t rows, uint64_t columns, int64_t leading);
  int (*layout_destroy)(Object);
  int (*layout_set)(Object, int attribute, const void*, size_t);
  int (*preference_create)(Object*);
  int (*preference_destroy)(Object);
  int (*preference_set)(Object, int attribute, const void*, size_t);
  int (*heuristic)(Object, Object desc, Object a, Object b, Object c, Object d, Object preference, int wanted, void* results, int* found);
  int (*matmul)(Object, Object desc, const void* alpha, const void* a, Object a_layout, const void* b, Object b_layout, const void* beta, const void* c,
                Object c_layout, void* d, Object d_layout, const void* algorithm, void* workspace, size_t bytes, Stream);

  bool find(const Library& l) {
    return l.find(create, "hipblasLtCreate") && l.find(destroy, "hipblasLtDestroy") && l.find(version, "hipblasLtGetVersion") &&
           l.find(desc_create, "hipblasLtMatmulDescCreate") && l.find(desc_destroy, "hipblasLtMatmulDescDestroy") &&
           l.find(desc_set, "hipblasLtMatmulDescSetAttribute") && l.find(layout_create, "hipblasLtMatrixLayoutCreate") &&
           l.find(layout_destroy, "hipblasLtMatrixLayoutDestroy") && l.find(layout_set, "hipblasLtMatrixLayoutSetAttribute") &&
           l.find(preference_create, "hipblasLtMatmulPreferenceCreate") && l.find(preference_destroy, "hipblasLtMatmulPreferenceDestroy") &&
           l.find(preference_set, "hipblasLtMatmulPreferenceSetAttribute") && l.find(heuristic, "hipblasLtMatmulAlgoGetHeuristic") &&
           l.find(matmul, "hipblasLtMatmul");
  }
};

void require(int status, const char* what) {
  if (status != 0) sdk::fail(TN_E_DEVICE, std::string("hipBLASLt: ") + what + " failed with status " + std::to_string(status));
}
int type_of(tn_dtype d) { return d.bits == 32 ? kSingle : d.code == TN_BFLOAT ? kBrain : kHalf; }

// A product as the library knows it. Its preferred algorithm is the first field of a result whose size grows from release to release.
struct Plan {
  const Calls& calls;
  Product product;
  Object desc = nullptr, a = nullptr, b = nullptr, c = nullptr;
  alignas(16) unsigned char algorithm[512] = {};
  bool served = false;

  Plan(const Calls& table, const Product& p) : calls(table), product(p) {}
  Plan(const Plan&) = delete;
  ~Plan() {
    for (Object layout : {a, b, c})
      if (layout) calls.layout_destroy(layout);
    if (desc) calls.desc_destroy(desc);
  }
  void layout(Object& out, const Product::Operand& o, int64_t rows, int64_t columns, int64_t batch) {
    if (o.transposed) std::swap(rows, columns);
    require(calls.layout_create(&out, type_of(o.dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), o.leading), "a layout");
    const int32_t count = static_cast<int32_t>(batch);
    require(calls.layout_set(out, kBatchCount, &count, sizeof count), "a layout");
    require(calls.layout_set(out, kBatchStride, &o.stride, sizeof o.stride), "a layout");
  }
};

class HipBlasLt final : public Blas {
 public:
  HipBlasLt(const Calls& calls, Object handle, std::unique_ptr<Blas> other) : calls_(calls), handle_(handle), other_(std::move(other)) {}
  ~HipBlasLt() override {
    plans_.clear();
    calls_.destroy(handle_);
  }
  std::string version() const override {
    int v = 0;
    (void)calls_.version(handle_, &v);
    return "hipBLASLt " + std::to_string(v / 100000) + "." + std::to_string(v / 100 % 1000) + "." + std::to_string(v % 100) + ", " +
           (other_ ? other_->version() : "no rocBLAS");
  }
  bool takes(const Product& p) const override { return find(p) || (other_ && other_->takes(p)); }
  uint64_t workspace(const Product& p) const override { return find(p) ? kWorkspace : other_->workspace(p); }
  void multiply(const Product& p, double alpha, const void* a, const void* b, double beta, void* c, void* workspace, uint64_t bytes,
                Stream stream) override {
    const Plan* const plan = find(p);
    if (!plan) return other_->multiply(p, alpha, a, b, beta, c, workspace, bytes, stream);
    const float scale = static_cast<float>(alpha), keep = static_cast<float>(beta);
    require(calls_.matmul(handle_, plan->desc, &scale, a, plan->a, b, plan->b, &keep, c, plan->c, c, plan->c, plan->algorithm, workspace, bytes, stream),
            "a product");
  }

 private:
  static constexpr uint64_t kWorkspace = 32 << 20;

  // Null where the library has no kernel for this product: of unaligned views it promises nothing, and not every card has every type.
  const Plan* find(const Product& p) const {
    if (!p.aligned || !sdk::same(p.a.dtype, p.b.dtype)) return nullptr;
    if (!sdk::same(p.c.dtype, sdk::kF32) && !sdk::same(p.c.dtype, p.a.dtype)) return nullptr;
    const std::lock_guard lock(mutex_);
    for (const Plan& known : plans_)
      if (known.product == p) return known.served ? &known : nullptr;
    Plan& plan = plans_.emplace_back(calls_, p);
    const bool f32 = sdk::same(p.a.dtype, sdk::kF32);
    require(calls_.desc_create(&plan.desc, f32 && !p.exact ? kInTensorFloat : kInSingle, kSingle), "a description");
    const int32_t a = p.a.transposed ? kTranspose : kNone, b = p.b.transposed ? kTranspose : kNone;
    require(calls_.desc_set(plan.desc, kTransA, &a, sizeof a), "a description");
    require(calls_.desc_set(plan.desc, kTransB, &b, sizeof b), "a description");
    plan.layout(plan.a, p.a, p.rows, p.inner, p.batch);
    plan.layout(plan.b, p.b, p.inner, p.columns, p.batch);
    plan.layout(plan.c, p.c, p.rows, p.columns, p.batch);
    choose(plan);
    return plan.served ? &plan : nullptr;
  }
  void choose(Plan& plan) const {
    Object preference = nullptr;
    require(calls_.preference_create(&preference), "a preference");
    const uint64_t bytes = kWorkspace;
    (void)calls_.preference_set(preference, kMostWorkspace, &bytes, sizeof bytes);
    int n = 0;
    const int s = calls_.heuristic(handle_, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1, plan.algorithm, &n);
    calls_.preference_destroy(preference);
    plan.served = s == 0 && n > 0;
  }

  Calls calls_;
  Object handle_;
  std::unique_ptr<Blas> other_;
  mutable std::mutex mutex_;  // plans are asked for outside the device's own
  mutable std::list<Plan> plans_;  // a model has a few dozen; clang 15 crashes on a map of them
};

}  // namespace

std::unique_ptr<Blas> open_blas(std::string& why) {
  std::unique_ptr<Blas> rocblas = open_rocblas(why);
  const Library library({"libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so"});
  Calls calls{};
  Object handle = nullptr;
  if (!library || !calls.find(library) || calls.create(&handle) != 0) return rocblas;
  if (int version = 0; calls.version(handle, &version) != 0 || version < kLeastVersion) {
    calls.destroy(handle);
    return rocblas;
  }
  return std::make_unique<HipBlasLt>(calls, handle, std::move(rocblas));
}

}  // namespace tenon::gpu
