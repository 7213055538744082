#include "hosts/conformance/numbers.h"

#include <malloc.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "hosts/conformance/check.h"
#include "sdk/philox.h"

namespace tenon::conformance {
namespace {

int64_t heap_bytes() {
  const struct mallinfo2 m = mallinfo2();
  return static_cast<int64_t>(m.uordblks + m.hblkhd);
}

}  // namespace

std::vector<float> normals(int64_t n, uint32_t stream, float scale) {
  std::vector<float> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    out[static_cast<size_t>(i)] = scale * sdk::normal({20, 26, stream}, static_cast<uint64_t>(i));
  return out;
}

bool all_finite(const std::vector<float>& x) {
  for (const float v : x)
    if (!std::isfinite(v)) return false;
  return true;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double s = 0;
  for (size_t i = 0; i < a.size(); ++i) s += double{a[i]} * double{b[i]};
  return s;
}

double norm(const std::vector<float>& x) {
  return std::sqrt(dot(x, x));
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  const double d = norm(plus(a, -1, b)), size = norm(b);
  return d == 0 ? 0 : d / size;  // NaN and Inf stay visible
}

std::vector<float> plus(std::vector<float> a, double factor, const std::vector<float>& b) {
  expect(a.size() == b.size(), "the battery compares lists of different lengths");
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(a[i] + factor * b[i]);
  return a;
}

std::vector<float> slice(const std::vector<float>& x, int64_t begin, int64_t end) {
  return {x.begin() + begin, x.begin() + end};
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

std::string percent(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g%%", 100 * x);
  return text;
}

void expect_no_leak(const std::function<void()>& call) {
  // Caches of a device fill and settle, if slowly; a leak goes on, round for round.
  constexpr int kCalls = 32, kRounds = 20;
  int64_t least = INT64_MAX;
  for (int round = 0; round < kRounds && least >= 8 * kCalls; ++round) {
    const int64_t before = heap_bytes();
    for (int i = 0; i < kCalls; ++i) call();
    if (round > 0) least = std::min(least, heap_bytes() - before);
  }
  expect(least < 8 * kCalls,
         "the heap grows by " + std::to_string(least / kCalls) + " bytes with every call; something is never freed");
}

void with_threads(int n, const std::function<void()>& call) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(n);
  call();
  omp_set_num_threads(before);
}

}  // namespace tenon::conformance
