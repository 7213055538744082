// hipBLASLt, opened at run time, and rocBLAS where it is missing, too old or takes no such product. What is called is stated here, since the
// headers need not be installed: the interface of ROCm 6.1 (hipBLASLt 0.7), whose types are those of hipDataType.
#include "devices/gpu/library.h"
#include "devices/gpu/lt_plans.h"
#include "devices/hip/rocblas.h"
#include "sdk/dtype.h"

namespace tenon::gpu {
namespace {

enum Datatype : int { kSingle = 0, kHalf = 2, kByte = 3, kInteger = 10, kBrain = 14 };
enum Compute : int { kInSingle = 2, kInTensorFloat = 6, kInInteger = 9 };
constexpr int kLeastVersion = 700;
using Object = void*;  // what the library hands out

struct HipLt {
  using Handle = Object;
  using Description = Object;
  using Layout = Object;
  using Preference = Object;
  using Operation = int32_t;
  // The preferred algorithm is the first field of a result whose size grows from release to release.
  struct Algorithm {
    alignas(16) unsigned char bytes[512];
  };
  static constexpr int kTransA = 0, kTransB = 1, kBatchCount = 0, kBatchStride = 1, kMostWorkspace = 1;
  static constexpr Operation kNone = 111, kTranspose = 112;

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
  static int type_of(tn_dtype d) {
    if (d.code == TN_INT) return d.bits == 32 ? kInteger : kByte;
    return d.bits == 32 ? kSingle : d.code == TN_BFLOAT ? kBrain : kHalf;
  }
  static int scale_of(const Product& p) { return p.c.dtype.code == TN_INT ? kInteger : kSingle; }
  static int compute_of(const Product& p) {
    if (p.c.dtype.code == TN_INT) return kInInteger;
    return sdk::same(p.a.dtype, sdk::kF32) && !p.exact ? kInTensorFloat : kInSingle;
  }
  static void require(int status, const char* what) {
    if (status != 0) sdk::fail(TN_E_DEVICE, std::string("hipBLASLt: ") + what + " failed with status " + std::to_string(status));
  }
  static const void* algorithm_of(const Algorithm& a) { return a.bytes; }
  void align(Preference, const Product&) const {}
  void point_at_scales(Description, const float*, const float*) const {}  // E4M3 never gets here
  template <class Plan>
  bool prefer(Handle handle, const Plan& plan, Preference preference, Algorithm& out) const {
    int n = 0;
    return heuristic(handle, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1, out.bytes, &n) == 0 && n > 0;
  }
};

class HipBlasLt final : public Blas {
 public:
  HipBlasLt(const HipLt& lt, Object handle, std::unique_ptr<Blas> other)
      : lt_(lt), handle_(handle), other_(std::move(other)), plans_(std::make_unique<LtPlans<HipLt>>(lt_, handle)) {}
  ~HipBlasLt() override {
    plans_.reset();
    lt_.destroy(handle_);
  }
  std::string version() const override {
    int v = 0;
    (void)lt_.version(handle_, &v);
    return "hipBLASLt " + std::to_string(v / 100000) + "." + std::to_string(v / 100 % 1000) + "." + std::to_string(v % 100) + ", " +
           (other_ ? other_->version() : "no rocBLAS");
  }
  bool takes(const Product& p) const override { return find(p) || (other_ && other_->takes(p)); }
  uint64_t workspace(const Product& p) const override { return find(p) ? kLtWorkspace : other_->workspace(p); }
  void multiply(const Product& p, const Factors& factors, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) override {
    if (const auto plan = find(p))
      plans_->multiply(*plan, factors, a, b, c, workspace, bytes, stream);
    else
      other_->multiply(p, factors, a, b, c, workspace, bytes, stream);
  }

 private:
  // Null where the library has no kernel for this product: of unaligned views it promises nothing, and not every card has every type. The E4M3 that
  // CDNA 3 multiplies has another bias than OCP's.
  std::shared_ptr<const LtPlans<HipLt>::Plan> find(const Product& p) const {
    if (!p.aligned || !sdk::same(p.a.dtype, p.b.dtype) || sdk::same(p.a.dtype, kE4M3)) return nullptr;
    if (p.c.dtype.code != TN_INT && !sdk::same(p.c.dtype, sdk::kF32) && !sdk::same(p.c.dtype, p.a.dtype)) return nullptr;
    return plans_->find(p);
  }

  HipLt lt_;
  Object handle_;
  std::unique_ptr<Blas> other_;
  std::unique_ptr<LtPlans<HipLt>> plans_;
};

}  // namespace

std::unique_ptr<Blas> open_blas(std::string& why) {
  std::unique_ptr<Blas> rocblas = open_rocblas(why);
  const Library library({"libhipblaslt.so.1", "libhipblaslt.so.0", "libhipblaslt.so"});
  HipLt lt{};
  Object handle = nullptr;
  if (!library || !lt.find(library) || lt.create(&handle) != 0) return rocblas;
  if (int version = 0; lt.version(handle, &version) != 0 || version < kLeastVersion) {
    lt.destroy(handle);
    return rocblas;
  }
  return std::make_unique<HipBlasLt>(lt, handle, std::move(rocblas));
}

}  // namespace tenon::gpu
