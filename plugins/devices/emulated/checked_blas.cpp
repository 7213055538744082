// A vendor's library for the emulated GPU: products by their definition. It takes what the strictest of the real ones takes, and refuses, in
// words, a call that breaks what product.h promises.
#include "devices/gpu/built_in_product.h"
#include "devices/gpu/product.h"
#include "sdk/fp8.h"

namespace tenon::gpu {
namespace {

constexpr uint64_t kWorkspace = 4096;

// Element [row, column] of op(A), counted from the matrix of a batch entry.
int64_t at(const Product::Operand& o, int64_t entry, int64_t row, int64_t column) {
  return entry * o.stride + (o.transposed ? column + row * o.leading : row + column * o.leading);
}
struct Element {
  Product p;
  const void *a, *b;
  void* c;
  Factors factors;
  void operator()(int64_t i) const {
    const int64_t row = i % p.rows, column = i / p.rows % p.columns, entry = i / (p.rows * p.columns), to = at(p.c, entry, row, column);
    if (p.c.dtype.code == TN_INT) {
      int32_t sum = 0;
      for (int64_t k = 0; k < p.inner; ++k) sum += static_cast<const int8_t*>(a)[at(p.a, entry, row, k)] * static_cast<const int8_t*>(b)[at(p.b, entry, k, column)];
      static_cast<int32_t*>(c)[to] = sum;
      return;
    }
    const auto view = [](const void* data, tn_dtype dtype) { return MatrixView{static_cast<char*>(const_cast<void*>(data)), dtype, 0, 0}; };
    const auto value = [&](const void* data, tn_dtype dtype, int64_t i) -> double {
      return sdk::same(dtype, kE4M3) ? sdk::from_e4m3(static_cast<const uint8_t*>(data)[i]) : view(data, dtype).at(i);
    };
    double sum = 0;
    for (int64_t k = 0; k < p.inner; ++k) sum += value(a, p.a.dtype, at(p.a, entry, row, k)) * value(b, p.b.dtype, at(p.b, entry, k, column));
    const double alpha = factors.alpha * (factors.a_scale ? *factors.a_scale * *factors.b_scale : 1.0f);
    const MatrixView out = view(c, p.c.dtype);
    out.put(to, static_cast<float>(alpha * sum + (factors.beta != 0 ? factors.beta * out.at(to) : 0.0)));
  }
};

void require(bool kept, const char* promise) {
  if (!kept) sdk::fail(TN_E_INTERNAL, std::string("the emulated library was called against its terms: ") + promise);
}

class CheckedBlas final : public Blas {
 public:
  std::string version() const override { return "a checked library"; }
  bool takes(const Product& p) const override {
    if (!p.aligned || !sdk::same(p.a.dtype, p.b.dtype)) return false;
    if (p.a.dtype.code == TN_INT) return p.rows % 4 == 0 && p.inner % 4 == 0 && p.a.leading % 4 == 0 && p.b.leading % 4 == 0;
    if (sdk::same(p.a.dtype, kE4M3)) return p.rows % 16 == 0 && p.inner % 16 == 0 && p.a.leading % 16 == 0 && p.b.leading % 16 == 0 && p.c.leading % 16 == 0;
    return sdk::same(p.c.dtype, sdk::kF32) || (sdk::same(p.a.dtype, sdk::kBF16) && sdk::same(p.c.dtype, sdk::kBF16));
  }
  uint64_t workspace(const Product&) const override { return kWorkspace; }
  void multiply(const Product& p, const Factors& factors, const void* a, const void* b, void* c, void* workspace, uint64_t bytes, Stream stream) override {
    require(takes(p) && p.rows > 0 && p.columns > 0 && p.inner > 0 && p.batch > 0, "a product that it does not take");
    require(p.a.leading >= (p.a.transposed ? p.inner : p.rows) && p.b.leading >= (p.b.transposed ? p.columns : p.inner) && p.c.leading >= p.rows && !p.c.transposed,
            "a leading dimension that is less than a column");
    require(bytes >= kWorkspace && reinterpret_cast<uintptr_t>(workspace) % kWorkspaceAlignment == 0, "its workspace");
    const auto entries_aligned = [&](const void* data, const Product::Operand& o) {
      return reinterpret_cast<uintptr_t>(data) % 16 == 0 && (p.batch == 1 || o.stride * (o.dtype.bits / 8) % 16 == 0);
    };
    require(entries_aligned(a, p.a) && entries_aligned(b, p.b) && entries_aligned(c, p.c), "matrices at multiples of sixteen bytes");
    require(p.c.dtype.code != TN_INT || (p.a.transposed && !p.b.transposed && factors.alpha == 1 && factors.beta == 0), "integers");
    const bool fp8 = sdk::same(p.a.dtype, kE4M3);
    require(!fp8 || (p.a.transposed && !p.b.transposed && p.batch == 1), "E4M3");
    require(fp8 == (factors.a_scale != nullptr) && fp8 == (factors.b_scale != nullptr), "scales of E4M3 alone");
    sdk::gpu::require(fill(workspace, 0xff, kWorkspace, stream), "filling memory");  // which is nobody else's
    const tn_exec exec{sizeof(tn_exec), 0, nullptr, nullptr, reinterpret_cast<tn_stream*>(stream), nullptr, 0};
    sdk::for_each(&exec, p.rows * p.columns * p.batch, Element{p, a, b, c, factors});
  }
};

}  // namespace

std::unique_ptr<Blas> open_blas(std::string&) { return std::make_unique<CheckedBlas>(); }

}  // namespace tenon::gpu
