#include <limits>
#include <set>

#include "quantizers/blockwise-8bit/reference.h"
#include "sdk/testing/codec.h"
#include "tests/reference/golden.h"

namespace tenon::blockwise {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF16, sdk::kF32;

class Blockwise8bit : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, Blockwise8bit, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& info) { return object_label(info.param); });

std::vector<float> squared(std::vector<float> x) {
  for (float& v : x) v *= v;
  return x;
}

TEST_P(Blockwise8bit, AgreesWithBitsandbytes) {
  const golden::File file("blockwise-8bit/codec.safetensors");
  const std::vector<float> input = file.f32("input");
  const tn_target target = make_target({static_cast<int64_t>(input.size())});
  for (const bool is_signed : {true, false})
    for (const int b : {64, 128, 256, 512, 1024, 2048, 4096}) {
      const std::string key = (is_signed ? "signed." : "unsigned.") + std::to_string(b);
      TestCodec codec(GetParam(), {{"blocksize", std::to_string(b)}, {"signed", is_signed ? "true" : "false"}});
      const std::vector<float> x = is_signed ? input : squared(input);
      Coded coded = codec.encode(target, x);
      EXPECT_EQ(coded["absmax"].floats(), file.f32(key + ".absmax")) << key;
      std::vector<uint8_t> want = file.u8(key + ".codes");
      const std::vector<float> absmax = coded["absmax"].floats();
      for (size_t i = 0; i < want.size(); ++i)
        if (absmax[i / b] == 0)
          want[i] = is_signed ? sdk::kDynamicSignedZero : sdk::kDynamicUnsignedZero;  // theirs mean nothing there
      EXPECT_EQ(coded["codes"].raw(), want) << key;
      if (!file.has(key + ".decoded")) continue;
      EXPECT_EQ(codec.decode(target, coded), file.f32(key + ".decoded"));
    }
}

TEST_P(Blockwise8bit, TheMapsAreThoseOfThePaper) {
  const golden::File file("blockwise-8bit/codec.safetensors");
  for (const auto& [book, name] :
       {std::pair{&sdk::kDynamicSigned, "book.signed"}, std::pair{&sdk::kDynamicUnsigned, "book.unsigned"}}) {
    const std::vector<float> values(book->value, book->value + 256);
    EXPECT_EQ(values, file.f32(name));
    EXPECT_EQ(std::set<float>(values.begin(), values.end()).size(), 256u);
    EXPECT_EQ(values[255], 1.0f);
  }
  EXPECT_EQ(sdk::kDynamicSigned.value[127], 0.0f);
  EXPECT_EQ(sdk::kDynamicSigned.value[0], -0.99296875f);
  EXPECT_EQ(sdk::kDynamicUnsigned.value[0], 0.0f);
}

TEST_P(Blockwise8bit, EveryMapValueTimesAPowerOfTwoComesBackExactly) {
  for (const bool is_signed : {true, false})
    for (const int exponent : {-80, 0, 60}) {
      const sdk::DynamicBook& book = is_signed ? sdk::kDynamicSigned : sdk::kDynamicUnsigned;
      std::vector<float> x(512 + 1);
      for (size_t i = 0; i < x.size(); ++i) x[i] = std::ldexp(book.value[255 - i % 256], exponent);
      TestCodec codec(GetParam(), {{"signed", is_signed ? "true" : "false"}});
      EXPECT_EQ(codec.round_trip(x), x) << exponent;
    }
}

TEST_P(Blockwise8bit, AgreesWithTheReference) {
  for (const bool is_signed : {true, false})
    for (const int b : {64, 1024, 4096})
      for (const tn_dtype dtype : {kF32, kBF16, kF16}) {
        const int64_t n = 2 * 4096 + 77;
        std::vector<float> x = normals(n, b);
        for (int64_t i = 0; i < n; ++i) x[i] = std::ldexp(is_signed ? x[i] : x[i] * x[i], -static_cast<int>(i % 20));
        x = Tensor(dtype, {n}, x).floats();
        const sdk::DynamicBook& book = is_signed ? sdk::kDynamicSigned : sdk::kDynamicUnsigned;
        TestCodec codec(GetParam(), {{"blocksize", std::to_string(b)}, {"signed", is_signed ? "true" : "false"}});
        const tn_target target = make_target({n}, dtype);
        Coded coded = codec.encode(target, x, dtype);
        const reference::Coded want = reference::encode(book, x, b);
        ASSERT_EQ(coded["codes"].raw(), want.codes);
        ASSERT_EQ(coded["absmax"].floats(), want.absmax);
        const std::vector<float> decoded = codec.decode(target, coded);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(decoded[i], reference::decode(book, want, b, i));
      }
}

TEST_P(Blockwise8bit, ErrorOnNormalsIsTheKnownOne) {
  const std::vector<float> x = normals(1 << 20), xx = squared(x);
  const auto error = [&](const char* blocksize, const char* sign, const std::vector<float>& values) {
    TestCodec codec(GetParam(), {{"blocksize", blocksize}, {"signed", sign}});
    return relative_mse(values, codec.round_trip(values));
  };
  EXPECT_NEAR(error("256", "true", x), 1.17e-4, 0.02 * 1.17e-4);
  EXPECT_NEAR(error("2048", "true", x), 1.56e-4, 0.02 * 1.56e-4);
  EXPECT_NEAR(error("256", "false", xx), 4.1e-5, 0.02 * 4.1e-5);
  EXPECT_NEAR(error("2048", "false", xx), 6.3e-5, 0.02 * 6.3e-5);
}

TEST_P(Blockwise8bit, ExtremeBlocksKeepTheirMeaning) {
  TestCodec codec(GetParam(), {{"blocksize", "64"}});
  const std::vector<float> zero(130, 0.0f), constant(130, 0.3f);
  EXPECT_EQ(codec.round_trip(zero), zero);
  EXPECT_EQ(codec.round_trip(constant), constant);
  for (const float size : {1e-30f, std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()}) {
    std::vector<float> x(130, 0.0f);
    x[17] = size, x[129] = size;
    EXPECT_EQ(codec.round_trip(x), x) << size;
  }
  EXPECT_EQ(codec.round_trip({-2.0f}), std::vector<float>{-2.0f * 0.99296875f});
  EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  const tn_target target = make_target({100});
  Coded fresh = codec.plan(target);  // state that nobody has written yet
  EXPECT_EQ(codec.decode(target, fresh), std::vector<float>(100, 0.0f));
}

TEST_P(Blockwise8bit, SmallOptimizerStatesStayInF32) {
  TestCodec codec(GetParam());
  tn_target small = make_target({4095}), large = make_target({4096});
  small.site = large.site = TN_SITE_OPTIMIZER_STATE;
  const std::vector<float> x = normals(4095);
  Coded coded = codec.encode(small, x);
  EXPECT_EQ(coded.names, std::vector<std::string>{"values"});
  EXPECT_EQ(codec.decode(small, coded), x);
  expect_ranges_are_slices(codec, small, coded);
  EXPECT_EQ(codec.plan(large).names, (std::vector<std::string>{"codes", "absmax"}));
  EXPECT_EQ(codec.plan(make_target({7})).names,
            (std::vector<std::string>{"codes", "absmax"}));  // a weight is what was asked for
}

TEST_P(Blockwise8bit, RangesAreSlices) {
  for (const char* blocksize : {"64", "256", "4096"}) {
    TestCodec codec(GetParam(), {{"blocksize", blocksize}});
    const tn_target target = make_target({301, 67});
    Coded coded = codec.encode(target, normals(301 * 67));
    expect_ranges_are_slices(codec, target, coded);
  }
}

TEST_P(Blockwise8bit, RefusesWhatItCannotDo) {
  TestCodec codec(GetParam()), without_sign(GetParam(), {{"signed", "false"}});
  expect_refuses_non_finite(codec, 1000);
  Coded coded;
  EXPECT_EQ(without_sign.try_encode(make_target({3}), Tensor(kF32, {3}, {1.0f, -1e-9f, 0.0f}), &coded), TN_E_ARGUMENT);
  EXPECT_NE(without_sign.host.error.find("signed=true"), std::string::npos) << without_sign.host.error;
  const tn_target target = make_target({8, 8});
  tn_estimate e{};
  e.struct_size = sizeof e;
  EXPECT_EQ(codec.api.estimate(codec.self, nullptr, nullptr, &target, TN_QUANTIZER_LINEAR, 1, &e), TN_E_UNSUPPORTED);
}

}  // namespace
}  // namespace tenon::blockwise
