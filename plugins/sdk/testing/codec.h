// The shared kit for the tests of quantizers: one codec with its host, targets and components, and the checks that
// every codec has to pass.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "sdk/codec.h"
#include "sdk/philox.h"
#include "sdk/testing/host.h"

namespace tenon::sdk::testing {

inline tn_target make_target(const std::vector<int64_t>& shape, tn_dtype dtype = kF32,
                             const char* name = "blk.0.weight") {
  tn_target t{};
  t.struct_size = sizeof t, t.site = TN_SITE_WEIGHT, t.ndim = static_cast<int32_t>(shape.size()), t.dtype = dtype,
  t.name = name;
  std::copy(shape.begin(), shape.end(), t.shape);
  return t;
}

// 2^20 unit normals and the like: the same numbers on every machine up to the last bit of its log and cos.
inline std::vector<float> normals(int64_t n, uint64_t seed = 64) {
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) x[i] = normal({seed, 0, 0}, i);
  return x;
}

inline double relative_mse(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, power = 0;
  for (size_t i = 0; i < x.size(); ++i)
    error += (double{x[i]} - y[i]) * (double{x[i]} - y[i]), power += double{x[i]} * x[i];
  return error / power;
}

// Components as the codec planned them.
struct Coded {
  std::vector<std::string> names;
  std::vector<uint32_t> code_bits;
  std::vector<Tensor> parts;
  std::vector<tn_tensor*> pointers() {
    std::vector<tn_tensor*> out;
    for (Tensor& t : parts) out.push_back(t.get());
    return out;
  }
  Tensor& operator[](const std::string& name) {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) return parts[i];
    fail(TN_E_NOT_FOUND, "the codec planned no component " + name);
  }
  uint64_t bytes() const {
    uint64_t n = 0;
    for (const Tensor& t : parts) n += t.bytes();
    return n;
  }
  bool intact() const {
    for (const Tensor& t : parts)
      if (!t.intact()) return false;
    return true;
  }
  // Where a codec declares what it plans.
  tn_component_sink sink() {
    return {sizeof(tn_component_sink), 0, this, [](void* to, const tn_component* c) -> int32_t {
              Coded& coded = *static_cast<Coded*>(to);
              coded.names.emplace_back(c->name);
              coded.code_bits.push_back(c->code_bits);
              coded.parts.emplace_back(c->dtype, std::vector<int64_t>(c->shape, c->shape + c->ndim));
              return TN_OK;
            }};
  }
};

class TestCodec {
 public:
  TestCodec(const std::string& object, const std::map<std::string, std::string>& hypers = {})
      : plugin(load_plugin(host, object)), api(*static_cast<const tn_quantizer_api*>(plugin.api)), apart_(is_emulated(object)) {
    const HyperValues values(plugin, hypers);
    if (api.create(host.get(), values.data(), values.size(), &self) != TN_OK) fail(host.status, host.error);
  }
  ~TestCodec() { api.destroy(self); }
  TestCodec(const TestCodec&) = delete;

  Coded plan(const tn_target& target) {
    DeviceMemory::get().set_apart(apart_);  // a test may compare objects of several backends
    Coded out;
    const tn_component_sink sink = out.sink();
    expect(api.plan(self, &target, &sink));
    return out;
  }
  tn_estimate estimate(const tn_target& target, uint32_t op, int64_t rows) {
    tn_estimate e{};
    e.struct_size = sizeof e;
    expect(api.estimate(self, cpu_device_api(), cpu_device(), &target, op, rows, &e));
    return e;
  }
  // Status of the encode; components in *out.
  int32_t try_encode(const tn_target& target, const Tensor& src, Coded* out) {
    *out = plan(target);
    Exec exec(estimate(target, TN_QUANTIZER_ENCODE, src.size()).workspace_bytes);
    const tn_rng rng{};
    const int32_t status = api.encode(self, exec.get(), &target, src.get(), out->pointers().data(), &rng);
    EXPECT_TRUE(exec.intact() && out->intact() && src.intact());
    return status;
  }
  Coded encode(const tn_target& target, const std::vector<float>& values, tn_dtype dtype = kF32) {
    Coded out;
    expect(try_encode(target, Tensor(dtype, {static_cast<int64_t>(values.size())}, values), &out));
    EXPECT_EQ(estimate(target, TN_QUANTIZER_ENCODE, static_cast<int64_t>(values.size())).state_bytes, out.bytes());
    return out;
  }
  Tensor decode(const tn_target& target, Coded& coded, int64_t begin, int64_t end, tn_dtype dtype = kF32) {
    DeviceMemory::get().set_apart(apart_);
    Tensor dst(dtype, {end - begin});
    Exec exec(estimate(target, TN_QUANTIZER_DECODE, end - begin).workspace_bytes);
    expect(api.decode(self, exec.get(), &target, coded.pointers().data(), begin, end, dst.get()));
    EXPECT_TRUE(exec.intact() && dst.intact() && coded.intact());
    return dst;
  }
  std::vector<float> decode(const tn_target& target, Coded& coded) {
    return decode(target, coded, 0, elements(target)).floats();
  }
  std::vector<float> round_trip(const std::vector<float>& values) {
    const tn_target target = make_target({static_cast<int64_t>(values.size())});
    Coded coded = encode(target, values);
    return decode(target, coded);
  }

  void expect(int32_t status) {
    if (status != TN_OK) fail(status, host.error);
  }

  FakeHost host;
  const tn_plugin& plugin;
  const tn_quantizer_api& api;
  tn_quantizer* self = nullptr;

 private:
  bool apart_;
};

// Ranges from everywhere, in every storage type, are slices of the full f32 decode, rounded to that type.
inline void expect_ranges_are_slices(TestCodec& codec, const tn_target& target, Coded& coded) {
  const std::vector<float> full = codec.decode(target, coded);
  const int64_t n = static_cast<int64_t>(full.size());
  for (uint32_t trial = 0; trial < 60; ++trial) {
    const Words w = philox({7, trial, 0}, 0);
    int64_t begin = w.w[0] % (n + 1), end = w.w[1] % (n + 1);
    if (begin > end) std::swap(begin, end);
    if (trial % 2) end = std::min(n, begin + w.w[2] % 100);
    const tn_dtype dtype = trial % 3 == 0 ? kF32 : trial % 3 == 1 ? kBF16 : kF16;
    const Tensor part = codec.decode(target, coded, begin, end, dtype);
    Tensor want(dtype, {end - begin}, std::vector<float>(full.begin() + begin, full.begin() + end));
    ASSERT_EQ(part.raw(), want.raw()) << "range " << begin << ", " << end << " of " << n;
  }
}

// y = alpha·x W^T + beta·y agrees with decode and multiply within the rounding of its sums.
inline void expect_linear_is_decode_and_multiply(TestCodec& codec, const tn_target& target, Coded& coded, int64_t rows,
                                                 tn_dtype dtype) {
  const int64_t m = target.shape[0], n = target.shape[1];
  const std::vector<float> w = codec.decode(target, coded);
  const Tensor x(dtype, {rows, n}, normals(rows * n, 3));
  Tensor y(dtype, {rows, m}, normals(rows * m, 4));
  const std::vector<float> xs = x.floats(), before = y.floats();
  Exec exec(codec.estimate(target, TN_QUANTIZER_LINEAR, rows).workspace_bytes);
  codec.expect(codec.api.linear(codec.self, exec.get(), &target, coded.pointers().data(), x.get(), 0.5, 2.0, y.get()));
  EXPECT_TRUE(exec.intact() && y.intact());
  const std::vector<float> got = y.floats();
  const double last_place = dtype.code == TN_BFLOAT ? 0x1p-8 : 0;
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t r = 0; r < m; ++r) {
      double dot = 0, size = 0;
      for (int64_t k = 0; k < n; ++k)
        dot += double{xs[t * n + k]} * w[r * n + k], size += std::fabs(double{xs[t * n + k]} * w[r * n + k]);
      const double want = 0.5 * dot + 2.0 * before[t * m + r];
      ASSERT_NEAR(got[t * m + r], want, 1e-6 * (size + 1) + last_place * std::fabs(want))
          << "row " << t << ", column " << r;
    }
}

// A fused product of so many rows is refused, in words.
inline void expect_refuses_rows(TestCodec& codec, const tn_target& target, int64_t rows, const char* words) {
  tn_estimate e{};
  e.struct_size = sizeof e;
  EXPECT_EQ(codec.api.estimate(codec.self, cpu_device_api(), cpu_device(), &target, TN_QUANTIZER_LINEAR, rows, &e), TN_E_UNSUPPORTED);
  EXPECT_NE(codec.host.error.find(words), std::string::npos) << codec.host.error;
}

// What a GPU's tiles take, a weight in a type of 16 bits: the product of the decoded weights in that type, and of x in it.
inline void expect_tiles_multiply_decoded(TestCodec& codec, const tn_target& target, Coded& coded, int64_t rows) {
  const int64_t m = target.shape[0], n = target.shape[1];
  const std::vector<float> w = Tensor(target.dtype, {m, n}, codec.decode(target, coded)).floats();
  const Tensor x(target.dtype, {rows, n}, normals(rows * n, 3));
  Tensor y(kF32, {rows, m}, normals(rows * m, 4));
  const std::vector<float> xs = x.floats(), before = y.floats();
  Exec exec(codec.estimate(target, TN_QUANTIZER_LINEAR, rows).workspace_bytes);
  codec.expect(codec.api.linear(codec.self, exec.get(), &target, coded.pointers().data(), x.get(), 0.5, 2.0, y.get()));
  EXPECT_TRUE(exec.intact() && y.intact());
  const std::vector<float> got = y.floats();
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t r = 0; r < m; ++r) {
      double dot = 0;
      for (int64_t k = 0; k < n; ++k) dot += double{xs[t * n + k]} * w[r * n + k];
      ASSERT_NEAR(got[t * m + r], 0.5 * dot + 2.0 * before[t * m + r], 1e-4) << "row " << t << ", output " << r;
    }
}

// NaN and Inf, wherever they stand, are refused by the tensor's name.
inline void expect_refuses_non_finite(TestCodec& codec, int64_t n) {
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
      std::vector<float> x = normals(n);
      x[at] = bad;
      Coded coded;
      EXPECT_EQ(codec.try_encode(make_target({n}, kF32, "layers.7.up"), Tensor(kF32, {n}, x), &coded), TN_E_NUMERIC);
      EXPECT_NE(codec.host.error.find("layers.7.up"), std::string::npos) << codec.host.error;
    }
}

}  // namespace tenon::sdk::testing
