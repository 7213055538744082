// Checks of products of 8-bit integers (org.tenon.gemm8/1), which a device may offer.
#include <algorithm>
#include <cstring>

#include "hosts/conformance/check.h"
#include "hosts/conformance/device_checks.h"
#include "hosts/conformance/numbers.h"
#include "sdk/dtype.h"
#include "tenon/gemm8.h"

namespace tenon::conformance {
namespace {

// Codes from -127 to 127.
void set_codes(Tensor& t, uint64_t seed) {
  const std::vector<float> values = normals(t.count(), seed);
  std::vector<uint8_t> bytes;
  for (const float v : values) bytes.push_back(static_cast<uint8_t>(static_cast<int8_t>(std::clamp(60 * v, -127.0f, 127.0f))));
  t.set_raw(bytes);
  t.seal();
}

}  // namespace

void integers(Subject& s) {
  Bench& b = s.bench();
  const bool asks = TN_HAS(b.api, tn_device_api, get_extension) && b.api->get_extension;
  const auto* const table = asks ? static_cast<const tn_gemm8*>(b.api->get_extension(TN_EXT_GEMM8)) : nullptr;
  if (!table) throw NotApplicable{"the device offers no products of 8-bit integers"};
  for (const auto& [m, n, k, gap] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 1, 0}, {5, 8, 32, 0}, {3, 12, 64, 4}, {66, 70, 131, 3}, {2, 64, 1000, 0}}) {
    const std::string what = "a product of bytes of " + shape_text({m, n, k});
    const int64_t row = k + gap, out = n + gap;
    Tensor x(b, "A of a product of bytes", sdk::kI8, {m * row}), y(b, "B of a product of bytes", sdk::kI8, {n * row}), z(b, "C of a product of bytes", sdk::kI32, {m * out});
    set_codes(x, 1), set_codes(y, 2), z.fill(0x5A);
    uint64_t bytes = 0;
    must(table->workspace(b.device, m, n, k, &bytes), "gemm8.workspace");
    Tensor workspace(b, "the workspace of a product of bytes", sdk::kU8, {static_cast<int64_t>(bytes)});
    workspace.fill(0xFF);
    must(table->run(b.device, b.stream, m, n, k, static_cast<const int8_t*>(x.data()), row, static_cast<const int8_t*>(y.data()), row, static_cast<int32_t*>(z.data()), out,
                    workspace.data(), bytes),
         what);
    b.expect_intact(what);
    const std::vector<uint8_t> a = x.raw(), w = y.raw(), got = z.raw();
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < out; ++j) {
        int32_t want = j < n ? 0 : 0x5A5A5A5A, found = 0;
        for (int64_t l = 0; l < k && j < n; ++l)
          want += static_cast<int8_t>(a[static_cast<size_t>(i * row + l)]) * static_cast<int8_t>(w[static_cast<size_t>(j * row + l)]);
        std::memcpy(&found, &got[static_cast<size_t>(4 * (i * out + j))], sizeof found);
        expect(found == want, what + " gives " + std::to_string(found) + " where the sum is " + std::to_string(want));
      }
  }
  Tensor z(b, "C of a refused product", sdk::kI32, {4});
  expect(!accepted(table->run(b.device, b.stream, 2, 2, 8, nullptr, 7, nullptr, 8, static_cast<int32_t*>(z.data()), 2, nullptr, 0), "rows that overlap"),
         "rows that are shorter than k are accepted");
}

}  // namespace tenon::conformance
