#include "quantizers/llm-int8/reference.h"

#include "sdk/testing/codec.h"
#include "sdk/testing/device.h"
#include "tenon/gemm8.h"

namespace tenon::llm_int8 {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF16, sdk::kF32;

class LlmInt8 : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, LlmInt8, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

// The test device with products of 8-bit integers.
const tn_device_api& device_with_integers() {
  static constexpr tn_gemm8 kGemm8 = {
      TN_SIZE_TO(tn_gemm8, run), 0,
      [](tn_device*, int64_t, int64_t, int64_t, uint64_t* n) -> int32_t { return *n = 0, TN_OK; },
      [](tn_device*, tn_stream*, int64_t m, int64_t n, int64_t k, const int8_t* a, int64_t a_row, const int8_t* b, int64_t b_row, int32_t* c, int64_t c_row,
         void*, uint64_t) -> int32_t {
        const DeviceMemory::Reach reach;
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) {
            int32_t sum = 0;
            for (int64_t l = 0; l < k; ++l) sum += a[i * a_row + l] * b[j * b_row + l];
            c[i * c_row + j] = sum;
          }
        return TN_OK;
      }};
  static const tn_device_api api = [] {
    tn_device_api made = *cpu_device_api();
    made.get_extension = [](const char* id) -> const void* { return std::string_view(id) == TN_EXT_GEMM8 ? &kGemm8 : nullptr; };
    return made;
  }();
  return api;
}

std::vector<int8_t> codes_of(Coded& coded) {
  const std::vector<uint8_t> raw = coded["codes"].raw();
  return {reinterpret_cast<const int8_t*>(raw.data()), reinterpret_cast<const int8_t*>(raw.data()) + raw.size()};
}

// y = alpha x W^T + beta · before.
std::vector<float> product(TestCodec& codec, const tn_target& target, Coded& coded, const std::vector<float>& x, int64_t rows, tn_dtype dtype = kF32,
                           double alpha = 1, double beta = 0, const std::vector<float>& before = {}) {
  const int64_t m = target.shape[0], n = target.shape[1];
  Tensor in(dtype, {rows, n}, x), out(dtype, {rows, m});
  if (!before.empty()) out.assign(before);
  tn_estimate e{};
  e.struct_size = sizeof e;
  codec.expect(codec.api.estimate(codec.self, &device_with_integers(), cpu_device(), &target, TN_QUANTIZER_LINEAR, rows, &e));
  Exec exec(e.workspace_bytes);
  tn_exec call = *exec.get();
  call.api = &device_with_integers();
  codec.expect(codec.api.linear(codec.self, &call, &target, coded.pointers().data(), in.get(), alpha, beta, out.get()));
  EXPECT_TRUE(exec.intact() && out.intact() && coded.intact());
  return out.floats();
}

double relative(const std::vector<double>& want, const std::vector<float>& got) {
  double error = 0, power = 0;
  for (size_t i = 0; i < want.size(); ++i) error += (want[i] - got[i]) * (want[i] - got[i]), power += want[i] * want[i];
  return error / power;
}

std::vector<double> exact(const std::vector<float>& x, const std::vector<float>& w, int64_t rows, int64_t m, int64_t n) {
  std::vector<double> y(rows * m);
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) y[t * m + i] += double{x[t * n + j]} * w[i * n + j];
  return y;
}

TEST_P(LlmInt8, ErrorOfWeightsIsTheKnownOne) {
  TestCodec codec(GetParam());
  const tn_target target = make_target({256, 4096});
  const std::vector<float> w = normals(256 * 4096);
  Coded coded = codec.encode(target, w);
  EXPECT_NEAR(relative_mse(w, codec.decode(target, coded)), 7.5e-5, 0.3e-5);
  EXPECT_EQ(coded.bytes(), 256u * 4096 + 256 * 4);
}

TEST_P(LlmInt8, TheProductIsThatOfTheReference) {
  const int64_t m = 33, n = 130;
  const tn_target target = make_target({m, n});
  for (const char* threshold : {"0", "2.5", "6"})
    for (const int64_t rows : {1, 7, 64}) {
      TestCodec codec(GetParam(), {{"threshold", threshold}});
      Coded coded = codec.encode(target, normals(m * n, 1));
      const std::vector<float> x = normals(rows * n, 2), before = normals(rows * m, 3);
      const std::vector<double> want = reference::product(x, rows, codes_of(coded), coded["scale"].floats(), n, std::stod(threshold));
      const std::vector<float> plain = product(codec, target, coded, x, rows), scaled = product(codec, target, coded, x, rows, kF32, 0.5, 2, before);
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(plain[i], want[i], 2e-5 * (1 + std::fabs(want[i]))) << threshold << " " << rows;
        ASSERT_NEAR(scaled[i], 0.5 * want[i] + 2 * double{before[i]}, 4e-5 * (1 + std::fabs(want[i])));
      }
    }
}

TEST_P(LlmInt8, OutlierColumnsApartSaveTheRest) {
  const int64_t rows = 64, m = 128, n = 512;
  const tn_target target = make_target({m, n});
  const std::vector<float> w = normals(m * n, 1);
  std::vector<float> x = normals(rows * n, 2);
  for (int64_t t = 0; t < rows; ++t)
    for (const int64_t j : {17, 200, 401}) x[t * n + j] *= 60;
  const std::vector<double> want = exact(x, w, rows, m, n);
  const auto error = [&](const char* threshold) {
    TestCodec codec(GetParam(), {{"threshold", threshold}});
    Coded coded = codec.encode(target, w);
    return relative(want, product(codec, target, coded, x, rows));
  };
  const double apart = error("6"), together = error("0");
  EXPECT_NEAR(together, 2.4e-3, 0.6e-3);
  EXPECT_NEAR(apart, 6e-5, 3e-5);
  EXPECT_NEAR(together / apart, 38, 14);
}

TEST_P(LlmInt8, EveryColumnApartIsTheDecodedWeight) {
  const int64_t rows = 5, m = 40, n = 100;
  const tn_target target = make_target({m, n});
  TestCodec codec(GetParam(), {{"threshold", "1e-30"}});
  Coded coded = codec.encode(target, normals(m * n, 1));
  const std::vector<float> x = normals(rows * n, 2);
  const std::vector<double> want = exact(x, codec.decode(target, coded), rows, m, n);
  EXPECT_LT(relative(want, product(codec, target, coded, x, rows)), 1e-12);
}

TEST_P(LlmInt8, ZerosAndSingleRowsKeepTheirMeaning) {
  const tn_target target = make_target({8, 24});
  TestCodec codec(GetParam());
  std::vector<float> w = normals(8 * 24, 1);
  std::fill_n(w.begin() + 24, 24, 0.0f);  // a row of zeros has the scale 0
  Coded coded = codec.encode(target, w);
  const std::vector<float> bias = normals(16, 3), zero(2 * 24, 0.0f);
  EXPECT_EQ(product(codec, target, coded, zero, 2, kF32, 1, 1, bias), bias);
  const std::vector<float> back = codec.decode(target, coded);
  for (int64_t j = 24; j < 48; ++j) EXPECT_EQ(back[j], 0.0f);
  EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  EXPECT_EQ(codec.round_trip({-3.0f}), std::vector<float>{-3.0f});
}

TEST_P(LlmInt8, Bf16IsRoundedAtTheEnd) {
  const int64_t rows = 9, m = 31, n = 64;
  const tn_target target = make_target({m, n}, kBF16);
  TestCodec codec(GetParam());
  Coded coded = codec.encode(target, Tensor(kBF16, {m * n}, normals(m * n, 1)).floats(), kBF16);
  const std::vector<float> x = Tensor(kBF16, {rows * n}, normals(rows * n, 2)).floats();
  const std::vector<float> wide = product(codec, target, coded, x, rows), narrow = product(codec, target, coded, x, rows, kBF16);
  for (size_t i = 0; i < wide.size(); ++i) ASSERT_NEAR(narrow[i], wide[i], 0.005 * std::fabs(wide[i]) + 1e-6);
}

TEST_P(LlmInt8, NotANumberShowsInTheProduct) {
  const tn_target target = make_target({4, 16});
  TestCodec codec(GetParam());
  Coded coded = codec.encode(target, normals(64, 1));
  std::vector<float> x = normals(32, 2);
  x[3] = NAN;
  const std::vector<float> y = product(codec, target, coded, x, 2);
  for (int64_t i = 0; i < 4; ++i) EXPECT_FALSE(std::isfinite(y[i])) << i;
  expect_refuses_non_finite(codec, 1000);
}

TEST_P(LlmInt8, WithoutIntegerProductsHostsDecodeAndMultiply) {
  const tn_target target = make_target({4, 16});
  TestCodec codec(GetParam());
  tn_estimate e{};
  e.struct_size = sizeof e;
  EXPECT_EQ(codec.api.estimate(codec.self, cpu_device_api(), cpu_device(), &target, TN_QUANTIZER_LINEAR, 3, &e), TN_E_UNSUPPORTED);
  EXPECT_EQ(codec.api.estimate(codec.self, &device_with_integers(), cpu_device(), &target, TN_QUANTIZER_LINEAR_BACKWARD, 3, &e), TN_E_UNSUPPORTED);
}

TEST_P(LlmInt8, RangesAreSlices) {
  TestCodec codec(GetParam());
  const tn_target target = make_target({101, 67});
  Coded coded = codec.encode(target, normals(101 * 67));
  expect_ranges_are_slices(codec, target, coded);
}

}  // namespace
}  // namespace tenon::llm_int8
