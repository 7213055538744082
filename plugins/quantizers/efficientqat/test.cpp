#include "quantizers/efficientqat/reference.h"
#include "sdk/integer/bits.h"
#include "sdk/testing/codec.h"
#include "tenon/trainable.h"
#include "tests/reference/golden.h"

namespace tenon::efficientqat {
namespace {

using namespace sdk::testing;
using sdk::kF32;

// A weight in its training form.
struct Trained {
  TestCodec& codec;
  const tn_trainable& api;
  tn_target target;
  std::vector<Tensor> values, gradients;
  Exec exec{0};

  Trained(TestCodec& c, const tn_target& t, const std::vector<float>& w)
      : codec(c), api(*static_cast<const tn_trainable*>(c.plugin.get_extension(TN_EXT_TRAINABLE))), target(t) {
    const auto declare = [](void* self, const tn_value* v) -> int32_t {
      auto& all = *static_cast<std::vector<Tensor>*>(self);
      all.emplace_back(kF32, std::vector<int64_t>(v->shape, v->shape + v->ndim));
      return TN_OK;
    };
    for (auto* list : {&values, &gradients}) {
      const tn_value_sink sink{sizeof sink, 0, list, declare};
      codec.expect(api.values(codec.self, &target, &sink));
    }
    const Tensor src(kF32, {target.shape[0], target.shape[1]}, w);
    codec.expect(api.start(codec.self, exec.get(), &target, src.get(), pointers(values).data()));
    EXPECT_TRUE(exec.intact() && src.intact());
  }
  static std::vector<tn_tensor*> pointers(std::vector<Tensor>& list) {
    std::vector<tn_tensor*> out;
    for (Tensor& t : list) out.push_back(t.get());
    return out;
  }
  std::vector<float> weight() {
    const int64_t m = target.shape[0], half = m / 2;
    std::vector<float> all;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, half}, {half, m}}) {
      Tensor part(kF32, {end - begin, target.shape[1]});
      codec.expect(api.materialize(codec.self, exec.get(), &target, pointers(values).data(), begin, end, part.get()));
      EXPECT_TRUE(exec.intact() && part.intact());
      for (float v : part.floats()) all.push_back(v);
    }
    return all;
  }
  void add_gradient(const std::vector<float>& dw) {
    const int64_t m = target.shape[0], n = target.shape[1], half = m / 2;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{half, m}, {0, half}}) {
      const Tensor part(kF32, {end - begin, n}, std::vector<float>(dw.begin() + begin * n, dw.begin() + end * n));
      codec.expect(api.gradient(codec.self, exec.get(), &target, pointers(values).data(), part.get(), begin, end, pointers(gradients).data()));
      EXPECT_TRUE(exec.intact());
    }
    for (Tensor& t : gradients) EXPECT_TRUE(t.intact());
  }
  Coded harden() {
    Coded coded = codec.plan(target);
    codec.expect(api.harden(codec.self, exec.get(), &target, pointers(values).data(), coded.pointers().data()));
    EXPECT_TRUE(exec.intact() && coded.intact());
    return coded;
  }
};

class Efficientqat : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Objects, Efficientqat, ::testing::ValuesIn(plugin_objects()), [](const auto& info) { return object_label(info.param); });

TEST_P(Efficientqat, RoundingToNearestHasTheCardsError) {
  const int64_t rows = is_emulated(GetParam()) ? 64 : 256;
  const std::vector<float> w = normals(rows * 1024);
  for (const auto& [group, errors] : {std::pair<const char*, std::array<double, 3>>{"64", {.208, .0380, .0083}}, {"128", {.252, .0464, .0101}}})
    for (int bits = 2; bits <= 4; ++bits) {
      TestCodec codec(GetParam(), {{"bits", std::to_string(bits)}, {"group_size", group}});
      const tn_target target = make_target({rows, 1024});
      Coded coded = codec.encode(target, w);
      EXPECT_NEAR(relative_mse(w, codec.decode(target, coded)), errors[bits - 2], 0.02 * errors[bits - 2]) << bits << " bits, group " << group;
    }
}

TEST_P(Efficientqat, UntrainedItIsRoundingToNearest) {
  for (const char* bits : {"2", "3", "4"})
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{8, 192}, {5, 70}}) {
      TestCodec codec(GetParam(), {{"bits", bits}});
      const tn_target target = make_target({m, n});
      const std::vector<float> w = normals(m * n);
      Trained form(codec, target, w);
      Coded nearest = codec.encode(target, w), hardened = form.harden();
      for (const std::string& part : nearest.names) EXPECT_EQ(nearest[part].raw(), hardened[part].raw()) << bits << " bits, " << part;
      // And what was trained through is what is stored, but for the scales' rounding to f16.
      const std::vector<float> fake = form.weight(), stored = codec.decode(target, hardened);
      for (size_t i = 0; i < fake.size(); ++i) ASSERT_NEAR(fake[i], stored[i], 0x1p-11 * std::fabs(fake[i])) << i;
    }
}

TEST_P(Efficientqat, GradientsAreThoseOfTheStraightThroughRule) {
  const int64_t m = 4, n = 96, group = 32, groups = n / group;
  for (const char* bits : {"2", "4"}) {
    TestCodec codec(GetParam(), {{"bits", bits}, {"group_size", "32"}});
    const double top = std::stoi(bits) == 2 ? 3 : 15;
    Trained form(codec, make_target({m, n}), normals(m * n));
    // Scales and zero points off their start, so that codes are clipped on both sides, and zero points are no integers.
    for (int64_t i = 0; i < m * groups; ++i) form.values[1].as<float>()[i] *= 0.7f, form.values[2].as<float>()[i] += i % 2 ? 0.3f : -0.2f;
    const std::vector<float> dw = normals(m * n, 9), w = form.values[0].floats(), s = form.values[1].floats(), z = form.values[2].floats();
    form.add_gradient(dw);
    int64_t clipped = 0;
    for (int64_t g = 0; g < m * groups; ++g) {
      const int64_t row = g / groups, first = row * n + g % groups * group;
      const double s0 = s[g], z0 = z[g], h = 1e-6;
      const auto loss = [&](double scale, double zero) {
        double sum = 0;
        for (int64_t j = first; j < first + group; ++j) sum += dw[j] * reference::value(w[j], scale, zero, w[j], s0, z0, top);
        return sum;
      };
      EXPECT_NEAR(form.gradients[1].floats()[g], (loss(s0 + h, z0) - loss(s0 - h, z0)) / (2 * h), 2e-3) << "scale " << g;
      EXPECT_NEAR(form.gradients[2].floats()[g], (loss(s0, z0 + h) - loss(s0, z0 - h)) / (2 * h), 2e-3) << "zero " << g;
      for (int64_t j = first; j < first + group; ++j) {
        const double slope = (reference::value(w[j] + h, s0, z0, w[j], s0, z0, top) - reference::value(w[j] - h, s0, z0, w[j], s0, z0, top)) / (2 * h);
        clipped += slope == 0;
        ASSERT_NEAR(form.gradients[0].floats()[j], dw[j] * slope, 1e-4) << j;
      }
    }
    EXPECT_GT(clipped, 5);
  }
}

// Against torch's operators and autograd in f64 (tests/reference/efficientqat.py).
TEST_P(Efficientqat, GridsAndGradientsAreThoseOfTheReference) {
  const golden::File file("efficientqat/grid.safetensors");
  for (const char* bits : {"2", "3", "4"}) {
    const std::string key = std::string("b") + bits + ".";
    const std::vector<int64_t> shape = file.shape(key + "weight");
    TestCodec codec(GetParam(), {{"bits", bits}, {"group_size", std::to_string(file.setting("group").get<int>())}});
    Trained form(codec, make_target(shape), file.f32(key + "weight"));
    EXPECT_EQ(form.values[2].floats(), file.f32(key + "start.zeros")) << bits;
    const auto expect_near = [&](const std::vector<float>& got, const std::string& name, double tolerance) {
      const std::vector<float> want = file.f32(key + name);
      ASSERT_EQ(got.size(), want.size()) << name;
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance * (1 + std::fabs(want[i]))) << bits << " bits, " << name << " " << i;
    };
    expect_near(form.values[1].floats(), "start.scales", 1e-6);
    form.values[1].assign(file.f32(key + "scales")), form.values[2].assign(file.f32(key + "zeros"));
    expect_near(form.weight(), "value", 1e-6);
    form.add_gradient(file.f32(key + "dw"));
    expect_near(form.gradients[0].floats(), "gradient.weight", 0);
    expect_near(form.gradients[1].floats(), "gradient.scales", 1e-5);
    expect_near(form.gradients[2].floats(), "gradient.zeros", 1e-5);
    Coded coded = form.harden();
    const std::vector<uint8_t> codes = file.u8(key + "codes");
    const int64_t row_bytes = coded["codes"].size() / shape[0];
    for (int64_t i = 0; i < shape[0] * shape[1]; ++i)
      ASSERT_EQ(sdk::code_at(coded["codes"].as<uint8_t>() + i / shape[1] * row_bytes, i % shape[1], std::stoi(bits)), codes[i]) << bits << " bits, code " << i;
  }
}

TEST_P(Efficientqat, TrainingHalvesTheErrorOfTheOutput) {
  const int64_t m = 16, n = 64, tokens = 128;
  TestCodec codec(GetParam(), {{"bits", "2"}, {"group_size", "32"}});
  const std::vector<float> w = normals(m * n), x = normals(tokens * n, 5);
  Trained form(codec, make_target({m, n}), w);
  // Neighbouring inputs correlate, so that errors can make up for each other.
  std::vector<double> inputs(tokens * n);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < n; ++j) inputs[t * n + j] = x[t * n + j] + (j > 0 ? 0.9 * inputs[t * n + j - 1] : 0);
  const auto backward = [&](std::vector<float>* dw) {  // mean square of the outputs' difference, and its gradient
    const std::vector<float> now = form.weight();
    double loss = 0;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < m; ++r) {
        double d = 0;
        for (int64_t j = 0; j < n; ++j) d += inputs[t * n + j] * (double{now[r * n + j]} - w[r * n + j]);
        loss += d * d;
        if (!dw) continue;
        for (int64_t j = 0; j < n; ++j) (*dw)[r * n + j] += static_cast<float>(2 * d * inputs[t * n + j] / static_cast<double>(tokens * m));
      }
    return loss / static_cast<double>(tokens * m);
  };
  const double before = backward(nullptr);
  std::vector<std::vector<double>> first(3), second(3);
  for (int step = 1; step <= 400; ++step) {
    std::vector<float> dw(m * n);
    backward(&dw);
    for (Tensor& g : form.gradients) std::fill_n(g.as<float>(), g.size(), 0.0f);
    form.add_gradient(dw);
    for (size_t v = 0; v < 3; ++v) {
      first[v].resize(form.values[v].size()), second[v].resize(form.values[v].size());
      for (int64_t i = 0; i < form.values[v].size(); ++i) {
        const double g = form.gradients[v].as<float>()[i];
        first[v][i] += 0.1 * (g - first[v][i]), second[v][i] += 0.001 * (g * g - second[v][i]);
        const double a = first[v][i] / (1 - std::pow(0.9, step)), b = second[v][i] / (1 - std::pow(0.999, step));
        form.values[v].as<float>()[i] -= static_cast<float>(0.01 * (1 - step / 401.0) * a / (std::sqrt(b) + 1e-8));
      }
    }
    codec.expect(form.api.clamp(codec.self, form.exec.get(), &form.target, Trained::pointers(form.values).data()));
  }
  EXPECT_LT(backward(nullptr), before / 2);
}

TEST_P(Efficientqat, ScalesOfCodedWeightsHaveGradients) {
  const int64_t m = 6, n = 80, group = 32, groups = 3;
  TestCodec codec(GetParam(), {{"bits", "3"}, {"group_size", "32"}, {"scale_bits", "32"}});
  const tn_target target = make_target({m, n});
  Coded coded = codec.encode(target, normals(m * n));
  const auto& api = *static_cast<const tn_trainable*>(codec.plugin.get_extension(TN_EXT_TRAINABLE));
  const std::vector<float> dw = normals(m * n, 2);
  Tensor ds(kF32, {m * groups}), part(kF32, {4, n}, std::vector<float>(dw.begin() + 2 * n, dw.end())), rest(kF32, {2, n}, std::vector<float>(dw.begin(), dw.begin() + 2 * n));
  tn_tensor* wanted[] = {nullptr, ds.get(), nullptr};
  Exec exec(0);
  codec.expect(api.component_gradient(codec.self, exec.get(), &target, coded.pointers().data(), part.get(), 2, 6, wanted));
  codec.expect(api.component_gradient(codec.self, exec.get(), &target, coded.pointers().data(), rest.get(), 0, 2, wanted));
  EXPECT_TRUE(exec.intact() && ds.intact());
  const std::vector<float> w = codec.decode(target, coded), s = coded["scales"].floats();
  for (int64_t g = 0; g < m * groups; ++g) {
    double want = 0;
    for (int64_t j = g % groups * group; j < std::min(n, (g % groups + 1) * group); ++j) want += double{dw[g / groups * n + j]} * w[g / groups * n + j] / s[g];
    EXPECT_NEAR(ds.floats()[g], want, 1e-3) << g;
  }
}

TEST_P(Efficientqat, PlansRangesProductsAndRefusals) {
  TestCodec codec(GetParam());
  const tn_target wide = make_target({512, 4096});
  EXPECT_NEAR(8.0 * static_cast<double>(codec.plan(wide).bytes()) / (512.0 * 4096), 2.28, 0.005);
  tn_training_plan plan{};
  plan.struct_size = sizeof plan;
  const auto& api = *static_cast<const tn_trainable*>(codec.plugin.get_extension(TN_EXT_TRAINABLE));
  codec.expect(api.plan(codec.self, &plan));
  EXPECT_EQ(plan.sequences, 4096);
  EXPECT_EQ(plan.floor, 0.05);
  EXPECT_STREQ(plan.optimizer, "adamw:weight_decay=0");
  TestCodec plain(GetParam(), {{"train", "false"}});
  plain.expect(api.plan(plain.self, &plan));
  EXPECT_EQ(plan.sequences, 0);

  const tn_target target = make_target({24, 150});
  for (const char* bits : {"2", "3", "4"}) {
    TestCodec each(GetParam(), {{"bits", bits}, {"group_size", "32"}});
    Coded coded = each.encode(target, normals(24 * 150));
    expect_ranges_are_slices(each, target, coded);
    for (int64_t rows : {1, 2, 5}) expect_linear_is_decode_and_multiply(each, target, coded, rows, kF32);
  }
  expect_refuses_non_finite(codec, 300);
  // Groups of one value: nothing, or one sign.
  for (const float value : {0.5f, -0.25f}) {
    EXPECT_NEAR(codec.round_trip({value})[0], value, 1e-3);
    for (const float got : codec.round_trip(std::vector<float>(70, value))) EXPECT_NEAR(got, value, 1e-3);
  }
  EXPECT_EQ(codec.round_trip(std::vector<float>(100, 0.0f)), std::vector<float>(100, 0.0f));
}

}  // namespace
}  // namespace tenon::efficientqat
