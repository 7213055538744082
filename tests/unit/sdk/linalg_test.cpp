#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "sdk/linalg/complement.h"
#include "sdk/linalg/qr.h"
#include "sdk/linalg/subspace.h"
#include "sdk/testing/device.h"
#include "sdk/testing/statistics.h"
#include "sdk/testing/threads.h"

namespace tenon::sdk::testing {
namespace {

std::vector<double> wide(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

// |Aᵀ A − I| over the rows of v[k, n], largest entry.
double not_orthonormal(const std::vector<double>& v, int64_t k, int64_t n) {
  double worst = 0;
  for (int64_t a = 0; a < k; ++a)
    for (int64_t b = 0; b < k; ++b)
      worst = std::max(worst, std::abs(eigen::dot(v.data() + a * n, v.data() + b * n, n) - (a == b)));
  return worst;
}
std::vector<double> columns(const std::vector<float>& p, int64_t d, int64_t r) {
  std::vector<double> t(static_cast<size_t>(d * r));
  for (int64_t i = 0; i < d; ++i)
    for (int64_t k = 0; k < r; ++k) t[k * d + i] = p[i * r + k];
  return t;
}

TEST(Eigh, DiagonalisesSymmetricMatrices) {
  for (const int64_t n : {1, 2, 3, 17, 60, 150}) {
    std::vector<double> a(n * n), values(n), vectors(n * n), scratch(eigh_scratch(n));
    std::vector<int64_t> order(n);
    const std::vector<float> noise = normals(n * n, 1);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j) a[i * n + j] = a[j * n + i] = noise[i * n + j];
    const std::vector<double> original = a;
    ASSERT_TRUE(eigh(nullptr, a.data(), n, n, values.data(), vectors.data(), scratch.data(), order.data()));
    EXPECT_LT(not_orthonormal(vectors, n, n), 1e-13);
    for (int64_t k = 0; k < n; ++k) {
      if (k > 0) {
        EXPECT_GE(values[k - 1], values[k]);
      }
      for (int64_t i = 0; i < n; ++i)
        EXPECT_NEAR(eigen::dot(original.data() + i * n, vectors.data() + k * n, n), values[k] * vectors[k * n + i],
                    1e-12);
    }
  }
}

TEST(Eigh, TakesNullSpacesAndRepeatedValues) {
  for (const double scale : {1.0, 1e-120, 1e120}) {
    for (const int64_t rank : {0, 1, 5, 130}) {
      constexpr int64_t n = 130;
      std::vector<double> a(n * n), values(n), vectors(n * n), scratch(eigh_scratch(n));
      std::vector<int64_t> order(n);
      const std::vector<float> b = normals(n * 5, 2);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j)
          for (int64_t k = 0; k < rank; ++k)
            a[i * n + j] += scale * (rank == n ? (k == i && i == j) : static_cast<double>(b[i * 5 + k]) * b[j * 5 + k]);
      ASSERT_TRUE(eigh(nullptr, a.data(), n, n, values.data(), vectors.data(), scratch.data(), order.data())) << rank;
      EXPECT_LT(not_orthonormal(vectors, n, n), 1e-12);
      if (rank == n) {
        EXPECT_NEAR(values[n - 1] / scale, 1, 1e-13);
      } else if (rank > 0) {
        EXPECT_LT(std::abs(values[rank]), 1e-13 * values[0]);
      }
    }
  }
}

TEST(Eigh, ReportsNaN) {
  std::vector<double> a(25, std::numeric_limits<double>::quiet_NaN()), values(5), vectors(25), scratch(eigh_scratch(5));
  std::vector<int64_t> order(5);
  EXPECT_FALSE(eigh(nullptr, a.data(), 5, 5, values.data(), vectors.data(), scratch.data(), order.data()));
}

TEST(Eigh, DoesNotDependOnTheNumberOfThreadsNorOnHowManyAreWanted) {
  constexpr int64_t n = 203;
  std::vector<double> first;
  for (const int threads : {1, 2, 3})
    for (const int64_t k : {n, int64_t{7}}) {
      const Threads scope(threads);
      std::vector<double> a(n * n), values(n), vectors(n * n), scratch(eigh_scratch(n));
      std::vector<int64_t> order(n);
      const std::vector<float> noise = normals(n * n, 1);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j <= i; ++j) a[i * n + j] = a[j * n + i] = noise[i * n + j];
      ASSERT_TRUE(eigh(nullptr, a.data(), n, k, values.data(), vectors.data(), scratch.data(), order.data()));
      if (first.empty()) first = vectors;
      for (int64_t i = 0; i < k * n; ++i) ASSERT_EQ(vectors[i], first[i]) << threads << " " << i;
    }
}

TEST(Tall, GramAndMultiplyAreExactSums) {
  for (const int64_t rows : {1, 5, 6, 50})
    for (const int64_t n : {1, 6, 16, 17, 33, 48}) {
      const std::vector<float> y = normals(rows * n, 1), t = normals(n * n, 2);
      std::vector<double> s(n * n), factor = wide(t);
      std::vector<float> out(rows * n);
      gram(nullptr, y.data(), rows, n, s.data());
      multiply(nullptr, y.data(), rows, n, factor.data(), n, out.data());
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          double expected = 0;
          for (int64_t r = 0; r < rows; ++r) expected += static_cast<double>(y[r * n + i]) * y[r * n + j];
          EXPECT_NEAR(s[i * n + j], expected, 1e-12);
        }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < n; ++j) {
          double expected = 0;
          for (int64_t p = 0; p < n; ++p) expected += static_cast<double>(y[r * n + p]) * t[p * n + j];
          EXPECT_NEAR(out[r * n + j], expected, 1e-5);
        }
    }
}

TEST(Orthonormalize, SurvivesBadConditionAndDependentColumns) {
  constexpr int64_t rows = 400, n = 30;
  std::vector<float> y = normals(rows * n, 1), q(rows * n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < n; ++j)
      y[r * n + j] *= std::pow(10.0f, -static_cast<float>(j) / 6);  // sizes from 1 to 1e-5
    y[r * n + 11] = y[r * n + 3] - 2 * y[r * n + 7];
    y[r * n + 20] = 0;
    y[r * n + 29] = y[r * n] + 1e-4f * y[r * n + 29];  // nearly the first
  }
  std::vector<double> s(n * n), r(n * n);
  EXPECT_GE(orthonormalize(nullptr, y.data(), rows, n, q.data(), s.data(), r.data()), n - 3);
  gram(nullptr, q.data(), rows, n, s.data());
  EXPECT_EQ(s[20 * n + 20], 0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      EXPECT_NEAR(s[i * n + j], i == j && s[i * n + i] != 0 ? 1 : 0, 1e-5) << i << " " << j;
}

TEST(CompleteBasis, FillsUpToTheWholeSpace) {
  constexpr int64_t d = 12;
  std::vector<float> p(d * d);
  for (int64_t i = 0; i < d; ++i) p[i * d] = 1 / std::sqrt(12.0f), p[i * d + 1] = (i % 2 ? 1 : -1) / std::sqrt(12.0f);
  complete_basis(p.data(), d, d, 2);
  EXPECT_LT(not_orthonormal(columns(p, d, d), d, d), 1e-6);
}

// What lays out workspace and measures products, run over y.
template <class Work, class Run>
void in_workspace(Work& work, Run run) {
  Workspace measure;
  work.lay_out(measure);
  const Exec exec(measure.peak() + work.measure(Products(cpu_device_api(), cpu_device())));
  Workspace w(*exec.get());
  work.lay_out(w);
  run(exec.get(), Products(cpu_device_api(), cpu_device(), nullptr, w.behind(w.peak()), w.bytes_behind(w.peak())));
  EXPECT_TRUE(exec.intact());
}

// Columns that nearly depend on one another, of lengths over twelve orders of magnitude.
TEST(BlockQr, OrthonormalisesColumnsOfBadCondition) {
  for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{700, 700}, {700, 300}, {400, 70}, {90, 12}}) {
    std::vector<float> y = normals(n * k, 3);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < k; ++j) {
        if (j % 3 == 1) y[i * k + j] = y[i * k + j - 1] + 1e-3f * y[i * k + j];
        y[i * k + j] *= std::pow(10.0f, -12.0f * static_cast<float>(j) / static_cast<float>(k));
      }
    const std::vector<float> before = y;
    BlockQr qr(n, k);
    in_workspace(qr, [&](const tn_exec* exec, const Products& product) { qr.run(exec, product, y.data()); });
    const std::vector<double> q = columns(y, n, k), from = columns(before, n, k);
    EXPECT_LT(not_orthonormal(q, k, n), 2e-5) << n << " " << k;
    for (const int64_t j : {int64_t{0}, k / 2, k - 1}) {  // column j lies in the first j + 1, its own part positive
      double inside = 0, own = 0;
      for (int64_t p = 0; p <= j; ++p) own = eigen::dot(from.data() + j * n, q.data() + p * n, n), inside += own * own;
      EXPECT_NEAR(inside / eigen::dot(from.data() + j * n, from.data() + j * n, n), 1, 1e-4) << j;
      EXPECT_GT(own, 0) << j;
    }
  }
}

TEST(Complement, CompletesOrthonormalColumns) {
  for (const auto& [n, d] : std::vector<std::pair<int64_t, int64_t>>{{700, 300}, {300, 290}, {130, 128}, {129, 1}, {40, 20}}) {
    std::vector<float> q1 = normals(n * d, 5), q(n * n), lu(n * d);
    if (d == 20) {  // unit vectors: A is the identity, or nothing
      std::fill(q1.begin(), q1.end(), 0.0f);
      for (int64_t i = 0; i < d; ++i) q1[(i < 10 ? i : i + 20) * d + i] = i % 2 ? 1.0f : -1.0f;
    }
    BlockQr qr(n, d);
    in_workspace(qr, [&](const tn_exec* exec, const Products& product) { qr.run(exec, product, q1.data()); });
    for (int64_t i = 0; i < n; ++i) std::copy_n(q1.data() + i * d, d, q.data() + i * n);
    Complement complement(n, d);
    in_workspace(complement, [&](const tn_exec* exec, const Products& product) {
      complement.run(exec, product, q1.data(), lu.data(), Matrix::dense(q.data(), n, n));
    });
    EXPECT_LT(not_orthonormal(columns(q, n, n), n, n), 2e-5) << n << " " << d;
  }
}

struct Found {
  bool done;
  std::vector<float> basis;
  double captured;
};
Found find(const std::vector<float>& a, int64_t p, int64_t d, int64_t r, bool exact, const float* old = nullptr,
           bool transpose = false) {
  Subspace b(p, d, r, exact);
  Workspace measure;
  b.lay_out(measure);
  Matrix m{const_cast<float*>(a.data()), kF32, p, d, d, 1};
  if (transpose) m = Matrix{const_cast<float*>(a.data()), kF32, d, p, p, 1}.transposed();
  const Exec exec(measure.peak() + b.measure(Products(cpu_device_api(), cpu_device()), m));
  Workspace w(*exec.get());
  b.lay_out(w);
  const uint64_t fixed = w.peak();
  const Products product(cpu_device_api(), cpu_device(), nullptr, w.behind(fixed), w.bytes_behind(fixed));
  Found out{false, std::vector<float>(d * r), 0};
  out.done = find_subspace(exec.get(), product, b, m, old, {1, 2, 3}, 0, 3, out.basis.data(), &out.captured);
  EXPECT_TRUE(exec.intact());
  return out;
}

// Diagonal with known values: the subspace is the first axes.
TEST(FindSubspace, FindsTheLargestAxes) {
  for (const bool exact : {true, false})
    for (const auto& [p, d] : std::vector<std::pair<int64_t, int64_t>>{{90, 60}, {60, 90}}) {
      std::vector<float> a(p * d);
      for (int64_t i = 0; i < std::min(p, d); ++i) a[i * d + i] = std::pow(0.8f, static_cast<float>(i));
      const Found f = find(a, p, d, 5, exact);
      ASSERT_TRUE(f.done);
      for (int64_t i = 0; i < d; ++i)
        for (int64_t k = 0; k < 5; ++k) EXPECT_NEAR(std::abs(f.basis[i * 5 + k]), i == k, 1e-4);
      double expected = 0;
      for (int64_t k = 0; k < 5; ++k) expected += std::pow(0.64, k);
      EXPECT_NEAR(f.captured, expected, 1e-4);
    }
}

TEST(FindSubspace, ReadsTransposedViews) {
  const std::vector<float> a = normals(80 * 50, 4);
  std::vector<float> t(a.size());
  for (int64_t i = 0; i < 80; ++i)
    for (int64_t j = 0; j < 50; ++j) t[j * 80 + i] = a[i * 50 + j];
  for (const bool exact : {true, false}) {
    const Found f = find(a, 80, 50, 7, exact), g = find(t, 80, 50, 7, exact, nullptr, true);
    EXPECT_LT(largest_difference(f.basis, g.basis), 1e-4);
    EXPECT_LT(not_orthonormal(columns(f.basis, 50, 7), 7, 50), 1e-5);
  }
}

TEST(FindSubspace, ReportsNaNAndSurvivesZeros) {
  std::vector<float> a(40 * 30);
  for (const bool exact : {true, false}) {
    const Found zero = find(a, 40, 30, 6, exact);
    ASSERT_TRUE(zero.done);
    EXPECT_LT(not_orthonormal(columns(zero.basis, 30, 6), 6, 30), 1e-6);
    std::vector<float> bad = normals(40 * 30, 1);
    bad[77] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(find(bad, 40, 30, 6, exact).done);
  }
}

TEST(FixSigns, FollowsThePredecessorOrTheLargestEntry) {
  std::vector<float> p = {-0.6f, 0.8f, 0.8f, 0.6f};  // columns (−0.6, 0.8), (0.8, 0.6)
  fix_signs(nullptr, p.data(), nullptr, 2, 2);
  EXPECT_EQ(p, (std::vector<float>{-0.6f, 0.8f, 0.8f, 0.6f}));
  const std::vector<float> old = {1, -1, 0, 0};
  fix_signs(nullptr, p.data(), old.data(), 2, 2);
  EXPECT_EQ(p, (std::vector<float>{0.6f, -0.8f, -0.8f, -0.6f}));
}

TEST(Workspace, RefusesToHandOutMoreThanThereIs) {
  const Exec exec(256);
  Workspace w(*exec.get());
  w.take<float>(32);
  const uint64_t mark = w.mark();
  w.take<float>(32);
  EXPECT_THROW(w.take<char>(1), Failure);
  w.release(mark);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w.take<double>(1)) % TN_ALIGNMENT, 0u);
}

}  // namespace
}  // namespace tenon::sdk::testing
