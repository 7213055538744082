// RMSNorm and rotary embedding against double-precision references.
#include "fixture.h"

namespace tenon::onednn::test {
namespace {

class Norm : public DeviceTest {};

TEST_P(Norm, ForwardMatchesReference) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const tn_dtype dw : {kF32, kBF16, kF16})
      for (const int64_t n : {1, 7, 64, 576, 1001})
        for (const int64_t rows : {1, 3, 33}) {
          const int64_t wide = n + 11;
          Tensor x(d, {rows, wide}, noise(rows * wide, 1, d)), w(dw, {n}, noise(n, 2, dw)), y(d, {rows, n}),
              rstd(kF32, {rows});
          View part(x.get()->data, d, {rows, n}, {wide, 1});
          ASSERT_EQ(ops->rms_norm(device, stream, &part.tensor, w.get(), 1e-5, y.get(), rstd.get()), TN_OK)
              << host.error;
          const auto vx = x.floats(), vw = w.floats(), vy = y.floats(), vr = rstd.floats();
          for (int64_t r = 0; r < rows; ++r) {
            double squares = 0;
            for (int64_t i = 0; i < n; ++i) squares += double(vx[r * wide + i]) * vx[r * wide + i];
            const double expected = 1 / std::sqrt(squares / n + 1e-5);
            ASSERT_NEAR(vr[r], expected, 1e-6 * expected) << n;
            for (int64_t i = 0; i < n; ++i) {
              const double e = vx[r * wide + i] * expected * vw[i];
              ASSERT_NEAR(vy[r * n + i], e, std::abs(e) * (1e-6 + tolerance(d)) + 1e-30)
                  << name_of(d) << " n " << n << " at " << r << ", " << i;
            }
          }
          EXPECT_TRUE(y.intact() && rstd.intact());
        }
}

TEST_P(Norm, BackwardMatchesReference) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const int64_t n : {1, 7, 64, 577})
      for (const int64_t rows : {1, 5, 300})
        for (const double beta : {0.0, 1.0}) {
          Tensor x(d, {rows, n}, noise(rows * n, 1, d)), w(d, {n}, noise(n, 2, d)),
              dy(d, {rows, n}, noise(rows * n, 3, d));
          Tensor dx(d, {rows, n}, beta ? noise(rows * n, 4, d) : std::vector<float>(rows * n, NAN)), rstd(kF32, {rows}),
              y(d, {rows, n});
          Tensor dw(kF32, {n}, noise(n, 5));
          const auto old_dx = dx.floats(), old_dw = dw.floats(), vx = x.floats(), vw = w.floats(), vg = dy.floats();
          ASSERT_EQ(ops->rms_norm(device, stream, x.get(), w.get(), 1e-6, y.get(), rstd.get()), TN_OK);
          ASSERT_EQ(
              ops->rms_norm_backward(device, stream, dy.get(), x.get(), w.get(), rstd.get(), beta, dx.get(), dw.get()),
              TN_OK)
              << host.error;
          const auto vr = rstd.floats(), vdx = dx.floats(), vdw = dw.floats();
          std::vector<double> sums(n, 0), sizes(n, 0);
          for (int64_t r = 0; r < rows; ++r) {
            const float *px = &vx[r * n], *pg = &vg[r * n];
            double dot = 0;
            for (int64_t i = 0; i < n; ++i) dot += double(pg[i]) * vw[i] * px[i];
            const double s = vr[r];
            for (int64_t i = 0; i < n; ++i) {
              const double a = pg[i] * double(vw[i]) * s, b = px[i] * s * s * s * dot / n,
                           keep = beta ? beta * old_dx[r * n + i] : 0;
              const double e = a - b + keep;
              const double scale =
                  std::abs(a) + std::abs(px[i] * s * s * s) * (std::abs(dot) / n + 10) + std::abs(keep);
              ASSERT_NEAR(vdx[r * n + i], e, scale * 2e-6 + std::abs(e) * tolerance(d))
                  << name_of(d) << " n " << n << " rows " << rows;
              sums[i] += double(pg[i]) * px[i] * s, sizes[i] += std::abs(double(pg[i]) * px[i] * s);
            }
          }
          for (int64_t i = 0; i < n; ++i)
            ASSERT_NEAR(vdw[i], old_dw[i] + sums[i], 1e-6 * (sizes[i] + std::abs(old_dw[i]))) << "dweight " << i;
          // A frozen weight has no gradient; dx is the same.
          Tensor again(d, {rows, n}, old_dx);
          ASSERT_EQ(ops->rms_norm_backward(device, stream, dy.get(), x.get(), w.get(), rstd.get(), beta, again.get(),
                                           nullptr),
                    TN_OK);
          EXPECT_EQ(again.raw(), dx.raw());
        }
}

TEST_P(Norm, HeadsOfAWiderBuffer) {
  // Queries of 3 heads inside rows of q, k and v.
  const int64_t tokens = 5, heads = 3, d = 16, row = 100;
  Tensor qkv(kF32, {tokens, row}, noise(tokens * row, 1)), w(kF32, {d}, noise(d, 2)), y(kF32, {tokens, heads, d}),
      dense(kF32, {tokens * heads, d}), y2(kF32, {tokens * heads, d});
  View q(qkv.get()->data, kF32, {tokens, heads, d}, {row, d, 1});
  for (int64_t t = 0; t < tokens; ++t)
    std::copy_n(qkv.as<float>() + t * row, heads * d, dense.as<float>() + t * heads * d);
  ASSERT_EQ(ops->rms_norm(device, stream, &q.tensor, w.get(), 1e-6, y.get(), nullptr), TN_OK) << host.error;
  ASSERT_EQ(ops->rms_norm(device, stream, dense.get(), w.get(), 1e-6, y2.get(), nullptr), TN_OK) << host.error;
  EXPECT_EQ(y.raw(), y2.raw());
}

TEST_P(Norm, GradientDoesNotDependOnThreads) {
  const int64_t rows = 1234, n = 161;
  Tensor x(kBF16, {rows, n}, noise(rows * n, 1, kBF16)), w(kF32, {n}, noise(n, 2)),
      dy(kBF16, {rows, n}, noise(rows * n, 3, kBF16)), rstd(kF32, {rows}), y(kBF16, {rows, n});
  std::vector<uint8_t> first_dw, first_dx, first_y;
  for (const int t : {1, 2, 3, 5}) {
    omp_set_num_threads(t);
    Tensor dx(kBF16, {rows, n}), dw(kF32, {n});
    ASSERT_EQ(ops->rms_norm(device, stream, x.get(), w.get(), 1e-6, y.get(), rstd.get()), TN_OK);
    ASSERT_EQ(ops->rms_norm_backward(device, stream, dy.get(), x.get(), w.get(), rstd.get(), 0, dx.get(), dw.get()),
              TN_OK);
    if (t == 1) {
      first_dw = dw.raw(), first_dx = dx.raw(), first_y = y.raw();
    } else {
      EXPECT_EQ(dw.raw(), first_dw) << t;
      EXPECT_EQ(dx.raw(), first_dx) << t;
      EXPECT_EQ(y.raw(), first_y) << t;
    }
  }
}

TEST_P(Norm, RefusesInWords) {
  Tensor x(kF32, {4, 8}), y(kF32, {4, 9}), z(kF32, {4, 8}), w(kF32, {7}), h(kF16, {4, 8});
  EXPECT_EQ(ops->rms_norm(device, stream, x.get(), w.get(), 1e-6, y.get(), nullptr), TN_E_ARGUMENT);
  EXPECT_NE(host.error.find("[4, 9]"), std::string::npos) << host.error;
  EXPECT_EQ(ops->rms_norm(device, stream, x.get(), w.get(), 1e-6, z.get(), nullptr), TN_E_ARGUMENT);
  EXPECT_EQ(ops->rms_norm(device, stream, h.get(), w.get(), 1e-6, h.get(), nullptr), TN_E_UNSUPPORTED);
  EXPECT_EQ(ops->rms_norm(device, stream, nullptr, w.get(), 1e-6, z.get(), nullptr), TN_E_ARGUMENT);
}

class Rope : public DeviceTest {};

TEST_P(Rope, RotatesByTheAngleAndBack) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const int64_t head : {2, 30, 64, 128}) {
      const int64_t tokens = 7, heads = 3, half = head / 2, row = heads * head + 13;
      Tensor x(d, {tokens, row}, noise(tokens * row, 1, d)), inv(kF32, {half});
      for (int64_t j = 0; j < half; ++j) inv.as<float>()[j] = static_cast<float>(std::pow(10000.0, -double(j) / half));
      const std::vector<int32_t> at = {0, 1, 2, 77, 8191, 131071, 1000003};
      const Tensor positions = ints(at);
      View view(x.get()->data, d, {tokens, heads, head}, {row, head, 1});
      const auto before = x.floats(), f = inv.floats();
      ASSERT_EQ(ops->rope(device, stream, &view.tensor, positions.get(), inv.get(), 1.25, 1.0), TN_OK) << host.error;
      const auto after = x.floats();
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = heads * head; i < row; ++i)
          ASSERT_EQ(after[t * row + i], before[t * row + i]) << "outside the view";
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t j = 0; j < half; ++j) {
            const double angle = static_cast<float>(at[t]) * f[j];  // the reference implementation's f32 product
            const double a = before[t * row + h * head + j], b = before[t * row + h * head + half + j];
            const double lo = 1.25 * (a * std::cos(angle) - b * std::sin(angle)),
                         hi = 1.25 * (b * std::cos(angle) + a * std::sin(angle));
            const double slack = 1e-6 * (std::abs(a) + std::abs(b));
            ASSERT_NEAR(after[t * row + h * head + j], lo, slack + std::abs(lo) * tolerance(d))
                << "token " << t << " pair " << j;
            ASSERT_NEAR(after[t * row + h * head + half + j], hi, slack + std::abs(hi) * tolerance(d));
          }
      ASSERT_EQ(ops->rope(device, stream, &view.tensor, positions.get(), inv.get(), 1 / 1.25, -1.0), TN_OK);
      const auto back = x.floats();
      for (size_t i = 0; i < back.size(); ++i) ASSERT_NEAR(back[i], before[i], 4 * (1e-6 + 3 * tolerance(d)));
    }
}

TEST_P(Rope, RefusesInWords) {
  Tensor x(kF32, {4, 2, 7}), even(kF32, {4, 2, 8}), inv(kF32, {3}), inv4(kF32, {4}), flat(kF32, {4, 8});
  const Tensor positions = ints({0, 1, 2, 3}), few = ints({0, 1, 2});
  EXPECT_EQ(ops->rope(device, stream, x.get(), positions.get(), inv.get(), 1, 1), TN_E_UNSUPPORTED);
  EXPECT_EQ(ops->rope(device, stream, even.get(), positions.get(), inv.get(), 1, 1), TN_E_ARGUMENT);
  EXPECT_EQ(ops->rope(device, stream, even.get(), few.get(), inv4.get(), 1, 1), TN_E_ARGUMENT);
  EXPECT_EQ(ops->rope(device, stream, even.get(), positions.get(), inv4.get(), 1, 0.5), TN_E_ARGUMENT);
  EXPECT_EQ(ops->rope(device, stream, flat.get(), positions.get(), inv4.get(), 1, 1), TN_E_ARGUMENT);
}

TENON_ON_EVERY_LEVEL(Norm);
TENON_ON_EVERY_LEVEL(Rope);

}  // namespace
}  // namespace tenon::onednn::test
