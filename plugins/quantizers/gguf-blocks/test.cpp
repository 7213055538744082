#include <limits>

#include "quantizers/gguf-blocks/reference.h"
#include "sdk/testing/codec.h"
#include "tests/reference/golden.h"

namespace tenon::gguf {
namespace {

using namespace sdk::testing;
using sdk::kBF16, sdk::kF16, sdk::kF32;

struct Shape {
  const char* name;
  int elements, bytes;
  double mse;  // relative, on unit normals; 0: is not written
};
const Shape kShapes[] = {{"F32", 1, 4, 1e-30},        {"F16", 1, 2, 4.4e-8},       {"BF16", 1, 2, 2.8e-6},
                         {"Q4_0", 32, 18, 7.3e-3},    {"Q4_1", 32, 20, 6.2e-3},    {"Q5_0", 32, 22, 1.81e-3},
                         {"Q5_1", 32, 24, 1.43e-3},   {"Q8_0", 32, 34, 2.86e-5},   {"Q8_1", 32, 36, 0},
                         {"Q2_K", 256, 84, 8.9e-2},   {"Q3_K", 256, 110, 2.24e-2}, {"Q4_K", 256, 144, 5.1e-3},
                         {"Q5_K", 256, 176, 1.30e-3}, {"Q6_K", 256, 210, 3.2e-4},  {"Q8_K", 256, 292, 0},
                         {"IQ4_NL", 32, 18, 5.7e-3},  {"IQ4_XS", 256, 136, 0},     {"TQ1_0", 256, 54, 0},
                         {"TQ2_0", 256, 66, 0},       {"MXFP4", 32, 17, 0},        {"NVFP4", 64, 36, 0}};

class GgufBlocks : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, GgufBlocks, ::testing::ValuesIn(plugin_objects()),
                         [](const auto& info) { return object_label(info.param); });

// Where a block's f16 numbers stand.
std::vector<int> halves(const std::string& type) {
  if (type == "F32" || type == "BF16" || type == "Q8_K") return {};
  if (type == "Q4_1" || type == "Q5_1" || type == "Q8_1" || type == "Q4_K" || type == "Q5_K") return {0, 2};
  if (type == "Q2_K") return {80, 82};
  if (type == "Q3_K") return {108};
  if (type == "Q6_K") return {208};
  if (type == "TQ1_0") return {52};
  if (type == "TQ2_0") return {64};
  return {0};
}

// Any bytes, but scales that are numbers.
std::vector<uint8_t> random_blocks(const Shape& shape, int64_t n_blocks) {
  std::vector<uint8_t> out(n_blocks * shape.bytes);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(sdk::philox({5, 0, 0}, i).w[0]);
  const std::string name = shape.name;
  const std::vector<int> offsets = halves(name);
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (const int at : offsets) store_f16(&out[b * shape.bytes + at], sdk::normal({6, 0, 0}, b + at));
    if (offsets.empty()) out[b * shape.bytes + (name == "BF16" ? 1 : 3)] = b % 2 ? 0x3f : 0xbe;
  }
  return out;
}

void set_blocks(Coded& coded, const std::vector<uint8_t>& bytes) {
  ASSERT_EQ(coded["blocks"].bytes(), bytes.size());
  std::memcpy(coded["blocks"].as<uint8_t>(), bytes.data(), bytes.size());
}

TEST_P(GgufBlocks, DecodesWhatTheReferencePackageDecodes) {
  const golden::File file("gguf-blocks/codec.safetensors");
  int types = 0;
  for (const Shape& shape : kShapes) {
    const std::string name = shape.name;
    if (!file.has(name + ".blocks")) continue;
    ++types;
    TestCodec codec(GetParam(), {{"type", name}});
    const std::vector<float> want = file.f32(name + ".decoded");
    const tn_target target = make_target(file.shape(name + ".decoded"));
    Coded coded = codec.plan(target);
    set_blocks(coded, file.u8(name + ".blocks"));
    EXPECT_EQ(codec.decode(target, coded), want) << name;
  }
  EXPECT_EQ(types, 17);
}

TEST_P(GgufBlocks, WritesWhatTheReferencePackageWrites) {
  const golden::File file("gguf-blocks/codec.safetensors");
  for (const std::string name : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16"}) {
    TestCodec codec(GetParam(), {{"type", name}});
    EXPECT_EQ(codec.encode(make_target(file.shape("input")), file.f32("input"))["blocks"].raw(),
              file.u8(name + ".encoded"))
        << name;
  }
}

TEST_P(GgufBlocks, EveryBitFieldHasItsPlace) {
  for (const Shape& shape : kShapes) {
    TestCodec codec(GetParam(), {{"type", shape.name}});
    const int64_t n_blocks = 512 / shape.elements + 3, n = n_blocks * shape.elements;
    const tn_target target = make_target({n});
    Coded coded = codec.plan(target);
    const std::vector<uint8_t> bytes = random_blocks(shape, n_blocks);
    set_blocks(coded, bytes);
    const std::vector<float> decoded = codec.decode(target, coded);
    for (int64_t e = 0; e < n; ++e)
      ASSERT_EQ(decoded[e], reference::value(shape.name, &bytes[e / shape.elements * shape.bytes],
                                             static_cast<int>(e % shape.elements)))
          << shape.name << " element " << e;
  }
}

TEST_P(GgufBlocks, HandPackedBlocksMeanWhatTheyShould) {
  const auto decode = [&](const char* type, const std::vector<uint8_t>& bytes, int64_t n) {
    TestCodec codec(GetParam(), {{"type", type}});
    const tn_target target = make_target({n});
    Coded coded = codec.plan(target);
    set_blocks(coded, bytes);
    return codec.decode(target, coded);
  };
  std::vector<uint8_t> q4 = {0x00, 0xC0};  // d = -2
  for (int j = 0; j < 16; ++j) q4.push_back(static_cast<uint8_t>(j | (15 - j) << 4));
  const std::vector<float> x = decode("Q4_0", q4, 32);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(x[j], -2.0f * (j - 8));
    EXPECT_EQ(x[j + 16], -2.0f * (7 - j));
  }

  // NVFP4: scales 1, 2^-9 (the smallest), 448 (the largest), and the pattern that stands for no number; codes 1 and 15.
  std::vector<uint8_t> nv(36, 0xF1);
  nv[0] = 0x38, nv[1] = 0x01, nv[2] = 0x7e, nv[3] = 0x7f;
  const std::vector<float> y = decode("NVFP4", nv, 64);
  EXPECT_EQ(y[0], 0.5f);
  EXPECT_EQ(y[8], -6.0f);
  EXPECT_EQ(y[16], 0.5f * 0x1p-9f);
  EXPECT_EQ(y[24], -6.0f * 0x1p-9f);
  EXPECT_EQ(y[32], 224.0f);
  EXPECT_EQ(y[40], -2688.0f);
  EXPECT_EQ(y[48], 0.0f);

  std::vector<uint8_t> q6(210, 0);
  q6[0] = 0xE1,
  q6[128] = 0x82;  // element 0: low 1, high 2 -> 33; element 64: low 14, high 0 -> 14; element 96: high 2 -> 32
  q6[192] = 0xFF, q6[196] = 3, q6[208] = 0x00, q6[209] = 0x38;  // scales -1 and 3, d = 0.5
  const std::vector<float> z = decode("Q6_K", q6, 256);
  EXPECT_EQ(z[0], -0.5f);
  EXPECT_EQ(z[64], 1.5f * (14 - 32));
  EXPECT_EQ(z[1], 16.0f);
  EXPECT_EQ(z[96], 0.0f);
}

TEST_P(GgufBlocks, ErrorOnUnitNormalsIsAtMostTheKnownOne) {
  const std::vector<float> x = normals(1 << 20);
  for (const Shape& shape : kShapes) {
    if (shape.mse == 0) continue;
    TestCodec codec(GetParam(), {{"type", shape.name}});
    const double mse = relative_mse(x, codec.round_trip(x));
    EXPECT_LT(mse, 1.02 * shape.mse) << shape.name;
    RecordProperty(shape.name, std::to_string(mse));
    if (shape.elements == 1) continue;
    EXPECT_GT(mse, 0.9 * shape.mse) << shape.name;  // better than a search can be: the measure is wrong
  }
}

TEST_P(GgufBlocks, EveryObjectWritesTheSameBytes) {
  const std::vector<float> x = normals(8192, 9);
  const tn_target target = make_target({8192});
  for (const Shape& shape : kShapes) {
    if (shape.mse == 0) continue;
    TestCodec first(plugin_objects().front(), {{"type", shape.name}}), codec(GetParam(), {{"type", shape.name}});
    EXPECT_EQ(codec.encode(target, x)["blocks"].raw(), first.encode(target, x)["blocks"].raw()) << shape.name;
  }
}

TEST_P(GgufBlocks, RangesAreSlices) {
  for (const Shape& shape : kShapes) {
    TestCodec codec(GetParam(), {{"type", shape.name}});
    const tn_target target = make_target({37, 256});
    Coded coded = codec.plan(target);
    set_blocks(coded, random_blocks(shape, 37 * 256 / shape.elements));
    expect_ranges_are_slices(codec, target, coded);
  }
}

TEST_P(GgufBlocks, MappedBytesNeedNoAlignment) {
  for (const Shape& shape : kShapes) {
    TestCodec codec(GetParam(), {{"type", shape.name}});
    const tn_target target = make_target({1024});
    const std::vector<uint8_t> bytes = random_blocks(shape, 1024 / shape.elements);
    Coded coded = codec.plan(target);
    set_blocks(coded, bytes);
    std::vector<uint8_t> file(3 + bytes.size());
    std::copy(bytes.begin(), bytes.end(), file.begin() + 3);
    View view(file.data() + 3, sdk::kU8, {static_cast<int64_t>(bytes.size())}, {1});
    tn_tensor* components[] = {&view.tensor};
    Tensor dst(kF32, {1024});
    codec.expect(codec.api.decode(codec.self, Exec().get(), &target, components, 0, 1024, dst.get()));
    EXPECT_EQ(dst.raw(), codec.decode(target, coded, 0, 1024).raw()) << shape.name;
  }
}

TEST_P(GgufBlocks, ExtremeBlocksKeepTheirMeaning) {
  for (const Shape& shape : kShapes) {
    if (shape.mse == 0) continue;
    TestCodec codec(GetParam(), {{"type", shape.name}});
    const auto near = [&](const std::vector<float>& x, double tolerance, const char* what) {
      const std::vector<float> y = codec.round_trip(x);
      float largest = 0;
      for (const float v : x) largest = std::fmax(largest, std::fabs(v));
      for (size_t i = 0; i < x.size(); ++i)
        ASSERT_NEAR(y[i], x[i], tolerance * largest) << shape.name << " " << what << " element " << i;
    };
    near(std::vector<float>(256, 0.0f), 0, "zeros");
    near(std::vector<float>(256, 0.7f), 0.02, "constant");
    near(std::vector<float>(256, -0.7f), 0.02, "negative constant");
    std::vector<float> spike(256, 0.0f), ends(256), rows(512, 0.0f);
    spike[77] = -3.5f;
    near(spike, shape.bytes == 84 ? 0.1 : 0.03, "spike");
    for (int i = 0; i < 256; ++i) ends[i] = i % 2 ? 65504.0f : -65504.0f;
    near(ends, 0.34, "ends");  // a signed code has no +half: 4-bit and smaller types lose there
    rows[300] = 1.0f;          // a block of zeros before it stays zero
    near(rows, shape.bytes == 84 ? 0.1 : 0.03, "second block");
    near(std::vector<float>(256, std::numeric_limits<float>::denorm_min()), 1, "subnormal");
    EXPECT_EQ(codec.round_trip({}), std::vector<float>{});
  }
}

TEST_P(GgufBlocks, RowsThatDoNotFillBlocksAreRefusedWithTheTypeThatFits) {
  const auto refused = [&](const char* type, std::vector<int64_t> shape, const char* fits) {
    TestCodec codec(GetParam(), {{"type", type}});
    const tn_target target = make_target(shape);
    const tn_component_sink sink{sizeof sink, 0, nullptr, nullptr};
    EXPECT_EQ(codec.api.plan(codec.self, &target, &sink), TN_E_UNSUPPORTED);
    EXPECT_NE(codec.host.error.find(std::string("use type=") + fits), std::string::npos) << codec.host.error;
    tn_query query{};
    query.struct_size = sizeof query, query.device = {TN_CPU, 0}, query.dtype = kF32, query.ndim = target.ndim;
    std::copy(shape.begin(), shape.end(), query.shape);
    codec.host.error.clear();
    EXPECT_EQ(codec.api.supports(codec.self, &query), TN_E_UNSUPPORTED);
    EXPECT_NE(codec.host.error.find(std::string("use type=") + fits), std::string::npos) << codec.host.error;
    TestCodec instead(GetParam(), {{"type", fits}});
    EXPECT_EQ(instead.plan(target).parts.size(), 1u);
  };
  refused("Q4_K", {256, 576}, "Q5_0"), refused("Q5_K", {2, 576}, "Q5_1"), refused("Q6_K", {2, 576}, "Q8_0");
  refused("Q2_K", {2, 576}, "IQ4_NL"), refused("Q3_K", {2, 576}, "IQ4_NL");
  refused("Q4_K", {256, 33}, "F16"), refused("Q4_0", {7}, "F16"), refused("Q8_0", {1}, "F16");
}

TEST_P(GgufBlocks, TypesThatDoNotKeepZeroHoldWeightsAlone) {
  for (const Shape& shape : kShapes) {
    TestCodec codec(GetParam(), {{"type", shape.name}});
    tn_target target = make_target({256});
    target.site = TN_SITE_KV_CACHE;
    const tn_component_sink sink{sizeof sink, 0, nullptr,
                                 [](void*, const tn_component*) -> int32_t { return TN_OK; }};
    const std::string name = shape.name;
    const bool moves = name == "Q4_1" || name == "Q5_1" || name == "Q2_K" || name == "Q4_K" || name == "Q5_K" ||
                       name.starts_with("IQ4");
    EXPECT_EQ(codec.api.plan(codec.self, &target, &sink), moves ? TN_E_UNSUPPORTED : TN_OK) << name;
    if (moves) {
      EXPECT_NE(codec.host.error.find("weights alone"), std::string::npos) << codec.host.error;
    }
  }
}

TEST_P(GgufBlocks, FusedProductIsDecodeAndMultiply) {
  for (const Shape& shape : kShapes) {
    if (shape.mse == 0) continue;
    TestCodec codec(GetParam(), {{"type", shape.name}});
    // Blocks of 32 are taken in pairs: an even and an odd number of them.
    const std::vector<int64_t> widths = shape.elements == 1    ? std::vector<int64_t>{301}
                                        : shape.elements == 32 ? std::vector<int64_t>{576, 32, 96}
                                                               : std::vector<int64_t>{512};
    for (const int64_t n : widths) {
      const tn_target target = make_target({35, n});
      Coded coded = codec.encode(target, normals(35 * n));
      for (const int64_t rows : {1, 2, 3, 8})
        for (const tn_dtype dtype : {kF32, kBF16})
          expect_linear_is_decode_and_multiply(codec, target, coded, rows, dtype);
    }
  }
}

// Activations in fixed point share a step with their neighbours alone, and what is no number stays none.
TEST_P(GgufBlocks, ProductsKeepSmallActivationsBesideLargeOnes) {
  for (const char* type : {"Q4_0", "Q4_1", "Q8_0"}) {
    TestCodec codec(GetParam(), {{"type", type}});
    constexpr int64_t kRows = 5, kWidth = 256;
    const tn_target target = make_target({kRows, kWidth});
    Coded coded = codec.encode(target, normals(kRows * kWidth));
    const std::vector<float> w = codec.decode(target, coded);
    const auto product = [&](const std::vector<float>& x) {
      Exec exec(codec.estimate(target, TN_QUANTIZER_LINEAR, 1).workspace_bytes);
      Tensor y(kF32, {1, kRows});
      codec.expect(codec.api.linear(codec.self, exec.get(), &target, coded.pointers().data(), Tensor(kF32, {1, kWidth}, x).get(), 1, 0, y.get()));
      EXPECT_TRUE(exec.intact());
      return y.floats();
    };
    for (const float scale : {1.0f, 1e-30f, 0x1p-140f, 1e30f}) {
      std::vector<float> x = normals(kWidth, 5);
      for (int64_t i = 0; i < kWidth; ++i) x[i] *= i < 64 ? 0.0f : scale;
      const std::vector<float> y = product(x);
      for (int64_t r = 0; r < kRows; ++r) {
        double want = 0;
        for (int64_t i = 0; i < kWidth; ++i) want += double{w[r * kWidth + i]} * x[i];
        // A whole number of steps of 2^-100 / 2^23 at the least.
        EXPECT_NEAR(y[r], want, 2e-5 * std::fabs(scale) + 0x1p-110) << type << ", scale " << scale;
      }
    }
    for (const float bad : {NAN, INFINITY}) {
      std::vector<float> x = normals(kWidth, 5);
      x[100] = bad;
      for (const float y : product(x)) EXPECT_FALSE(std::isfinite(y)) << type;
    }
  }
}

TEST_P(GgufBlocks, RefusesWhatItCannotCode) {
  for (const char* type : {"Q4_K", "Q8_0", "F16"}) {
    TestCodec codec(GetParam(), {{"type", type}});
    expect_refuses_non_finite(codec, 1024);
    std::vector<float> x(256, 0.0f);
    x[200] = 1e6f;
    Coded coded;
    EXPECT_EQ(codec.try_encode(make_target({256}), Tensor(kF32, {256}, x), &coded), TN_E_NUMERIC);
    EXPECT_NE(codec.host.error.find("65504"), std::string::npos) << codec.host.error;
  }
  TestCodec codec(GetParam(), {{"type", "IQ4_XS"}});
  const tn_target target = make_target({256});
  tn_estimate e{};
  e.struct_size = sizeof e;
  EXPECT_EQ(codec.api.estimate(codec.self, nullptr, nullptr, &target, TN_QUANTIZER_ENCODE, 256, &e), TN_E_UNSUPPORTED);
  EXPECT_NE(codec.host.error.find("not written"), std::string::npos);
}

}  // namespace
}  // namespace tenon::gguf
