// Numbers that checks feed in and compare.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace tenon::conformance {

// A struct of the ABI as a newer host would pass it: longer, with bytes behind it that mean nothing to an older reader.
template <class T>
struct Longer {
  T value{};
  uint8_t poison[64];
  Longer() {
    for (uint8_t& b : poison) b = 0xCC;
  }
  // `own`: the size that today's host states.
  T* get(uint32_t own, bool longer) {
    value.struct_size = longer ? static_cast<uint32_t>(sizeof *this) : own;
    return &value;
  }
  bool intact() const {
    for (uint8_t b : poison)
      if (b != 0xCC) return false;
    return true;
  }
};

// Standard normal numbers, the same on every machine up to the last bit.
std::vector<float> normals(int64_t n, uint32_t stream, float scale = 1);

bool all_finite(const std::vector<float>& x);
double norm(const std::vector<float>& x);
double dot(const std::vector<float>& a, const std::vector<float>& b);
// |a − b| / |b| in the 2-norm; 0 where both are zero.
double distance(const std::vector<float>& a, const std::vector<float>& b);
std::vector<float> plus(std::vector<float> a, double factor, const std::vector<float>& b);
std::vector<float> slice(const std::vector<float>& x, int64_t begin, int64_t end);
std::string shape_text(const std::vector<int64_t>& shape);
std::string percent(double x);

// Fails where the heap of this process keeps growing while `call` repeats.
void expect_no_leak(const std::function<void()>& call);
// Calls with this many OpenMP threads.
void with_threads(int n, const std::function<void()>& call);

}  // namespace tenon::conformance
