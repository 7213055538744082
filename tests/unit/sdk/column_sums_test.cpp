// Each column's sum reaches `put` once, with every row in it once, whatever the sizes leave over; on a CPU and on emulated waves.
#include "sdk/column_sums.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace tenon::sdk {
namespace {

TEST(ColumnSums, TakeEveryRowOnceWhateverTheSizes) {
  constexpr std::array<int64_t, 2> kSizes[] = {{0, 5}, {1, 1}, {3, 31}, {32, 32}, {33, 65}, {100, 200}, {2049, 33}, {64, 0}};
  for (const auto& [rows, n] : kSizes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << n);
    std::vector<double> found(static_cast<size_t>(n), 1);
    double* const out = found.data();
    // Products of primes, so that no other row or column gives the same; sums are exact.
    column_sums(
        nullptr, rows, n, [](int64_t i, int64_t j) { return static_cast<double>((7 * i + 3) * (11 * j + 5)); }, [=](int64_t j, double sum) { out[j] += sum; });
    for (int64_t j = 0; j < n; ++j)
      EXPECT_EQ(out[j], 1 + static_cast<double>((11 * j + 5) * (7 * rows * (rows - 1) / 2 + 3 * rows))) << "column " << j;
  }
}

TEST(ColumnSums, AreTakenInF64) {
  float found = 0;
  float* const out = &found;
  column_sums(nullptr, 3, 1, [](int64_t i, int64_t) { return i == 0 ? 0x1p30f : i == 1 ? 1.0f : -0x1p30f; }, [=](int64_t, double sum) { *out = static_cast<float>(sum); });
  EXPECT_EQ(found, 1);
}

}  // namespace
}  // namespace tenon::sdk
