// Products as cuBLASLt and its twin hipBLASLt know them: a description, three layouts and the algorithm that the library prefers, made once for each
// product that one plan serves.
//
// Lt is the library, opened:
//
//   Handle, Description, Layout, Preference, Operation      its types
//   Algorithm                                               room for what its heuristic answers
//   kTransA, kTransB, kBatchCount, kBatchStride, kMostWorkspace, kNone, kTranspose      its constants
//   desc_create, desc_destroy, desc_set, layout_create, layout_destroy, layout_set, preference_create, preference_destroy, preference_set, matmul
//   static type_of(tn_dtype), compute_of(const Product&), scale_of(const Product&)
//   static void require(status, what)                       throws Failure
//   void align(Preference, const Product&) const            what the library has to know of where matrices begin
//   void point_at_scales(Description, const float* a, const float* b) const      of E4M3, before each product
//   bool prefer(Handle, const Plan&, Preference, Algorithm&) const      false: it has no kernel for this
#pragma once

#include <list>
#include <memory>
#include <mutex>

#include "devices/gpu/product.h"

namespace tenon::gpu {

inline constexpr uint64_t kLtWorkspace = 32 << 20;  // what NVIDIA recommends for its largest cards

template <class Lt>
class LtPlans {
 public:
  struct Plan {
    const Lt& lt;
    Product product;
    typename Lt::Description desc = nullptr;
    typename Lt::Layout a = nullptr, b = nullptr, c = nullptr;
    typename Lt::Algorithm algorithm{};
    bool served = false;

    Plan(const Lt& library, const Product& p) : lt(library), product(p) {}
    Plan(const Plan&) = delete;
    ~Plan() {
      for (typename Lt::Layout layout : {a, b, c})
        if (layout) (void)lt.layout_destroy(layout);
      if (desc) (void)lt.desc_destroy(desc);
    }
  };

  LtPlans(const Lt& lt, typename Lt::Handle handle) : lt_(lt), handle_(handle) {}

  // Null where the library does not serve this product.
  std::shared_ptr<const Plan> find(const Product& p) const {
    const std::lock_guard lock(mutex_);
    for (auto known = plans_.begin(); known != plans_.end(); ++known) {
      if (!((*known)->product == p)) continue;
      plans_.splice(plans_.begin(), plans_, known);
      return plans_.front()->served ? plans_.front() : nullptr;
    }
    const auto made = std::make_shared<Plan>(lt_, p);
    Plan& plan = *made;
    Lt::require(lt_.desc_create(&plan.desc, Lt::compute_of(p), Lt::scale_of(p)), "a description");
    const typename Lt::Operation a = p.a.transposed ? Lt::kTranspose : Lt::kNone, b = p.b.transposed ? Lt::kTranspose : Lt::kNone;
    Lt::require(lt_.desc_set(plan.desc, Lt::kTransA, &a, sizeof a), "a description");
    Lt::require(lt_.desc_set(plan.desc, Lt::kTransB, &b, sizeof b), "a description");
    lay_out(plan.a, p.a, p.rows, p.inner, p.batch);
    lay_out(plan.b, p.b, p.inner, p.columns, p.batch);
    lay_out(plan.c, p.c, p.rows, p.columns, p.batch);
    typename Lt::Preference preference = nullptr;
    Lt::require(lt_.preference_create(&preference), "a preference");
    (void)lt_.preference_set(preference, Lt::kMostWorkspace, &kLtWorkspace, sizeof kLtWorkspace);
    lt_.align(preference, p);
    plan.served = lt_.prefer(handle_, plan, preference, plan.algorithm);
    (void)lt_.preference_destroy(preference);
    plans_.push_front(made);
    if (plans_.size() > kKept) plans_.pop_back();
    return plan.served ? made : nullptr;
  }

  void multiply(const Plan& plan, const Factors& f, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) const {
    // In the type that the sums have.
    const float factors[] = {static_cast<float>(f.alpha), static_cast<float>(f.beta)};
    const int32_t whole[] = {static_cast<int32_t>(f.alpha), static_cast<int32_t>(f.beta)};
    const bool integers = plan.product.c.dtype.code == TN_INT;
    const void *const scale = integers ? static_cast<const void*>(&whole[0]) : &factors[0], *const keep = integers ? static_cast<const void*>(&whole[1]) : &factors[1];
    if (f.a_scale) lt_.point_at_scales(plan.desc, f.a_scale, f.b_scale);
    Lt::require(lt_.matmul(handle_, plan.desc, scale, a, plan.a, b, plan.b, keep, c, plan.c, c, plan.c, Lt::algorithm_of(plan.algorithm), workspace, bytes, stream),
                "a product");
  }

 private:
  static constexpr size_t kKept = 256;  // plans; a model has a few dozen, decoding one for every length

  void lay_out(typename Lt::Layout& out, const Product::Operand& o, int64_t rows, int64_t columns, int64_t batch) const {
    if (o.transposed) std::swap(rows, columns);
    Lt::require(lt_.layout_create(&out, Lt::type_of(o.dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), o.leading), "a layout");
    const int32_t count = static_cast<int32_t>(batch);
    Lt::require(lt_.layout_set(out, Lt::kBatchCount, &count, sizeof count), "a layout");
    Lt::require(lt_.layout_set(out, Lt::kBatchStride, &o.stride, sizeof o.stride), "a layout");
  }

  const Lt& lt_;
  typename Lt::Handle handle_;
  mutable std::mutex mutex_;                        // plans are asked for outside the device's own
  mutable std::list<std::shared_ptr<Plan>> plans_;  // the one used last comes first; clang 15 in HIP's mode crashes on a map of them
};

}  // namespace tenon::gpu
