#include <limits>

#include "quantizers/nf4/reference.h"
#include "sdk/testing/codec.h"
#include "tests/reference/golden.h"

namespace tenon::nf4 {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF16, sdk::kF32;
using Options = std::map<std::string, std::string>;

class Nf4 : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, Nf4, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& info) { return object_label(info.param); });

const CodeBook& book_of(const std::string& kind) {
  return kind == "fp4" ? kFp4 : kNf4;
}

TEST_P(Nf4, AgreesWithBitsandbytesByteForByte) {
  const golden::File file("nf4/codec.safetensors");
  for (const std::string kind : {"nf4", "fp4"}) {
    EXPECT_EQ(file.f32("book." + kind), std::vector<float>(book_of(kind).value, book_of(kind).value + 16));
    for (const std::string name : {"n1", "n7", "odd", "matrix"}) {
      const std::vector<float> x = file.f32(name + ".input");
      const tn_target target = make_target(file.shape(name + ".input"));
      for (const int b : {32, 64, 128, 256, 512, 1024, 2048, 4096}) {
        const std::string key = name + "." + kind + "." + std::to_string(b);
        if (!file.has(key + ".packed")) continue;
        TestCodec codec(GetParam(), {{"quant_type", kind}, {"blocksize", std::to_string(b)}});
        Coded coded = codec.encode(target, x);
        EXPECT_EQ(coded["codes"].raw(), file.u8(key + ".packed")) << key;
        EXPECT_EQ(coded["absmax"].floats(), file.f32(key + ".absmax")) << key;
        if (b != 64) continue;
        EXPECT_EQ(codec.decode(target, coded), file.f32(key + ".decoded")) << key;
      }
    }
  }
}

TEST_P(Nf4, DoublyQuantizedScalesAgreeWithBitsandbytes) {
  const golden::File file("nf4/codec.safetensors");
  for (const std::string kind : {"nf4", "fp4"})
    for (const std::string& key : {"odd." + kind + ".32", "odd." + kind + ".64", "matrix." + kind + ".64"}) {
      const std::string name = key.substr(0, key.find('.'));
      TestCodec codec(GetParam(),
                      {{"quant_type", kind}, {"blocksize", key.substr(key.rfind('.') + 1)}, {"double_quant", "true"}});
      Coded coded = codec.encode(make_target(file.shape(name + ".input")), file.f32(name + ".input"));
      // Their mean is a sum in f32; ours is exact and then rounded once, so the last place may differ.
      const float offset = file.f32(key + ".double.offset")[0];
      EXPECT_NEAR(coded["nested_offset"].floats()[0], offset, 4e-7f * offset);
      const std::vector<float> nested = file.f32(key + ".double.nested_absmax");
      ASSERT_EQ(coded["nested_absmax"].size(), static_cast<int64_t>(nested.size()));
      for (size_t i = 0; i < nested.size(); ++i)
        EXPECT_NEAR(coded["nested_absmax"].floats()[i], nested[i], 1e-6f * nested[i]);
      EXPECT_EQ(coded["absmax"].raw(), file.u8(key + ".double.absmax_codes")) << key;
      EXPECT_EQ(coded["codes"].raw(), file.u8(key + ".packed")) << key;
    }
}

TEST_P(Nf4, EveryBookValueTimesAPowerOfTwoComesBackExactly) {
  for (const std::string kind : {"nf4", "fp4"})
    for (const int exponent : {-60, -3, 0, 1, 60}) {
      TestCodec codec(GetParam(), {{"quant_type", kind}});
      std::vector<float> x(80);  // the last block is short
      for (size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(book_of(kind).value[i % 16], exponent);
      EXPECT_EQ(codec.round_trip(x), x) << kind << " 2^" << exponent;
    }
}

TEST_P(Nf4, ErrorOnUnitNormalsIsTheKnownOne) {
  const std::map<std::pair<std::string, std::string>, double> known = {
      {{"nf4", "32"}, 0.00749}, {{"nf4", "64"}, 0.00835}, {{"nf4", "128"}, 0.00905},
      {{"fp4", "32"}, 0.0132},  {{"fp4", "64"}, 0.0149},  {{"fp4", "128"}, 0.0165}};
  const std::vector<float> x = normals(1 << 20);
  for (const auto& [options, mse] : known) {
    TestCodec codec(GetParam(), {{"quant_type", options.first}, {"blocksize", options.second}});
    EXPECT_NEAR(relative_mse(x, codec.round_trip(x)), mse, 0.02 * mse) << options.first << " " << options.second;
  }
}

TEST_P(Nf4, DoubleQuantizationMovesScalesByLessThanOnePercent) {
  const std::vector<float> x = normals(1 << 18);
  const tn_target target = make_target({512, 512});
  TestCodec plain(GetParam()), twice(GetParam(), {{"double_quant", "true"}});
  Coded a = plain.encode(target, x), b = twice.encode(target, x);
  EXPECT_EQ(a["codes"].raw(), b["codes"].raw());
  const std::vector<float> wa = plain.decode(target, a), wb = twice.decode(target, b);
  double sum = 0;
  int64_t n = 0;
  for (size_t i = 0; i < wa.size(); ++i)
    if (wa[i] != 0) sum += std::fabs(wb[i] / wa[i] - 1.0), ++n;
  EXPECT_LT(sum / static_cast<double>(n), 0.01);
  EXPECT_NEAR(relative_mse(x, wb), relative_mse(x, wa), 0.01 * relative_mse(x, wa));
}

TEST_P(Nf4, PacksTheEvenElementIntoTheHighNibble) {
  TestCodec codec(GetParam(), {{"blocksize", "32"}});
  std::vector<float> x(kNormalBook, kNormalBook + 16);
  x.resize(33);
  x[32] = -2.0f;
  Coded coded = codec.encode(make_target({33}), x);
  const std::vector<uint8_t> want = {0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 0x77,
                                     0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x07};
  EXPECT_EQ(coded["codes"].raw(), want);
  EXPECT_EQ(coded["absmax"].floats(), (std::vector<float>{1.0f, 2.0f}));
}

TEST_P(Nf4, AgreesWithTheReferenceOnEveryBlockSizeAndStorageType) {
  for (const std::string kind : {"nf4", "fp4"})
    for (const int b : {32, 64, 128, 256, 512, 1024, 2048, 4096})
      for (const tn_dtype dtype : {kF32, kBF16, kF16}) {
        const int64_t n = 3 * 4096 + 77;
        const std::vector<float> x = Tensor(dtype, {n}, normals(n, b)).floats();
        TestCodec codec(GetParam(), {{"quant_type", kind}, {"blocksize", std::to_string(b)}});
        const tn_target target = make_target({n}, dtype);
        Coded coded = codec.encode(target, x, dtype);
        const reference::Coded want = reference::encode(book_of(kind), x, b);
        ASSERT_EQ(coded["codes"].raw(), want.codes);
        ASSERT_EQ(coded["absmax"].floats(), want.absmax);
        const std::vector<float> decoded = codec.decode(target, coded);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(decoded[i], reference::decode(book_of(kind), want, b, i));
      }
}

TEST_P(Nf4, ExtremeBlocksKeepTheirMeaning) {
  constexpr float kLargest = std::numeric_limits<float>::max(), kSmallest = std::numeric_limits<float>::denorm_min();
  for (const std::string kind : {"nf4", "fp4"}) {
    TestCodec codec(GetParam(), {{"quant_type", kind}, {"blocksize", "32"}});
    const std::vector<float> zero(64, 0.0f), constant(64, -0.3f);
    EXPECT_EQ(codec.round_trip(zero), zero);
    EXPECT_EQ(codec.round_trip(constant), constant);
    std::vector<float> spike(64, 0.0f), ends(64, 0.0f), tiny(64, 0.0f);
    spike[17] = 1e-30f;
    EXPECT_EQ(codec.round_trip(spike), spike);
    for (size_t i = 0; i < ends.size(); ++i)
      ends[i] = i % 2 ? kLargest : -kLargest, tiny[i] = i % 2 ? kSmallest : -kSmallest;
    EXPECT_EQ(codec.round_trip(ends), ends);
    EXPECT_EQ(codec.round_trip(tiny), tiny);
    EXPECT_EQ(codec.round_trip({-0.25f}), std::vector<float>{-0.25f});
    EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  }
  TestCodec codec(GetParam(), {{"double_quant", "true"}});
  EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  const std::vector<float> equal(640, 0.5f);  // scales without spread
  EXPECT_EQ(codec.round_trip(equal), equal);
}

TEST_P(Nf4, RangesAreSlices) {
  for (const Options& options :
       {Options{}, Options{{"blocksize", "32"}}, Options{{"blocksize", "4096"}, {"double_quant", "true"}},
        Options{{"quant_type", "fp4"}}}) {
    TestCodec codec(GetParam(), options);
    const tn_target target = make_target({301, 67});  // blocks cross rows
    Coded coded = codec.encode(target, normals(301 * 67));
    expect_ranges_are_slices(codec, target, coded);
  }
}

TEST_P(Nf4, FusedProductIsDecodeAndMultiply) {
  for (const Options& options : {Options{}, Options{{"blocksize", "32"}, {"double_quant", "true"}},
                                 Options{{"quant_type", "fp4"}, {"blocksize", "256"}}})
    for (const auto& shape : {std::vector<int64_t>{40, 576}, {33, 129}, {1, 1}, {19, 70}}) {
      TestCodec codec(GetParam(), options);
      const tn_target target = make_target(shape);
      Coded coded = codec.encode(target, normals(shape[0] * shape[1]));
      for (const int64_t rows : {1, 2, 3, 4, 7, 8})
        for (const tn_dtype dtype : {kF32, kBF16})
          expect_linear_is_decode_and_multiply(codec, target, coded, rows, dtype);
    }
}

// Long rows, which pass in chunks; with outputs and chunks that are not full.
TEST_P(Nf4, FusedProductTakesLongRows) {
  for (const auto& shape : {std::vector<int64_t>{18, 1056}, {3, 2048}, {17, 32}}) {
    TestCodec codec(GetParam());
    const tn_target target = make_target(shape, kBF16);
    Coded coded = codec.encode(target, normals(shape[0] * shape[1]));
    for (const int64_t rows : {1, 5}) expect_linear_is_decode_and_multiply(codec, target, coded, rows, kF32);
  }
}

TEST_P(Nf4, AGpusTilesTakeMoreRows) {
  TestCodec plain(GetParam());
  if (!is_emulated(GetParam())) return expect_refuses_rows(plain, make_target({8, 64}, kBF16), 9, "8 rows");
  expect_refuses_rows(plain, make_target({8, 64}, kBF16), 257, "256 rows");
  for (const tn_dtype dtype : {kBF16, kF16})
    for (const auto& [m, n, rows] : {std::tuple<int64_t, int64_t, int64_t>{70, 192, 9}, {64, 64, 64}, {5, 128, 67}}) {
      TestCodec codec(GetParam(), {{"blocksize", "32"}, {"double_quant", rows == 9 ? "true" : "false"}});
      const tn_target target = make_target({m, n}, dtype);
      Coded coded = codec.encode(target, normals(m * n));
      expect_tiles_multiply_decoded(codec, target, coded, rows);
    }
}

TEST_P(Nf4, RefusesWhatItCannotDo) {
  TestCodec codec(GetParam());
  expect_refuses_non_finite(codec, 1000);
  tn_query query{};
  query.struct_size = sizeof query, query.device = {TN_CPU, 0}, query.dtype = sdk::kI32;
  EXPECT_EQ(codec.api.supports(codec.self, &query), TN_E_UNSUPPORTED);
  query.dtype = kBF16;
  EXPECT_EQ(codec.api.supports(codec.self, &query), TN_OK);
  query.device.type = TN_CUDA;
  EXPECT_EQ(codec.api.supports(codec.self, &query), TN_E_UNSUPPORTED);

  const tn_target target = make_target({100}), larger = make_target({200}),
                  impossible = make_target({int64_t{1} << 40, int64_t{1} << 40});
  Coded coded = codec.encode(target, normals(100));
  Tensor dst(kF32, {100});
  EXPECT_EQ(codec.api.decode(codec.self, Exec().get(), &target, coded.pointers().data(), 1, 101, dst.get()),
            TN_E_ARGUMENT);
  EXPECT_EQ(codec.api.decode(codec.self, Exec().get(), &target, coded.pointers().data(), 0, 99, dst.get()),
            TN_E_ARGUMENT);
  EXPECT_EQ(codec.api.decode(codec.self, Exec().get(), &larger, coded.pointers().data(), 0, 100, dst.get()),
            TN_E_ARGUMENT);
  const tn_component_sink sink{sizeof sink, 0, nullptr, nullptr};
  EXPECT_EQ(codec.api.plan(codec.self, &impossible, &sink), TN_E_ARGUMENT);
}

}  // namespace
}  // namespace tenon::nf4
