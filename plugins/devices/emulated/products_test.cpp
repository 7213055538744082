// Products of the GPU devices: through a vendor's library, whose terms checked_blas.cpp holds them to, and by the built-in kernels.
#include <gtest/gtest.h>

#include <cmath>

#include "devices/emulated/opened.h"
#include "sdk/fp8.h"
#include "tenon/gemm8.h"
#include "tenon/gemm_fp8.h"

namespace tenon::sdk::testing {
namespace {

class Products : public ::testing::TestWithParam<const char*> {
 protected:
  Opened gpu{GetParam()};
  // A stream of bytes that nothing but the call should change.
  std::pair<void*, uint64_t> workspace(const tn_gemm& g) {
    uint64_t bytes = 0;
    gpu.must(gpu.api().gemm_workspace(gpu.device, &g, &bytes));
    return {bytes ? gpu.take(bytes) : nullptr, bytes};
  }
};
INSTANTIATE_TEST_SUITE_P(Objects, Products, ::testing::Values(TENON_EMULATED_DEVICE, TENON_EMULATED_PLAIN),
                         [](const auto& info) { return info.index == 0 ? "Library" : "BuiltIn"; });

// A matrix in a wider buffer: batch entries, rows and columns this far apart, its first element after `first` others.
struct Layout {
  int64_t batch, row, column, first;
};
struct Case {
  const char* name;
  int64_t entries, m, n, k;
  tn_dtype a, b, c;
  Layout la, lb, lc;
  bool bias = false;
  double alpha = 1, beta = 0;
};
int64_t extent(const Layout& l, int64_t entries, int64_t rows, int64_t columns) {
  return l.first + (entries - 1) * l.batch + (rows - 1) * l.row + (columns - 1) * l.column + 1;
}

TEST_P(Products, AreThoseOfTheDefinition) {
  const Case cases[] = {
      {"dense", 1, 24, 16, 32, kF32, kF32, kF32, {0, 32, 1, 0}, {0, 16, 1, 0}, {0, 16, 1, 0}},
      {"transposed", 1, 24, 16, 32, kBF16, kBF16, kF32, {0, 1, 24, 0}, {0, 1, 32, 0}, {0, 16, 1, 0}, true},
      {"adds up", 1, 7, 9, 5, kF32, kF32, kF32, {0, 8, 1, 0}, {0, 12, 1, 0}, {0, 12, 1, 0}, true, 0.5, 2},
      {"mixed types", 1, 20, 12, 8, kF32, kBF16, kBF16, {0, 8, 1, 0}, {0, 12, 1, 0}, {0, 16, 1, 0}, false, 1, 1},
      {"half", 1, 5, 8, 16, kF16, kF16, kF32, {0, 16, 1, 0}, {0, 8, 1, 0}, {0, 8, 1, 0}},
      {"odd views", 1, 6, 10, 7, kF32, kF32, kF32, {0, 11, 1, 3}, {0, 13, 1, 1}, {0, 15, 1, 5}},
      {"no unit stride", 1, 6, 8, 4, kF32, kF32, kF32, {0, 16, 2, 0}, {0, 24, 3, 0}, {0, 8, 1, 0}},
      {"batch", 3, 8, 8, 16, kF32, kF32, kF32, {128, 16, 1, 0}, {128, 8, 1, 0}, {64, 8, 1, 0}},
      // Entries of 5 x 3 elements begin anywhere, and so would dense copies of them.
      {"batch of odd entries", 3, 5, 3, 7, kBF16, kBF16, kF32, {35, 7, 1, 0}, {21, 3, 1, 0}, {15, 3, 1, 0}},
      {"batch of converted odd entries", 3, 5, 3, 7, kBF16, kF32, kF32, {35, 7, 1, 0}, {21, 3, 1, 0}, {16, 3, 1, 0}},
      {"one factor for all", 2, 8, 4, 8, kF32, kF32, kF32, {0, 8, 1, 0}, {32, 4, 1, 0}, {32, 4, 1, 0}},
      {"one row", 1, 1, 33, 40, kBF16, kBF16, kBF16, {0, 40, 1, 0}, {0, 1, 40, 0}, {0, 33, 1, 0}},
      {"larger than a tile", 1, 70, 65, 33, kF32, kF32, kF32, {0, 36, 1, 0}, {0, 68, 1, 0}, {0, 68, 1, 0}, true},
  };
  for (const Case& x : cases) {
    const Tensor a(x.a, {extent(x.la, x.entries, x.m, x.k)}, noise(extent(x.la, x.entries, x.m, x.k), 1)),
        b(x.b, {extent(x.lb, x.entries, x.k, x.n)}, noise(extent(x.lb, x.entries, x.k, x.n), 2)),
        before(x.c, {extent(x.lc, x.entries, x.m, x.n)}, noise(extent(x.lc, x.entries, x.m, x.n), 3)), bias(kF32, {x.n}, noise(x.n, 4));
    const auto view = [&](const Tensor& t, const Layout& l, int64_t rows, int64_t columns) {
      return gpu.view(t, {x.entries, rows, columns}, {l.batch, l.row, l.column}, l.first);
    };
    const tn_tensor *const va = view(a, x.la, x.m, x.k), *const vb = view(b, x.lb, x.k, x.n), *const vc = view(before, x.lc, x.m, x.n),
                    *const vbias = gpu.copy(bias);
    const tn_gemm g{sizeof(tn_gemm), TN_GEMM_EXACT, va, vb, const_cast<tn_tensor*>(vc), x.bias ? vbias : nullptr, x.alpha, x.beta, nullptr};
    const auto [memory, bytes] = workspace(g);
    gpu.must(gpu.api().gemm(gpu.device, gpu.stream, &g, memory, bytes));
    std::vector<float> want = before.floats();
    const std::vector<float> got = gpu.back(vc, before).floats(), fa = a.floats(), fb = b.floats(), fbias = bias.floats();
    std::vector<bool> written(want.size());
    for (int64_t e = 0; e < x.entries; ++e)
      for (int64_t i = 0; i < x.m; ++i)
        for (int64_t j = 0; j < x.n; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < x.k; ++k)
            sum += double{fa[x.la.first + e * x.la.batch + i * x.la.row + k * x.la.column]} * fb[x.lb.first + e * x.lb.batch + k * x.lb.row + j * x.lb.column];
          const size_t at = static_cast<size_t>(x.lc.first + e * x.lc.batch + i * x.lc.row + j * x.lc.column);
          want[at] = static_cast<float>(x.alpha * sum + x.beta * want[at] + (x.bias ? fbias[j] : 0));
          written[at] = true;
        }
    for (size_t i = 0; i < want.size(); ++i) {
      if (!written[i]) {
        ASSERT_EQ(got[i], want[i]) << x.name << ", outside, " << i;
        continue;
      }
      // Mixed types are multiplied in the narrower one where nobody asks for exactness; here all are exact.
      ASSERT_NEAR(got[i], want[i], same(x.c, kBF16) ? 0.01 * (1 + std::fabs(want[i])) : 2e-5) << x.name << ", " << i;
    }
  }
}

TEST_P(Products, OfNothingAreNothing) {
  const Tensor c(kF32, {6}, noise(6, 1)), none(kF32, {1}, {3});
  const tn_tensor *const vc = gpu.view(c, {2, 3}, {3, 1}), *const a = gpu.view(none, {2, 0}, {1, 1}), *const b = gpu.view(none, {0, 3}, {3, 1});
  tn_gemm g{sizeof(tn_gemm), 0, a, b, const_cast<tn_tensor*>(vc), nullptr, 1, 2, nullptr};
  const auto [memory, bytes] = workspace(g);
  gpu.must(gpu.api().gemm(gpu.device, gpu.stream, &g, memory, bytes));
  const std::vector<float> before = c.floats(), after = gpu.back(vc, c).floats();
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i], 2 * before[i]);
  const tn_tensor *const no_rows = gpu.view(none, {0, 4}, {4, 1}), *const x = gpu.view(c, {4, 1}, {1, 1}), *const nowhere = gpu.view(none, {0, 1}, {1, 1});
  g = {sizeof(tn_gemm), 0, no_rows, x, const_cast<tn_tensor*>(nowhere), nullptr, 1, 0, nullptr};
  gpu.must(gpu.api().gemm(gpu.device, gpu.stream, &g, nullptr, 0));
}

// What is asked once serves wherever the matrices turn out to lie.
TEST_P(Products, AskForOneWorkspaceWhereverMatricesLie) {
  const Tensor memory(kF32, {300}, noise(300, 1));
  const tn_tensor *const a = gpu.view(memory, {8, 8}, {8, 1}), *const b = gpu.view(memory, {8, 8}, {8, 1}, 1), *const c = gpu.view(memory, {8, 8}, {8, 1}, 3);
  tn_tensor nowhere[] = {*a, *b, *c};
  for (tn_tensor& t : nowhere) t.data = nullptr, t.byte_offset = 0;
  const tn_gemm there{sizeof(tn_gemm), TN_GEMM_EXACT, a, b, const_cast<tn_tensor*>(c), nullptr, 1, 0, nullptr},
      planned{sizeof(tn_gemm), TN_GEMM_EXACT, &nowhere[0], &nowhere[1], &nowhere[2], nullptr, 1, 0, nullptr};
  EXPECT_EQ(workspace(there).second, workspace(planned).second);
}

// Exact in 32 bits, whatever the sizes; rows of all three within wider ones, at any byte.
TEST_P(Products, OfBytesAreExact) {
  const auto* const integer = static_cast<const tn_gemm8*>(gpu.api().get_extension(TN_EXT_GEMM8));
  ASSERT_NE(integer, nullptr);
  struct Sizes {
    int64_t m, n, k, a_row, b_row, c_row, first;
  };
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 1, 0}, {5, 8, 32, 32, 32, 8, 0}, {3, 12, 64, 64, 80, 16, 0}, {66, 70, 131, 131, 131, 70, 0}, {9, 67, 65, 68, 72, 68, 0},
                         {4, 8, 16, 17, 19, 9, 3}, {2, 64, 1000, 1000, 1000, 64, 0}, {3, 2, 0, 1, 1, 2, 0}, {0, 5, 7, 7, 7, 5, 0}}) {
    const auto bytes_of = [&](int64_t n, uint64_t seed) {
      Tensor t(kI8, {s.first + n + 1});
      for (int64_t i = 0; i < s.first + n; ++i) t.as<int8_t>()[i] = static_cast<int8_t>(philox({seed, 0, 0}, static_cast<uint64_t>(i)).w[0] % 255 - 127);
      return t;
    };
    const Tensor a = bytes_of(s.m * s.a_row, 1), b = bytes_of(s.n * s.b_row, 2);
    Tensor c(kI32, {s.m * s.c_row + 1});
    for (int64_t i = 0; i <= s.m * s.c_row; ++i) c.as<int32_t>()[i] = 7;
    const tn_tensor *const va = gpu.copy(a), *const vb = gpu.copy(b), *const vc = gpu.copy(c);
    uint64_t bytes = 0;
    gpu.must(integer->workspace(gpu.device, s.m, s.n, s.k, &bytes));
    gpu.must(integer->run(gpu.device, gpu.stream, s.m, s.n, s.k, static_cast<const int8_t*>(va->data) + s.first, s.a_row, static_cast<const int8_t*>(vb->data) + s.first,
                          s.b_row, static_cast<int32_t*>(vc->data), s.c_row, bytes ? gpu.take(bytes) : nullptr, bytes));
    const Tensor got = gpu.back(vc, c);
    for (int64_t i = 0; i < s.m; ++i)
      for (int64_t j = 0; j < s.c_row; ++j) {
        int32_t want = j < s.n ? 0 : 7;
        for (int64_t k = 0; k < s.k && j < s.n; ++k) want += a.as<int8_t>()[s.first + i * s.a_row + k] * b.as<int8_t>()[s.first + j * s.b_row + k];
        ASSERT_EQ(got.as<int32_t>()[i * s.c_row + j], want) << s.m << " x " << s.n << " x " << s.k << ": " << i << ", " << j;
      }
    EXPECT_EQ(got.as<int32_t>()[s.m * s.c_row], 7);
  }
  const int8_t* const none = nullptr;
  EXPECT_EQ(integer->run(gpu.device, gpu.stream, 1, 1, int64_t{1} << 17, none, 1 << 17, none, 1 << 17, nullptr, 1, nullptr, 0), TN_E_ARGUMENT);
  EXPECT_EQ(integer->run(gpu.device, gpu.stream, 2, 2, 8, none, 7, none, 8, nullptr, 2, nullptr, 0), TN_E_ARGUMENT);
}

// Through the library where sizes are multiples of sixteen, else by way of bf16; scales lie in memory of the device.
TEST_P(Products, OfE4M3HaveTheirScales) {
  const auto* const fp8 = static_cast<const tn_gemm_fp8*>(gpu.api().get_extension(TN_EXT_GEMM_FP8));
  ASSERT_NE(fp8, nullptr);
  struct Sizes {
    int64_t m, n, k, a_row, b_row, c_row;
    double alpha, beta;
  };
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 1, 1, 0}, {5, 16, 32, 32, 32, 16, 1, 0}, {3, 32, 64, 80, 96, 48, 0.5, 2}, {66, 70, 131, 131, 131, 70, 1, 1}, {9, 67, 65, 68, 72, 68, 1, 0},
                         {2, 64, 1008, 1008, 1008, 64, 1, 0}, {3, 2, 0, 1, 1, 2, 1, 3}, {0, 5, 7, 7, 7, 5, 1, 0}})
    for (const tn_dtype dtype : {kF32, kBF16}) {
      const auto codes_of = [&](int64_t n, uint64_t seed) {
        Tensor t(kU8, {n + 1});
        const std::vector<float> values = noise(n + 1, seed);
        for (int64_t i = 0; i <= n; ++i) t.as<uint8_t>()[i] = to_e4m3(100 * values[static_cast<size_t>(i)]);
        return t;
      };
      const Tensor a = codes_of(s.m * s.a_row, 1), b = codes_of(s.n * s.b_row, 2), c(dtype, {s.m * s.c_row + 1}, noise(s.m * s.c_row + 1, 3)),
                   scales(kF32, {2}, {0.25f, 3});
      const tn_tensor *const va = gpu.copy(a), *const vb = gpu.copy(b), *const vc = gpu.copy(c), *const vs = gpu.copy(scales);
      const auto* const scale = static_cast<const float*>(vs->data);
      const tn_fp8_product p{sizeof p, 0, s.m, s.n, s.k, static_cast<const uint8_t*>(va->data), static_cast<const uint8_t*>(vb->data), s.a_row, s.b_row, scale, scale + 1,
                             vc->data, s.c_row, dtype, 0, s.alpha, s.beta};
      uint64_t bytes = 0;
      gpu.must(fp8->workspace(gpu.device, &p, &bytes));
      gpu.must(fp8->run(gpu.device, gpu.stream, &p, bytes ? gpu.take(bytes) : nullptr, bytes));
      const std::vector<float> before = c.floats(), got = gpu.back(vc, c).floats();
      for (int64_t i = 0; i <= s.m * s.c_row; ++i) {
        const int64_t row = i / s.c_row, column = i % s.c_row;
        const auto at = static_cast<size_t>(i);
        if (row >= s.m || column >= s.n) {
          ASSERT_EQ(got[at], before[at]) << i;
          continue;
        }
        double sum = 0, size = 0;
        for (int64_t k = 0; k < s.k; ++k) {
          const double term = 0.75 * from_e4m3(a.as<uint8_t>()[row * s.a_row + k]) * from_e4m3(b.as<uint8_t>()[column * s.b_row + k]);
          sum += term, size += std::fabs(term);
        }
        const double want = s.alpha * sum + s.beta * before[at];
        ASSERT_NEAR(got[at], want, 1e-6 * (size + std::fabs(want)) + (same(dtype, kBF16) ? 0.004 * std::fabs(want) : 0)) << s.m << " x " << s.n << " x " << s.k << ": " << i;
      }
      tn_fp8_product odd = p;
      odd.a = p.a + 1;
      EXPECT_EQ(fp8->run(gpu.device, gpu.stream, &odd, nullptr, 0), TN_E_ARGUMENT);
      if (s.m > 0 && s.k > 0) {
        EXPECT_EQ(fp8->run(gpu.device, gpu.stream, &p, nullptr, 0), TN_E_ARGUMENT) << "no workspace";
      }
    }
}

// The device's speeds are measured with streams and events of its own.
TEST_P(Products, AreTimed) {
  tn_device_info info{};
  info.struct_size = sizeof info;
  gpu.must(gpu.api().info(gpu.device, 1, &info));
  EXPECT_GT(info.gemm_flops, 0);
  EXPECT_GT(info.bytes_per_second, 0);
}

}  // namespace
}  // namespace tenon::sdk::testing
