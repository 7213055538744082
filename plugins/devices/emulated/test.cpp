// Operators of GPU devices whose kernels are not the CPU's, on the emulated device against the CPU's device.
#include <gtest/gtest.h>

#include <cmath>

#include "devices/emulated/opened.h"
#include "tenon/ops.h"

namespace tenon::sdk::testing {
namespace {

Tensor whole_numbers(const std::vector<int32_t>& values) {
  Tensor t(kI32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), t.as<int32_t>());
  return t;
}

class Operators : public ::testing::Test {
 protected:
  Opened gpu{TENON_EMULATED_DEVICE}, cpu{TENON_CPU_DEVICE};
};

// Heads within a wider buffer, as a fused projection leaves them; what lies between them stays.
TEST_F(Operators, RopeTurnsAllHeads) {
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const auto& [tokens, heads, d, apart] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{1, 1, 2, 0}, {5, 3, 64, 7}, {3, 9, 130, 0}, {2, 2, 1024, 16}, {7, 1, 96, 5}})
      for (const double sign : {1.0, -1.0}) {
        const int64_t token_stride = heads * d + apart, first = apart / 2;
        const Tensor x(dtype, {tokens * token_stride}, noise(tokens * token_stride, 1));
        std::vector<int32_t> at;
        for (int64_t t = 0; t < tokens; ++t) at.push_back(t == 1 ? 131071 : static_cast<int32_t>(t * t));
        std::vector<float> frequency;
        for (int64_t j = 0; j < d / 2; ++j) frequency.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(j) / static_cast<float>(d)));
        const Tensor positions = whole_numbers(at), inv_freq(kF32, {d / 2}, frequency);
        std::vector<std::vector<float>> results;
        for (Opened* on : {&gpu, &cpu}) {
          const tn_tensor* const v = on->view(x, {tokens, heads, d}, {token_stride, d, 1}, first);
          on->must(on->ops->rope(on->device, on->stream, const_cast<tn_tensor*>(v), on->copy(positions), on->copy(inv_freq), 0.75, sign));
          results.push_back(on->back(v, x).floats());
        }
        const std::vector<float> before = x.floats();
        double turned = 0;
        for (size_t i = 0; i < before.size(); ++i) {
          const int64_t of_token = static_cast<int64_t>(i) % token_stride - first;
          if (of_token < 0 || of_token >= heads * d) {
            ASSERT_EQ(results[0][i], before[i]) << "outside of the heads, " << i;
          } else {
            // A last place of f32 may be two roundings to bf16 apart.
            ASSERT_NEAR(results[0][i], results[1][i], same(dtype, kF32) ? 2e-6 : 0x1p-6) << tokens << " tokens, " << heads << " heads of " << d << ", element " << i;
            turned += std::fabs(results[0][i] - before[i]);
          }
        }
        EXPECT_GT(turned, 0);
      }
}

// Equal ids add up in the order of the tokens: to the bit, whatever the widths, and when the tokens are more than a block looks at together.
TEST_F(Operators, TheEmbeddingsGradientAddsUpInTheOrderOfTokens) {
  const int64_t vocabulary = 40;
  for (const tn_dtype dtype : {kF32, kBF16})
    for (const auto& [tokens, width, ids] : {std::tuple<int64_t, int64_t, int32_t>{1, 1, 40}, {60, 33, 40}, {50, 512, 3}, {30, 1100, 1}, {2500, 5, 40}, {4200, 3, 2}}) {
      std::vector<int32_t> id;
      for (int64_t t = 0; t < tokens; ++t) id.push_back(static_cast<int32_t>(philox({3, 1, 0}, static_cast<uint64_t>(t)).w[0] % static_cast<uint32_t>(ids)));
      if (tokens == 2500) id[2400] = 39, std::replace(id.begin(), id.begin() + 2400, 39, 38);  // one that first comes late
      const Tensor dy(dtype, {tokens, width}, noise(tokens * width, 5)), start(kF32, {vocabulary, width}, noise(vocabulary * width, 6)), where = whole_numbers(id);
      std::vector<Tensor> results;
      for (Opened* on : {&gpu, &cpu}) {
        const tn_tensor* const table = on->copy(start);
        on->must(on->ops->embedding_backward(on->device, on->stream, on->copy(where), on->copy(dy), const_cast<tn_tensor*>(table)));
        results.push_back(on->back(table, start));
      }
      EXPECT_EQ(results[0].raw(), results[1].raw()) << tokens << " tokens of " << width;
      EXPECT_NE(results[0].raw(), start.raw());
    }
}

// Rows of a gradient within a wider one.
TEST_F(Operators, TheEmbeddingsGradientTakesViews) {
  const Tensor wide(kF32, {6, 20}, noise(120, 1)), start(kF32, {4, 7}, noise(28, 2)), ids = whole_numbers({3, 0, 3, 3, 1, 0});
  std::vector<Tensor> results;
  for (Opened* on : {&gpu, &cpu}) {
    const tn_tensor* const table = on->copy(start);
    on->must(on->ops->embedding_backward(on->device, on->stream, on->copy(ids), on->view(wide, {6, 7}, {20, 1}, 4), const_cast<tn_tensor*>(table)));
    results.push_back(on->back(table, start));
  }
  EXPECT_EQ(results[0].raw(), results[1].raw());
}

}  // namespace
}  // namespace tenon::sdk::testing
