// Cross-entropy, sums of squares and random numbers.
#include "fixture.h"
#include "sdk/philox.h"

namespace tenon::onednn::test {
namespace {

class Loss : public DeviceTest {};

TEST_P(Loss, CrossEntropyAndItsGradient) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const int64_t vocabulary : {1, 2, 17, 5000})
      for (const int64_t rows : {1, 9}) {
        const int64_t stride = vocabulary + 3;
        const double scale = 0.37;
        Tensor logits(d, {rows, stride}, noise(rows * stride, 1, d, 5.0f)), losses(kF64, {rows});
        View view(logits.get()->data, d, {rows, vocabulary}, {stride, 1});
        std::vector<int32_t> label(rows);
        for (int64_t r = 0; r < rows; ++r) label[r] = r % 4 == 3 ? -100 : static_cast<int32_t>((r * 7919) % vocabulary);
        const Tensor labels = ints(label);
        const auto v = logits.floats();
        // Without a scale the logits are left alone.
        ASSERT_EQ(ops->cross_entropy(device, stream, &view.tensor, labels.get(), 0.0, losses.get()), TN_OK)
            << host.error;
        EXPECT_EQ(logits.floats(), v);
        const auto only_loss = losses.raw();
        ASSERT_EQ(ops->cross_entropy(device, stream, &view.tensor, labels.get(), scale, losses.get()), TN_OK);
        EXPECT_EQ(losses.raw(), only_loss);
        const auto g = logits.floats();
        for (int64_t r = 0; r < rows; ++r) {
          double top = -INFINITY, sum = 0;
          for (int64_t i = 0; i < vocabulary; ++i) top = std::max<double>(top, v[r * stride + i]);
          for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(v[r * stride + i] - top);
          const double expected = label[r] < 0 ? 0 : std::log(sum) + top - v[r * stride + label[r]];
          EXPECT_NEAR(losses.as<double>()[r], expected, 2e-7 * (1 + std::abs(expected)))
              << name_of(d) << " V " << vocabulary << " row " << r;
          for (int64_t i = 0; i < vocabulary; ++i) {
            const double p = std::exp(v[r * stride + i] - top) / sum;
            const double e = label[r] < 0 ? 0 : (p - (i == label[r])) * scale;
            const double slack = std::abs(v[r * stride + i] - top) * 0x1p-23;  // of the f32 difference, in an exponent
            ASSERT_NEAR(g[r * stride + i], e,
                        std::abs(e) * (3e-6 + slack + tolerance(d)) + 2e-7 * scale * p * (i == label[r]) + 1e-38)
                << "V " << vocabulary << " row " << r << " at " << i;
          }
          for (int64_t i = vocabulary; i < stride; ++i) EXPECT_EQ(g[r * stride + i], v[r * stride + i]);
        }
      }
}

TEST_P(Loss, AllLabelsIgnored) {
  Tensor logits(kF32, {3, 4}, noise(12, 1)), losses(kF64, {3});
  std::fill_n(losses.as<double>(), 3, 7.0);
  const Tensor labels = ints({-1, -100, -1});
  ASSERT_EQ(ops->cross_entropy(device, stream, logits.get(), labels.get(), 1.0, losses.get()), TN_OK);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(losses.as<double>()[i], 0.0);
  EXPECT_EQ(logits.floats(), std::vector<float>(12, 0.0f));
  ASSERT_EQ(ops->cross_entropy(device, stream, logits.get(), labels.get(), 1.0, nullptr), TN_OK);
}

TEST_P(Loss, ExtremeLogits) {
  const float inf = INFINITY;
  Tensor logits(kF32, {4, 3}, {1e30f, -1e30f, 0, -inf, 2, 2, NAN, 0, 0, inf, 0, 0}), losses(kF64, {4});
  const Tensor labels = ints({0, 1, 0, 1});
  ASSERT_EQ(ops->cross_entropy(device, stream, logits.get(), labels.get(), 1.0, losses.get()), TN_OK);
  const double* l = losses.as<double>();
  const auto g = logits.floats();
  EXPECT_EQ(l[0], 0.0);
  EXPECT_EQ(g[0], 0.0f);
  EXPECT_NEAR(l[1], std::log(2.0), 1e-7);
  EXPECT_EQ(g[3], 0.0f);  // a masked token has no gradient
  EXPECT_NEAR(g[4], -0.5f, 1e-6);
  EXPECT_TRUE(std::isnan(l[2]));
  EXPECT_TRUE(std::isnan(l[3]));
}

TEST_P(Loss, RefusesLabelsOutsideTheVocabulary) {
  Tensor logits(kF32, {2, 3}), losses(kF64, {2}), wrong(kF32, {2});
  EXPECT_EQ(ops->cross_entropy(device, stream, logits.get(), ints({0, 3}).get(), 1.0, losses.get()), TN_E_ARGUMENT);
  EXPECT_NE(host.error.find("label 3"), std::string::npos) << host.error;
  EXPECT_EQ(ops->cross_entropy(device, stream, logits.get(), ints({0, 1, 2}).get(), 1.0, losses.get()), TN_E_ARGUMENT);
  EXPECT_EQ(ops->cross_entropy(device, stream, logits.get(), ints({0, 1}).get(), 1.0, wrong.get()), TN_E_ARGUMENT);
}

TEST_P(Loss, SumOfSquares) {
  for (const tn_dtype d : {kF32, kBF16, kF16})
    for (const int64_t n : {0, 1, 5, 4097, 300007}) {
      Tensor x(d, {n}, noise(n, 1, d)), out(kF64, {2});
      out.as<double>()[0] = 3, out.as<double>()[1] = 2;
      ASSERT_EQ(ops->sum_squares(device, stream, x.get(), out.get()), TN_OK) << host.error;
      double expected = 3;
      for (const float v : x.floats()) expected += double(v) * v;
      EXPECT_NEAR(out.as<double>()[0], expected, 1e-12 * expected) << name_of(d) << " " << n;
      EXPECT_EQ(out.as<double>()[1], 2.0);
    }
  // Squares that overflow f32 are finite here; NaN and Inf are counted.
  Tensor x(kF32, {3, 2}, {1e30f, NAN, INFINITY, -INFINITY, 1e-30f, 2}), out(kF64, {2}), big(kF32, {2}, {1e30f, 1e30f}),
      other(kF64, {2});
  ASSERT_EQ(ops->sum_squares(device, stream, x.get(), out.get()), TN_OK);
  EXPECT_EQ(out.as<double>()[1], 3.0);
  EXPECT_TRUE(std::isnan(out.as<double>()[0]));
  ASSERT_EQ(ops->sum_squares(device, stream, big.get(), other.get()), TN_OK);
  EXPECT_NEAR(other.as<double>()[0], 2e60, 1e54);
}

TEST_P(Loss, SumOfSquaresDoesNotDependOnThreads) {
  Tensor x(kF32, {1, 5000001}, noise(5000001, 1));
  double first = 0;
  for (const int t : {1, 2, 3, 7}) {
    omp_set_num_threads(t);
    Tensor out(kF64, {2});
    ASSERT_EQ(ops->sum_squares(device, stream, x.get(), out.get()), TN_OK);
    if (t == 1) first = out.as<double>()[0];
    EXPECT_EQ(out.as<double>()[0], first) << t;
  }
}

class Random : public DeviceTest {};

TEST_P(Random, StochasticRoundingUsesNoiseOfItsElement) {
  const tn_rng rng{0x123456789abcdefu, 17, 5};
  for (const int64_t n : {1, 7, 8, 2047, 2048, 2049, 10003}) {
    Tensor x(kF32, {n}, noise(n, 1)), y(kBF16, {n});
    if (n > 7) x.as<float>()[3] = NAN, x.as<float>()[4] = INFINITY, x.as<float>()[5] = -INFINITY;
    ASSERT_EQ(ops->round_stochastic(device, stream, x.get(), &rng, y.get()), TN_OK) << host.error;
    for (int64_t e = 0; e < n; ++e)
      ASSERT_EQ(y.as<uint16_t>()[e],
                sdk::round_stochastic_bf16(x.as<float>()[e], sdk::noise16(rng, static_cast<uint64_t>(e))))
          << n << " at " << e;
  }
}

TEST_P(Random, UniformIsTheGeneratorsOwn) {
  const tn_rng rng{42, 3, 1};
  Tensor x(kF32, {5001});
  ASSERT_EQ(ops->fill_random(device, stream, TN_FILL_UNIFORM, 1.0, 0.5, &rng, x.get()), TN_OK) << host.error;
  const auto v = x.floats();
  for (int64_t e = 0; e < 5001; ++e)
    ASSERT_NEAR(v[e], 1.0 + 0.5 * (2.0 * sdk::uniform(rng, static_cast<uint64_t>(e)) - 1), 1e-7) << e;
}

TEST_P(Random, NormalMatchesTheGeneratorAndHasItsMoments) {
  const tn_rng rng{42, 3, 2};
  const int64_t n = 100001;
  for (const tn_dtype d : {kF32, kBF16, kF16}) {
    Tensor x(d, {n});
    ASSERT_EQ(ops->fill_random(device, stream, TN_FILL_NORMAL, 0.5, 2.0, &rng, x.get()), TN_OK) << host.error;
    EXPECT_TRUE(x.intact());
    double sum = 0, squares = 0;
    const auto v = x.floats();
    for (int64_t e = 0; e < n; ++e) {
      const double expected = 0.5 + 2.0 * sdk::normal(rng, static_cast<uint64_t>(e));
      ASSERT_NEAR(v[e], expected, 5e-6 + std::abs(expected) * tolerance(d)) << e;
      sum += v[e], squares += double(v[e]) * v[e];
    }
    const double mean = sum / n;
    EXPECT_NEAR(mean, 0.5, 0.02);
    EXPECT_NEAR(std::sqrt(squares / n - mean * mean), 2.0, 0.02);
  }
}

TEST_P(Random, DoesNotDependOnThreads) {
  const tn_rng rng{1, 2, 3};
  std::vector<uint8_t> first;
  for (const int t : {1, 2, 3}) {
    omp_set_num_threads(t);
    Tensor x(kF32, {12347});
    ASSERT_EQ(ops->fill_random(device, stream, TN_FILL_NORMAL, 0, 1, &rng, x.get()), TN_OK);
    if (t == 1) first = x.raw();
    EXPECT_EQ(x.raw(), first) << t;
  }
}

TEST_P(Random, RefusesInWords) {
  const tn_rng rng{1, 2, 3};
  Tensor x(kF32, {4, 4}), y(kF32, {4, 4}), z(kBF16, {4, 4});
  EXPECT_EQ(ops->fill_random(device, stream, 9, 0, 1, &rng, x.get()), TN_E_ARGUMENT);
  EXPECT_EQ(ops->fill_random(device, stream, TN_FILL_NORMAL, 0, 1, nullptr, x.get()), TN_E_ARGUMENT);
  EXPECT_EQ(ops->round_stochastic(device, stream, x.get(), &rng, y.get()), TN_E_ARGUMENT);
  View columns(x.get()->data, kF32, {4, 4}, {1, 4});
  EXPECT_EQ(ops->round_stochastic(device, stream, &columns.tensor, &rng, z.get()), TN_E_UNSUPPORTED);
}

TENON_ON_EVERY_LEVEL(Loss);
TENON_ON_EVERY_LEVEL(Random);

}  // namespace
}  // namespace tenon::onednn::test
