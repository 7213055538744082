// tn_gemm on a GPU: the vendor's library where it takes the types and strides, after a conversion where they are mixed; else the built-in
// kernel.
#include <algorithm>
#include <vector>

#include "devices/gpu/built_in_product.h"
#include "devices/gpu/device.h"

namespace tenon::gpu {
namespace {

using sdk::fail;
using sdk::kBF16;
using sdk::kF32;
using sdk::same;

constexpr uint64_t aligned(uint64_t bytes) { return (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment; }

// Axes before the last two, collapsed to one stride; `uniform` is false where there is none.
struct Factor {
  const tn_tensor* t;
  int64_t rows, columns, row, column, batch = 1, stride = 0;
  bool uniform = true;

  Factor(const tn_tensor* tensor, const char* name) : t(tensor) {
    if (!t) fail(TN_E_ARGUMENT, std::string("gemm: ") + name + " is missing");
    if (t->ndim < 2) fail(TN_E_ARGUMENT, std::string("gemm: ") + name + " needs at least two axes");
    if (!same(t->dtype, kF32) && !same(t->dtype, kBF16) && !same(t->dtype, sdk::kF16))
      fail(TN_E_UNSUPPORTED, std::string("gemm: ") + name + " must be f32, bf16 or f16");
    const int32_t last = t->ndim - 1;
    rows = t->shape[last - 1], columns = t->shape[last], row = t->strides[last - 1], column = t->strides[last];
    for (int32_t i = last - 2; i >= 0; --i) {
      if (t->shape[i] != 1) {
        if (batch == 1)
          stride = t->strides[i];
        else
          uniform = uniform && t->strides[i] == stride * batch;
      }
      batch *= t->shape[i];
    }
  }
  // The matrix of a batch entry.
  char* data(int64_t entry) const {
    int64_t offset = 0;
    for (int32_t i = t->ndim - 3; i >= 0; --i) offset += entry % t->shape[i] * t->strides[i], entry /= t->shape[i];
    return sdk::data<char>(*t) + offset * (t->dtype.bits / 8);
  }
  // Entries begin at multiples of sixteen bytes: as they lie there, and as dense copies in aligned memory would.
  bool aligned(bool planned) const {
    bool all = planned || reinterpret_cast<uintptr_t>(sdk::data<char>(*t)) % 16 == 0;
    for (int32_t i = 0; i + 2 < t->ndim; ++i) all = all && (t->shape[i] == 1 || t->strides[i] * (t->dtype.bits / 8) % 16 == 0);
    return all;
  }
  bool dense_entries_aligned(tn_dtype as) const { return batch == 1 || rows * columns * (as.bits / 8) % 16 == 0; }
  int64_t count() const { return batch * rows * columns; }
  MatrixView view(int64_t entry) const { return {data(entry), t->dtype, row, column}; }
  // Row-major, or the transpose of a row-major matrix.
  bool plain() const { return (column == 1 && row >= std::max<int64_t>(1, columns)) || (row == 1 && column >= std::max<int64_t>(1, rows)); }
};

// Dense copy of a matrix in another type.
struct Converted {
  MatrixView from, to;
  int64_t columns;
  TN_FN void operator()(int64_t i) const { to.put(i, from.at(i / columns * from.row + i % columns * from.column)); }
};
struct AddBias {
  MatrixView c, bias;
  int64_t columns;
  TN_FN void operator()(int64_t i) const {
    const int64_t at = i / columns * c.row + i % columns * c.column;
    c.put(at, c.at(at) + bias.at(i % columns * bias.column));
  }
};

class Call {
 public:
  // planned: where matrices begin is not known yet, and changes no workspace; what libraries take of unaligned ones they take of aligned ones as well.
  Call(const tn_device* device, const tn_gemm& g, bool planned) : a_(g.a, "A"), b_(g.b, "B"), c_(g.c, "C"), exact_((g.flags & TN_GEMM_EXACT) != 0), planned_(planned) {
    if (g.packed_b) fail(TN_E_ARGUMENT, "gemm: this device packs nothing, so packed_b must be null");
    if (a_.rows != c_.rows || b_.columns != c_.columns || a_.columns != b_.rows || a_.batch != c_.batch || b_.batch != c_.batch)
      fail(TN_E_ARGUMENT, "gemm: the shapes of A, B and C do not fit each other");
    if (same(c_.t->dtype, sdk::kF16)) fail(TN_E_UNSUPPORTED, "gemm: C must be f32 or bf16");
    plan(device);
  }
  uint64_t bytes() const { return converted_a_ + converted_b_ + (vendor_ ? kWorkspaceAlignment + library_bytes_ : 0); }

  void run(tn_device* device, tn_stream* stream, const tn_gemm& g, char* workspace) const {
    tn_exec exec{sizeof(tn_exec), 0, nullptr, device, stream, workspace, bytes()};
    MatrixView bias{};
    if (g.bias) bias = {sdk::data<char>(*g.bias), g.bias->dtype, 0, g.bias->ndim ? g.bias->strides[g.bias->ndim - 1] : 1};
    const float alpha = static_cast<float>(g.alpha), beta = static_cast<float>(g.beta);
    if (!vendor_) {
      for (int64_t e = 0; e < c_.batch; ++e)
        multiply(exec, {c_.rows, c_.columns, a_.columns, a_.view(e), b_.view(e), c_.view(e), bias, alpha, beta});
      return;
    }
    if (converted_a_) convert(exec, a_, workspace);
    if (converted_b_) convert(exec, b_, workspace + converted_a_);
    void* const rest = aligned_workspace(workspace + converted_a_ + converted_b_);
    const std::lock_guard lock(device->mutex);
    for (int64_t e = 0; e < c_.batch; e += product_.batch) {
      const void* a = converted_a_ ? workspace + e * a_.rows * a_.columns * compute_.bits / 8 : a_.data(e);
      const void* b = converted_b_ ? workspace + converted_a_ + e * b_.rows * b_.columns * compute_.bits / 8 : b_.data(e);
      // Row-major C = A · B is column-major Cᵀ = Bᵀ · Aᵀ.
      device->blas->multiply(product_, {g.alpha, g.beta}, b, a, c_.data(e), rest, library_bytes_, gpu::stream_of(stream));
    }
    if (bias.data)
      for (int64_t e = 0; e < c_.batch; ++e) sdk::for_each(&exec, c_.rows * c_.columns, AddBias{c_.view(e), bias, c_.columns});
  }

 private:
  void plan(const tn_device* device) {
    if (!device->blas || c_.count() == 0 || a_.columns == 0 || c_.column != 1) return;
    const tn_dtype da = a_.t->dtype, db = b_.t->dtype;
    compute_ = same(da, db) ? da : exact_ || (!same(da, kF32) && !same(db, kF32)) ? kF32 : same(da, kF32) ? db : da;
    const bool convert_a = !same(da, compute_) || !a_.plain(), convert_b = !same(db, compute_) || !b_.plain();
    if (convert_a) converted_a_ = aligned(static_cast<uint64_t>(a_.count()) * compute_.bits / 8);
    if (convert_b) converted_b_ = aligned(static_cast<uint64_t>(b_.count()) * compute_.bits / 8);
    const auto operand = [&](const Factor& f, bool converted) -> Product::Operand {
      if (converted) return {compute_, false, f.columns, f.rows * f.columns};
      const bool transposed = f.column != 1;
      return {f.t->dtype, transposed, transposed ? f.column : std::max(f.row, f.columns), f.stride};
    };
    const bool together = c_.uniform && (convert_a || a_.uniform) && (convert_b || b_.uniform);
    product_ = {c_.columns, c_.rows, a_.columns, together ? c_.batch : 1, operand(b_, convert_b), operand(a_, convert_a), operand(c_, false), exact_, aligned_to_16()};
    vendor_ = device->blas->takes(product_);
    if (vendor_)
      library_bytes_ = device->blas->workspace(product_);
    else
      converted_a_ = converted_b_ = 0;
  }
  // So that the library may read sixteen bytes at a time, in every entry of a batch.
  bool aligned_to_16() const {
    return (converted_a_ ? a_.dense_entries_aligned(compute_) : a_.aligned(planned_)) && (converted_b_ ? b_.dense_entries_aligned(compute_) : b_.aligned(planned_)) &&
           c_.aligned(planned_);
  }
  void convert(const tn_exec& exec, const Factor& f, char* to) const {
    for (int64_t e = 0; e < f.batch; ++e)
      sdk::for_each(&exec, f.rows * f.columns,
                    Converted{f.view(e), {to + e * f.rows * f.columns * compute_.bits / 8, compute_, f.columns, 1}, f.columns});
  }

  Factor a_, b_, c_;
  bool exact_, planned_, vendor_ = false;
  tn_dtype compute_{};
  Product product_{};
  uint64_t converted_a_ = 0, converted_b_ = 0, library_bytes_ = 0;
};

}  // namespace

uint64_t gemm_workspace(tn_device* device, const tn_gemm& g) { return Call(device, g, true).bytes(); }

void gemm(tn_device* device, tn_stream* stream, const tn_gemm& g, void* workspace, uint64_t bytes) {
  const Call call(device, g, false);
  if (bytes < call.bytes())
    fail(TN_E_ARGUMENT, "gemm: the workspace has " + std::to_string(bytes) + " bytes where gemm_workspace asks for " + std::to_string(call.bytes()));
  call.run(device, stream, g, static_cast<char*>(workspace));
}

}  // namespace tenon::gpu
