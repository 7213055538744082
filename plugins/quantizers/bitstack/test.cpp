#include "quantizers/bitstack/reference.h"
#include "sdk/testing/codec.h"
#include "tenon/calibrate.h"
#include "tenon/segments.h"
#include "tests/reference/golden.h"

namespace tenon::bitstack {
namespace {

using namespace sdk::testing;
using sdk::kF32;

// The first segments of a weight.
Coded prefix(const Coded& all, int64_t segments) {
  Coded out;
  out.names = all.names, out.code_bits = all.code_bits;
  for (const Tensor& t : all.parts) {
    std::vector<int64_t> shape(t.get()->shape, t.get()->shape + t.get()->ndim);
    if (shape.size() == 2) shape[0] = segments;
    Tensor part(t.get()->dtype, shape);
    std::memcpy(part.as<uint8_t>(), t.raw().data(), part.bytes());
    out.parts.push_back(std::move(part));
  }
  return out;
}

double left_over(const std::vector<float>& w, const std::vector<float>& coded) { return relative_mse(w, coded); }

class Bitstack : public ::testing::TestWithParam<std::string> {
 protected:
  static Coded calibrated(TestCodec& codec, const tn_target& target, const std::vector<float>& w, const std::vector<float>& norms) {
    const auto& api = *static_cast<const tn_calibrate*>(codec.plugin.get_extension(TN_EXT_CALIBRATE));
    Coded out = codec.plan(target);
    tn_estimate e{};
    e.struct_size = sizeof e;
    codec.expect(api.estimate(codec.self, cpu_device_api(), cpu_device(), &target, &e));
    Exec exec(e.workspace_bytes);
    Tensor src(kF32, {target.shape[0], target.shape[1]}, w);
    const Tensor statistic(kF32, {target.shape[1]}, norms);
    const tn_rng rng{1, 2, 0};
    codec.expect(api.encode(codec.self, exec.get(), &target, src.get(), statistic.get(), 512, out.pointers().data(), &rng));
    EXPECT_TRUE(exec.intact() && out.intact() && src.intact());
    return out;
  }
};
INSTANTIATE_TEST_SUITE_P(Objects, Bitstack, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

TEST_P(Bitstack, EachSegmentLeavesWhatTheCardSays) {
  struct Case {
    int64_t m, n;
    double left[4];
  };
  for (const Case& c : {Case{512, 512, {.323, .105, .040, .017}}, Case{1024, 256, {.319, .102, .038, .016}}}) {
    TestCodec codec(GetParam(), {{"niter", "4"}});
    const tn_target target = make_target({c.m, c.n});
    const std::vector<float> w = normals(c.m * c.n);
    const Coded coded = codec.encode(target, w);
    for (int64_t s = 1; s <= 4; ++s) {
      Coded first = prefix(coded, s);
      EXPECT_NEAR(left_over(w, codec.decode(target, first)), c.left[s - 1], 0.04 * c.left[s - 1] + 0.0005) << c.m << " x " << c.n << ", " << s << " segments";
    }
  }
}

TEST_P(Bitstack, TheFirstSegmentHoldsAllThatItsRankCan) {
  const int64_t m = 48, n = 40;
  const std::vector<float> w = normals(m * n);
  double energy = 0;
  std::vector<double> magnitude;
  for (float v : w) energy += double{v} * v, magnitude.push_back(std::fabs(v));
  for (const char* k : {"1", "4", "16"}) {
    TestCodec codec(GetParam(), {{"k", k}, {"niter", "1"}});
    const tn_target target = make_target({m, n});
    Coded coded = codec.encode(target, w);
    const double best = 1 - reference::largest_energy(magnitude, m, n, std::stoll(k)) / energy, left = left_over(w, codec.decode(target, coded));
    EXPECT_GT(left, best * 0.999) << k;
    EXPECT_LT(left, best * 1.01) << k;
  }
}

TEST_P(Bitstack, APrefixIsThePartialSum) {
  for (const auto& [m, n] : {std::pair<int64_t, int64_t>{20, 96}, {9, 77}, {1, 40}}) {
    TestCodec codec(GetParam(), {{"k", "5"}, {"niter", "6"}});
    const tn_target target = make_target({m, n});
    const std::vector<float> w = normals(m * n);
    Coded coded = codec.encode(target, w);
    const reference::Components c{coded["signs"].raw(), coded["u"].floats(), coded["v"].floats(), coded["columns"].floats()};
    double before = 1;
    for (int64_t s = 1; s <= 6; ++s) {
      Coded first = prefix(coded, s);
      const std::vector<float> got = codec.decode(target, first);
      const std::vector<double> want = reference::decode(c, s, m, n, std::min<int64_t>(5, m));
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5) << s << " segments, element " << i;
      const double left = left_over(w, got);
      EXPECT_TRUE(left < before || left == 0) << s;
      before = left;
      expect_ranges_are_slices(codec, target, first);
    }
  }
}

// Against LAPACK's singular values in f64 (tests/reference/bitstack.py). A residual next to zero may get the other sign, and then its element goes
// another way; the errors and nearly all elements agree.
TEST_P(Bitstack, TheStackIsThatOfTheReference) {
  const golden::File file("bitstack/bitstack.safetensors");
  const std::string k = std::to_string(file.setting("rank").get<int>()), segments = std::to_string(file.setting("segments").get<int>());
  for (const char* name : {"wide", "tall"})
    for (const char* kind : {"alike", "weighed"}) {
      const std::string key = std::string(name) + ".";
      const std::vector<int64_t> shape = file.shape(key + "weight");
      const std::vector<float> w = file.f32(key + "weight"), want = file.f32(key + kind);
      TestCodec codec(GetParam(), {{"k", k}, {"niter", segments}});
      const tn_target target = make_target(shape);
      Coded coded = std::string(kind) == "alike" ? codec.encode(target, w) : calibrated(codec, target, w, file.f32(key + "norms"));
      for (int64_t s = 1; s <= std::stoll(segments); ++s) {
        Coded first = prefix(coded, s);
        const std::vector<float> got = codec.decode(target, first), reference(want.begin() + (s - 1) * shape[0] * shape[1], want.begin() + s * shape[0] * shape[1]);
        size_t apart = 0;
        for (size_t i = 0; i < w.size(); ++i) apart += std::fabs(got[i] - reference[i]) > 2e-3;
        EXPECT_LE(apart, w.size() / 100) << key << kind << ", " << s << " segments";
        EXPECT_NEAR(left_over(w, got), left_over(w, reference), 0.01 * left_over(w, reference)) << key << kind << ", " << s << " segments";
      }
    }
}

TEST_P(Bitstack, TheProductIsDecodeAndMultiply) {
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, const char*>{40, 128, "16"}, {13, 50, "16"}, {130, 72, "5"}, {40, 90, "24"}}) {
    TestCodec codec(GetParam(), {{"niter", "5"}, {"k", k}});
    const tn_target target = make_target({m, n});
    const Coded coded = codec.encode(target, normals(m * n));
    for (int64_t segments : {1, 3, 5})
      for (int64_t rows : {1, 3, 5, 8}) {
        if (is_emulated(GetParam()) && segments == 3) continue;
        Coded first = prefix(coded, segments);
        expect_linear_is_decode_and_multiply(codec, target, first, rows, kF32);
        expect_linear_is_decode_and_multiply(codec, target, first, rows, sdk::kBF16);
      }
  }
}

TEST_P(Bitstack, InputsThatMatterAreHeldMoreClosely) {
  const int64_t m = 64, n = 96;
  const std::vector<float> w = normals(m * n);
  std::vector<float> norms(n);
  for (int64_t j = 0; j < n; ++j) norms[j] = j % 8 == 0 ? 20.0f : 0.5f;
  TestCodec codec(GetParam(), {{"niter", "2"}});
  const tn_target target = make_target({m, n});
  Coded plain = codec.encode(target, w), scaled = calibrated(codec, target, w, norms);
  const auto error = [&](Coded& coded) {
    const std::vector<float> got = codec.decode(target, coded);
    double sum = 0;
    for (int64_t i = 0; i < m * n; ++i) sum += std::pow((double{w[i]} - got[i]) * norms[i % n], 2);
    return sum;
  };
  EXPECT_LT(error(scaled), 0.8 * error(plain));
  // All inputs alike: the same stack, whatever their size.
  Coded alike = calibrated(codec, target, w, std::vector<float>(n, 7.0f));
  const std::vector<float> a = codec.decode(target, alike), b = codec.decode(target, plain);
  EXPECT_LT(std::fabs(left_over(w, a) / left_over(w, b) - 1), 0.02);
}

TEST_P(Bitstack, PlansAreThoseOfTheFormat) {
  TestCodec codec(GetParam());
  const tn_target target = make_target({4096, 4096});
  EXPECT_NEAR(8.0 * static_cast<double>(codec.plan(target).bytes()) / (16.0 * 4096 * 4096), 1.125, 0.001);
  tn_calibration_plan plan{};
  plan.struct_size = sizeof plan;
  const auto& calibrate = *static_cast<const tn_calibrate*>(codec.plugin.get_extension(TN_EXT_CALIBRATE));
  codec.expect(calibrate.plan(codec.self, &plan));
  EXPECT_EQ(plan.statistic, uint32_t{TN_STATISTIC_NORMS});
  EXPECT_EQ(plan.prefix, uint32_t{TN_PREFIX_PLAIN});
  EXPECT_EQ(plan.sequences, 256);
  tn_segment_plan segments{};
  segments.struct_size = sizeof segments;
  const auto& api = *static_cast<const tn_segmented*>(codec.plugin.get_extension(TN_EXT_SEGMENTS));
  codec.expect(api.plan(codec.self, &segments));
  EXPECT_EQ(segments.scored_levels, 1u);
  EXPECT_EQ(segments.sequences, 32);
  TestCodec plain(GetParam(), {{"scale_weight", "false"}, {"niter", "3"}, {"scored_levels", "9"}});
  plain.expect(calibrate.plan(plain.self, &plan));
  EXPECT_EQ(plan.sequences, 0);
  plain.expect(api.plan(plain.self, &segments));
  EXPECT_EQ(segments.scored_levels, 2u) << "there are no more levels";
}

TEST_P(Bitstack, SizesOfWeightsDoNotMatterAndBadOnesAreRefused) {
  TestCodec codec(GetParam(), {{"niter", "2"}, {"k", "2"}});
  for (const float size : {1e-30f, 1e-8f, 1.0f, 1e4f, 1e7f}) {
    std::vector<float> w = normals(256);
    for (float& v : w) v *= size;
    const tn_target target = make_target({16, 16});
    Coded coded = codec.encode(target, w);
    EXPECT_LT(left_over(w, codec.decode(target, coded)), 0.2) << size;
  }
  EXPECT_EQ(codec.round_trip(std::vector<float>(100, 0.0f)), std::vector<float>(100, 0.0f));
  expect_refuses_non_finite(codec, 500);
  const tn_target target = make_target({16, 16});
  Coded coded = codec.encode(target, normals(256)), none = prefix(coded, 0);
  EXPECT_THROW(codec.decode(target, none), sdk::Failure);
  EXPECT_NE(codec.host.error.find("0 segments"), std::string::npos) << codec.host.error;
}

}  // namespace
}  // namespace tenon::bitstack
