// Products of every dtype, layout, batch and scaling against sums in double.
#include "fixture.h"

#include <fstream>

namespace tenon::onednn::test {
namespace {

class Gemm : public DeviceTest {
 protected:
  // The bits of a · b in f32 for one, two and three threads.
  void expect_no_dependence_on_threads(const tn_tensor& a, const tn_tensor& b) {
    std::vector<uint8_t> first;
    for (const int n : {1, 2, 3}) {
      const sdk::testing::Threads these(n);
      Tensor c(kF32, {a.shape[0], b.shape[1]});
      multiply({TN_SIZE_TO(tn_gemm, packed_b), 0, &a, &b, c.get(), nullptr, 1.0, 0.0, nullptr});
      if (n == 1) first = c.raw();
      EXPECT_EQ(c.raw(), first) << n << " threads";
    }
  }
};

enum class Layout { kRows, kColumns, kWide, kWideColumns, kEverySecond };

// A matrix of the given layout inside a larger buffer of NaN, so that a read outside the matrix shows.
struct Operand {
  Tensor memory;
  int64_t batch, rows, cols, batch_stride, row, col;
  std::vector<float> values;  // dense [batch, rows, cols]
  std::unique_ptr<View> view;

  Operand(tn_dtype dtype, int64_t batch, int64_t rows, int64_t cols, Layout layout, const std::vector<float>& dense)
      : memory(dtype, {batch * (rows + 3) * (cols + 5) * 2}), batch(batch), rows(rows), cols(cols), values(dense) {
    switch (layout) {
      case Layout::kRows:
        row = cols, col = 1;
        break;
      case Layout::kColumns:
        row = 1, col = rows;
        break;
      case Layout::kWide:
        row = cols + 5, col = 1;
        break;
      case Layout::kWideColumns:
        row = 1, col = rows + 3;
        break;
      case Layout::kEverySecond:
        row = 2 * cols + 2, col = 2;
        break;
    }
    batch_stride = layout == Layout::kRows || layout == Layout::kColumns ? rows * cols : (rows + 3) * (cols + 5) * 2;
    memory.assign(std::vector<float>(memory.size(), NAN));
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) put(b, i, j, dense[(b * rows + i) * cols + j]);
    if (batch == 1) {
      view = std::make_unique<View>(memory.get()->data, dtype, std::initializer_list<int64_t>{rows, cols},
                                    std::initializer_list<int64_t>{row, col});
    } else {
      view = std::make_unique<View>(memory.get()->data, dtype, std::initializer_list<int64_t>{batch, rows, cols},
                                    std::initializer_list<int64_t>{batch_stride, row, col});
    }
  }
  int64_t at(int64_t b, int64_t i, int64_t j) const { return b * batch_stride + i * row + j * col; }
  void put(int64_t b, int64_t i, int64_t j, float x) {
    sdk::with_float_type(memory.get()->dtype, "",
                         [&]<class T>(T) { memory.as<T>()[at(b, i, j)] = sdk::from_float<T>(x); });
  }
  double get(int64_t b, int64_t i, int64_t j) const {
    double x = 0;
    sdk::with_float_type(memory.get()->dtype, "", [&]<class T>(T) { x = sdk::to_float(memory.as<T>()[at(b, i, j)]); });
    return x;
  }
  // Elements of the buffer that are not of the matrix and are no longer NaN.
  int64_t strays() const {
    std::vector<char> inside(memory.size(), 0);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) inside[at(b, i, j)] = 1;
    const auto all = memory.floats();
    int64_t n = 0;
    for (size_t e = 0; e < all.size(); ++e) n += !inside[e] && !std::isnan(all[e]);
    return n;
  }
};

struct Case {
  int64_t batch = 1, m, n, k;
  tn_dtype a = kF32, b = kF32, c = kF32;
  Layout la = Layout::kRows, lb = Layout::kRows, lc = Layout::kRows;
  double alpha = 1, beta = 0;
  bool bias = false, exact = false, shared_b = false;
  tn_dtype bias_type = kF32;
};

// Runs the case and answers the largest error in units of what rounding allows; NaN where the device failed.
double worst_error(const tn_device_api* api, tn_device* device, tn_stream* stream, const sdk::testing::FakeHost& host,
                   const Case& t, bool bf16_products) {
  const int64_t nb = t.shared_b ? 1 : t.batch;
  Operand a(t.a, t.batch, t.m, t.k, t.la, noise(t.batch * t.m * t.k, 1, t.a)),
      b(t.b, nb, t.k, t.n, t.lb, noise(nb * t.k * t.n, 2, t.b));
  // Where beta is 0, C begins as NaN: it must not be read.
  Operand c(
      t.c, t.batch, t.m, t.n, t.lc,
      t.beta ? noise(t.batch * t.m * t.n, 3, t.c) : std::vector<float>(static_cast<size_t>(t.batch * t.m * t.n), NAN));
  Tensor bias(t.bias_type, {t.n}, noise(t.n, 4, t.bias_type));
  const tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b),
                  t.exact ? uint32_t{TN_GEMM_EXACT} : 0u,
                  &a.view->tensor,
                  &b.view->tensor,
                  &c.view->tensor,
                  t.bias ? bias.get() : nullptr,
                  t.alpha,
                  t.beta,
                  nullptr};
  uint64_t bytes = 0;
  if (api->gemm_workspace(device, &g, &bytes) != TN_OK) return ADD_FAILURE() << host.error, NAN;
  sdk::testing::Memory workspace(bytes, 0xFF);
  if (api->gemm(device, stream, &g, workspace.data(), bytes) != TN_OK) return ADD_FAILURE() << host.error, NAN;
  EXPECT_TRUE(workspace.intact());
  EXPECT_EQ(c.strays(), 0);
  const auto bias_values = bias.floats();
  double worst = 0;
  for (int64_t i = 0; i < t.batch; ++i)
    for (int64_t r = 0; r < t.m; ++r)
      for (int64_t q = 0; q < t.n; ++q) {
        double sum = 0, size = 0;
        for (int64_t p = 0; p < t.k; ++p) {
          const double x = a.values[(i * t.m + r) * t.k + p], y = b.values[((t.shared_b ? 0 : i) * t.k + p) * t.n + q];
          sum += x * y, size += std::abs(x * y);
        }
        const double old = t.beta ? c.values[(i * t.m + r) * t.n + q] : 0.0, shift = t.bias ? bias_values[q] : 0.0;
        const double expected = t.alpha * sum + t.beta * old + shift;
        const double scale = std::abs(t.alpha) * size + std::abs(t.beta * old) + std::abs(shift);
        // f32 accumulation, the operands' rounding where f32 was multiplied as bf16, the result's rounding.
        const double allowed =
            scale * (0x1p-22 + (bf16_products ? 0x1p-8 : 0)) + std::abs(expected) * tolerance(t.c) + 1e-30;
        const double error = std::abs(c.get(i, r, q) - expected) / allowed;
        worst = error > worst || std::isnan(error) ? error : worst;
        if (std::isnan(error)) return ADD_FAILURE() << "NaN in C", NAN;
      }
  return worst;
}

// f32 meets bf16 without `exact`: rounding the f32 side to bf16 is allowed.
bool may_round(const Case& t) {
  return !t.exact && (sdk::same(t.a, kF32) + sdk::same(t.b, kF32) == 1) && !sdk::same(t.a, kF16) &&
         !sdk::same(t.b, kF16);
}

TEST_P(Gemm, EveryDtypeAndLayout) {
  for (const tn_dtype da : {kF32, kBF16, kF16})
    for (const tn_dtype db : {kF32, kBF16, kF16})
      for (const tn_dtype dc : {kF32, kBF16})
        for (const Layout la : {Layout::kRows, Layout::kColumns, Layout::kWide, Layout::kEverySecond})
          for (const Layout lb : {Layout::kRows, Layout::kColumns, Layout::kWideColumns, Layout::kEverySecond})
            for (const double beta : {0.0, 1.0}) {
              Case t{.m = 19, .n = 37, .k = 23, .a = da, .b = db, .c = dc, .la = la, .lb = lb, .beta = beta};
              EXPECT_LT(worst_error(api, device, stream, host, t, may_round(t)), 1.0)
                  << name_of(da) << " " << name_of(db) << " " << name_of(dc) << " layouts " << int(la) << " " << int(lb)
                  << " beta " << beta;
            }
}

TEST_P(Gemm, EveryLayoutOfC) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const tn_dtype dc : {kF32, kBF16})
      for (const Layout lc :
           {Layout::kRows, Layout::kColumns, Layout::kWide, Layout::kWideColumns, Layout::kEverySecond})
        for (const bool bias : {false, true})
          for (const double alpha : {1.0, -0.5})
            for (const double beta : {0.0, 0.25}) {
              Case t{.batch = 2,
                     .m = 17,
                     .n = 33,
                     .k = 9,
                     .a = d,
                     .b = d,
                     .c = dc,
                     .lb = Layout::kColumns,
                     .lc = lc,
                     .alpha = alpha,
                     .beta = beta,
                     .bias = bias};
              EXPECT_LT(worst_error(api, device, stream, host, t, false), 1.0)
                  << name_of(d) << " -> " << name_of(dc) << " layout " << int(lc) << " bias " << bias << " alpha "
                  << alpha << " beta " << beta;
            }
}

TEST_P(Gemm, AwkwardSizes) {
  for (const tn_dtype d : {kF32, kBF16, kF16})
    for (const int64_t m : {1, 2, 65})
      for (const int64_t n : {1, 3, 130})
        for (const int64_t k : {1, 7, 129})
          for (const bool transposed : {false, true}) {
            const Layout l = transposed ? Layout::kColumns : Layout::kRows;
            Case t{.m = m, .n = n, .k = k, .a = d, .b = d, .la = l, .lb = l, .beta = 1, .bias = true, .bias_type = d};
            EXPECT_LT(worst_error(api, device, stream, host, t, false), 1.0)
                << name_of(d) << " " << m << " " << n << " " << k << " " << transposed;
          }
}

TEST_P(Gemm, BatchesAndSharedOperands) {
  for (const tn_dtype d : {kF32, kBF16, kF16})
    for (const Layout l : {Layout::kRows, Layout::kColumns, Layout::kWide, Layout::kEverySecond})
      for (const bool shared : {false, true}) {
        Case t{.batch = 5,
               .m = 12,
               .n = 20,
               .k = 16,
               .a = d,
               .b = d,
               .c = sdk::same(d, kBF16) ? kBF16 : kF32,
               .la = l,
               .lb = l,
               .alpha = 0.125,
               .shared_b = shared};
        EXPECT_LT(worst_error(api, device, stream, host, t, false), 1.0)
            << name_of(d) << " layout " << int(l) << " shared " << shared;
      }
}

TEST_P(Gemm, ConvertedOperandsLargerThanATile) {
  // Beyond 1024 rows or columns and 2048 of depth, conversion goes tile by tile.
  for (const tn_dtype c : {kF32, kBF16}) {
    Case deep{
        .m = 5, .n = 6, .k = 4801, .a = kF16, .b = kF16, .c = c, .la = Layout::kColumns, .beta = 0.5, .bias = true};
    EXPECT_LT(worst_error(api, device, stream, host, deep, false), 1.0) << name_of(c);
    Case tall{.m = 1100, .n = 3, .k = 7, .a = kF16, .b = kF32, .c = c, .alpha = 2, .beta = 1, .bias = true};
    EXPECT_LT(worst_error(api, device, stream, host, tall, false), 1.0) << name_of(c);
    Case wide{
        .m = 3, .n = 2100, .k = 7, .a = kBF16, .b = kF32, .c = c, .lb = Layout::kColumns, .beta = 1, .exact = true};
    EXPECT_LT(worst_error(api, device, stream, host, wide, false), 1.0) << name_of(c);
  }
}

TEST_P(Gemm, ExactKeepsF32) {
  Case t{.m = 40, .n = 30, .k = 50, .a = kF32, .b = kBF16, .exact = true};
  EXPECT_LT(worst_error(api, device, stream, host, t, false), 1.0);
}

TEST_P(Gemm, NothingToMultiply) {
  Tensor a(kF32, {3, 0}), b(kF32, {0, 4}), c(kF32, {3, 4}, std::vector<float>(12, 2.0f)), bias(kF32, {4}, {1, 2, 3, 4});
  tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), bias.get(), 1.0, 0.5, nullptr};
  uint64_t bytes = 1;
  ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK);
  sdk::testing::Memory workspace(bytes);
  ASSERT_EQ(api->gemm(device, stream, &g, workspace.data(), bytes), TN_OK) << host.error;
  EXPECT_EQ(c.floats(), (std::vector<float>{2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5}));
  // alpha = 0 does not read A and B, whatever they hold.
  Tensor x(kF32, {3, 2}, std::vector<float>(6, NAN)), y(kF32, {2, 4}, std::vector<float>(8, NAN));
  g.a = x.get(), g.b = y.get(), g.bias = nullptr, g.alpha = 0, g.beta = 1;
  ASSERT_EQ(api->gemm(device, stream, &g, workspace.data(), bytes), TN_OK);
  EXPECT_EQ(c.floats(), (std::vector<float>{2, 3, 4, 5, 2, 3, 4, 5, 2, 3, 4, 5}));
}

TEST_P(Gemm, NaNStaysInItsRow) {
  Tensor a(kBF16, {4, 32}, noise(128, 5, kBF16)), b(kBF16, {32, 16}, noise(512, 6, kBF16)), c(kF32, {4, 16});
  a.as<sdk::bf16>()[2 * 32 + 5] = sdk::from_float<sdk::bf16>(NAN);
  multiply({TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, 1.0, 0.0, nullptr});
  const auto v = c.floats();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(std::isnan(v[i]), i / 16 == 2) << i;
}

TEST_P(Gemm, PackedWeights) {
  for (const tn_dtype d : {kF32, kBF16})
    for (const bool transposed : {false, true})
      for (const int64_t m : {1, 2, 7, 64, 300, 1100}) {
        const int64_t n = 200, k = 136;
        Operand b(d, 1, k, n, transposed ? Layout::kColumns : Layout::kRows, noise(k * n, 2, d));
        Tensor a(d, {m, k}, noise(m * k, 1, d)), plain(kF32, {m, n}), packed(kF32, {m, n});
        tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), &b.view->tensor, plain.get(), nullptr, 1.0, 0.0, nullptr};
        uint64_t bytes = 0, packed_bytes = 0;
        ASSERT_EQ(api->pack_bytes(device, &g, &packed_bytes), TN_OK);
        ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK);
        sdk::testing::Memory workspace(bytes), layout(packed_bytes);
        ASSERT_EQ(api->gemm(device, stream, &g, workspace.data(), bytes), TN_OK) << host.error;
        if (packed_bytes == 0) {
          EXPECT_EQ(api->pack(device, stream, &g, layout.data()), TN_E_UNSUPPORTED);
          continue;
        }
        ASSERT_EQ(api->pack(device, stream, &g, layout.data()), TN_OK) << host.error;
        EXPECT_TRUE(layout.intact());
        g.packed_b = layout.data(), g.c = packed.get();
        b.memory.assign(std::vector<float>(b.memory.size(), NAN));  // the plain weight is not read
        ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK) << host.error;
        sdk::testing::Memory space(bytes);
        ASSERT_EQ(api->gemm(device, stream, &g, space.data(), bytes), TN_OK) << host.error;
        const auto x = plain.floats(), y = packed.floats();
        for (size_t i = 0; i < x.size(); ++i)
          ASSERT_NEAR(x[i], y[i], 1e-4 * k) << name_of(d) << " m " << m << " at " << i;
      }
}

TEST_P(Gemm, SameBitsEveryTime) {
  Tensor a(kBF16, {130, 257}, noise(130 * 257, 1, kBF16)), b(kBF16, {257, 65}, noise(257 * 65, 2, kBF16)),
      c(kF32, {130, 65}), again(kF32, {130, 65});
  tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, 1.0, 0.0, nullptr};
  multiply(g);
  g.c = again.get();
  multiply(g);
  EXPECT_EQ(c.raw(), again.raw());
}

// The six products of a low-rank adapter, whose rank fills no vector, a part of one, several.
TEST_P(Gemm, ThinSides) {
  for (const int64_t r : {1, 5, 8, 16, 20, 34, 50, 64})
    for (const int64_t tokens : {131, 300})
      for (const int64_t wide : {136, 208}) {
        const auto check = [&](const char* what, Case t) {
          EXPECT_LT(worst_error(api, device, stream, host, t, may_round(t)), 1.0)
              << what << " rank " << r << " tokens " << tokens << " wide " << wide;
        };
        for (const tn_dtype c : {kF32, kBF16})
          for (const double beta : {0.0, 1.0, 0.5}) {
            const double alpha = beta == 0 ? 1 : -0.75;
            for (const Layout l : {Layout::kRows, Layout::kColumns}) {
              check("x A'", {.m = tokens,
                             .n = r,
                             .k = wide,
                             .a = kBF16,
                             .b = kF32,
                             .c = c,
                             .lb = l,
                             .alpha = alpha,
                             .beta = beta});
              check("u B'", {.m = tokens,
                             .n = wide,
                             .k = r,
                             .a = kBF16,
                             .b = kF32,
                             .c = c,
                             .lb = l,
                             .alpha = alpha,
                             .beta = beta});
            }
            check("dy' u", {.m = wide,
                            .n = r,
                            .k = tokens,
                            .a = kBF16,
                            .b = kBF16,
                            .c = c,
                            .la = Layout::kColumns,
                            .alpha = alpha,
                            .beta = beta});
            Case gradient{.m = r,
                          .n = wide,
                          .k = tokens,
                          .a = kBF16,
                          .b = kBF16,
                          .c = c,
                          .la = Layout::kColumns,
                          .alpha = alpha,
                          .beta = beta};
            check("du' x", gradient);
            gradient.la = Layout::kWideColumns, gradient.lb = gradient.lc = Layout::kWide;
            check("du' x, strided", gradient);
          }
      }
}

TEST_P(Gemm, ThinSidesDoNotDependOnThreads) {
  constexpr int64_t kTokens = 700, kRank = 16, kWide = 480;
  Tensor u(kBF16, {kTokens, kRank}, noise(kTokens * kRank, 1, kBF16)),
      x(kBF16, {kTokens, kWide}, noise(kTokens * kWide, 2, kBF16));
  expect_no_dependence_on_threads(View(u.get()->data, kBF16, {kRank, kTokens}, {1, kRank}).tensor, *x.get());
}

// A decoded token meets a weight whose rows lie along the sum.
TEST_P(Gemm, OneRow) {
  for (const int64_t n : {1, 3, 4, 5, 258})
    for (const int64_t k : {1, 15, 64, 577})
      for (const tn_dtype a : {kF32, kBF16, kF16})
        for (const tn_dtype b : {kF32, kBF16, kF16})
          for (const tn_dtype c : {kF32, kBF16})
            for (const double beta : {0.0, 1.0, 0.5}) {
              const Case t{.m = 1,
                           .n = n,
                           .k = k,
                           .a = a,
                           .b = b,
                           .c = c,
                           .lb = beta == 0 ? Layout::kColumns : Layout::kWideColumns,
                           .alpha = beta == 0 ? 1 : -0.75,
                           .beta = beta,
                           .bias = n == 5};
              EXPECT_LT(worst_error(api, device, stream, host, t, may_round(t)), 1.0) << n << " x " << k << ", beta " << beta;
            }
}

TEST_P(Gemm, OneRowDoesNotDependOnThreads) {
  constexpr int64_t kWide = 1000, kLong = 333;
  Tensor x(kBF16, {1, kLong}, noise(kLong, 1, kBF16)), w(kBF16, {kWide, kLong}, noise(kWide * kLong, 2, kBF16));
  expect_no_dependence_on_threads(*x.get(), View(w.get()->data, kBF16, {kLong, kWide}, {1, kLong}).tensor);
}

int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmRSS:", 0) == 0) return 1024 * std::stoll(line.substr(6));
  return 0;
}

// A schedule changes the factors at every step: that must make no new plan, which takes milliseconds and hundreds of
// kilobytes of generated code. Two thousand of them would fill the cache of plans
// with tens of megabytes.
TEST_P(Gemm, ChangingFactorsMakeNoNewPlans) {
  for (const tn_dtype d : {kF32, kBF16}) {
    Tensor a(d, {48, 64}, noise(48 * 64, 1, d)), b(d, {64, 80}, noise(64 * 80, 2, d)), c(kF32, {48, 80});
    const auto run = [&](double alpha, double beta) {
      tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, alpha, beta, nullptr};
      uint64_t bytes = 0;
      ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK);
      sdk::testing::Memory workspace(bytes);
      ASSERT_EQ(api->gemm(device, stream, &g, workspace.data(), bytes), TN_OK);
    };
    const auto steps = [&](int n) {
      for (int i = 0; i < n; ++i) run(1e-3 * (i + 2), 1), run(1e-3 * (i + 2), 0), run(-1e-3 * (i + 2), 1.0 / (i + 2));
    };
    steps(8);
    const int64_t before = resident_bytes();
    steps(700);
    EXPECT_LT(resident_bytes() - before, 4 << 20);
  }
}

TEST_P(Gemm, RefusesInWords) {
  Tensor a(kF32, {3, 4}), b(kF32, {5, 6}), b4(kF32, {4, 6}), c(kF32, {3, 6}), half(kF16, {3, 6}), whole(kI32, {3, 4}),
      bias(kF32, {7});
  uint64_t bytes = 0;
  tn_gemm g{TN_SIZE_TO(tn_gemm, packed_b), 0, a.get(), b.get(), c.get(), nullptr, 1.0, 0.0, nullptr};
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_ARGUMENT);
  EXPECT_NE(host.error.find("[5, 6]"), std::string::npos) << host.error;
  g.b = b4.get(), g.c = half.get();
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_UNSUPPORTED);
  g.c = c.get(), g.a = whole.get();
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_UNSUPPORTED);
  g.a = a.get(), g.bias = bias.get();
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_ARGUMENT);
  g.bias = nullptr, g.flags = 8;
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_UNSUPPORTED);
  g.flags = 0, g.a = nullptr;
  EXPECT_EQ(api->gemm_workspace(device, &g, &bytes), TN_E_ARGUMENT);
  Tensor x(kBF16, {3, 4});  // needs a converted operand, so a workspace
  g.a = x.get(), g.flags = TN_GEMM_EXACT;
  ASSERT_EQ(api->gemm_workspace(device, &g, &bytes), TN_OK);
  ASSERT_GT(bytes, 0u);
  EXPECT_EQ(api->gemm(device, stream, &g, nullptr, bytes - 1), TN_E_ARGUMENT);
  EXPECT_NE(host.error.find("gemm_workspace"), std::string::npos) << host.error;
}

TENON_ON_EVERY_LEVEL(Gemm);

}  // namespace
}  // namespace tenon::onednn::test
