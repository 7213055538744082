// Checks of products of 8-bit floats (org.tenon.gemm-fp8/1), which a device may offer.
#include <cmath>

#include "hosts/conformance/check.h"
#include "hosts/conformance/device_checks.h"
#include "hosts/conformance/numbers.h"
#include "sdk/fp8.h"
#include "tenon/gemm_fp8.h"

namespace tenon::conformance {
namespace {

struct Case {
  int64_t m, n, k, gap;
  double alpha, beta;
};

// Codes of every magnitude, NaN not among them.
std::vector<uint8_t> codes(int64_t n, uint64_t seed) {
  std::vector<uint8_t> bytes;
  for (const float v : normals(n, seed)) bytes.push_back(sdk::to_e4m3(100 * v));
  return bytes;
}

void compare(Bench& b, const tn_gemm_fp8& table, const Case& x, tn_dtype dtype) {
  const std::string what = "a product of 8-bit floats of " + shape_text({x.m, x.n, x.k});
  const int64_t row = x.k + x.gap, out = x.n + x.gap;
  constexpr float kScales[] = {0.03f, 1.7f};
  Tensor left(b, "A of " + what, sdk::kU8, {x.m * row}), right(b, "B of " + what, sdk::kU8, {x.n * row});
  left.set_raw(codes(x.m * row, 1)), right.set_raw(codes(x.n * row, 2));
  Tensor a_scale(b, "the scale of A", sdk::kF32, {1}, {kScales[0]}), b_scale(b, "the scale of B", sdk::kF32, {1}, {kScales[1]}),
      c(b, "C of " + what, dtype, {x.m * out}, normals(x.m * out, 3));
  for (Tensor* t : {&left, &right, &a_scale, &b_scale}) t->seal();
  const std::vector<float> before = c.floats();
  const tn_fp8_product p{sizeof p, 0, x.m, x.n, x.k, static_cast<const uint8_t*>(left.data()), static_cast<const uint8_t*>(right.data()), row, row,
                         static_cast<const float*>(a_scale.data()), static_cast<const float*>(b_scale.data()), c.data(), out, dtype, 0, x.alpha, x.beta};
  uint64_t bytes = 0;
  must(table.workspace(b.device, &p, &bytes), "gemm-fp8.workspace");
  Tensor workspace(b, "the workspace of " + what, sdk::kU8, {static_cast<int64_t>(bytes)});
  workspace.fill(0xFF);
  must(table.run(b.device, b.stream, &p, workspace.data(), bytes), what);
  b.expect_intact(what);
  const std::vector<uint8_t> ca = left.raw(), cb = right.raw();
  const std::vector<float> got = c.floats();
  for (int64_t i = 0; i < x.m; ++i)
    for (int64_t j = 0; j < out; ++j) {
      const auto at = static_cast<size_t>(i * out + j);
      if (j >= x.n) {
        expect(got[at] == before[at], what + " writes between the rows of C");
        continue;
      }
      double sum = 0, size = 0;
      for (int64_t l = 0; l < x.k; ++l) {
        const double q = double{sdk::from_e4m3(ca[static_cast<size_t>(i * row + l)])} * sdk::from_e4m3(cb[static_cast<size_t>(j * row + l)]);
        sum += q, size += std::fabs(q);
      }
      const double factor = x.alpha * kScales[0] * kScales[1], want = factor * sum + (x.beta != 0 ? x.beta * before[at] : 0.0);
      const double allowed = 0x1p-12 * (std::fabs(factor) * size + std::fabs(want)) + (dtype.bits == 16 ? 0x1p-8 * std::fabs(want) : 0.0);
      expect(std::fabs(got[at] - want) <= allowed, what + " gives " + std::to_string(got[at]) + " where the sum is " + std::to_string(want));
    }
}

}  // namespace

void small_floats(Subject& s) {
  Bench& b = s.bench();
  const bool asks = TN_HAS(b.api, tn_device_api, get_extension) && b.api->get_extension;
  const auto* const table = asks ? static_cast<const tn_gemm_fp8*>(b.api->get_extension(TN_EXT_GEMM_FP8)) : nullptr;
  if (!table) throw NotApplicable{"the device offers no products of 8-bit floats"};
  for (const Case& x : {Case{1, 1, 1, 0, 1, 0}, {5, 8, 32, 0, 1, 0}, {3, 16, 64, 16, -0.5, 1}, {66, 70, 131, 3, 1, 0.25}, {32, 48, 256, 0, 1 / (0.03 * 1.7), 0}, {2, 64, 1000, 0, 0, 2}})
    for (const tn_dtype dtype : {sdk::kF32, sdk::kBF16}) compare(b, *table, x, dtype);
  tn_fp8_product refused{sizeof(tn_fp8_product), 0, 2, 2, 8, nullptr, nullptr, 7, 8, nullptr, nullptr, nullptr, 2, sdk::kF32, 0, 1, 0};
  uint64_t bytes = 0;
  expect(!accepted(table->workspace(b.device, &refused, &bytes), "rows that overlap"), "rows that are shorter than k are accepted");
  refused.a_row = 8, refused.c_dtype = sdk::kI32;
  expect(!accepted(table->workspace(b.device, &refused, &bytes), "a C of integers"), "a C of 32-bit integers is accepted");
}

}  // namespace tenon::conformance
