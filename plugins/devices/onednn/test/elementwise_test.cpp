// SwiGLU, axpby, bias and embedding against double-precision references.
#include "fixture.h"

namespace tenon::onednn::test {
namespace {

class Elementwise : public DeviceTest {};

TEST_P(Elementwise, SwigluAndItsGradient) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const int64_t rows : {1, 3, 41})
      for (const int64_t n : {1, 15, 200, 5001}) {
        // Gate and up side by side in one buffer, as a fused projection leaves them.
        Tensor both(d, {rows, 2 * n}, noise(rows * 2 * n, 1, d, 4.0f)), dout(d, {rows, n}, noise(rows * n, 2, d)),
            out(d, {rows, n});
        View gate(both.get()->data, d, {rows, n}, {2 * n, 1}), up(both.get()->data, d, {rows, n}, {2 * n, 1});
        up.tensor.byte_offset = static_cast<uint64_t>(n) * d.bits / 8;
        ASSERT_EQ(ops->swiglu(device, stream, &gate.tensor, &up.tensor, out.get()), TN_OK) << host.error;
        const auto v = both.floats(), o = out.floats(), g = dout.floats();
        // The gradients overwrite gate and up.
        ASSERT_EQ(ops->swiglu_backward(device, stream, dout.get(), &gate.tensor, &up.tensor, &gate.tensor, &up.tensor),
                  TN_OK)
            << host.error;
        const auto dv = both.floats();
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < n; ++i) {
            const double x = v[r * 2 * n + i], u = v[r * 2 * n + n + i], s = 1 / (1 + std::exp(-x)), dy = g[r * n + i];
            const double e = x * s * u, dg = dy * u * s * (1 + x * (1 - s)), du = dy * x * s;
            ASSERT_NEAR(o[r * n + i], e, std::abs(e) * (1e-6 + tolerance(d)) + 1e-37) << x << " " << u;
            ASSERT_NEAR(dv[r * 2 * n + i], dg, std::abs(dg) * tolerance(d) + std::abs(dy * u) * 1e-6 + 1e-37)
                << x << " " << u;
            ASSERT_NEAR(dv[r * 2 * n + n + i], du, std::abs(du) * (1e-6 + tolerance(d)) + 1e-37) << x;
          }
      }
}

TEST_P(Elementwise, SwigluAtTheEdges) {
  const float inf = INFINITY;
  Tensor gate(kF32, {6}, {-inf, -200, 0, 200, inf, NAN}), up(kF32, {6}, {1, 1, 1, 1, 1, 1}), out(kF32, {6});
  ASSERT_EQ(ops->swiglu(device, stream, gate.get(), up.get(), out.get()), TN_OK);
  const auto v = out.floats();
  EXPECT_TRUE(std::isnan(v[0]));  // −inf · 0
  EXPECT_EQ(v[1], 0.0f);
  EXPECT_EQ(v[2], 0.0f);
  EXPECT_EQ(v[3], 200.0f);
  EXPECT_EQ(v[4], inf);
  EXPECT_TRUE(std::isnan(v[5]));
}

TEST_P(Elementwise, AxpbyConvertsEveryPair) {
  for (const tn_dtype dx : {kF32, kBF16, kF16})
    for (const tn_dtype dy : {kF32, kBF16, kF16})
      for (const double beta : {0.0, -0.5})
        for (const int64_t n : {1, 17, 9001}) {
          Tensor x(dx, {n}, noise(n, 1, dx)), y(dy, {n}, beta ? noise(n, 2, dy) : std::vector<float>(n, NAN));
          const auto old = y.floats(), v = x.floats();
          ASSERT_EQ(ops->axpby(device, stream, 0.75, x.get(), beta, y.get()), TN_OK) << host.error;
          const auto w = y.floats();
          for (int64_t i = 0; i < n; ++i) {
            const double e = 0.75 * v[i] + (beta ? beta * old[i] : 0);
            ASSERT_NEAR(w[i], e, std::abs(e) * tolerance(dy) + 1e-7 * (std::abs(v[i]) + 1))
                << name_of(dx) << " -> " << name_of(dy);
          }
        }
  Tensor x(kF32, {5}, {1, -2, INFINITY, NAN, 0});
  ASSERT_EQ(ops->axpby(device, stream, 2.0, x.get(), 1.0, x.get()), TN_OK);  // in place: 3x
  EXPECT_EQ(x.floats()[1], -6.0f);
  EXPECT_EQ(x.floats()[2], INFINITY);
  EXPECT_TRUE(std::isnan(x.floats()[3]));
}

TEST_P(Elementwise, AxpbyOnViews) {
  Tensor x(kF32, {4, 10}, noise(40, 1)), y(kBF16, {4, 3, 2});
  View part(x.get()->data, kF32, {4, 3, 2}, {10, 3, 1});
  ASSERT_EQ(ops->axpby(device, stream, 1.0, &part.tensor, 0.0, y.get()), TN_OK) << host.error;
  const auto v = x.floats(), w = y.floats();
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 2; ++k)
        EXPECT_EQ(w[(i * 3 + j) * 2 + k], sdk::to_float(sdk::from_float<sdk::bf16>(v[i * 10 + j * 3 + k])));
  View columns(x.get()->data, kF32, {10, 4}, {1, 10});
  Tensor z(kF32, {10, 4});
  EXPECT_EQ(ops->axpby(device, stream, 1.0, &columns.tensor, 0.0, z.get()), TN_E_UNSUPPORTED);
  EXPECT_NE(host.error.find("unit stride"), std::string::npos) << host.error;
}

TEST_P(Elementwise, BiasAndItsGradient) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const int64_t rows : {1, 2, 77, 1500})
      for (const int64_t n : {1, 33, 576, 20001}) {
        if (rows * n > 1000000) continue;
        Tensor y(d, {rows, n}, noise(rows * n, 1, d)), bias(d, {n}, noise(n, 2, d)), db(kF32, {n}, noise(n, 3));
        const auto v = y.floats(), b = bias.floats(), old = db.floats();
        ASSERT_EQ(ops->bias_backward(device, stream, y.get(), db.get()), TN_OK) << host.error;
        ASSERT_EQ(ops->bias_add(device, stream, bias.get(), y.get()), TN_OK) << host.error;
        const auto w = y.floats(), g = db.floats();
        for (int64_t i = 0; i < n; ++i) {
          double sum = old[i], size = std::abs(old[i]);
          for (int64_t r = 0; r < rows; ++r) {
            sum += v[r * n + i], size += std::abs(v[r * n + i]);
            const double e = double(v[r * n + i]) + b[i];
            ASSERT_NEAR(w[r * n + i], e, std::abs(e) * tolerance(d));
          }
          ASSERT_NEAR(g[i], sum, size * 1e-6) << rows << " x " << n << " column " << i;
        }
      }
}

TEST_P(Elementwise, BiasGradientDoesNotDependOnThreads) {
  Tensor dy(kBF16, {999, 77}, noise(999 * 77, 1, kBF16));
  std::vector<uint8_t> first;
  for (const int t : {1, 2, 3, 7}) {
    omp_set_num_threads(t);
    Tensor db(kF32, {77});
    ASSERT_EQ(ops->bias_backward(device, stream, dy.get(), db.get()), TN_OK);
    if (t == 1) first = db.raw();
    EXPECT_EQ(db.raw(), first) << t;
  }
}

TEST_P(Elementwise, EmbeddingGathersAndScatters) {
  for (const tn_dtype d : {kF32, kBF16}) {
    const int64_t vocabulary = 50, n = 133, tokens = 200;
    std::vector<int32_t> id(tokens);
    std::mt19937 generator(7);
    for (int32_t& i : id) i = static_cast<int32_t>(generator() % vocabulary);
    const Tensor ids = ints(id);
    Tensor table(kF16, {vocabulary, n}, noise(vocabulary * n, 1, kF16)), y(d, {tokens, n});
    ASSERT_EQ(ops->embedding(device, stream, table.get(), ids.get(), y.get()), TN_OK) << host.error;
    const auto v = table.floats(), w = y.floats();
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < n; ++i)
        ASSERT_NEAR(w[t * n + i], v[id[t] * n + i], std::abs(v[id[t] * n + i]) * tolerance(d));
    // Backward: f32 additions in token order, to the bit, for any number of threads.
    std::vector<float> expected = noise(vocabulary * n, 9);
    const std::vector<float> start = expected;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < n; ++i) expected[id[t] * n + i] += w[t * n + i];
    for (const int threads : {1, 2, 3}) {
      omp_set_num_threads(threads);
      Tensor dtable(kF32, {vocabulary, n}, start);
      ASSERT_EQ(ops->embedding_backward(device, stream, ids.get(), y.get(), dtable.get()), TN_OK) << host.error;
      EXPECT_EQ(dtable.floats(), expected) << threads;
    }
  }
}

TEST_P(Elementwise, EmbeddingRefusesIdsOutsideTheTable) {
  Tensor table(kF32, {5, 4}), y(kF32, {2, 4});
  for (const int32_t bad : {-1, 5}) {
    const Tensor ids = ints({0, bad});
    EXPECT_EQ(ops->embedding(device, stream, table.get(), ids.get(), y.get()), TN_E_ARGUMENT);
    EXPECT_NE(host.error.find("token 1"), std::string::npos) << host.error;
    EXPECT_EQ(ops->embedding_backward(device, stream, ids.get(), y.get(), table.get()), TN_E_ARGUMENT);
  }
}

TENON_ON_EVERY_LEVEL(Elementwise);

}  // namespace
}  // namespace tenon::onednn::test
